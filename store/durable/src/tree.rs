//! Removing a whole tree without ever leaving it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use thiserror::Error;

use crate::fault;

/// Why a tree could not be removed; what is left of it is still where it was.
#[derive(Debug, Error)]
#[error("cannot remove {}", path.display())]
pub struct RemoveTreeError {
    /// The tree's root.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Removes `path` and all below it; a link is removed, never followed, even one that is planted while it runs.
///
/// Folders that lack the owner's write permission are made writable first, through handles, so that a link cannot send
/// the change elsewhere. Nothing is synced: after a crash any part of the tree may still be there. An absent path is
/// fine.
///
/// # Errors
/// [`RemoveTreeError`] with the first failure.
pub fn remove_tree(path: &Path) -> Result<(), RemoveTreeError> {
    let failed = |source| RemoveTreeError {
        path: path.to_owned(),
        source,
    };
    fault::point("durable.tree.remove.before").map_err(failed)?;
    let kind = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let removed = if kind.is_dir() {
        remove_folder(path)
    } else {
        std::fs::remove_file(path)
    };
    removed.map_err(failed)?;
    fault::point("durable.tree.remove.after").map_err(failed)
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(CWD, path)?;
            std::fs::remove_dir_all(path)
        }
        other => other,
    }
}

/// Gives the owner all rights on this folder and those below it.
fn make_writable<P: rustix::path::Arg>(at: impl std::os::fd::AsFd, name: P) -> io::Result<()> {
    // O_PATH needs no permission on the folder itself; its /proc name then leads to exactly that inode.
    let handle = rustix::fs::openat(
        at,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let proc_name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
    rustix::fs::chmodat(CWD, proc_name.as_str(), Mode::RWXU, AtFlags::empty())?;
    let folder = rustix::fs::openat(
        &handle,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for entry in rustix::fs::Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." || !is_folder(&folder, &entry)? {
            continue;
        }
        make_writable(&folder, name)?;
    }
    Ok(())
}

fn is_folder(at: impl std::os::fd::AsFd, entry: &rustix::fs::DirEntry) -> io::Result<bool> {
    Ok(match entry.file_type() {
        FileType::Directory => true,
        FileType::Unknown => {
            let found = rustix::fs::statat(at, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            FileType::from_raw_mode(found.st_mode) == FileType::Directory
        }
        _ => false,
    })
}
