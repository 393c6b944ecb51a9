//! A store whose older releases are kept as deltas: nothing is lost by it, and what is damaged is named and heals.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ship_bundle::{Expected, verify_bundle};
use ship_model::digest::BlobDigest;
use ship_store::admin::{OptimizeReport, backup, optimize, restore, verify};
use ship_store::clock::Clock;
use ship_store::engine::{Blobs, BlobsError, Object, ObjectKind, ObjectReader, Staged};
use ship_store::folder::StoreFolder;
use ship_store::keeping::{self, MOST_DEPTH, bring};

use super::deltas::version;
use super::segments;
use super::tree::{Tree, open, prepare, publish, tree, web};

pub fn optimized(store: &StoreFolder) -> OptimizeReport {
    let mut failed = Vec::new();
    let report = optimize(store, &Clock::system(), |turn| {
        if let keeping::Turn::Failed { error, .. } = turn {
            failed.push(format!("{error:?}"));
        }
    });
    assert_eq!(failed, [""; 0]);
    report.unwrap()
}

fn count(store: &StoreFolder, kind: ObjectKind) -> usize {
    store.blobs.list(kind).unwrap().len()
}

fn bytes(store: &StoreFolder, kind: ObjectKind) -> u64 {
    let all = store.blobs.list(kind).unwrap();
    all.iter().map(|(_, bytes)| bytes).sum()
}

fn files(tree: &Tree) -> Vec<BlobDigest> {
    tree.manifest.files().map(|(_, _, _, digest)| digest).collect()
}

/// Every byte of the release can be had out of bundles, as a host has it.
pub fn assert_given(store: &StoreFolder, tree: &Tree) {
    let wanted = files(tree);
    assert_eq!(store.places.missing(wanted.iter().copied()), []);
    bring(&*store.blobs, &store.places, &wanted).unwrap();
    let mut left: HashSet<BlobDigest> = wanted.iter().copied().collect();
    for found in store.places.locate(&wanted, &[]) {
        let object = Object::Bundle(found.bundle);
        let reader = store.blobs.open(object).unwrap();
        let mut whole = vec![0; reader.len() as usize];
        let mut got = 0;
        while got < whole.len() {
            got += reader.read_at(&mut whole[got..], got as u64).unwrap();
        }
        let expected = Expected {
            digest: Some(found.bundle),
            ..Expected::default()
        };
        let index = verify_bundle(&whole[..], &expected).unwrap().index;
        let listed = index.lists().iter().map(|list| list.blob);
        for blob in index.blobs().map(|place| place.digest).chain(listed) {
            left.remove(&blob);
        }
    }
    assert_eq!(left.len(), 0);
}

fn published(store: &StoreFolder, numbers: impl IntoIterator<Item = u64>) -> Vec<Tree> {
    let one = |number| {
        let tree = version(number);
        publish(&store.publisher, &tree, number).unwrap();
        tree
    };
    numbers.into_iter().map(one).collect()
}

#[test]
fn older_releases_become_deltas_and_every_one_is_given_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = published(&store, 1..=6);
    let before = bytes(&store, ObjectKind::Bundle);
    let report = optimized(&store);
    assert_eq!((report.before[0].kept, report.before[0].to_keep), (0, 5));
    assert_eq!((report.after[0].kept, report.after[0].to_keep), (5, 0));
    assert_eq!(report.after[0].deepest, 5);
    assert_eq!(count(&store, ObjectKind::Kept), 5);
    assert_eq!(count(&store, ObjectKind::Bundle), 1);
    let after = bytes(&store, ObjectKind::Bundle) + bytes(&store, ObjectKind::Kept);
    assert!(after * 3 < before, "{after} of {before}");
    assert!(verify(&store).unwrap().is_good());
    let acts = store.ledger.audit_tail(5).unwrap();
    assert!(acts.iter().all(|act| act.what == "keep"), "{acts:?}");

    // A host that has nothing reads one bundle.
    assert_eq!(store.places.locate(&files(&trees[5]), &[]).len(), 1);
    drop(store);
    let store = open(dir.path());
    assert!(verify(&store).unwrap().is_good());
    trees.iter().rev().for_each(|tree| assert_given(&store, tree));
    drop(store);
    // Nobody asks any more: what was put together goes again, and nothing else changes.
    let store = open(dir.path());
    let report = optimized(&store);
    assert_eq!((report.after[0].kept, count(&store, ObjectKind::Bundle)), (5, 1));
    assert_eq!(optimized(&store).removed, 0);
    // And so it goes on.
    let newer = published(&store, 7..=9);
    optimized(&store);
    assert_eq!(count(&store, ObjectKind::Kept), 8);
    assert_eq!(count(&store, ObjectKind::Bundle), 1);
    trees
        .iter()
        .chain(&newer)
        .for_each(|tree| assert_given(&store, tree));
}

