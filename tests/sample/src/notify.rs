//! `READY=1` to whoever started the app, in systemd's notify protocol.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// Says that requests can be answered. Does nothing when `NOTIFY_SOCKET` is unset.
///
/// # Errors
/// When the socket cannot be reached.
pub fn ready() -> io::Result<()> {
    tell("READY=1")
}

/// Says that the app is finishing. A starter that died meanwhile is no reason to lose a request, so failure is ignored.
pub fn stopping() {
    let _ = tell("STOPPING=1");
}

fn tell(message: &str) -> io::Result<()> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(address) if !address.is_empty() => send(&address, message.as_bytes()),
        _ => Ok(()),
    }
}

fn send(address: &OsStr, message: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // A starter that no longer reads must not block the app's drain.
    socket.set_nonblocking(true)?;
    if let [b'@', name @ ..] = address.as_bytes() {
        socket.send_to_addr(message, &SocketAddr::from_abstract_name(name)?)?;
        return Ok(());
    }
    let path = Path::new(address);
    let sent = match SocketAddr::from_pathname(path) {
        Ok(name) => socket.send_to_addr(message, &name),
        Err(_) => {
            let (_folder, short) = shorten(path)?;
            socket.send_to(message, short)
        }
    };
    sent.map(drop)
}

/// A name under 108 bytes for a socket deep in the tree; valid while the returned folder is open.
fn shorten(path: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let folder = File::open(folder)?;
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    Ok((folder, short))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn reaches_a_path_however_long_and_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(60)).join("e".repeat(60));
        std::fs::create_dir_all(&deep).unwrap();
        let (_open, short) = shorten(&deep.join("notify")).unwrap();
        let long = UnixDatagram::bind(short).unwrap();
        send(deep.join("notify").as_os_str(), b"READY=1").unwrap();
        assert_eq!(heard(&long), "READY=1");

        let name = format!("ship-sample-test-{}", std::process::id());
        let hidden =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), b"READY=1").unwrap();
        assert_eq!(heard(&hidden), "READY=1");
    }

    #[test]
    fn a_missing_socket_is_an_error() {
        assert!(send(OsStr::new("/nowhere/at/all"), b"READY=1").is_err());
    }
}
