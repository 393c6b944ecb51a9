//! An address that the app listens on by itself: nothing is held here, it is only known where to ask and to count.

use std::io;

use super::{Address, Route, Transport, connect_inet};

/// See the module.
#[derive(Debug)]
pub struct OutsideGroup {
    address: Address,
    pub(super) holders: Vec<u64>,
}

impl OutsideGroup {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            holders: Vec::new(),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn take(&mut self, generation: u64) {
        if !self.holders.contains(&generation) {
            self.holders.push(generation);
        }
    }

    pub(super) fn release(&mut self, generation: u64) {
        self.holders.retain(|holder| *holder != generation);
    }

    pub(super) fn is_unused(&self) -> bool {
        self.holders.is_empty()
    }

    /// Whoever listens there answers; the keeper looks up who that was, where the kernel tells it.
    pub(super) fn probe(&self) -> io::Result<Route> {
        match &self.address {
            Address::Tcp(addr) => Ok(Route {
                socket: connect_inet(Transport::Tcp, *addr, None)?,
                exclusive: false,
            }),
            Address::Udp(addr) => Ok(Route {
                socket: connect_inet(Transport::Udp, *addr, None)?,
                exclusive: true,
            }),
            Address::Unix(path) => {
                let socket = crate::unix::connect_nonblocking(path)?;
                let exclusive = !crate::sockets::tells_unix_peers(&socket);
                Ok(Route { socket, exclusive })
            }
        }
    }
}
