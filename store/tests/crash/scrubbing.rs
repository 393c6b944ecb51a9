//! A store that reads itself again and heals what rotted, killed at every fault point it passes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ship_model::rollout::Thresholds;
use ship_store::admin::{Copies, verify};
use ship_store::clock::Clock;
use ship_store::deltas::{Deltas, Maker};
use ship_store::engine::{Object, ObjectKind};
use ship_store::folder::StoreFolder;
use ship_store::rollout::fleet::Fleet;
use ship_store::scrub::{MARKS, Scrubber, Wants};
use tokio_util::sync::CancellationToken;

use super::child::{ended, inside, kill_everywhere, points_of, scenario, work_dir};
use super::tree::{Tree, open, publish, tree, web};

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Several frames, in one of which a byte flips.
fn first() -> Tree {
    let (a, b) = (noise(1, 5 << 20), noise(2, 5 << 20));
    tree(&web(), &[("a", &a), ("b", &b), ("page", b"first")])
}

fn second() -> Tree {
    tree(&web(), &[("page", b"second")])
}

fn scrubbed(dir: &Path, store: &StoreFolder) {
    let deltas = Arc::new(Deltas::load(&*store.blobs).unwrap());
    let (blobs, places) = (Arc::clone(&store.blobs), Arc::clone(&store.places));
    let scrubber = Scrubber {
        maker: Maker::new(blobs, places, Arc::clone(&deltas)),
        blobs: Arc::clone(&store.blobs),
        places: Arc::clone(&store.places),
        ledger: store.ledger.clone(),
        deltas,
        fleet: Arc::new(Fleet::new(Thresholds::default(), 0)),
        wants: Arc::new(Wants::new(Arc::clone(&store.blobs))),
        copies: vec![Copies::Folder(dir.join("copy"))],
        within_ms: 7 * 86_400_000,
        limit: None,
        marks: dir.join(MARKS),
        findings: Arc::default(),
        clock: Clock::system(),
        stop: CancellationToken::new(),
    };
    scrubber.round();
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn scrubs() {
    let Some(dir) = work_dir() else { return };
    scrubbed(&dir, &open(&dir.join("store")));
}

fn file_of(dir: &Path, object: Object) -> std::path::PathBuf {
    let hex = object.hex();
    let kind = dir.join("objects").join(object.kind().as_str());
    kind.join(&hex[..2]).join(&hex)
}

/// Two rotten bundles: the second has a copy, and of the first one frame is lost.
fn prepared() -> tempfile::TempDir {
    let _open = inside();
    let dir = tempfile::tempdir().unwrap();
    let (home, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let store = open(&home);
    let bundles = [first(), second()].map(|tree| {
        let number = tree.manifest.total_bytes();
        Object::Bundle(publish(&store.publisher, &tree, number).unwrap().bundle.unwrap())
    });
    let good = file_of(&copy, bundles[1]);
    fs::create_dir_all(good.parent().unwrap()).unwrap();
    fs::copy(file_of(&home, bundles[1]), good).unwrap();
    for bundle in bundles {
        let path = file_of(&home, bundle);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 3;
        bytes[at] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    dir
}

fn missing(store: &StoreFolder, tree: &Tree) -> usize {
    let files = tree.manifest.files().map(|(_, _, _, digest)| digest);
    store.places.missing(files).len()
}

/// One file of the first release is lost, and nothing else ever.
fn check(dir: &Path, fault: &str) {
    let again = ended(&mut scenario("scrubbing::scrubs", dir)).status;
    let _open = inside();
    assert!(again.success(), "{fault}: not the second time");
    let store = open(&dir.join("store"));
    assert_eq!(
        (missing(&store, &first()), missing(&store, &second())),
        (1, 0),
        "{fault}"
    );
    let found = verify(&store).unwrap();
    assert_eq!(
        (found.damaged.len(), found.incomplete.len()),
        (0, 1),
        "{fault}: {found}"
    );
    assert_eq!(store.blobs.list(ObjectKind::Bundle).unwrap().len(), 2, "{fault}");
    publish(&store.publisher, &first(), 3).unwrap();
    assert!(verify(&store).unwrap().is_good(), "{fault}");
}

#[test]
fn a_scrub_killed_anywhere_loses_nothing_that_can_be_read() {
    let points = points_of("scrubbing::scrubs", prepared().path());
    for needed in [
        "store.heal.staged",
        "store.scrub.rescued",
        "store.keeping.bundle.kept",
    ] {
        assert!(points.contains_key(needed), "{needed} was not passed");
    }
    kill_everywhere("scrubbing::scrubs", points, &[2], prepared, |dir, fault, _| {
        check(dir, fault)
    });
}
