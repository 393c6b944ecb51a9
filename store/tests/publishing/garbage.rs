//! What is collected, what never is, and what comes back.

mod chains;
mod leases;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ship_model::name::HostName;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::rollout::DeployKind::Promote;
use ship_model::rollout::HostTarget;
use ship_store::admin::verify;
use ship_store::deltas::Deltas;
use ship_store::engine::{Object, ObjectKind};
use ship_store::garbage::{CollectError, Collector, Fate, Line, RootsError, Sweep, Swept};
use ship_store::ledger::{EnvChange, HeldReleases, Pin};
use ship_store::settings::Content;

use super::scene::{DAY, Room, name, release};
use super::tree::{Tree, bundle, publish, tree, web};

const HOUR: u64 = 3_600_000;

/// Nothing is kept but what is used.
pub fn least() -> Content {
    Content {
        releases: 1,
        min_age_ms: 1,
        ran: 0,
        ..Content::default()
    }
}

/// Static files without assets: a page that all have, and one of its own.
fn plain(number: u64) -> Tree {
    let own = format!("page {number}").repeat(500);
    tree(&web(), &[("all.html", b"all"), ("own.html", own.as_bytes())])
}

struct Gc<'a> {
    room: &'a Room,
    settings: Content,
    deltas: Deltas,
}

impl<'a> Gc<'a> {
    fn new(room: &'a Room) -> Self {
        store_states(room);
        Self {
            room,
            settings: least(),
            deltas: Deltas::load(&*room.store.blobs).unwrap(),
        }
    }

    fn collector(&self) -> Collector<'_> {
        Collector::of(&self.room.store, &self.deltas, &self.settings)
    }

    fn sweep(&self, now_ms: u64, wait_ms: u64) -> Result<Swept, CollectError> {
        let sweep = Sweep {
            now_ms,
            wait_ms,
            who: "operator/alice",
            pause: Duration::ZERO,
        };
        self.collector().sweep(&sweep, &|| false)
    }

    /// Mark and sweep at once.
    fn collect(&self) -> Swept {
        self.collector().mark(self.room.now_ms).unwrap();
        self.sweep(self.room.now_ms, 0).unwrap()
    }

    /// As often as it changes something: what is let go may let go of more.
    fn settle(&self) {
        while self.collect() != Swept::default() {}
    }

    fn collected(&self) -> Vec<u64> {
        let all = self.room.store.ledger.all_collected(&web()).unwrap();
        all.into_keys().map(|number| number.0).collect()
    }
}

/// What the room says its environments run, where the collection looks for it.
fn store_states(room: &Room) {
    for state in &room.states {
        let found = room.store.ledger.env_state(&state.env, &state.app).unwrap();
        let change = EnvChange {
            state,
            expected: found.map(|found| found.version),
            acts: &[],
            request: None,
        };
        let _ = room.store.ledger.put_env_state(change).unwrap();
    }
}

fn objects(room: &Room) -> BTreeSet<Object> {
    let all = ObjectKind::ALL.into_iter();
    let listed = all.flat_map(|kind| room.store.blobs.list(kind).unwrap());
    listed.map(|(object, _)| object).collect()
}

fn is_whole(room: &Room) {
    let report = verify(&room.store).unwrap();
    assert!(report.is_good(), "{report}");
}

fn published(dir: &std::path::Path, count: u64) -> (Room, Vec<Target>) {
    let mut room = Room::open(dir, &["production", "staging"]);
    let mut targets = Vec::new();
    for number in 1..=count {
        targets.push(room.publish(&plain(number), number));
        room.now_ms += DAY;
    }
    (room, targets)
}

