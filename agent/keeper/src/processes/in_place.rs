//! Becoming a command of a release's: for one that an operator runs by hand, with the terminal and the signals it was given.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::{Launch, StartFailure, spawn};

/// The least number of the descriptor that holds a release, out of the way of what programs count on.
const HELD_FROM: i32 = 200;

/// Holds a release's folder as long as this process, what it becomes, or a child of that lives: it is not taken away.
///
/// # Errors
/// When the folder is not there, or is being taken away.
pub fn hold(release: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(release, flags, Mode::empty())?;
    flock(&folder, FlockOperation::NonBlockingLockShared)?;
    let held = rustix::io::fcntl_dupfd_cloexec(&folder, HELD_FROM)?;
    rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty())?;
    // It is closed by the end of the process, and by nothing before.
    let _ = std::os::fd::IntoRawFd::into_raw_fd(File::from(held));
    Ok(())
}

/// Becomes the command, with the descriptors that are open; returns only when that fails.
#[must_use]
pub fn become_command(launch: &Launch) -> StartFailure {
    spawn::replace(launch)
}
