//! A connection of the keeper's own, and whose socket is at its other end.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketAddrAny};

use super::{diag, serving_socket};

/// What the kernel knows a connection by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// A TCP connection, by its addresses.
    Tcp {
        /// Ours.
        client: SocketAddr,
        /// The listener's.
        server: SocketAddr,
    },
    /// A Unix stream, by the inode of our end.
    Unix {
        /// Ours.
        client: u32,
    },
}

impl Ends {
    /// Those of this client's socket; none while it is not connected.
    #[must_use]
    pub fn of(client: impl AsFd) -> Option<Self> {
        let server = rustix::net::getpeername(&client).ok().flatten()?;
        let own = rustix::net::getsockname(&client).ok()?;
        if own.address_family() == AddressFamily::UNIX {
            let inode = crate::unix::inode(client).ok()?;
            return u32::try_from(inode).ok().map(|client| Self::Unix { client });
        }
        let inet = |addr: SocketAddrAny| SocketAddr::try_from(addr).ok();
        Some(Self::Tcp {
            client: inet(own)?,
            server: inet(server)?,
        })
    }

    /// The inode of the server's end; none while nobody has accepted it.
    #[must_use]
    pub fn serving_socket(self) -> Option<u32> {
        match self {
            Self::Tcp { client, server } => serving_socket(client, server),
            Self::Unix { client } => {
                let peer = diag::unix_peer(client).ok().flatten();
                peer.filter(|inode| *inode != 0)
            }
        }
    }
}

/// Whether the kernel tells who is at the other end of a Unix stream; some are built without that.
#[must_use]
pub fn tells_unix_peers(connected: impl AsFd) -> bool {
    let inode = crate::unix::inode(connected)
        .ok()
        .and_then(|inode| u32::try_from(inode).ok());
    inode.is_some_and(|inode| matches!(diag::unix_peer(inode), Ok(Some(_))))
}
