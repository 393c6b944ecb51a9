//! Where releases come from besides the store, how fast, and what other hosts get from this one.

use std::net::SocketAddr;

use ship_model::mirror::Listed;
use toml::de::DeTable;

use super::Reader;

/// Most places of one list.
const MOST: usize = 16;
/// Kept for other hosts unless the file says otherwise.
const CACHE: u64 = 512 << 20;

/// What an `agent.toml` says of sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceSettings {
    /// In the order in which they are asked; empty: those that the store names. The store comes last unless it is listed.
    pub mirrors: Vec<Listed>,
    /// Bytes of releases that this host receives in a second, from whomever.
    pub fetch_limit: Option<u64>,
    /// None: this host neither gives to others nor asks them.
    pub peer: Option<PeerSettings>,
}

/// What other hosts get from this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSettings {
    /// Port 0 takes a free one and keeps it.
    pub listen: SocketAddr,
    /// Bytes of what was fetched lately that are kept for them.
    pub cache: u64,
    /// Bytes that they get in a second, all together.
    pub limit: Option<u64>,
}

impl<'a> Reader<'a> {
    pub(super) fn sources(&mut self, root: &DeTable<'a>) -> SourceSettings {
        let listen = |text: &str| text.parse().map_err(|_| format!("{text:?} is not IP:PORT"));
        let listen: Option<SocketAddr> = self.optional(root, "peer_listen", listen);
        let (cache, limit) = (
            self.positive(root, "peer_cache"),
            self.positive(root, "peer_limit"),
        );
        for key in ["peer_cache", "peer_limit"] {
            if let Some(found) = root.get(key)
                && root.get("peer_listen").is_none()
            {
                let line = self.line(found.span().start);
                self.say(line, format!("{key} means nothing without peer_listen"));
            }
        }
        SourceSettings {
            mirrors: self.mirrors(root),
            fetch_limit: self.positive(root, "fetch_limit"),
            peer: listen.map(|listen| PeerSettings {
                listen,
                cache: cache.unwrap_or(CACHE),
                limit,
            }),
        }
    }

    fn mirrors(&mut self, root: &DeTable<'a>) -> Vec<Listed> {
        let Some(found) = root.get("mirrors") else {
            return Vec::new();
        };
        let line = self.line(found.span().start);
        let Some(list) = found.get_ref().as_array() else {
            self.say(
                line,
                "mirrors must be a list like [\"https://mirror.example.com\"]".to_owned(),
            );
            return Vec::new();
        };
        if list.len() > MOST {
            self.say(
                line,
                format!("mirrors names {} places, more than {MOST}", list.len()),
            );
        }
        let mut mirrors = Vec::new();
        for item in list.iter() {
            let line = self.line(item.span().start);
            match item.get_ref().as_str().map(str::parse::<Listed>) {
                Some(Ok(place)) if !mirrors.contains(&place) => mirrors.push(place),
                Some(Ok(_)) => self.say(line, "mirrors: one stands there twice".to_owned()),
                Some(Err(error)) => self.say(
                    line,
                    format!("mirrors: {error}; or \"store\" for the store's place"),
                ),
                None => self.say(line, "mirrors: a mirror is a text in quotes".to_owned()),
            }
        }
        mirrors
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::super::tests::GOOD;
    use super::super::{Config, Mistake};
    use super::*;

    fn parse(text: &str) -> Result<SourceSettings, Vec<Mistake>> {
        let config = Config::parse(&format!("{text}\n{GOOD}"), std::path::Path::new("/d"));
        config.map(|config| config.sources)
    }

    #[test]
    fn sources_are_read_and_mistakes_are_named() {
        assert_eq!(parse("").unwrap(), SourceSettings::default());
        let all = "mirrors = [\"http://10.0.0.9/ship\", \"store\", \"https://m.example.com\"]\nfetch_limit = 1000\n\
                   peer_listen = \"10.0.0.7:7410\"\npeer_cache = 2000\npeer_limit = 3000";
        let read = parse(all).unwrap();
        assert_eq!((read.mirrors.len(), &read.mirrors[1]), (3, &Listed::Store));
        assert_eq!(read.fetch_limit, Some(1000));
        let peer = read.peer.unwrap();
        assert_eq!(
            (peer.listen.port(), peer.cache, peer.limit),
            (7410, 2000, Some(3000))
        );
        let least = parse("peer_listen = \"10.0.0.7:0\"").unwrap().peer.unwrap();
        assert_eq!((least.cache, least.limit), (CACHE, None));
        for (text, part) in [
            ("mirrors = \"http://m\"", "must be a list"),
            ("mirrors = [1]", "a text in quotes"),
            ("mirrors = [\"ftp://m\"]", "no mirror"),
            ("mirrors = [\"http://m\", \"http://m/\"]", "twice"),
            ("fetch_limit = 0", "from 1 up"),
            ("peer_listen = \"7410\"", "not IP:PORT"),
            ("peer_cache = 1", "nothing without peer_listen"),
        ] {
            let mistakes = parse(text).unwrap_err();
            assert!(
                mistakes[0].line == 1 && mistakes[0].text.contains(part),
                "{mistakes:?}"
            );
        }
    }
}
