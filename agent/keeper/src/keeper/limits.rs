//! What the process itself needs of the kernel: signals as a descriptor, orphans as children, its own limits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use thiserror::Error;

/// Why signals cannot be received.
#[derive(Debug, Error)]
pub enum SignalsError {
    /// They cannot be blocked or made a descriptor.
    #[error("cannot make signals a descriptor")]
    Descriptor(#[source] io::Error),
    /// Orphans cannot be adopted.
    #[error("cannot become the parent of orphans")]
    Orphans(#[source] io::Error),
}

/// SIGCHLD, SIGTERM and SIGINT as a descriptor.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// From now on these signals are read, not delivered, and orphaned descendants become children.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn catch() -> Result<Self, SignalsError> {
        let fd = signal_fd().map_err(SignalsError::Descriptor)?;
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own))
            .map_err(|error| SignalsError::Orphans(error.into()))?;
        Ok(Self { fd })
    }

    /// The descriptor to wait on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads what came; true when the keeper was asked to leave.
    #[must_use]
    pub fn receive(&self) -> bool {
        let mut leave = false;
        let mut bytes = [0_u8; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.fd, &mut bytes).is_ok_and(|count| count == bytes.len()) {
            // The number is the first field of the record.
            let number = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).cast_signed();
            leave |= matches!(number, libc::SIGTERM | libc::SIGINT);
        }
        leave
    }
}

#[allow(unsafe_code, reason = "signal sets and signalfd have no safe face here")]
fn signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: the set is made by sigemptyset before use; the descriptor that signalfd returns is new and ours alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}
