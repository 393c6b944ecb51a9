//! A store that collects garbage and takes some of it in again, killed at every fault point it passes.

use std::path::Path;
use std::time::Duration;

use ship_store::admin::verify;
use ship_store::deltas::Deltas;
use ship_store::folder::StoreFolder;
use ship_store::garbage::{Collector, Sweep};
use ship_store::publish::Limits;
use ship_store::settings::Content;

use super::child::{ended, inside, kill_everywhere, points_of, scenario, work_dir};
use super::tree::{Tree, open, publish, tree, web};

const NOW: u64 = 1_800_000_000_000;

/// A page that all have, and one of its own; the last two have an asset.
fn release(number: u64) -> Tree {
    let own = format!("page {number}").repeat(200);
    let asset = format!("static/app-f{number:015x}.js");
    let mut files: Vec<(&str, &[u8])> = vec![("all.html", b"all"), ("own.html", own.as_bytes())];
    if number > 4 {
        files.push((&asset, own.as_bytes()));
    }
    tree(&web(), &files)
}

fn collect(store: &StoreFolder) {
    let settings = Content {
        releases: 2,
        min_age_ms: 1,
        ..Content::default()
    };
    let deltas = Deltas::load(&*store.blobs).unwrap();
    let collector = Collector::of(store, &deltas, &settings);
    collector.mark(NOW).unwrap();
    let sweep = Sweep {
        now_ms: NOW,
        wait_ms: 0,
        who: "operator/alice",
        pause: Duration::ZERO,
    };
    collector.sweep(&sweep, &|| false).unwrap();
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn collects() {
    let Some(dir) = work_dir() else { return };
    let store = open(&dir);
    collect(&store);
    // What went comes back, and pushes another out.
    publish(&store.publisher, &release(2), 20).unwrap();
    collect(&store);
}

/// Six releases, and a publish that was begun and never ended.
fn prepared() -> tempfile::TempDir {
    let _open = inside();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for number in 1..=6 {
        publish(&store.publisher, &release(number), number).unwrap();
    }
    store.publisher.begin(&web(), &release(9).encoded).unwrap();
    dir
}

fn collected(store: &StoreFolder) -> Vec<u64> {
    let all = store.ledger.all_collected(&web()).unwrap();
    all.into_keys().map(|number| number.0).collect()
}

/// Whatever was not given up by the ledger's word is whole, and doing it again ends as it should have.
fn check(dir: &Path, fault: &str) {
    {
        let _open = inside();
        let (store, report) = StoreFolder::open(dir, Limits::default()).unwrap();
        assert!(report.places.unread.is_empty(), "{fault}: {report:?}");
        let found = verify(&store).unwrap();
        assert!(found.is_good(), "{fault}: {found}");
        let gone = collected(&store);
        assert!(
            [1, 2, 3, 4, 5].starts_with(&gone),
            "{fault}: {gone:?}, oldest first"
        );
    }
    let again = ended(&mut scenario("collecting::collects", dir)).status;
    let _open = inside();
    assert!(again.success(), "{fault}: not the second time");
    let store = open(dir);
    let found = verify(&store).unwrap();
    assert!(found.is_good(), "{fault}: {found}");
    assert_eq!(collected(&store), [1, 2, 3, 4, 5], "{fault}");
    // 6 and the tree of 2 are kept, assets of 5 are promised, and 9 was begun.
    assert_eq!((found.releases, found.collected), (2, 5), "{fault}: {found}");
    let manifests = store
        .blobs
        .list(ship_store::engine::ObjectKind::Manifest)
        .unwrap();
    assert_eq!(manifests.len(), 4, "{fault}");
}

#[test]
fn a_collection_killed_anywhere_loses_nothing_that_is_kept() {
    let points = points_of("collecting::collects", prepared().path());
    for needed in ["collect", "collected", "decided", "remove", "removed"] {
        let needed = format!("store.gc.{needed}");
        assert!(points.contains_key(&needed), "{needed} was not passed");
    }
    kill_everywhere(
        "collecting::collects",
        points,
        &[3, 2],
        prepared,
        |dir, fault, _| check(dir, fault),
    );
}
