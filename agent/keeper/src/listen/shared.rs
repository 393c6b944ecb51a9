//! One TCP socket for all generations, where this kernel or sandbox refuses steering.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Adopted, BACKLOG, ListenError, Route, connect_tcp, inode_of, new_listener};

/// See the module.
#[derive(Debug)]
pub struct SharedGroup {
    pub(super) bound: SocketAddr,
    pub(super) socket: OwnedFd,
    pub(super) inode: u64,
    pub(super) holders: Vec<u64>,
}

impl SharedGroup {
    pub(super) fn bind(addr: SocketAddr) -> Result<Self, ListenError> {
        let bind = || {
            let socket = new_listener(addr)?;
            rustix::net::bind(&socket, &addr)?;
            rustix::net::listen(&socket, BACKLOG)?;
            let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?).map_err(io::Error::other)?;
            let inode = inode_of(&socket)?;
            Ok(Self {
                bound,
                socket,
                inode,
                holders: Vec::new(),
            })
        };
        bind().map_err(ListenError::bind(addr))
    }

    /// `found` is not empty; all are the same socket.
    pub(super) fn adopt(addr: SocketAddr, found: Vec<Adopted>) -> Self {
        let holders = found.iter().map(|found| found.generation).collect();
        let mut found = found.into_iter();
        match found.next() {
            Some(one) => Self {
                bound: addr,
                socket: one.socket,
                inode: one.inode,
                holders,
            },
            None => unreachable!("adopted from nobody"),
        }
    }

    pub(super) fn bound(&self) -> SocketAddr {
        self.bound
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
    }

    pub(super) fn is_unused(&self) -> bool {
        self.holders.is_empty()
    }

    pub(super) fn probe(&self) -> io::Result<Route> {
        Ok(Route {
            socket: connect_tcp(self.bound, None)?,
            exclusive: self.holders.len() < 2,
        })
    }

    /// A `shutdown` by one holder stops it for all; listening again revives it for all.
    pub(super) fn inspect(&mut self) -> bool {
        if !rustix::net::sockopt::socket_acceptconn(&self.socket).unwrap_or(true) {
            let _ = rustix::net::listen(&self.socket, BACKLOG);
        }
        false
    }
}
