//! A store that gives up expired assets and brings some of them back, killed at every fault point it passes.

use std::collections::BTreeMap;
use std::path::Path;

use ship_model::rollout::DeployKind::Promote;
use ship_store::admin::verify;

use super::child::{ended, inside, kill_everywhere, points_of, scenario, work_dir};
use super::scene::{DAY, Room, name, release, url};
use super::tree::web;

/// Assets of releases 1 and 2 expire; 3 is what a revert goes to, 4 runs; asset 0 is everybody's.
fn room(dir: &Path) -> Room {
    let mut room = Room::open(dir, &["production"]);
    for number in 1..=4 {
        let tree = release(&format!("page {number}"), &[name(0), name(number)]);
        let target = room.publish(&tree, number);
        room.promote(0, target, Promote);
    }
    room.now_ms += 31 * DAY;
    room
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn sweeps() {
    let Some(dir) = work_dir() else { return };
    let room = room(&dir);
    room.sweep();
    // 2 comes back by a publish.
    room.publish(&release("page 5", &[name(2)]), 5);
}

/// Prepares what the scenario finds, so that only the sweep and what follows is killed.
fn prepared() -> tempfile::TempDir {
    let _open = inside();
    let dir = tempfile::tempdir().unwrap();
    drop(room(dir.path()));
    dir
}

fn points() -> BTreeMap<String, usize> {
    points_of("sweeping::sweeps", prepared().path())
}

/// What is promised stands; what does not stand is marked; and doing it again ends as it should have.
fn check(dir: &Path, fault: &str) {
    {
        let _open = inside();
        let room = Room::open(dir, &[]);
        let found = verify(&room.store).unwrap();
        assert!(found.is_good(), "{fault}: {found}");
        for number in 0..=4 {
            let marked = room.store.ledger.expired(&web(), &url(&name(number))).unwrap();
            let stands = room.stands(&name(number));
            assert_eq!(stands.is_some(), marked.is_none(), "{fault}: {number}");
            assert!(
                number == 1 || number == 2 || stands.is_some(),
                "{fault}: {number}"
            );
        }
    }
    let again = ended(&mut scenario("sweeping::sweeps", dir)).status;
    assert!(again.success(), "{fault}: not the second time");
    let _open = inside();
    let room = Room::open(dir, &[]);
    for number in 0..=4 {
        assert_eq!(
            room.stands(&name(number)).is_some(),
            number != 1,
            "{fault}: {number}"
        );
    }
}

#[test]
fn a_sweep_killed_anywhere_loses_nothing_that_is_promised() {
    let points = points();
    for needed in [
        "store.ledger.expire.before",
        "store.sweep.marked",
        "assets.forget.unlink",
    ] {
        assert!(points.contains_key(needed), "{needed} was not passed");
    }
    kill_everywhere("sweeping::sweeps", points, &[3, 2], prepared, |dir, fault, _| {
        check(dir, fault)
    });
}
