//! What the process itself needs of the kernel: signals as a descriptor, orphans as children, little memory.

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

/// Gives the kernel back what a burst of work has left in memory: free heap, and the pages of programs' code.
///
/// Code comes back from the page cache when it is needed; a keeper beside every app on every host waits most of its life.
pub(super) fn give_back_memory() {
    trim_heap();
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for (start, end) in maps.lines().filter_map(code_mapping) {
        forget_pages(start, end);
    }
}

/// A line of `/proc/self/maps` that maps a file's code: never writable, so no page of it was changed.
fn code_mapping(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    let file = fields.nth(3)?;
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    (rights == "r-xp" && file.starts_with('/')).then_some((number(start)?, number(end)?))
}

#[allow(unsafe_code, reason = "malloc_trim has no safe face")]
fn trim_heap() {
    // SAFETY: it only returns unused memory of the allocator.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[allow(unsafe_code, reason = "madvise on code has no safe face")]
fn forget_pages(start: usize, end: usize) {
    let at = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the range is a whole private mapping of a file that this process never writes to, so a forgotten page is
    // read again as it was; a failure changes nothing.
    unsafe {
        libc::madvise(at, end - start, libc::MADV_DONTNEED);
    }
}

#[cfg(test)]
mod tests {
    use super::code_mapping;

    #[test]
    fn only_the_code_of_files_is_given_back() {
        let code = "1000-2000 r-xp 00000000 fe:00 77      /usr/lib/libc.so.6";
        assert_eq!(code_mapping(code), Some((0x1000, 0x2000)));
        for other in [
            "1000-2000 r--p 00000000 fe:00 77 /usr/lib/libc.so.6",
            "1000-2000 rw-p 00000000 fe:00 77 /usr/lib/libc.so.6",
            "1000-2000 r-xp 00000000 00:00 0 [vdso]",
            "1000-2000 r-xp 00000000 00:00 0",
        ] {
            assert_eq!(code_mapping(other), None, "{other}");
        }
    }
}
