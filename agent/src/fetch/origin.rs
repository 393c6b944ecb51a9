//! Who gives bytes, in which order they are asked, and who is not asked for a while.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ship_model::mirror::{Listed, MirrorUrl};
use ship_model::name::HostName;
use ship_model::report::{MAX_FAULTS, SourceFault};
use ship_proto::v1;

use super::lines::Object;

/// Tried last for so long after a failure, doubled with each further one.
const SICK: Duration = Duration::from_secs(10);
const SICK_AT_MOST: Duration = Duration::from_secs(600);
/// Not asked at all after it sent wrong bytes.
const DISTRUSTED: Duration = Duration::from_secs(3600);
/// Not asked again for what it did not have.
const ABSENT: Duration = Duration::from_secs(60);
/// Absences remembered, of all origins.
const ABSENCES: usize = 1024;
/// Most mirrors and hosts that a store may name.
const MOST: usize = 64;

/// Somebody who may have bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    Store,
    Mirror(MirrorUrl),
    /// The agent of another host.
    Peer(HostName, SocketAddr),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.write_str("the store"),
            Self::Mirror(mirror) => write!(f, "mirror {mirror}"),
            Self::Peer(host, _) => write!(f, "peer {host}"),
        }
    }
}

/// What the store told of sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    pub mirrors: Vec<MirrorUrl>,
    /// Hosts that ask each other, this one among them.
    pub peers: Vec<(HostName, SocketAddr)>,
}

impl From<v1::Sources> for Told {
    /// What cannot be read is left out: nothing depends on it.
    fn from(wire: v1::Sources) -> Self {
        let mirrors = wire.mirrors.iter().filter_map(|url| url.parse().ok());
        let peers = wire
            .peers
            .iter()
            .filter_map(|peer| Some((peer.host.parse().ok()?, peer.address.parse().ok()?)));
        Self {
            mirrors: mirrors.take(MOST).collect(),
            peers: peers.take(MOST).collect(),
        }
    }
}

/// Mirrors and the store, in the order in which they are asked: as this host's own list says, else as the store does.
pub fn listed(own: &[Listed], told: &[MirrorUrl]) -> Vec<Origin> {
    let mut origins: Vec<Origin> = match own {
        [] => told.iter().cloned().map(Origin::Mirror).collect(),
        own => own
            .iter()
            .map(|place| match place {
                Listed::Store => Origin::Store,
                Listed::Mirror(mirror) => Origin::Mirror(mirror.clone()),
            })
            .collect(),
    };
    if !origins.contains(&Origin::Store) {
        origins.push(Origin::Store);
    }
    origins
}

/// How those who were asked behaved. Time is an argument.
#[derive(Debug, Default)]
pub struct Health {
    of: HashMap<Origin, Behaviour>,
    absent: VecDeque<(Origin, Object, Instant)>,
    faults: VecDeque<SourceFault>,
}

#[derive(Debug, Default)]
struct Behaviour {
    failures: u32,
    sick_until: Option<Instant>,
    distrusted_until: Option<Instant>,
}

impl Health {
    /// Those of `origins` that are worth asking for `object`, those that failed lately last. The store always is.
    pub fn order(&self, mut origins: Vec<Origin>, object: &Object, now: Instant) -> Vec<Origin> {
        let later = |until: Option<Instant>| until.is_some_and(|until| until > now);
        origins.retain(|origin| {
            let distrusted = self.of.get(origin).is_some_and(|of| later(of.distrusted_until));
            let absent = self
                .absent
                .iter()
                .any(|(of, what, until)| of == origin && what == object && *until > now);
            *origin == Origin::Store || !distrusted && !absent
        });
        origins.sort_by_key(|origin| self.of.get(origin).is_some_and(|of| later(of.sick_until)));
        origins
    }

    /// It gave what it should.
    pub fn good(&mut self, origin: &Origin) {
        if let Some(of) = self.of.get_mut(origin) {
            (of.failures, of.sick_until) = (0, None);
        }
    }

    /// It failed, or was too slow.
    pub fn failed(&mut self, origin: &Origin, now: Instant) {
        self.bound();
        let of = self.of.entry(origin.clone()).or_default();
        let pause = SICK.saturating_mul(1 << of.failures.min(10)).min(SICK_AT_MOST);
        of.failures = of.failures.saturating_add(1);
        of.sick_until = Some(now + pause);
    }

    /// It has not got `object`.
    pub fn absent(&mut self, origin: &Origin, object: Object, now: Instant) {
        self.absent.retain(|(.., until)| *until > now);
        if self.absent.len() >= ABSENCES {
            self.absent.pop_front();
        }
        self.absent.push_back((origin.clone(), object, now + ABSENT));
    }

