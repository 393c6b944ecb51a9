//! Whole files and names: written aside, synced, then renamed into place.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use thiserror::Error;

use crate::{fault, sweep::temporary_name};

/// Why a file or a name could not be made durable.
#[derive(Debug, Error)]
pub enum FileError {
    /// The path has no folder or no last component.
    #[error("cannot write {}: it does not name a file", path.display())]
    NoName {
        /// The path as given.
        path: PathBuf,
    },
    /// [`create_new`] found something at the path.
    #[error("cannot create {}: it exists already", path.display())]
    Exists {
        /// The path that is taken.
        path: PathBuf,
    },
    /// A step failed; the file at `path` is as it was before, unless the step is [`FileStep::SyncDir`].
    #[error("cannot {step} {}", path.display())]
    Step {
        /// What was being done.
        step: FileStep,
        /// The file or folder it was done to.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The step of a durable write that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileStep {
    /// Making the temporary file.
    Create,
    /// Writing the bytes.
    Write,
    /// fsync of the file or file system.
    Sync,
    /// Renaming into place.
    Rename,
    /// fsync of the folder: the new state is visible, but a power cut may still bring the old one back.
    SyncDir,
}

impl std::fmt::Display for FileStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Create => "create a temporary file for",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename into place",
            Self::SyncDir => "sync the folder",
        })
    }
}

impl FileStep {
    pub(crate) fn at(self, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError::Step {
            step: self,
            path,
            source,
        }
    }
}

/// The folder that holds `path`'s last component; `.` for a bare name.
pub(crate) fn parent_of(path: &Path) -> Option<&Path> {
    path.file_name()?;
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    })
}

/// Replaces the file at `path` by `bytes`, with mode 0644 (less the umask).
///
/// When it returns, bytes and name are synced. A crash in between leaves the old file or the new one, whole, and
/// perhaps a leftover. Two writers at once: one of the two contents stands.
///
/// # Errors
/// [`FileError`]; the old file stands, except after [`FileStep::SyncDir`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_file_mode(path, bytes, 0o644)
}

/// As [`write_file`], readable by the owner only (mode 0600) from its first moment on.
///
/// # Errors
/// As [`write_file`].
pub fn write_private_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_file_mode(path, bytes, 0o600)
}

/// As [`write_file`], with the given permission bits (less the umask).
///
/// # Errors
/// As [`write_file`].
pub fn write_file_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    place(path, bytes, mode, |from, to| std::fs::rename(from, to))
}

/// Writes a file that must not exist yet (mode 0644 less the umask).
///
/// Durable and atomic as [`write_file`]: after a crash the file is absent or whole. Of two that create the same path at
/// once exactly one succeeds.
///
/// # Errors
/// [`FileError::Exists`] when anything, a dangling link too, has that name; else as [`write_file`].
pub fn create_new(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    place(path, bytes, 0o644, rename_unless_taken).map_err(|error| match error {
        FileError::Step {
            step: FileStep::Rename,
            source,
            path,
        } if source.kind() == io::ErrorKind::AlreadyExists => FileError::Exists { path },
        other => other,
    })
}

/// `renameat2(RENAME_NOREPLACE)`; a hard link where the file system has no such rename.
fn rename_unless_taken(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

fn place(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    rename: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<(), FileError> {
    let no_name = || FileError::NoName {
        path: path.to_owned(),
    };
    let dir = parent_of(path).ok_or_else(no_name)?;
    let temporary = dir.join(temporary_name().map_err(FileStep::Create.at(path))?);
    let placed = write_aside(&temporary, path, bytes, mode).and_then(|()| {
        fault::point("durable.file.rename.before").map_err(FileStep::Rename.at(path))?;
        rename(&temporary, path).map_err(FileStep::Rename.at(path))
    });
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    fault::point("durable.file.rename.after").map_err(FileStep::SyncDir.at(dir))?;
    sync_dir(dir)
}

fn write_aside(temporary: &Path, path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    fault::point("durable.file.create.before").map_err(FileStep::Create.at(path))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(temporary)
        .map_err(FileStep::Create.at(path))?;
    fault::point("durable.file.write.before").map_err(FileStep::Write.at(path))?;
    file.write_all(bytes).map_err(FileStep::Write.at(path))?;
    fault::point("durable.file.sync.before").map_err(FileStep::Sync.at(path))?;
    file.sync_all().map_err(FileStep::Sync.at(path))
}

/// Syncs a folder's entries: names made, renamed or removed in it before are there after a power cut.
///
/// # Errors
/// [`FileError::Step`] with [`FileStep::SyncDir`].
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    fault::point("durable.dir.sync.before")
        .and_then(|()| File::open(dir))
        .and_then(|dir| dir.sync_all())
        .and_then(|()| fault::point("durable.dir.sync.after"))
        .map_err(FileStep::SyncDir.at(dir))
}

/// Syncs everything written to the file system that holds `path` (`syncfs`): the cheap way to make a whole tree durable
/// before it is renamed into place.
///
/// # Errors
/// [`FileError::Step`] with [`FileStep::Sync`], also for write errors of the file system since the last call.
pub fn sync_fs(path: &Path) -> Result<(), FileError> {
    fault::point("durable.fs.sync.before")
        .and_then(|()| File::open(path))
        .and_then(|file| Ok(rustix::fs::syncfs(file)?))
        .and_then(|()| fault::point("durable.fs.sync.after"))
        .map_err(FileStep::Sync.at(path))
}

/// Renames `from` to `to` and syncs both folders. A file or an empty folder at `to` is replaced.
///
/// What `from` holds must be synced already. After a crash the thing has one of the two names; across two folders a
/// power cut before the return may, on file systems without ordered renames, show both for a moment of recovery.
///
/// # Errors
/// [`FileError`]; nothing has moved, except after [`FileStep::SyncDir`].
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    let no_name = |path: &Path| FileError::NoName {
        path: path.to_owned(),
    };
    let (from_dir, to_dir) = (
        parent_of(from).ok_or_else(|| no_name(from))?,
        parent_of(to).ok_or_else(|| no_name(to))?,
    );
    fault::point("durable.rename.before").map_err(FileStep::Rename.at(to))?;
    std::fs::rename(from, to).map_err(FileStep::Rename.at(to))?;
    fault::point("durable.rename.after").map_err(FileStep::SyncDir.at(to_dir))?;
    sync_dir(to_dir)?;
    if from_dir != to_dir {
        sync_dir(from_dir)?;
    }
    Ok(())
}
