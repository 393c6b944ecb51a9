//! A Unix socket by its path, also where the path is longer than the 107 bytes of a socket's address: such a one is reached
//! through a handle of its folder.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

/// Longest path an address holds.
const MAX_PATH: usize = 107;

/// A path that fits, and the handle it needs to stay valid.
fn short(path: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    if path.as_os_str().len() <= MAX_PATH {
        return Ok((path.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    let through = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    Ok((through.join(name), Some(folder)))
}

/// Listens at `path`, for its owner only. A socket that a dead agent left is replaced; the caller holds the lock that
/// says that there is no living one.
///
/// # Errors
/// Also when something that is no socket has the name.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let (address, _folder) = short(path)?;
    let listener = UnixListener::bind(address)?;
    // Until here the folder's permissions and the look at the peer's user keep others out.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the socket at `path`.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (address, _folder) = short(path)?;
    UnixStream::connect(address).await
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a failed unwrap fails the test, and what a test writes need not be durable"
    )]

    use super::*;

    #[tokio::test]
    async fn long_paths_work() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("agent.sock");
        let listener = bind(&path).unwrap();
        let (one, other) = tokio::join!(listener.accept(), connect(&path));
        assert!(one.is_ok() && other.is_ok());
        drop(listener);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(bind(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert!(bind(&path).is_err());
    }
}
