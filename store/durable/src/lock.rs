//! A lock file: one holder per path, released by the kernel when the holder dies.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use thiserror::Error;

/// Why a lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is held by {}", path.display(), Holder(*pid))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The holder's process id as it wrote it; none when it has not written one yet.
        pid: Option<u32>,
    },
    /// The file could not be opened, locked or written.
    #[error("cannot take the lock {}", path.display())]
    Take {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

/// A held lock. Dropping it, or the death of the process, releases it; the file stays, with the last holder's pid.
///
/// It is a `flock`, so it is not shared with children: the descriptor is close-on-exec. It does not reach across hosts.
#[derive(Debug)]
pub struct LockFile {
    file: File,
}

impl LockFile {
    /// Takes the lock at `path` without waiting, making the file when absent, and writes the own pid into it.
    ///
    /// Nothing is synced; a lock means nothing after a crash.
    ///
    /// # Errors
    /// [`LockError::Held`] when another handle, of this process too, has it.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let take = |source: io::Error| LockError::Take {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(take)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    path: path.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Err(error) => return Err(take(error.into())),
        }
        write_pid(&mut file).map_err(take)?;
        Ok(Self { file })
    }

    /// The lock that a program which ran in this process before has left open, under the descriptor it was handed on by.
    #[must_use]
    pub fn resume(descriptor: OwnedFd) -> Self {
        Self {
            file: File::from(descriptor),
        }
    }

    /// Writes the pid anew, for a process that has forked since it took the lock.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn refresh_pid(&mut self) -> io::Result<()> {
        write_pid(&mut self.file)
    }
}

impl AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}