#[test]
fn chains_are_bounded_however_many_releases_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut trees = Vec::new();
    for number in 1..=MOST_DEPTH as u64 + 8 {
        let page = format!("page {number}");
        let tree = tree(&web(), &[("index.html", page.as_bytes()), ("same", b"same")]);
        publish(&store.publisher, &tree, number).unwrap();
        trees.push(tree);
        if number.is_multiple_of(20) {
            optimized(&store);
        }
    }
    let report = optimized(&store);
    let web = &report.after[0];
    assert!(web.deepest <= MOST_DEPTH, "{web}");
    assert_eq!(web.kept, MOST_DEPTH + 6, "{web}");
    trees.iter().for_each(|tree| assert_given(&store, tree));
}

#[test]
fn a_tree_that_is_published_again_is_carried_whole_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = published(&store, 1..=4);
    optimized(&store);
    let old = &trees[1];
    let begun = store.publisher.begin(&web(), &old.encoded).unwrap();
    assert_eq!(begun.missing, [], "a kept delta gives it");
    let record = publish(&store.publisher, old, 5).unwrap();
    assert_eq!((record.bundle, record.new_bytes), (None, 0));
    // Bundles carry it from the moment it is a release.
    assert_eq!(store.places.absent(files(old)), []);
    optimized(&store);
    assert!(store.places.link(old.manifest.id()).is_none());
    assert!(store.places.link(trees[3].manifest.id()).is_some());
    assert_eq!(count(&store, ObjectKind::Kept), 3);
    assert_eq!(store.places.locate(&files(old), &[]).len(), 1);
    trees.iter().for_each(|tree| assert_given(&store, tree));
    drop(store);
    let store = open(dir.path());
    assert!(verify(&store).unwrap().is_good());
}

#[test]
fn what_is_on_its_way_in_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = published(&store, 1..=3);
    // Uploaded, not committed; and begun when an old script still lay in a bundle.
    let late = tree(&web(), &[("index.html", b"late")]);
    let commit = prepare(&store.publisher, &late, 9);
    let (path, ..) = trees[0].manifest.files().find(|file| file.2 > 1000).unwrap();
    let script = fs::read(trees[0].dir.path().join(path.to_string())).unwrap();
    let again = tree(&web(), &[("index.html", b"again"), ("old.js", &script)]);
    let begun = prepare(&store.publisher, &again, 10);
    optimized(&store);
    assert_eq!(store.places.covered_only(&files(&again)).len(), 1);
    store.publisher.commit(&commit).unwrap();
    let record = store.publisher.commit(&begun).unwrap().record;
    assert_eq!(record.new_bytes, 5, "{record:?}");
    assert_eq!(store.places.absent(files(&again)), []);
    optimized(&store);
    assert!(verify(&store).unwrap().is_good());
    trees
        .iter()
        .chain([&late, &again])
        .for_each(|tree| assert_given(&store, tree));
}

fn file_of(dir: &Path, object: Object) -> PathBuf {
    let hex = object.hex();
    let folder = dir.join("objects").join(object.kind().as_str());
    folder.join(&hex[..2]).join(&hex)
}

/// One bit, so many hundredths of the way through.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() * at / 100;
    bytes[at] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_kept_delta_is_named_with_what_it_takes_and_heals_by_publishing() {
    for (at, reads) in [(0, false), (50, true), (50, false), (99, false)] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let trees = published(&store, 1..=4);
        optimized(&store);
        let link = store.places.link(trees[2].manifest.id()).unwrap();
        flip(&file_of(dir.path(), Object::Kept(link.delta)), at);
        if reads {
            // Whoever needs the bytes finds out.
            bring(&*store.blobs, &store.places, &files(&trees[0])).unwrap_err();
        } else {
            let text = verify(&store).unwrap().to_string();
            for part in [&link.delta.to_string(), "web@3", "web@2", "web@1", "lost"] {
                assert!(text.contains(part), "{part} is not in:\n{text}");
            }
        }
        assert_eq!(store.places.missing(files(&trees[3])), []);
        for tree in &trees[..3] {
            assert_ne!(store.places.missing(files(tree)), []);
        }
        drop(store);
        // And so it is after a start.
        let store = open(dir.path());
        assert_ne!(store.places.missing(files(&trees[0])), []);
        // The one that was lost brings those before it back.
        publish(&store.publisher, &trees[2], 5).unwrap();
        assert!(verify(&store).unwrap().is_good());
        trees.iter().for_each(|tree| assert_given(&store, tree));
        optimized(&store);
        assert!(verify(&store).unwrap().is_good());
        trees.iter().for_each(|tree| assert_given(&store, tree));
    }
}

#[test]
fn a_damaged_key_is_missed_by_all_and_heals_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = published(&store, 1..=3);
    optimized(&store);
    let (key, _) = store.blobs.list(ObjectKind::Bundle).unwrap()[0];
    flip(&file_of(dir.path(), key), 50);
    let report = verify(&store).unwrap();
    assert_eq!(report.incomplete.len(), 3, "{report}");
    publish(&store.publisher, &trees[2], 4).unwrap();
    let report = verify(&store).unwrap();
    assert!(report.is_good(), "{report}");
    trees.iter().for_each(|tree| assert_given(&store, tree));
}

