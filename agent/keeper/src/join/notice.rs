//! The notification descriptor of a filter: binds that wait for an answer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec};

/// More than any kernel's notification has; what is longer than known is left alone.
const ROOM: usize = 512;

/// Binds of one process and its descendants, as they come.
#[derive(Debug)]
pub struct Notices {
    notify: OwnedFd,
}

/// A bind that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Bind {
    id: u64,
    /// The thread that waits.
    pub thread: u32,
    /// The socket's descriptor there.
    pub descriptor: RawFd,
    address: u64,
    length: u64,
}

/// What there is to be done with a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Bind,
    Nothing,
    /// No process has the filter any more.
    Over,
}

impl Notices {
    #[must_use]
    pub fn new(notify: OwnedFd) -> Self {
        Self { notify }
    }

    /// To be waited on for something to read.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.notify.as_fd()
    }

    fn waiting(&self) -> Waiting {
        let mut polled = [PollFd::new(&self.notify, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let ready = rustix::event::poll(&mut polled, Some(&now)).unwrap_or(0);
        let events = polled[0].revents();
        if ready > 0 && events.contains(PollFlags::IN) {
            Waiting::Bind
        } else if events.intersects(PollFlags::HUP | PollFlags::ERR) {
            Waiting::Over
        } else {
            Waiting::Nothing
        }
    }

    /// Whether nobody can bind here any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.waiting() == Waiting::Over
    }

    /// A keeper that died between taking a bind and answering it has left it waiting for ever. `interrupt` makes the
    /// processes here ask again.
    pub fn wake(&self, interrupt: impl FnOnce()) {
        let mut polled = [PollFd::new(&self.notify, PollFlags::OUT)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let taken = rustix::event::poll(&mut polled, Some(&now)).unwrap_or(0) > 0
            && polled[0].revents().contains(PollFlags::OUT);
        if taken {
            interrupt();
        }
    }

    /// The next bind, if one waits. Never blocks: only the keeper reads here, and what it was told of is there to be read.
    #[must_use]
    pub fn next(&self) -> Option<Bind> {
        #[repr(C, align(8))]
        struct Room([u8; ROOM]);
        if self.waiting() != Waiting::Bind {
            return None;
        }
        let mut room = Room([0; ROOM]);
        self.ask(libc::SECCOMP_IOCTL_NOTIF_RECV, room.0.as_mut_ptr())
            .ok()?;
        // SAFETY: the room is aligned for it and larger; every value of its bytes is a value of its.
        #[allow(unsafe_code, reason = "the kernel writes plain bytes")]
        let notice = unsafe { room.0.as_ptr().cast::<libc::seccomp_notif>().read() };
        Some(Bind {
            id: notice.id,
            thread: notice.pid,
            descriptor: notice.data.args[0] as RawFd,
            address: notice.data.args[1],
            length: notice.data.args[2],
        })
    }

    /// The first bytes of the address as the process has it, at most as many as an IPv6 address needs.
    ///
    /// # Errors
    /// When its memory may not be read, or the bind does not wait any more: then the bytes may be another process's.
    pub fn address(&self, bind: &Bind) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0_u8; size_of::<libc::sockaddr_in6>().min(bind.length as usize)];
        let here = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let there = libc::iovec {
            iov_base: bind.address as *mut libc::c_void,
            iov_len: bytes.len(),
        };
        let pid = bind.thread.cast_signed();
        // SAFETY: `here` describes `bytes`; `there` is looked at by the kernel in the other process only.
        #[allow(unsafe_code, reason = "no safe crate reads another process's memory")]
        let read = unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        bytes.truncate(read);
        self.still_waits(bind)?;
        Ok(bytes)
    }

    /// What was learnt of the process by its number is only true if the bind still waits afterwards: a number is used again.
    ///
    /// # Errors
    /// When it does not.
    pub fn still_waits(&self, bind: &Bind) -> io::Result<()> {
        let mut id = bind.id;
        self.ask(
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            std::ptr::from_mut(&mut id).cast(),
        )
    }

    /// Lets the bind do what it would have done.
    pub fn let_go_on(&self, bind: &Bind) {
        self.answer(bind, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    /// Puts `socket` in the place of the process's and tells it that its bind has succeeded.
    ///
    /// Done twice where a signal comes in between: the process then asks again, and is given the same socket again.
    ///
    /// # Errors
    /// When the process is gone or its descriptor cannot be replaced; its bind waits on then.
    pub fn replace(&self, bind: &Bind, socket: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<()> {
        let mut given = libc::seccomp_notif_addfd {
            id: bind.id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: socket.as_raw_fd().cast_unsigned(),
            newfd: bind.descriptor.cast_unsigned(),
            newfd_flags: if close_on_exec {
                libc::O_CLOEXEC.cast_unsigned()
            } else {
                0
            },
        };
        self.ask(
            libc::SECCOMP_IOCTL_NOTIF_ADDFD,
            std::ptr::from_mut(&mut given).cast(),
        )?;
        self.answer(bind, 0);
        Ok(())
    }

    /// Who is gone needs no answer.
    fn answer(&self, bind: &Bind, flags: u32) {
        let mut answer = libc::seccomp_notif_resp {
            id: bind.id,
            val: 0,
            error: 0,
            flags,
        };
        let _ = self.ask(
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            std::ptr::from_mut(&mut answer).cast(),
        );
    }

    /// `argument` is what this request reads and writes.
    fn ask(&self, request: libc::Ioctl, argument: *mut u8) -> io::Result<()> {
        // SAFETY: every caller gives the request's own structure, alive for the call, or more room than it needs.
        #[allow(unsafe_code, reason = "no safe crate speaks to seccomp")]
        let answer = unsafe { libc::ioctl(self.notify.as_raw_fd(), request, argument) };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