#[test]
fn what_nothing_keeps_goes_after_a_while_and_comes_back_as_a_new_release() {
    let dir = tempfile::tempdir().unwrap();
    let (mut room, targets) = published(dir.path(), 5);
    for target in &targets[..4] {
        room.promote(0, *target, Promote);
    }
    room.now_ms += DAY;
    let before = objects(&room);
    let gc = Gc::new(&room);
    let now = room.now_ms;
    let looked = gc.collector().look(now).unwrap();
    assert_eq!(objects(&room), before);
    assert!(looked.iter().all(|line| line.fate != Fate::Gone));
    let fates = |number: u64| {
        let line: Vec<&Line> = looked
            .iter()
            .filter(|line| line.subject.to_string() == format!("release web@{number}"))
            .collect();
        assert_eq!(line.len(), 1);
        let kinds = line[0].why.iter().map(|why| why.kind).collect::<Vec<_>>();
        (line[0].fate, kinds)
    };
    // 3 is what a revert goes to, and unpacked on hosts; 4 runs, 5 is the newest.
    assert_eq!(fates(1), (Fate::Unmarked, vec![]));
    assert_eq!(fates(2), (Fate::Unmarked, vec![]));
    assert_eq!(fates(3), (Fate::Kept, vec!["reachable", "reachable"]));
    assert_eq!(fates(5), (Fate::Kept, vec!["newest"]));

    assert_eq!(gc.sweep(now, 0).unwrap(), Swept::default(), "nothing is marked");
    gc.collector().mark(now).unwrap();
    assert_eq!(gc.sweep(now + HOUR - 1, HOUR).unwrap(), Swept::default());
    assert_eq!(objects(&room), before, "not for long enough");
    let swept = gc.sweep(now + HOUR, HOUR).unwrap();
    assert_eq!(gc.collected(), [1, 2]);
    // 1 brought the page that all have: its bundle stays.
    assert_eq!((swept.releases, swept.objects), (2, 3), "{swept:?}");
    let gone: u64 = before.difference(&objects(&room)).count() as u64;
    assert_eq!(gone, swept.objects);
    is_whole(&room);
    let acts = room.store.ledger.audit_tail(2).unwrap();
    assert!(acts.iter().all(|act| act.what == "collect"), "{acts:?}");
    // The records stay as they are.
    let record = room
        .store
        .ledger
        .release(&web(), ReleaseNumber(2))
        .unwrap()
        .unwrap();
    assert_eq!(record.target(), targets[1]);
    assert_eq!(gc.collect(), Swept::default(), "once");

    let again = room.publish(&plain(2), 20);
    assert_eq!((again.number.0, again.id), (6, targets[1].id));
    is_whole(&room);
    let gc = Gc::new(&room);
    gc.collect();
    assert_eq!(gc.collected(), [1, 2, 5], "the number does not come back to life");
    let record = room
        .store
        .ledger
        .release(&web(), ReleaseNumber(6))
        .unwrap()
        .unwrap();
    assert!(record.new_bytes > 0, "what went is new again: {record:?}");
    drop(gc);
    drop(room);
    let room = Room::open(dir.path(), &[]);
    is_whole(&room);
}

#[test]
fn assets_outlive_their_release_and_then_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut room = Room::open(dir.path(), &["production"]);
    for number in 1..=4 {
        let target = room.publish(
            &release(&format!("page {number}"), &[name(0), name(number)]),
            number,
        );
        room.promote(0, target, Promote);
        room.states[0].asset_releases.push(target);
    }
    room.now_ms += DAY;
    let before = objects(&room);
    let gc = Gc::new(&room);
    let swept = gc.collect();
    assert_eq!((gc.collected(), swept.objects), (vec![1, 2], 0), "{swept:?}");
    assert_eq!(objects(&room), before, "each has an asset that is promised");
    for number in 0..=4 {
        assert!(room.stands(&name(number)).is_some(), "{number}");
    }
    drop(gc);
    drop(room);
    // Its own folder can be lost still.
    for folder in ["assets/web.files", "assets/web.records"] {
        let _ = std::fs::remove_dir_all(dir.path().join(folder));
    }
    let mut room = Room::open(dir.path(), &["production"]);
    let state = room
        .store
        .ledger
        .env_state(&"production".parse().unwrap(), &web());
    room.states = vec![state.unwrap().unwrap().record];
    for number in 0..=4 {
        assert!(room.stands(&name(number)).is_some(), "{number} is made anew");
    }

    room.now_ms += 31 * DAY;
    assert_eq!(room.sweep().assets, 2);
    let gc = Gc::new(&room);
    // Hosts are told to have the releases' assets until the next plan: their manifests stay.
    let swept = gc.collect();
    assert_eq!(swept.objects, 1, "{swept:?}");
    let marks = room.store.ledger.all_collected(&web()).unwrap();
    assert!(marks.values().all(|mark| mark.bare), "{marks:?}");
    drop(gc);
    room.states[0].asset_releases.retain(|target| target.number.0 > 2);
    let swept = Gc::new(&room).collect();
    assert_eq!(swept.objects, 2, "{swept:?}");
    is_whole(&room);
    assert_eq!(
        room.sweep().assets,
        0,
        "what has no content any more hinders no other sweep"
    );
    drop(room);
    let room = Room::open(dir.path(), &[]);
    for (number, stands) in [(0, true), (1, false), (2, false), (3, true), (4, true)] {
        assert_eq!(room.stands(&name(number)).is_some(), stands, "{number}");
    }
}

