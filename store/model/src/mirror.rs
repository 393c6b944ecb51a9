//! Where copies of bundles and deltas can be had besides the store, as people write it down.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The base of a mirror: below it lie `bundles/<digest>` and `deltas/<digest>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorUrl {
    pub https: bool,
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// Empty, or `/` and more, without a `/` at its end.
    pub path: String,
}

/// Why a text names no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no mirror: write http://HOST[:PORT][/PATH] or https://…, without a user, a query or spaces"
)]
pub struct MirrorUrlError {
    text: String,
}

impl FromStr for MirrorUrl {
    type Err = MirrorUrlError;
    fn from_str(text: &str) -> Result<Self, MirrorUrlError> {
        read(text).ok_or_else(|| MirrorUrlError {
            text: text.chars().take(200).collect(),
        })
    }
}

fn read(text: &str) -> Option<MirrorUrl> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"?#@\\\"".contains(&byte));
    let (https, rest) = match text.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("http://")?),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None if port.is_empty() => {
            if https {
                443
            } else {
                80
            }
        }
        None => return None,
    };
    let usable = plain && !host.is_empty() && host.len() <= 253 && text.len() <= 1000;
    usable.then(|| MirrorUrl {
        https,
        host: host.to_owned(),
        port,
        path: path.trim_end_matches('/').to_owned(),
    })
}

impl MirrorUrl {
    /// `HOST[:PORT]`, as requests name it.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.port == if self.https { 443 } else { 80 } {
            true => host,
            false => format!("{host}:{}", self.port),
        }
    }
}

impl fmt::Display for MirrorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Serialize for MirrorUrl {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MirrorUrl {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// One place of an ordered list: a mirror, or the store itself where it shall not come last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    Store,
    Mirror(MirrorUrl),
}

impl FromStr for Listed {
    type Err = MirrorUrlError;
    fn from_str(text: &str) -> Result<Self, MirrorUrlError> {
        match text {
            "store" => Ok(Self::Store),
            url => url.parse().map(Self::Mirror),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn mirrors_as_people_write_them() {
        for (text, shown) in [
            ("http://m", "http://m"),
            ("https://m.example.com:443/ship/", "https://m.example.com/ship"),
            ("http://127.0.0.1:8081/a/b", "http://127.0.0.1:8081/a/b"),
            ("https://[::1]:7400", "https://[::1]:7400"),
        ] {
            let mirror: MirrorUrl = text.parse().unwrap();
            assert_eq!(mirror.to_string(), shown);
            assert_eq!(shown.parse(), Ok(mirror));
        }
        for bad in [
            "",
            "m",
            "ftp://m",
            "http://",
            "http://:80",
            "http://m:0",
            "http://m:99999",
            "http://u@m",
            "http://m/?q",
            "http://m/a b",
            "http://[::1",
            "http://m/#f",
            "store",
            "http://m:80x",
        ] {
            assert!(bad.parse::<MirrorUrl>().is_err(), "{bad:?}");
        }
        assert_eq!("store".parse(), Ok(Listed::Store));
    }
}
