//! A store that takes a release as a delta, killed at every fault point it passes.

use std::path::Path;

use ship_store::admin::verify;
use ship_store::folder::StoreFolder;

use super::child::{inside, kill_everywhere, points_of, work_dir};
use super::tree::{Tree, commit, delta, offer, open, publish, tree, upload_delta, web};

const SCENARIO: &str = "by_delta::publishes_by_delta";

fn release(number: u64) -> Tree {
    let lines = (0..400).map(|line| format!("line {} of many\n", line * 7 + number));
    let text: String = lines.collect();
    tree(
        &web(),
        &[("same.css", b"same"), ("static/app.js", text.as_bytes())],
    )
}

/// As a publisher does it whose store was away: begin, and the delta if something is missing.
fn publish_by_delta(store: &StoreFolder) {
    let (old, new) = (release(1), release(2));
    let missing = store.publisher.begin(&web(), &new.encoded).unwrap().missing;
    let bundle = (!missing.is_empty()).then(|| {
        let (_, bytes) = delta(&old, &new);
        let taken = upload_delta(&store.publisher, offer(&old, &new, &bytes), &bytes);
        taken.unwrap().bundle.unwrap().digest
    });
    let record = store.publisher.commit(&commit(&new, bundle, 2)).unwrap().record;
    assert_eq!(record.number.0, 2);
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn publishes_by_delta() {
    let Some(dir) = work_dir() else { return };
    publish_by_delta(&open(&dir));
}

/// Prepares what the scenario finds, so that only what follows is killed.
fn prepared() -> tempfile::TempDir {
    let _open = inside();
    let dir = tempfile::tempdir().unwrap();
    publish(&open(dir.path()).publisher, &release(1), 1).unwrap();
    dir
}

/// What stands is whole, and the same publish again ends as it should have.
fn check(dir: &Path, fault: &str) {
    let _open = inside();
    let store = open(dir);
    let found = verify(&store).unwrap();
    assert!(found.is_good(), "{fault}: {found}");
    publish_by_delta(&store);
    assert_eq!(store.ledger.releases(&web(), 100).unwrap().len(), 2, "{fault}");
    let newest = store.ledger.newest_release(&web()).unwrap().unwrap();
    assert_eq!(newest.id, release(2).manifest.id(), "{fault}");
    assert!(newest.bundle.is_some(), "{fault}");
    let found = verify(&store).unwrap();
    assert!(found.is_good(), "{fault}: {found}");
}

#[test]
fn a_publish_by_delta_killed_anywhere_is_whole_or_absent() {
    let points = points_of(SCENARIO, prepared().path());
    for needed in [
        "store.publish.delta.decoded",
        "store.keeping.bundle.kept",
        "store.keeping.bundle.verified",
        "store.publish.delta.bundled",
        "store.publish.delta.kept",
        "store.publish.number.after",
    ] {
        assert!(points.contains_key(needed), "{needed} was not passed");
    }
    kill_everywhere(SCENARIO, points, &[2], prepared, |dir, fault, _| {
        check(dir, fault)
    });
}
