//! One socket for all generations, where this kernel or sandbox, or whoever else has the address, allows nothing better.
//!
//! Whoever accepts first answers, so users may come to a generation that is not proven yet, or still to the old one; the
//! probe looks up whose process took its connection. A Unix socket is bound under a hidden name and moved to its path: what
//! is accepted keeps that name, by which its connections are counted.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::SocketType;

use super::{
    Address, Adopted, BACKLOG, ListenError, Route, Transport, connect_inet, inode_of, new_socket, path,
};

/// See the module.
#[derive(Debug)]
pub struct SharedGroup {
    pub(super) at: Address,
    pub(super) socket: OwnedFd,
    pub(super) inode: u64,
    pub(super) holders: Vec<u64>,
    pub(super) reason: String,
}

impl SharedGroup {
    /// `reason` says why nothing better is done.
    pub(super) fn bind(at: &Address, reason: String) -> Result<Self, ListenError> {
        let bind = || {
            let (at, socket) = match at {
                Address::Tcp(addr) => bind_inet(at, Transport::Tcp, *addr)?,
                Address::Udp(addr) => bind_inet(at, Transport::Udp, *addr)?,
                Address::Unix(path) => (at.clone(), bind_path(path)?),
            };
            let inode = inode_of(&socket)?;
            Ok(Self {
                at,
                socket,
                inode,
                holders: Vec::new(),
                reason,
            })
        };
        bind().map_err(ListenError::bind(at))
    }

    /// `found` is not empty; all are the same socket.
    pub(super) fn adopt(at: &Address, found: Vec<Adopted>) -> Self {
        let holders = found.iter().map(|found| found.generation).collect();
        let mut found = found.into_iter();
        match found.next() {
            Some(one) => Self {
                at: at.clone(),
                socket: one.socket,
                inode: one.inode,
                holders,
                reason: "so it was when it was bound".to_owned(),
            },
            None => unreachable!("adopted from nobody"),
        }
    }

    pub(super) fn at(&self) -> &Address {
        &self.at
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    pub(super) fn take(&mut self, generation: u64) -> u64 {
        if !self.holders.contains(&generation) {
            self.holders.push(generation);
        }
        self.inode
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn release(&mut self, generation: u64) {
        self.holders.retain(|holder| *holder != generation);
        if let (Address::Unix(path), true) = (&self.at, self.holders.is_empty()) {
            let _ = std::fs::remove_file(path);
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.holders.is_empty()
    }

    pub(super) fn connect(&self) -> io::Result<OwnedFd> {
        match &self.at {
            Address::Tcp(addr) => connect_inet(Transport::Tcp, *addr, None),
            Address::Udp(addr) => connect_inet(Transport::Udp, *addr, None),
            Address::Unix(path) => crate::unix::connect_nonblocking(path),
        }
    }

    pub(super) fn probe(&self) -> io::Result<Route> {
        Ok(Route {
            socket: self.connect()?,
            exclusive: self.holders.len() < 2,
        })
    }

    /// A `shutdown` by one holder stops it for all; listening again revives it for all. A Unix socket stays dead.
    pub(super) fn inspect(&mut self) -> bool {
        if let Address::Tcp(_) = self.at
            && !rustix::net::sockopt::socket_acceptconn(&self.socket).unwrap_or(true)
        {
            let _ = rustix::net::listen(&self.socket, BACKLOG);
        }
        false
    }
}

fn bind_inet(at: &Address, transport: Transport, addr: SocketAddr) -> io::Result<(Address, OwnedFd)> {
    let socket = new_socket(transport, addr)?;
    rustix::net::bind(&socket, &addr)?;
    if transport == Transport::Tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?).map_err(io::Error::other)?;
    Ok((at.at(bound), socket))
}

fn bind_path(path: &Path) -> io::Result<OwnedFd> {
    let hidden = path::hidden(path, "shared");
    let _ = std::fs::remove_file(&hidden);
    let socket = crate::unix::bind(&hidden, SocketType::STREAM)?;
    path::open_to_all(&hidden)?;
    rustix::net::listen(&socket, BACKLOG)?;
    path::rename(&hidden, path)?;
    Ok(socket)
}