#[test]
fn pins_hosts_and_rollouts_keep_releases_and_a_stranger_keeps_all() {
    let dir = tempfile::tempdir().unwrap();
    let (mut room, targets) = published(dir.path(), 6);
    room.promote(0, targets[5], Promote);
    let pin = Pin {
        at_ms: 1,
        who: "operator/alice".to_owned(),
        because: "audit".to_owned(),
    };
    let ledger = &room.store.ledger;
    ledger.pin(&web(), ReleaseNumber(2), &pin).unwrap();
    let host: HostName = "web-1".parse().unwrap();
    let held = |target: Target| HeldReleases {
        hosts: BTreeMap::from([(host.clone(), BTreeMap::from([(web(), vec![target])]))]),
    };
    let (production, staging) = ("production".parse().unwrap(), "staging".parse().unwrap());
    ledger.put_held(&staging, &held(targets[2])).unwrap();
    let wanted = HostTarget {
        stage: vec![targets[3]],
        ..HostTarget::default()
    };
    room.states[0].hosts.insert(host.clone(), wanted);
    let stranger = Target {
        number: ReleaseNumber(3),
        ..targets[0]
    };
    room.store.ledger.put_held(&production, &held(stranger)).unwrap();
    let gc = Gc::new(&room);
    let refused = gc.collector().mark(room.now_ms).unwrap_err();
    assert!(
        matches!(refused, CollectError::Roots(RootsError::Stranger { .. })),
        "{refused:?}"
    );
    let ledger = &room.store.ledger;
    ledger.put_held(&production, &HeldReleases::default()).unwrap();
    gc.collect();
    assert_eq!(gc.collected(), [1, 5]);
    assert!(ledger.unpin(&web(), ReleaseNumber(2), &pin).unwrap());
    assert!(!ledger.unpin(&web(), ReleaseNumber(2), &pin).unwrap());
    gc.collect();
    assert_eq!(gc.collected(), [1, 2, 5]);
}

/// A store put back from a backup does not know what was published since.
#[test]
fn hosts_that_were_never_heard_keep_what_ran() {
    use ship_store::ledger::HostRecord;
    let dir = tempfile::tempdir().unwrap();
    let (mut room, targets) = published(dir.path(), 6);
    for target in &targets[..5] {
        room.promote(0, *target, Promote);
    }
    room.now_ms += DAY;
    let host = HostRecord {
        env: "production".parse().unwrap(),
        host: "web-1".parse().unwrap(),
        classes: Vec::new(),
        asset_url: None,
        served: true,
        agent_version: String::new(),
        first_seen_ms: 1,
        standing: None,
    };
    let _ = room.store.ledger.put_host(&host, None, &[]).unwrap();
    let gc = Gc::new(&room);
    gc.collect();
    assert_eq!(gc.collected(), [] as [u64; 0]);
    let said = HeldReleases {
        hosts: BTreeMap::from([(host.host.clone(), BTreeMap::new())]),
    };
    room.store.ledger.put_held(&host.env, &said).unwrap();
    gc.collect();
    assert_eq!(gc.collected(), [1, 2, 3]);
}

#[test]
fn a_bundle_goes_only_when_no_other_place_is_needed_there() {
    let dir = tempfile::tempdir().unwrap();
    let (room, _) = published(dir.path(), 1);
    // A second copy of what release 1 brought, in a bundle that release 2 brings as well.
    let two = plain(2);
    let all: Vec<_> = two.manifest.files().map(|(_, _, _, digest)| digest).collect();
    room.store.publisher.begin(&web(), &two.encoded).unwrap();
    let (digest, bytes) = bundle(&two, &all);
    let mut upload = room.store.publisher.upload().unwrap();
    upload.push(&bytes).unwrap();
    upload.finish(Some(digest)).unwrap();
    publish(&room.store.publisher, &two, 2).unwrap();
    let gc = Gc::new(&room);
    gc.collect();
    assert_eq!(gc.collected(), [1]);
    is_whole(&room);
    // Both carry the page that all have, and that is needed: neither goes.
    assert_eq!(room.store.blobs.list(ObjectKind::Bundle).unwrap().len(), 2);
    let other = tree(&web(), &[("else", b"else")]);
    publish(&room.store.publisher, &other, 3).unwrap();
    gc.collect();
    is_whole(&room);
    assert_eq!(room.store.blobs.list(ObjectKind::Bundle).unwrap().len(), 1);
    assert!(room.store.places.missing(all.iter().copied()).len() == all.len());
}
