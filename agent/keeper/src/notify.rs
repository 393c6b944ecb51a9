//! The socket on which processes say `READY=1` and all else that sd_notify(3) has words for: at one path for the app's life,
//! always read, so that nobody ever blocks on it or finds it gone.

mod notice;

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketType};

pub use notice::{Beat, Notice, Store};

/// Bytes of a datagram; a longer one says nothing.
const MAX_DATAGRAM: usize = 4096;
/// Descriptors in one datagram.
pub const MAX_DESCRIPTORS: usize = 64;

/// A datagram: what it says, and the descriptors that came with it.
#[derive(Debug)]
pub struct Datagram {
    /// What it says.
    pub notice: Notice,
    /// At most [`MAX_DESCRIPTORS`]; the kernel has closed those beyond.
    pub descriptors: Vec<OwnedFd>,
}

/// The bound socket.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
}

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

    /// The socket as the program before has left it open, unread datagrams included.
    #[must_use]
    pub fn resume(socket: OwnedFd, path: PathBuf) -> Self {
        Self { socket, path }
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

    /// The next datagram, if one is there. One that was cut off says nothing.
    pub fn receive(&self) -> Option<Datagram> {
        let mut bytes = [0_u8; MAX_DATAGRAM];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )
        .ok()?;
        let mut pid = 0;
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmCredentials(credentials) => {
                    pid = credentials.pid.as_raw_nonzero().get().cast_unsigned();
                }
                RecvAncillaryMessage::ScmRights(handed) => descriptors.extend(handed),
                _ => {}
            }
        }
        let whole = !received.flags.contains(ReturnFlags::TRUNC);
        let said = bytes.get(..received.bytes).filter(|_| whole).unwrap_or_default();
        Some(Datagram {
            notice: Notice::parse(pid, said),
            descriptors,
        })
    }
}
