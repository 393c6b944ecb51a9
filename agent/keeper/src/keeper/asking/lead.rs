//! A place on loopback where a probing command connects, and from where it is led to the one generation that is asked.
//!
//! Where that takes datagrams, the place does too; the last who sent one is sent the answers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;

use crate::listen::{Group, Route, Transport};
use crate::relay::Relay;
use crate::sockets::Ends;

/// Connections led at once; more wait in the kernel's queue.
const MAX_LED: usize = 16;

/// The largest datagram.
const MAX_DATAGRAM: usize = 64 * 1024;

/// See the module. It is there for as long as a generation is probed.
#[derive(Debug)]
pub(super) enum Lead {
    Streams(Streams),
    Datagrams(Datagrams),
}

impl Lead {
    pub(super) fn new(transport: Transport) -> io::Result<Self> {
        match transport {
            Transport::Tcp => Streams::new().map(Self::Streams),
            Transport::Udp => Datagrams::new().map(Self::Datagrams),
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        match self {
            Self::Streams(streams) => streams.addr,
            Self::Datagrams(datagrams) => datagrams.addr,
        }
    }

    /// Whether something is to be looked at that wakes nobody.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Streams(streams) if !streams.unproven.is_empty())
    }

    pub(super) fn waits_on(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        match self {
            Self::Streams(streams) => streams.waits_on(),
            Self::Datagrams(datagrams) => datagrams.waits_on(),
        }
    }

    /// Moves what can be moved. A connection that nobody takes is closed, as one to a port where nobody listens.
    pub(super) fn advance(
        &mut self,
        group: &mut Group,
        generation: u64,
        owned: impl Fn(Ends) -> Option<bool>,
    ) {
        match self {
            Self::Streams(streams) => streams.advance(group, generation, owned),
            Self::Datagrams(datagrams) => datagrams.advance(group, generation),
        }
    }
}

/// Datagrams to and fro.
#[derive(Debug)]
pub(super) struct Datagrams {
    front: UdpSocket,
    addr: SocketAddr,
    back: Option<UdpSocket>,
    client: Option<SocketAddr>,
}

impl Datagrams {
    fn new() -> io::Result<Self> {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        front.set_nonblocking(true)?;
        Ok(Self {
            addr: front.local_addr()?,
            front,
            back: None,
            client: None,
        })
    }

    fn waits_on(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let both = [Some(&self.front), self.back.as_ref()];
        both.into_iter()
            .flatten()
            .map(|socket| (socket.as_fd(), PollFlags::IN))
            .collect()
    }

    /// What cannot be sent on is lost, as datagrams are.
    fn advance(&mut self, group: &mut Group, generation: u64) {
        let mut datagram = vec![0; MAX_DATAGRAM];
        while let Ok((length, client)) = self.front.recv_from(&mut datagram) {
            self.client = Some(client);
            if self.back.is_none() {
                self.back = group
                    .probe(generation)
                    .ok()
                    .map(|route| UdpSocket::from(route.socket));
            }
            if let Some(back) = &self.back {
                let _ = back.send(&datagram[..length]);
            }
        }
        let (Some(back), Some(client)) = (&self.back, self.client) else {
            return;
        };
        while let Ok(length) = back.recv(&mut datagram) {
            let _ = self.front.send_to(&datagram[..length], client);
        }
    }
}

/// Connections that are led on.
#[derive(Debug)]
pub(super) struct Streams {
    listener: TcpListener,
    addr: SocketAddr,
    /// Accepted, and connected to somebody of whom it is not known yet who he is.
    unproven: Vec<(OwnedFd, TcpStream)>,
    relays: Vec<Relay>,
}

impl Streams {
    fn new() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            addr: listener.local_addr()?,
            listener,
            unproven: Vec::new(),
            relays: Vec::new(),
        })
    }

    fn is_full(&self) -> bool {
        self.unproven.len() + self.relays.len() >= MAX_LED
    }

    fn waits_on(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let listener = (!self.is_full()).then(|| (self.listener.as_fd(), PollFlags::IN));
        let relays = self.relays.iter().flat_map(Relay::waits_on);
        listener.into_iter().chain(relays).collect()
    }

    fn advance(&mut self, group: &mut Group, generation: u64, owned: impl Fn(Ends) -> Option<bool>) {
        while !self.is_full()
            && let Ok((client, _)) = self.listener.accept()
        {
            if client.set_nonblocking(true).is_ok() {
                self.connect(client.into(), group, generation);
            }
        }
        for (client, server) in std::mem::take(&mut self.unproven) {
            match Ends::of(&server).and_then(&owned) {
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
