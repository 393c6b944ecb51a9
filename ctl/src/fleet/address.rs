//! A fleet's own piece of the loopback net.

use std::net::{Ipv4Addr, TcpListener};

use serde::{Deserialize, Serialize};

/// Most hosts of one fleet: the last byte of an address, with room for the store.
pub const MAX_HOSTS: u8 = 100;
const STORE: u8 = 200;
pub const GRPC_PORT: u16 = 7400;
pub const ASSET_PORT: u16 = 7480;
/// How many nets are tried before it is given up.
const TRIES: u32 = 50;

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

    pub const fn store(self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.0, self.1, STORE)
    }

    pub const fn host(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.0, self.1, number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_nets_are_never_drawn() {
        for x in 0..=255 {
            let Net(x, _) = Net::of(x, 9);
            assert!(!matches!(x, 0 | 77 | 255));
        }
    }
}
