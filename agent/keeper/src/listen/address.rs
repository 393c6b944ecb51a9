//! Addresses as an intent writes them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use thiserror::Error;

/// Where a listener is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// Why an address cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is no address; write tcp:IP:PORT, tcp:PORT, tcp:[IP6]:PORT or unix:/absolute/path")]
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
        let rest = text.strip_prefix("tcp:").ok_or_else(wrong)?;
        if let Ok(port) = rest.parse::<u16>() {
            return Ok(Self::Tcp((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).into()));
        }
        rest.parse().map(Self::Tcp).map_err(|_| wrong())
    }

    /// The TCP address, if it is one.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "tcp:{addr}"),
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
            "udp:1",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
