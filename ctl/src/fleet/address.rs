//! A fleet's own piece of the loopback net.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use serde::{Deserialize, Serialize};

use crate::error::{CommandError, Exit};

/// Most hosts of one fleet: the last byte of an address, with room for the store.
pub const MAX_HOSTS: u8 = 100;
const STORE: u8 = 200;
pub const GRPC_PORT: u16 = 7400;
pub const ASSET_PORT: u16 = 7480;
/// Of a host's figures, on its own address.
pub const METRICS_PORT: u16 = 7490;
/// How many nets are tried before it is given up.
const TRIES: u32 = 50;

/// Another program listens where a part of the fleet does.
#[derive(Debug, thiserror::Error)]
#[error("{address} is taken by another program, and this fleet needs it")]
pub struct TakenError {
    address: SocketAddrV4,
}

impl From<TakenError> for CommandError {
    fn from(error: TakenError) -> Self {
        let port = error.address.port();
        Self::of(Exit::Error, &error)
            .hint(format!("which program that is: ss -ltnp 'sport = :{port}'"))
            .hint("stop it, or start a fleet in another folder, which draws other addresses: shipctl up --dir DIR")
    }
}

/// `127.X.Y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net(pub u8, pub u8);

impl Net {
    /// A net that no other fleet on this machine uses now.
    pub fn draw() -> Option<Self> {
        (0..TRIES).find_map(|_| {
            let bytes = crate::request::request_id();
            let net = Self::of(bytes[0], bytes[1]);
            net.is_free().then_some(net)
        })
    }

    /// Never 127.0, which everybody uses, nor 127.77, from which probes come.
    const fn of(x: u8, y: u8) -> Self {
        match x {
            0 => Self(1, y),
            77 => Self(78, y),
            255 => Self(254, y),
            x => Self(x, y),
        }
    }

    fn is_free(self) -> bool {
        TcpListener::bind((self.store(), GRPC_PORT)).is_ok()
            && TcpListener::bind((self.store(), ASSET_PORT)).is_ok()
            && TcpListener::bind((self.host(1), ASSET_PORT)).is_ok()
    }

    /// That the ports of the store and of `hosts` hosts can be had now. A fleet keeps its net, since its apps' users know
    /// their addresses.
    pub fn check_free(self, hosts: u8) -> Result<(), TakenError> {
        let store = [(self.store(), GRPC_PORT), (self.store(), ASSET_PORT)];
        let hosts = (1..=hosts).map(|number| (self.host(number), ASSET_PORT));
        for (ip, port) in store.into_iter().chain(hosts) {
            let address = SocketAddrV4::new(ip, port);
            match TcpListener::bind(address) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(TakenError { address }),
                // Whatever else is wrong, the program that needs it tells.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    pub const fn store(self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.0, self.1, STORE)
    }

    pub const fn host(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.0, self.1, number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let net = Net::draw().unwrap();
        net.check_free(3).unwrap();
        let other = TcpListener::bind((net.host(2), ASSET_PORT)).unwrap();
        net.check_free(1).unwrap();
        let fault = CommandError::from(net.check_free(3).unwrap_err());
        assert!(
            fault
                .message()
                .starts_with(&other.local_addr().unwrap().to_string()),
            "{fault:?}"
        );
        assert!(
            fault.hints().iter().any(|hint| hint.contains("shipctl up --dir")),
            "{fault:?}"
        );
        assert!(
            !fault.hints().iter().any(|hint| hint.contains("--listen")),
            "up has no such option"
        );
    }

    #[test]
    fn some_nets_are_never_drawn() {
        for x in 0..=255 {
            let Net(x, _) = Net::of(x, 9);
            assert!(!matches!(x, 0 | 77 | 255));
        }
    }
}