    /// It sent what nobody published; told in reports.
    pub fn lied(&mut self, origin: &Origin, reason: String, now: Instant, at_ms: u64) {
        self.failed(origin, now);
        if let Some(of) = self.of.get_mut(origin) {
            of.distrusted_until = Some(now + DISTRUSTED);
        }
        let source = origin.to_string();
        self.faults.retain(|fault| fault.source != source);
        if self.faults.len() >= MAX_FAULTS {
            self.faults.pop_front();
        }
        self.faults.push_back(SourceFault {
            source,
            reason,
            at_ms,
        });
    }

    /// Who sent something wrong since the start, the newest last.
    pub fn faults(&self) -> Vec<SourceFault> {
        self.faults.iter().cloned().collect()
    }

    /// Hosts come and go; those that behaved are forgotten when there are too many.
    fn bound(&mut self) {
        if self.of.len() > 4 * MOST {
            self.of.retain(|_, of| of.distrusted_until.is_some());
        }
        if self.of.len() > 4 * MOST {
            self.of.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use ship_model::digest::BundleDigest;

    use super::*;

    fn mirror(name: &str) -> Origin {
        Origin::Mirror(format!("http://{name}").parse().unwrap())
    }

    #[test]
    fn a_hosts_own_list_counts_and_the_store_is_always_in_it() {
        let url = |name: &str| format!("http://{name}").parse().unwrap();
        assert_eq!(listed(&[], &[]), [Origin::Store]);
        assert_eq!(listed(&[], &[url("a")]), [mirror("a"), Origin::Store]);
        let own = [Listed::Store, Listed::Mirror(url("b"))];
        assert_eq!(listed(&own, &[url("a")]), [Origin::Store, mirror("b")]);
    }

    #[test]
    fn who_fails_comes_last_for_a_while_and_who_lies_not_at_all() {
        let (mut health, start) = (Health::default(), Instant::now());
        let (one, other) = (
            Object::Bundle(BundleDigest::of(b"one")),
            Object::Bundle(BundleDigest::of(b"other")),
        );
        let all = vec![mirror("a"), mirror("b"), Origin::Store];
        let order = |health: &Health, object: &Object, after: u64| {
            health.order(all.clone(), object, start + Duration::from_secs(after))
        };
        assert_eq!(order(&health, &one, 0), all);
        health.failed(&mirror("a"), start);
        assert_eq!(order(&health, &one, 1), [mirror("b"), Origin::Store, mirror("a")]);
        assert_eq!(order(&health, &one, 11), all);
        health.failed(&mirror("a"), start);
        assert_ne!(order(&health, &one, 11), all, "longer the second time");
        health.good(&mirror("a"));
        assert_eq!(order(&health, &one, 11), all);
        health.absent(&mirror("b"), one, start);
        assert_eq!(order(&health, &one, 1), [mirror("a"), Origin::Store]);
        assert_eq!(order(&health, &other, 1), all);
        assert_eq!(order(&health, &one, 61), all);
        health.lied(&mirror("a"), "wrong".to_owned(), start, 7);
        health.lied(&mirror("a"), "wrong again".to_owned(), start, 8);
        assert_eq!(order(&health, &other, 3599), [mirror("b"), Origin::Store]);
        assert_eq!(order(&health, &other, 3601), all);
        let faults = health.faults();
        assert_eq!(faults.len(), 1);
        assert_eq!(
            (faults[0].source.as_str(), faults[0].at_ms),
            ("mirror http://a", 8)
        );
        health.lied(&Origin::Store, "rot".to_owned(), start, 9);
        assert!(
            order(&health, &one, 1).contains(&Origin::Store),
            "there is nobody else"
        );
    }

    #[test]
    fn what_a_store_tells_is_bounded() {
        let peer = |host: &str, address: &str| v1::PeerAddress {
            host: host.to_owned(),
            address: address.to_owned(),
        };
        let mut wire = v1::Sources {
            mirrors: vec!["http://a".to_owned(), "gopher://b".to_owned()],
            peers: vec![
                peer("h1", "10.0.0.1:7410"),
                peer("../h", "10.0.0.1:7410"),
                peer("h2", "x"),
            ],
        };
        let told = Told::from(wire.clone());
        assert_eq!((told.mirrors.len(), told.peers.len()), (1, 1));
        wire.peers = vec![peer("h1", "10.0.0.1:7410"); 1000];
        assert_eq!(Told::from(wire).peers.len(), MOST);
    }
}
