//! Where hosts are told to get content besides the store: mirrors out of `store.toml`, and each other.
//!
//! Hosts that give bundles to others say so with their reports and are cut into groups by name. Known in memory only:
//! a host counts while its session lives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ship_model::name::{ClassName, EnvName, HostName};
use ship_model::spread::group_of;
use ship_proto::v1;

use crate::settings::MirrorSettings;

/// Mirrors, and who gives to whom.
#[derive(Debug, Default)]
pub struct Sources {
    mirrors: Vec<MirrorSettings>,
    given: Mutex<Given>,
}

#[derive(Debug, Default)]
struct Given {
    next: u64,
    rosters: BTreeMap<EnvName, Roster>,
}

/// The hosts of an environment that give to others.
#[derive(Debug, Default)]
struct Roster {
    /// Grows with every change.
    version: u64,
    hosts: BTreeMap<HostName, Giver>,
    /// In the order of names; made when it is asked for, once for each version.
    listed: Option<Arc<Vec<v1::PeerAddress>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Giver {
    address: SocketAddr,
    /// Which session said so: an older one that ends later takes nothing away.
    session: u64,
}

/// One session's place among those that give; its end takes the host off the roster.
#[derive(Debug)]
pub struct Giving {
    sources: Arc<Sources>,
    env: EnvName,
    host: HostName,
    session: u64,
    /// What was told, and for which version of the roster.
    told: Option<(u64, Vec<ClassName>, v1::Sources)>,
}

impl Sources {
    pub fn new(mirrors: Vec<MirrorSettings>) -> Self {
        Self {
            mirrors,
            given: Mutex::default(),
        }
    }

    /// A place for a session of `host`.
    pub fn enter(self: &Arc<Self>, env: &EnvName, host: &HostName) -> Giving {
        let mut given = self.given();
        given.next += 1;
        Giving {
            sources: Arc::clone(self),
            env: env.clone(),
            host: host.clone(),
            session: given.next,
            told: None,
        }
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roster {
    fn set(&mut self, host: &HostName, giver: Option<Giver>) {
        let known = self.hosts.get(host).copied();
        let same = known.map(|known| known.address) == giver.map(|giver| giver.address);
        match giver {
            Some(giver) => drop(self.hosts.insert(host.clone(), giver)),
            None => drop(self.hosts.remove(host)),
        }
        if !same {
            self.version += 1;
            self.listed = None;
        }
    }

    fn group(&mut self, host: &HostName) -> Vec<v1::PeerAddress> {
        let hosts = &self.hosts;
        let listed = self.listed.get_or_insert_with(|| {
            let addresses = hosts.iter().map(|(host, giver)| v1::PeerAddress {
                host: host.to_string(),
                address: giver.address.to_string(),
            });
            Arc::new(addresses.collect())
        });
        let place = listed.binary_search_by(|peer| peer.host.as_str().cmp(host.as_str()));
        let group = place.ok().map(|place| group_of(place, listed.len()));
        let group = group.and_then(|group| listed.get(group));
        group.map(<[_]>::to_vec).unwrap_or_default()
    }
}

impl Giving {
    /// Takes in what the host said; gives what it is to be told, if that is news to it.
    pub fn heard(&mut self, classes: &[ClassName], address: Option<&str>) -> Option<v1::Sources> {
        let address = address.and_then(|address| address.parse::<SocketAddr>().ok());
        let giver = address
            .filter(|address| address.port() > 0 && !address.ip().is_unspecified())
            .map(|address| Giver {
                address,
                session: self.session,
            });
        let mut given = self.sources.given();
        let roster = given.rosters.entry(self.env.clone()).or_default();
        roster.set(&self.host, giver);
        let seen = self
            .told
            .as_ref()
            .is_some_and(|(version, of, _)| *version == roster.version && of == classes);
        if seen {
            return None;
        }
        let mirrors = &self.sources.mirrors;
        let mirrors = mirrors.iter().filter(|mirror| mirror.is_for(&self.env, classes));
        let sources = v1::Sources {
            mirrors: mirrors.map(|mirror| mirror.url.to_string()).collect(),
            peers: roster.group(&self.host),
        };
        let known = self.told.take().map(|(.., known)| known).unwrap_or_default();
        self.told = Some((roster.version, classes.to_vec(), sources.clone()));
        (known != sources).then_some(sources)
    }
}

impl Drop for Giving {
    fn drop(&mut self) {
        let mut given = self.sources.given();
        let roster = given.rosters.get_mut(&self.env);
        if let Some(roster) = roster
            && roster
                .hosts
                .get(&self.host)
                .is_some_and(|giver| giver.session == self.session)
        {
            roster.set(&self.host, None);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn names(sources: &v1::Sources) -> Vec<&str> {
        sources.peers.iter().map(|peer| peer.host.as_str()).collect()
    }

    #[test]
    fn hosts_hear_of_each_other_and_of_their_mirrors() {
        let mirror = |url: &str, env: Option<&str>, class: Option<&str>| MirrorSettings {
            url: url.parse().unwrap(),
            env: env.map(|env| env.parse().unwrap()),
            class: class.map(|class| class.parse().unwrap()),
        };
        let sources = Arc::new(Sources::new(vec![
            mirror("http://a", Some("dev"), None),
            mirror("http://b", Some("other"), None),
            mirror("http://c", None, Some("web")),
        ]));
        let (dev, web) = ("dev".parse().unwrap(), ["web".parse().unwrap()]);
        let enter = |host: &str| sources.enter(&dev, &host.parse().unwrap());
        let mut quiet = enter("h0");
        assert_eq!(quiet.heard(&web, None).unwrap().mirrors, ["http://a", "http://c"]);
        assert_eq!(quiet.heard(&web, None), None, "told once");
        assert_eq!(quiet.heard(&[], None).unwrap().mirrors, ["http://a"]);
        let (mut first, mut second) = (enter("h1"), enter("h2"));
        assert_eq!(names(&first.heard(&[], Some("10.0.0.1:7410")).unwrap()), ["h1"]);
        assert_eq!(
            names(&second.heard(&[], Some("10.0.0.2:7410")).unwrap()),
            ["h1", "h2"]
        );
        assert_eq!(
            names(&first.heard(&[], Some("10.0.0.1:7410")).unwrap()),
            ["h1", "h2"]
        );
        assert_eq!(quiet.heard(&[], None), None, "who gives nothing hears of nobody");
        // A newer session of the same host; the older one ends after it.
        let mut again = enter("h2");
        again.heard(&[], Some("10.0.0.2:7410"));
        drop(second);
        assert_eq!(first.heard(&[], Some("10.0.0.1:7410")), None);
        drop(again);
        assert_eq!(names(&first.heard(&[], Some("10.0.0.1:7410")).unwrap()), ["h1"]);
        for bad in ["", "h1:80", "10.0.0.1:0", "0.0.0.0:7410"] {
            assert!(
                first
                    .heard(&[], Some(bad))
                    .is_none_or(|told| told.peers.is_empty()),
                "{bad}"
            );
        }
    }
}
