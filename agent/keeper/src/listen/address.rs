//! Addresses as an intent writes them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where a listener is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A UDP address.
    Udp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// What goes over an IP address and port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

/// Why an address cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{text:?} is no address; write tcp:IP:PORT, tcp:PORT, tcp:[IP6]:PORT, the same with udp, or unix:/absolute/path"
)]
pub struct AddressError {
    /// The address as written.
    pub text: String,
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// When it has none of the known forms.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError {
            text: text.to_owned(),
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let good = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
            return if good {
                Ok(Self::Unix(path.into()))
            } else {
                Err(wrong())
            };
        }
        let (transport, rest) = match text.split_once(':') {
            Some(("tcp", rest)) => (Transport::Tcp, rest),
            Some(("udp", rest)) => (Transport::Udp, rest),
            _ => return Err(wrong()),
        };
        if let Ok(port) = rest.parse::<u16>() {
            let all = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).into();
            return Ok(Self::of(transport, all));
        }
        rest.parse()
            .map(|addr| Self::of(transport, addr))
            .map_err(|_| wrong())
    }

    fn of(transport: Transport, addr: SocketAddr) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp(addr),
            Transport::Udp => Self::Udp(addr),
        }
    }

    /// The IP address and port, and what goes over it.
    #[must_use]
    pub fn inet(&self) -> Option<(Transport, SocketAddr)> {
        match self {
            Self::Tcp(addr) => Some((Transport::Tcp, *addr)),
            Self::Udp(addr) => Some((Transport::Udp, *addr)),
            Self::Unix(_) => None,
        }
    }

    /// The same with another IP address and port.
    #[must_use]
    pub fn at(&self, addr: SocketAddr) -> Self {
        match self.inet() {
            Some((transport, _)) => Self::of(transport, addr),
            None => self.clone(),
        }
    }

    /// The TCP address, if it is one.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Udp(_) | Self::Unix(_) => None,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "tcp:{addr}"),
            Self::Udp(addr) => write!(f, "udp:{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::Address;

    #[test]
    fn reads_the_known_forms_and_no_other() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        assert_eq!(Address::parse("tcp:8080").unwrap(), tcp("0.0.0.0:8080"));
        assert_eq!(Address::parse("tcp:127.0.0.2:0").unwrap(), tcp("127.0.0.2:0"));
        assert_eq!(Address::parse("tcp:[::1]:80").unwrap(), tcp("[::1]:80"));
        let udp = Address::Udp("0.0.0.0:53".parse().unwrap());
        assert_eq!(Address::parse("udp:53").unwrap(), udp);
        assert_eq!(udp.to_string(), "udp:0.0.0.0:53");
        assert_eq!(
            Address::parse("unix:/run/a").unwrap(),
            Address::Unix("/run/a".into())
        );
        for bad in [
            "",
            "8080",
            "tcp:",
            "tcp:localhost:80",
            "tcp:1.2.3.4:99999",
            "unix:a",
            "unix:/a/",
            "udp:x:1",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
