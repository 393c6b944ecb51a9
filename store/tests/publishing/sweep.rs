//! What the sweep gives up, and what it never does: the traps that other tools fell into, and chance.

use std::collections::{BTreeMap, BTreeSet};

use ship_assets::miss::Standing;
use ship_model::release::Target;
use ship_model::rollout::DeployKind::{Promote, Revert};
use ship_store::retention::standing;

use super::scene::{DAY, Room, name, release, url};
use super::tree::web;

/// A room with releases 1 to `count`, a day apart, each with an asset of its own and one that all have.
fn room(dir: &std::path::Path, count: u64) -> (Room, Vec<Target>) {
    let mut room = Room::open(dir, &["production", "staging"]);
    let mut targets = Vec::new();
    for number in 1..=count {
        let tree = release(&format!("page {number}"), &[name(0), name(number)]);
        targets.push(room.publish(&tree, number));
        room.now_ms += DAY;
    }
    (room, targets)
}

fn standing_of(room: &Room, number: u64) -> Standing {
    let url = url(&name(number));
    standing(&room.store.ledger, &room.unions, &[web()], &url).unwrap()
}

#[test]
fn what_expired_goes_and_every_way_back_brings_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut room, targets) = room(dir.path(), 5);
    for target in &targets {
        room.promote(0, *target, Promote);
    }
    assert_eq!(room.sweep().assets, 0, "all of them are young");
    room.now_ms += 31 * DAY;
    let swept = room.sweep();
    assert_eq!((swept.assets, swept.files), (3, 3), "{swept:?}");
    assert_eq!(room.sweep().assets, 0, "once");
    for number in 1..=3 {
        assert_eq!(room.stands(&name(number)), None);
        assert_eq!(standing_of(&room, number), Standing::Expired);
    }
    // In use, and what a revert goes to; what all of them name is kept whatever its age.
    for number in [0, 4, 5] {
        assert_eq!(room.stands(&name(number)).unwrap(), name(number).as_bytes());
    }
    let acts = room.store.ledger.audit_tail(1).unwrap();
    assert_eq!((&*acts[0].what, &*acts[0].who), ("sweep", "operator/alice"));

    // A publish that names one, a promote of one.
    room.publish(&release("again", &[name(2)]), 100);
    assert_eq!(room.stands(&name(2)).unwrap(), name(2).as_bytes());
    assert!(matches!(standing_of(&room, 2), Standing::Promised(_)));
    room.promote(1, targets[0], Promote);
    assert_eq!(room.stands(&name(1)).unwrap(), name(1).as_bytes());
    assert_eq!(room.stands(&name(3)), None, "nobody asked for that one");
    drop(room);
    // As it is after a restart.
    let room = Room::open(dir.path(), &[]);
    for (number, stands) in [(1, true), (2, true), (3, false), (5, true)] {
        assert_eq!(room.stands(&name(number)).is_some(), stands, "{number}");
    }
    assert_eq!(standing_of(&room, 3), Standing::Expired);
}

#[test]
fn a_path_that_expired_never_gets_other_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut room, targets) = room(dir.path(), 3);
    for target in &targets {
        room.promote(0, *target, Promote);
    }
    room.now_ms += 31 * DAY;
    assert_eq!(room.sweep().assets, 1);
    let path = format!("static/{}", name(1));
    let other = super::tree::tree(&web(), &[("index.html", b"x"), (&path, b"other bytes")]);
    let refused = room.store.publisher.begin(&web(), &other.encoded).unwrap_err();
    assert!(refused.to_string().contains("clash"), "{refused}");
}

/// rails/webpacker#2734 (age and count), capistrano#350 (an old file), kamal#1922 (staging pruned production's),
/// capistrano#210 (a rollback kept the newest manifest).
#[test]
fn the_traps_of_other_tools() {
    let dir = tempfile::tempdir().unwrap();
    let (mut room, targets) = room(dir.path(), 8);
    // Production runs the oldest of eight, for years; staging all that came since.
    room.promote(0, targets[0], Promote);
    for target in &targets {
        room.promote(1, *target, Promote);
    }
    room.now_ms += 900 * DAY;
    room.sweep();
    for kept in [0, 1, 7, 8] {
        assert!(room.stands(&name(kept)).is_some(), "{kept}");
    }
    assert!(room.stands(&name(4)).is_none());
    // Many within a day: count is no reason to take what is young.
    for number in 20..40 {
        let target = room.publish(&release(&format!("page {number}"), &[name(number)]), number);
        room.promote(1, target, Promote);
    }
    room.sweep();
    assert!(room.stands(&name(20)).is_some());
    // Back on staging: what it came from was shown until now, and is kept as the one it went to.
    room.now_ms += 900 * DAY;
    room.sweep();
    let (from, to) = (room.states[1].current.unwrap(), targets[7]);
    room.promote(1, to, Revert);
    room.sweep();
    for kept in [39, 8] {
        assert!(room.stands(&name(kept)).is_some(), "{kept}: {from:?}");
    }
    // Somebody asks for what would have gone.
    room.now_ms += 20 * DAY;
    room.ask(&name(39));
    room.now_ms += 13 * DAY;
    room.states[1].retained = vec![to];
    room.sweep();
    assert!(room.stands(&name(39)).is_some());
    room.now_ms += 2 * DAY;
    room.sweep();
    assert!(room.stands(&name(39)).is_none());
}