#[test]
fn a_backup_has_what_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    let store = open(&dir);
    let trees = published(&store, 1..=3);
    optimized(&store);
    let (copy, back) = (root.path().join("copy"), root.path().join("back"));
    backup(&dir, &copy, 1000).unwrap();
    restore(&copy, &back, 2000).unwrap();
    let restored = open(&back);
    assert!(verify(&restored).unwrap().is_good());
    trees.iter().for_each(|tree| assert_given(&restored, tree));
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn large_files_are_kept_and_given_by_segments() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut large = noise(12 << 20);
    let mut trees = Vec::new();
    for number in 1..=3 {
        let tree = tree(&web(), &[("large", &large), ("page", &[number as u8])]);
        segments::publish(&store, &tree, number);
        trees.push(tree);
        large.splice(500_000..500_000, *b"inserted");
    }
    let report = optimized(&store);
    assert_eq!((report.after[0].kept, count(&store, ObjectKind::Bundle)), (2, 1));
    assert!(bytes(&store, ObjectKind::Kept) < 2 << 20);
    let key = store.places.locate(&files(&trees[2]), &[]);
    assert_eq!(key.len(), 1);
    assert_eq!(store.places.listing(), [key[0].bundle]);
    assert!(bytes(&store, ObjectKind::Bundle) > 12 << 20);
    trees.iter().for_each(|tree| assert_given(&store, tree));
    drop(store);
    let store = open(dir.path());
    assert!(verify(&store).unwrap().is_good());
    optimized(&store);
    assert_eq!(count(&store, ObjectKind::Bundle), 1);
    trees.iter().for_each(|tree| assert_given(&store, tree));
}

#[test]
fn what_releases_need_is_told_along_their_chains() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = published(&store, 1..=4);
    optimized(&store);
    let id = |at: usize| trees[at].manifest.id();
    let needs = keeping::needs(&store.places, [id(1)]);
    assert_eq!(needs.carried, BTreeSet::from([id(3)]));
    assert_eq!(
        needs.kept.keys().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from([id(1), id(2)])
    );
    assert_eq!(needs.objects().count(), 2);
    assert_eq!(keeping::needs(&store.places, [id(3)]).kept.len(), 0);
}

/// Blobs on a disk that writes kept deltas wrong.
#[derive(Debug)]
struct Rotten {
    blobs: Arc<dyn Blobs>,
    dir: PathBuf,
}

impl Blobs for Rotten {
    fn room(&self) -> Result<(), BlobsError> {
        self.blobs.room()
    }
    fn stage(&self) -> Result<Staged, BlobsError> {
        self.blobs.stage()
    }
    fn keep(&self, staged: Staged, object: Object) -> Result<(), BlobsError> {
        self.blobs.keep(staged, object)?;
        if object.kind() == ObjectKind::Kept {
            flip(&file_of(&self.dir, object), 40);
        }
        Ok(())
    }
    fn open(&self, object: Object) -> Result<Box<dyn ObjectReader>, BlobsError> {
        self.blobs.open(object)
    }
    fn len(&self, object: Object) -> Result<Option<u64>, BlobsError> {
        self.blobs.len(object)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(Object, u64)>, BlobsError> {
        self.blobs.list(kind)
    }
    fn quarantine(&self, object: Object) -> Result<(), BlobsError> {
        self.blobs.quarantine(object)
    }
    fn quarantined(&self) -> Result<Vec<Object>, BlobsError> {
        self.blobs.quarantined()
    }
    fn remove(&self, object: Object) -> Result<(), BlobsError> {
        self.blobs.remove(object)
    }
}

#[test]
fn a_delta_that_does_not_give_its_release_keeps_nothing_and_nothing_goes_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = published(&store, 1..=3);
    let blobs = Arc::new(Rotten {
        blobs: Arc::clone(&store.blobs),
        dir: dir.path().to_owned(),
    });
    let places = Arc::clone(&store.places);
    let optimizer = keeping::Optimizer::new(blobs, places, store.ledger.clone(), Clock::system());
    let mut failed = 0;
    loop {
        match optimizer.turn(&|| Ok(())).unwrap() {
            keeping::Turn::Idle => break,
            keeping::Turn::Failed { .. } => failed += 1,
            keeping::Turn::Left { objects, .. } => {
                for object in objects {
                    keeping::remove(&*store.blobs, &store.places, object).unwrap();
                }
            }
            keeping::Turn::Key { .. } => {}
            kept @ keeping::Turn::Kept { .. } => panic!("{kept:?}"),
        }
    }
    assert_eq!(failed, 2);
    assert_eq!(count(&store, ObjectKind::Kept), 0);
    assert!(verify(&store).unwrap().is_good());
    trees.iter().for_each(|tree| assert_given(&store, tree));
}
