//! The socket on which processes say `READY=1`: at one path for the app's life, always read, so that nobody ever blocks
//! on it or finds it gone.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketType};

/// What one datagram says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notice {
    /// Who sent it, as the kernel vouches.
    pub pid: u32,
    /// `READY=1`.
    pub ready: bool,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `STATUS=`.
    pub status: Option<String>,
    /// `MAINPID=`.
    pub main_pid: Option<u32>,
    /// `EXTEND_TIMEOUT_USEC=`, in milliseconds.
    pub extend_ms: Option<u64>,
}

/// The bound socket.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
}

/// Characters of a status kept.
const MAX_STATUS: usize = 200;

impl NotifySocket {
    /// Binds the socket at `path`, in place of one an earlier keeper left.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = crate::unix::bind(path, SocketType::DGRAM)?;
        // Apps of other users write to it; who may is decided by the sender's pid.
        rustix::fs::chmodat(
            CWD,
            path,
            Mode::from_raw_mode(0o666),
            rustix::fs::AtFlags::empty(),
        )?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    /// The path for NOTIFY_SOCKET.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor to wait on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next datagram, if one is there.
    pub fn receive(&self) -> Option<Notice> {
        let mut bytes = [0_u8; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )
        .ok()?;
        let mut pid = 0;
        for message in ancillary.drain() {
            // Descriptors (BARRIER=1, FDSTORE=1) are closed by dropping them: for a barrier that is the answer.
            if let RecvAncillaryMessage::ScmCredentials(credentials) = message {
                pid = credentials.pid.as_raw_nonzero().get().cast_unsigned();
            }
        }
        Some(parse(pid, bytes.get(..received.bytes).unwrap_or_default()))
    }
}

fn parse(pid: u32, bytes: &[u8]) -> Notice {
    let mut notice = Notice {
        pid,
        ..Notice::default()
    };
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else {
            continue;
        };
        match line.split_once('=') {
            Some(("READY", "1")) => notice.ready = true,
            Some(("STOPPING", "1")) => notice.stopping = true,
            Some(("STATUS", text)) => notice.status = Some(text.chars().take(MAX_STATUS).collect()),
            Some(("MAINPID", text)) => notice.main_pid = text.parse().ok(),
            Some(("EXTEND_TIMEOUT_USEC", text)) => {
                notice.extend_ms = text.parse::<u64>().ok().map(|micros| micros / 1000);
            }
            _ => {}
        }
    }
    notice
}

#[cfg(test)]
mod tests {
    use super::{Notice, parse};

    #[test]
    fn reads_known_lines_and_skips_the_rest() {
        let bytes = b"READY=1\nSTATUS=all well\nX=1\n\xff\xfe=\nEXTEND_TIMEOUT_USEC=5000000\nMAINPID=7\n";
        let expected = Notice {
            pid: 3,
            ready: true,
            stopping: false,
            status: Some("all well".to_owned()),
            main_pid: Some(7),
            extend_ms: Some(5000),
        };
        assert_eq!(parse(3, bytes), expected);
        assert_eq!(
            parse(3, b""),
            Notice {
                pid: 3,
                ..Notice::default()
            }
        );
    }
}