/// Numbers by chance, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        // Knuth's MMIX constants.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What was done, kept by the simplest rule: it is not the one that is tested.
struct Ledger {
    names: BTreeMap<u64, Vec<u64>>,
    /// When each release was published, or last shown.
    seen: BTreeMap<u64, u64>,
    asked: BTreeMap<u64, u64>,
    given_up: BTreeSet<u64>,
}

impl Ledger {
    fn is_promised(&self, room: &Room, asset: u64) -> bool {
        let ran = room.states.iter().flat_map(|state| &state.history);
        let newest_run = ran.map(|entry| entry.release.number.0).max().unwrap_or(0);
        let naming = self.names.iter().filter(|(_, names)| names.contains(&asset));
        let mut naming = naming.map(|(release, _)| *release);
        let named = naming.any(|release| {
            let runs = room.states.iter().any(|state| {
                let current = state.current.map(|current| current.number.0);
                let back = state.current.and_then(|current| state.last_good_before(current));
                let retained = state.retained.iter().any(|kept| kept.number.0 == release);
                current == Some(release) || back.is_some_and(|back| back.number.0 == release) || retained
            });
            runs || release > newest_run || room.now_ms < self.seen[&release] + 30 * DAY
        });
        let asked = self.asked.get(&asset);
        named || asked.is_some_and(|at| room.now_ms < at + 14 * DAY)
    }
}

const ASSETS: u64 = 8;

fn run(seed: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let mut room = Room::open(dir.path(), &["production", "staging"]);
    let mut chance = Chance(seed);
    let mut targets: Vec<Target> = Vec::new();
    let mut swept = 0;
    let mut did = Ledger {
        names: BTreeMap::new(),
        seen: BTreeMap::new(),
        asked: BTreeMap::new(),
        given_up: BTreeSet::new(),
    };
    for step in 0..50 {
        let what = chance.below(12);
        match what {
            0 | 1 => {
                let names: Vec<u64> = (0..ASSETS).filter(|_| chance.below(4) == 0).collect();
                let files: Vec<String> = names.iter().map(|number| name(*number)).collect();
                let target = room.publish(&release(&format!("{seed} {step}"), &files), step + 1);
                did.given_up.retain(|given_up| !names.contains(given_up));
                did.names.insert(target.number.0, names);
                did.seen.insert(target.number.0, room.now_ms);
                targets.push(target);
            }
            2 | 3 if !targets.is_empty() => {
                let (env, at) = (chance.below(2) as usize, chance.below(targets.len() as u64));
                leave(&room, env, &mut did);
                room.promote(env, targets[at as usize], Promote);
                let names = &did.names[&targets[at as usize].number.0];
                did.given_up.retain(|given_up| !names.contains(given_up));
            }
            4 => {
                let env = chance.below(2) as usize;
                let current = room.states[env].current;
                if let Some(back) = current.and_then(|current| room.states[env].last_good_before(current)) {
                    leave(&room, env, &mut did);
                    room.promote(env, back, Revert);
                }
            }
            5 => {
                let asset = chance.below(ASSETS);
                room.ask(&name(asset));
                did.asked.insert(asset, room.now_ms);
            }
            6 | 7 => room.now_ms += chance.below(70) * DAY,
            8 => room.now_ms -= chance.below(5) * DAY,
            _ => {
                let gone = (0..ASSETS).filter(|asset| !did.is_promised(&room, *asset));
                did.given_up.extend(gone.collect::<Vec<_>>());
                swept += room.sweep().assets;
            }
        }
        for (release, names) in &did.names {
            for asset in names.iter().filter(|asset| !did.given_up.contains(asset)) {
                let found = room.stands(&name(*asset));
                let wanted = name(*asset).into_bytes();
                assert_eq!(
                    found,
                    Some(wanted),
                    "seed {seed}, step {step} ({what}): of {release}"
                );
                assert!(matches!(standing_of(&room, *asset), Standing::Promised(_)));
            }
        }
    }
    swept
}

/// The pages of what runs are shown until now.
fn leave(room: &Room, env: usize, did: &mut Ledger) {
    if let Some(current) = room.states[env].current {
        let seen = did.seen.entry(current.number.0).or_default();
        *seen = (*seen).max(room.now_ms);
    }
}

#[test]
fn whatever_happens_what_retention_promises_stands() {
    let swept: u64 = (0..12).map(run).sum();
    assert!(swept > 5, "only {swept} assets were given up: this says nothing");
}
