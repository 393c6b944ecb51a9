//! The child's side of `bind-join`: a seccomp filter that stops each `bind` until the keeper has answered it.
//!
//! The filter's notification descriptor goes to the keeper, and a copy stays open in the program, unused. While any copy
//! is open, a bind waits; when the last one is closed, every later bind of the program fails with ENOSYS. So a keeper may
//! die: who binds meanwhile (a worker that is started again, a resolver's socket) waits for the next keeper, which takes
//! the copy back. Only a program that closes descriptors it does not know loses its binds with the keeper.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};

/// Whether the keeper hears of a process's binds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Binds {
    /// No.
    #[default]
    Untold,
    /// Where the kernel lets it; it is started in any case.
    ToldIfPossible,
    /// It is not started without.
    Joined,
}

/// What a child said of its binds.
#[derive(Debug)]
pub enum News {
    /// They are told here.
    Told(OwnedFd),
    /// The kernel refused.
    Refused(io::Error),
    /// It ended, or could not say it.
    Nothing,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// What `/proc` calls the descriptor that tells binds.
const NOTIFY: &str = "anon_inode:seccomp notify";

/// Bytes of a `sockaddr_nl`. Name look-ups bind such a socket each time, and no server listens on one.
const NETLINK: u32 = 12;

/// Both ends of the way on which [`tell`] says what became of it.
pub(super) fn channel(binds: Binds) -> rustix::io::Result<Option<(OwnedFd, OwnedFd)>> {
    if binds == Binds::Untold {
        return Ok(None);
    }
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map(Some)
}

/// Reads what the child said; none yet when it would have to be waited for.
#[must_use]
pub fn receive(channel: &OwnedFd) -> Option<News> {
    let mut room = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let mut errno = [0_u8; 4];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut parts = [io::IoSliceMut::new(&mut errno)];
    match rustix::net::recvmsg(channel, &mut parts, &mut control, flags) {
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return None,
        Ok(said) if said.bytes == 4 => {}
        _ => return Some(News::Nothing),
    }
    let given = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut given) => given.next(),
        _ => None,
    });
    Some(match given {
        Some(notify) => News::Told(notify),
        None => News::Refused(io::Error::from_raw_os_error(i32::from_le_bytes(errno))),
    })
}

/// A copy of the descriptor that tells a process's binds, from the process itself.
///
/// # Errors
/// When it has none or may not be looked at.
pub fn told_binds(pid: u32) -> io::Result<OwnedFd> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let number = folder.flatten().find_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        (target.as_os_str() == NOTIFY).then(|| entry.file_name().to_str()?.parse().ok())?
    });
    let (number, pid) = number
        .zip(Pid::from_raw(pid.cast_signed()))
        .ok_or(io::ErrorKind::NotFound)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    Ok(rustix::process::pidfd_getfd(
        &pidfd,
        number,
        PidfdGetfdFlags::empty(),
    )?)
}

/// Makes calls that wait begin again: each process is stopped for a moment.
pub fn nudge(processes: impl Iterator<Item = (u32, u64)>) {
    for (pid, start) in processes {
        super::send(pid, start, Signal::STOP);
        super::send(pid, start, Signal::CONT);
    }
}

fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    let code = code as u16;
    libc::sock_filter { code, jt, jf, k }
}

/// Installs the filter in this process and hands its notifications to the other end of `news`; else says why not, and
/// leaves that in errno.
///
/// Binds that come by another way are not seen: of a 32-bit program, or through io_uring. They find the address taken.
///
/// # Safety
/// Only in a freshly forked child, with `news` open.
#[allow(unsafe_code, reason = "between fork and exec there is only libc")]
pub(super) unsafe fn tell(news: RawFd) -> bool {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    // Offsets in `seccomp_data`: the number at 0, the architecture at 4, the third argument's lower half at 32.
    let mut program = [
        op(load, 0, 0, 4),
        op(equal, 0, 5, ARCHITECTURE),
        op(load, 0, 0, 0),
        op(equal, 0, 3, libc::SYS_bind as u32),
        op(load, 0, 0, 32),
        op(equal, 1, 0, NETLINK),
        op(answer, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        op(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the filter outlives the calls, which copy it; only system calls are made.
    unsafe {
        let mut notify = install(&filter);
        // Without CAP_SYS_ADMIN the program must give up gaining privileges.
        if notify < 0
            && *libc::__errno_location() == libc::EACCES
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        {
            notify = install(&filter);
        }
        let errno = if notify < 0 { *libc::__errno_location() } else { 0 };
        let said = say(news, notify, errno);
        if notify >= 0 {
            libc::fcntl(notify, libc::F_SETFD, 0);
        }
        if errno != 0 {
            *libc::__errno_location() = errno;
        }
        notify >= 0 && said
    }
}

/// # Safety
/// As of [`tell`], with a valid filter.
#[allow(unsafe_code, reason = "between fork and exec there is only libc")]
unsafe fn install(filter: &libc::sock_fprog) -> RawFd {
    // Slower memory accesses, which older kernels would impose on a filtered program, are not wanted.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel copies the filter.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(filter),
        ) as RawFd
    }
}

/// Sends `errno`, and `notify` with it where that is a descriptor.
///
/// # Safety
/// As of [`tell`].
#[allow(unsafe_code, reason = "between fork and exec there is only libc")]
unsafe fn say(news: RawFd, notify: RawFd, errno: i32) -> bool {
    #[repr(C, align(8))]
    struct Control([u8; 32]);
    let mut control = Control([0; 32]);
    let mut text = errno.to_le_bytes();
    let mut part = libc::iovec {
        iov_base: text.as_mut_ptr().cast(),
        iov_len: text.len(),
    };
    // SAFETY: a message of zeros is an empty one; the control bytes have room for one descriptor and are aligned for their
    // header; everything outlives the call.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if notify >= 0 {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(notify);
        }
        libc::sendmsg(news, &raw const message, libc::MSG_NOSIGNAL) == text.len() as isize
    }
}
