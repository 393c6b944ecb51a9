//! What the process itself needs of the kernel: signals as a descriptor, orphans as children, little memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
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

/// The most of this process that may be in memory before it gives back what it can, in bytes.
///
/// What it does before the next look comes on top, up to a megabyte.
const RESIDENT: u64 = 2 * 1024 * 1024;
/// How long it keeps what it has at least: code that is given back in every turn of a busy keeper comes back in the next,
/// page by page, while users wait.
const KEEP_MS: u64 = 50;

/// How much of this process is in memory, and the means to make it less.
///
/// Nine tenths of it are pages of programs' code: the kernel maps sixteen around every one that is used, so a run through
/// the whole switch has most of the program and of the C library mapped. They come back from the page cache when they are
/// needed; a keeper beside every app on every host waits most of its life.
#[derive(Debug)]
pub(super) struct Resident {
    /// `/proc/self/statm`; none where there is no such file.
    figures: Option<File>,
    next: u64,
}

impl Resident {
    pub(super) fn new() -> Self {
        Self {
            figures: File::open("/proc/self/statm").ok(),
            next: 0,
        }
    }

    /// Gives back when there is too much, and it is time to look again. Costs at most one system call when there is not.
    pub(super) fn keep_small(&mut self, now: u64) {
        if now < self.next {
            return;
        }
        self.next = now + KEEP_MS;
        if self.bytes().is_some_and(|bytes| bytes > RESIDENT) {
            forget_code();
        }
    }

    /// Gives back what a burst of work has left: code, and free heap.
    pub(super) fn give_back(&self) {
        trim_heap();
        forget_code();
    }

    fn bytes(&self) -> Option<u64> {
        use std::os::unix::fs::FileExt;
        let mut text = [0_u8; 64];
        let length = self.figures.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}

fn forget_code() {
    let Ok(maps) = File::open("/proc/self/maps") else {
        return;
    };
    let mut lines = BufReader::with_capacity(1024, maps);
    let mut line = String::with_capacity(256);
    while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
        if let Some((start, end)) = code_mapping(&line) {
            forget_pages(start, end);
        }
        line.clear();
    }
}

/// A line of `/proc/self/maps` that maps what a program file holds and nobody has changed: code, which never was writable,
/// and the part with the file's head, names and constants. Other read-only parts may have been relocated.
fn code_mapping(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let file = fields.nth(2)?;
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let unchanged = rights == "r-xp" || (rights == "r--p" && number(offset)? == 0);
    (unchanged && file.starts_with('/')).then_some((number(start)?, number(end)?))
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
    use super::{Resident, code_mapping};

    #[test]
    fn only_the_unchanged_parts_of_files_are_given_back() {
        for clean in [
            "1000-2000 r-xp 00003000 fe:00 77      /usr/lib/libc.so.6",
            "1000-2000 r--p 00000000 fe:00 77      /usr/lib/libc.so.6",
        ] {
            assert_eq!(code_mapping(clean), Some((0x1000, 0x2000)), "{clean}");
        }
        for other in [
            "1000-2000 r--p 001cd000 fe:00 77 /usr/lib/libc.so.6",
            "1000-2000 rw-p 00000000 fe:00 77 /usr/lib/libc.so.6",
            "1000-2000 r-xs 00000000 fe:00 77 /usr/lib/libc.so.6",
            "1000-2000 r-xp 00000000 00:00 0 [vdso]",
            "1000-2000 r-xp 00000000 00:00 0",
        ] {
            assert_eq!(code_mapping(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_goes_on_without_its_pages() {
        let resident = Resident::new();
        let before = resident.bytes();
        assert!(before.is_some_and(|bytes| bytes > 0));
        resident.give_back();
        assert!(resident.bytes() < before);
    }
}
