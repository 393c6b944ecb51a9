//! A store that keeps older releases as deltas and lets bundles go, killed at every fault point it passes.

use std::collections::BTreeMap;
use std::path::Path;

use ship_store::admin::{optimize, verify};
use ship_store::clock::Clock;
use ship_store::folder::StoreFolder;
use ship_store::keeping::bring;

use super::child::{ended, inside, kill_everywhere, points_of, scenario, work_dir};
use super::tree::{Tree, open, publish, tree, web};

const RELEASES: u64 = 4;

fn release(number: u64) -> Tree {
    let lines = (0..200).map(|line| format!("line {} of many\n", line * 7 + number));
    let text: String = lines.collect();
    let page = format!("release {number}");
    tree(
        &web(),
        &[
            ("index.html", page.as_bytes()),
            ("same.css", b"same"),
            ("static/app.js", text.as_bytes()),
        ],
    )
}

fn optimized(store: &StoreFolder) {
    let report = optimize(store, &Clock::system(), |_| {}).unwrap();
    assert_eq!(report.failed, 0);
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn optimizes() {
    let Some(dir) = work_dir() else { return };
    let store = open(&dir);
    optimized(&store);
    // One that is kept as a delta comes again, and then carries the others.
    publish(&store.publisher, &release(2), RELEASES + 1).unwrap();
    optimized(&store);
}

/// Prepares what the scenario finds, so that only what follows is killed.
fn prepared() -> tempfile::TempDir {
    let _open = inside();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for number in 1..=RELEASES {
        publish(&store.publisher, &release(number), number).unwrap();
    }
    dir
}

fn points() -> BTreeMap<String, usize> {
    points_of("optimizing::optimizes", prepared().path())
}

/// Every release is whole and can be given; doing it again ends as it should have.
fn check(dir: &Path, fault: &str) {
    {
        let _open = inside();
        whole(&open(dir), fault);
    }
    let again = ended(&mut scenario("optimizing::optimizes", dir)).status;
    let _open = inside();
    assert!(again.success(), "{fault}: not the second time");
    let store = open(dir);
    whole(&store, fault);
    let newest = store.ledger.newest_release(&web()).unwrap().unwrap();
    assert_eq!(newest.id, release(2).manifest.id(), "{fault}");
    assert_eq!(store.places.links().len(), RELEASES as usize - 1, "{fault}");
}

fn whole(store: &StoreFolder, fault: &str) {
    let found = verify(store).unwrap();
    assert!(found.is_good(), "{fault}: {found}");
    for number in 1..=RELEASES {
        let files = release(number);
        let files: Vec<_> = files.manifest.files().map(|file| file.3).collect();
        bring(&*store.blobs, &store.places, &files).unwrap();
        assert_eq!(store.places.absent(files), [], "{fault}: {number}");
    }
}

#[test]
fn an_optimize_killed_anywhere_loses_nothing() {
    let points = points();
    for needed in [
        "store.keeping.bundle.kept",
        "store.keeping.bundle.verified",
        "store.keeping.delta.kept",
        "store.keeping.delta.checked",
        "store.keeping.record.before",
        "store.keeping.delta.recorded",
        "store.keeping.leave.before",
    ] {
        assert!(points.contains_key(needed), "{needed} was not passed");
    }
    kill_everywhere(
        "optimizing::optimizes",
        points,
        &[3, 2],
        prepared,
        |dir, fault, _| check(dir, fault),
    );
}
