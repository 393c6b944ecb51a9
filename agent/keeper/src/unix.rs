//! Unix sockets by path, also where the path is longer than the 107 bytes a socket address has room for.
//!
//! A long path is reached through a handle of its folder: `/proc/self/fd/N/name`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The longest path a socket address holds, without its final NUL.
pub const MAX_SOCKET_PATH: usize = 107;

/// An address for `path`, and the folder's handle that must live as long as the address is used.
struct Address {
    addr: SocketAddrUnix,
    _folder: Option<OwnedFd>,
}

fn address(path: &Path) -> io::Result<Address> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(Address {
            addr: SocketAddrUnix::new(path)?,
            _folder: None,
        });
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = rustix::fs::openat(
        CWD,
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let short = short_name(&folder, name);
    Ok(Address {
        addr: SocketAddrUnix::new(short)?,
        _folder: Some(folder),
    })
}

fn short_name(folder: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name)
}

/// Binds a socket of `kind` at `path`; it is not listening yet.
///
/// # Errors
/// When the path is taken (a stale socket file too) or its folder is not there.
pub fn bind(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = socket(kind)?;
    rustix::net::bind(&socket, &address(path)?.addr)?;
    Ok(socket)
}

/// Connects a stream to the socket at `path`. Blocks only while the listener's queue is full.
///
/// # Errors
/// When nobody listens there.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket(SocketType::STREAM)?;
    rustix::net::connect(&socket, &address(path)?.addr)?;
    Ok(socket)
}

/// Begins to connect a non-blocking stream to `path`.
///
/// # Errors
/// As [`connect`]; `WouldBlock` when the listener's queue is full.
pub(crate) fn connect_nonblocking(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket(SocketType::STREAM)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::net::connect(&socket, &address(path)?.addr)?;
    Ok(socket)
}

fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Whether `path` is a socket somebody accepts connections from.
pub(crate) fn is_listening(path: &Path) -> bool {
    match connect_nonblocking(path) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Owner of a path, by its metadata; used to tell a socket file from anything else.
pub(crate) fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// The inode of an open socket.
pub(crate) fn inode(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}
