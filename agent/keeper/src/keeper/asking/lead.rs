//! A place on loopback where a probing command connects, and from where it is led to the one generation that is asked.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;

use crate::listen::{Group, Route};
use crate::relay::Relay;

/// Connections led at once; more wait in the kernel's queue.
const MAX_LED: usize = 16;

/// See the module. It is there for as long as a generation is probed.
#[derive(Debug)]
pub(super) struct Lead {
    listener: TcpListener,
    addr: SocketAddr,
    /// Accepted, and connected to somebody of whom it is not known yet who he is.
    unproven: Vec<(OwnedFd, TcpStream)>,
    relays: Vec<Relay>,
}

impl Lead {
    pub(super) fn new() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            addr: listener.local_addr()?,
            listener,
            unproven: Vec::new(),
            relays: Vec::new(),
        })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether something is to be looked at that wakes nobody.
    pub(super) fn waits(&self) -> bool {
        !self.unproven.is_empty()
    }

    fn is_full(&self) -> bool {
        self.unproven.len() + self.relays.len() >= MAX_LED
    }

    pub(super) fn waits_on(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let listener = (!self.is_full()).then(|| (self.listener.as_fd(), PollFlags::IN));
        let relays = self.relays.iter().flat_map(Relay::waits_on);
        listener.into_iter().chain(relays).collect()
    }

    /// Accepts and moves what can be. A connection that nobody takes is closed, as one to a port where nobody listens.
    pub(super) fn advance(
        &mut self,
        group: &mut Group,
        generation: u64,
        owned: impl Fn(SocketAddr, SocketAddr) -> Option<bool>,
    ) {
        while !self.is_full()
            && let Ok((client, _)) = self.listener.accept()
        {
            if client.set_nonblocking(true).is_ok() {
                self.connect(client.into(), group, generation);
            }
        }
        for (client, server) in std::mem::take(&mut self.unproven) {
            let ends = server.local_addr().ok().zip(server.peer_addr().ok());
            match ends.and_then(|(from, to)| owned(from, to)) {
                Some(true) => self.relays.push(Relay::new(client, server.into())),
                // The next one may go to the right one.
                Some(false) => self.connect(client, group, generation),
                None => self.unproven.push((client, server)),
            }
        }
        self.relays.retain_mut(Relay::advance);
    }

    fn connect(&mut self, client: OwnedFd, group: &mut Group, generation: u64) {
        match group.probe(generation) {
            Ok(Route { socket, exclusive }) if exclusive => self.relays.push(Relay::new(client, socket)),
            Ok(Route { socket, .. }) => self.unproven.push((client, TcpStream::from(socket))),
            Err(_) => drop(client),
        }
    }
}
