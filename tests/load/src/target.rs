//! What is asked: plain HTTP URLs.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

#[derive(Debug, thiserror::Error)]
pub enum ParseTargetError {
    #[error("{url:?} is no plain http:// URL")]
    Scheme { url: String },
    #[error("{url:?} has characters that cannot stand in a request")]
    Characters { url: String },
    #[error("look up {host}")]
    LookUp { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
}

/// A URL with its address looked up once, so that no request waits for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub address: SocketAddr,
    /// Host and port as written, for the Host header.
    pub authority: String,
    /// Path and query, beginning with `/`.
    pub path: String,
}

impl Target {
    /// The same origin, asked for another path.
    #[must_use]
    pub fn at(&self, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            ..self.clone()
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "http://{}{}", self.authority, self.path)
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(url: &str) -> Result<Self, ParseTargetError> {
        if url
            .bytes()
            .any(|byte| byte.is_ascii_control() || byte == b' ' || !byte.is_ascii())
        {
            return Err(ParseTargetError::Characters { url: url.to_owned() });
        }
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| ParseTargetError::Scheme { url: url.to_owned() })?;
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            address: look_up(authority)?,
            authority: authority.to_owned(),
            path: format!("{slash}{path}"),
        })
    }
}

fn look_up(authority: &str) -> Result<SocketAddr, ParseTargetError> {
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let host = if has_port {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    match host.to_socket_addrs() {
        Ok(mut addresses) => addresses.next().ok_or(ParseTargetError::NoAddress { host }),
        Err(source) => Err(ParseTargetError::LookUp { host, source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let cases = [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", "/"),
            ("http://127.0.0.1:8080/a?b=c#d", "127.0.0.1:8080", "/a?b=c"),
            ("http://127.0.0.1?q", "127.0.0.1:80", "/?q"),
            ("http://[::1]:81/x", "[::1]:81", "/x"),
            ("http://[::1]", "[::1]:80", "/"),
        ];
        for (url, address, path) in cases {
            let target: Target = url.parse().unwrap();
            assert_eq!(
                (target.address.to_string().as_str(), target.path.as_str()),
                (address, path),
                "{url}"
            );
        }
        assert!(matches!(
            "https://x/".parse::<Target>(),
            Err(ParseTargetError::Scheme { .. })
        ));
        assert!(matches!(
            "http://x/a b".parse::<Target>(),
            Err(ParseTargetError::Characters { .. })
        ));
    }
}
