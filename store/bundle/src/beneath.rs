//! Opening names below a folder without ever leaving it, whoever plants links there meanwhile.
//!
//! `openat2` does it in one call (`BENEATH | NO_SYMLINKS | NO_MAGICLINKS`); where a sandbox forbids it, each component
//! is opened by itself with `O_NOFOLLOW`, which gives the same answer more slowly.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Tries of an `openat2` that renames nearby disturb.
const DISTURBED: usize = 64;

/// A folder that is held open; every path given to it is relative and stays below it.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    /// Opens `path`, following links on the way: it is the caller's word, not the tree's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens the folder `path` below this one.
    pub fn folder(&self, path: &[u8]) -> io::Result<Self> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map(Self)
    }

    /// Opens a file for reading. Never blocks on a FIFO that was put in its place.
    pub fn read(&self, path: &[u8]) -> io::Result<File> {
        self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
            .map(File::from)
    }

    /// Makes a file that must not exist, private until it gets its own mode.
    pub fn create(&self, path: &[u8]) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        self.open_at(path, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    /// Opens a file to write into what it has.
    pub fn write(&self, path: &[u8]) -> io::Result<File> {
        self.open_at(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty())
            .map(File::from)
    }

    fn open_at(&self, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            match self.open_in_one(path, flags, mode) {
                Err(Errno::NOSYS | Errno::PERM) => NO_OPENAT2.store(true, Ordering::Relaxed),
                other => return Ok(other?),
            }
        }
        Ok(self.open_by_component(path, flags, mode)?)
    }

    fn open_in_one(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..DISTURBED {
            match rustix::fs::openat2(&self.0, path, flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    fn open_by_component(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mut parts = path.split(|b| *b == b'/').peekable();
        let mut at: Option<OwnedFd> = None;
        while let Some(part) = parts.next() {
            if matches!(part, b"" | b"..") {
                return Err(Errno::XDEV);
            }
            let here = at.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
            let next = if parts.peek().is_some() {
                let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(here, part, through, Mode::empty())?
            } else {
                rustix::fs::openat(here, part, flags, mode)?
            };
            at = Some(next);
        }
        at.ok_or(Errno::NOENT)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Names that one thread takes one after another, so that its folders stay open.
pub(crate) const NEIGHBOURS: usize = 512;

/// The folders that hold names, the last one kept open: names come sorted, so most share it.
#[derive(Debug)]
pub(crate) struct Parents<'a> {
    root: &'a Root,
    last: Option<(Box<[u8]>, Root)>,
}

impl<'a> Parents<'a> {
    pub fn of(root: &'a Root) -> Self {
        Self { root, last: None }
    }

    /// As [`Root::read`].
    pub fn read(&mut self, path: &[u8]) -> io::Result<File> {
        let (parent, name) = self.split(path)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?.into())
    }

    /// The folder that holds `path`, and `path`'s last component.
    pub fn split<'p>(&mut self, path: &'p [u8]) -> io::Result<(BorrowedFd<'_>, &'p [u8])> {
        let Some(slash) = path.iter().rposition(|b| *b == b'/') else {
            return Ok((self.root.as_fd(), path));
        };
        let (parent, name) = (&path[..slash], &path[slash + 1..]);
        if self.last.as_ref().is_none_or(|(path, _)| **path != *parent) {
            self.last = Some((parent.into(), self.root.folder(parent)?));
        }
        let folder = self.last.as_ref().map_or(self.root, |(_, folder)| folder);
        Ok((folder.as_fd(), name))
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        clippy::unwrap_used,
        reason = "tests stop at the first surprise"
    )]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn both_ways_refuse_to_leave() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("a/b/file"), b"in").unwrap();
        std::fs::write(dir.path().join("secret"), b"out").unwrap();
        symlink(dir.path(), tree.join("a/out")).unwrap();
        symlink("b", tree.join("a/inside")).unwrap();
        symlink("../../../secret", tree.join("a/b/link")).unwrap();
        let root = Root::open(&tree).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        type Way = fn(&Root, &[u8], OFlags, Mode) -> Result<OwnedFd, Errno>;
        for way in [Root::open_in_one as Way, Root::open_by_component as Way] {
            assert!(way(&root, b"a/b/file", flags, Mode::empty()).is_ok());
            for bad in [
                &b"a/out/secret"[..],
                b"a/inside/file",
                b"a/b/link",
                b"../secret",
                b"a/../../secret",
                b"/etc/passwd",
                b"a/b/absent",
            ] {
                assert!(way(&root, bad, flags, Mode::empty()).is_err(), "{bad:?} opened");
            }
        }
    }
}
