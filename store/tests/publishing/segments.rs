//! Large files: only segments that the store has not are sent, and what a publisher says of the others is proven.

use std::collections::HashSet;
use std::sync::Arc;

use ship_assets::Shelf;
use ship_bundle::delta::Effort;
use ship_bundle::segments::{SegmentList, cut_files};
use ship_bundle::{Parts, pack_parts};
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::release::{Provenance, ReleaseRecord};
use ship_store::deltas::{Deltas, Maker};
use ship_store::engine::Object;
use ship_store::folder::StoreFolder;
use ship_store::publish::{Commit, UploadError, UploadedBundle};
use ship_store::union::Unions;

use super::tree::{Tree, open, request, tree, web};

const ASSET: &str = "static/app.f00dfeed12345678.wasm";

pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

pub fn inserted(old: &[u8]) -> Vec<u8> {
    [&old[..200_000], b"inserted", &old[200_000..]].concat()
}

/// As a publisher does it: cut, ask, pack what is missing.
pub struct Parcel {
    pub digest: BundleDigest,
    bytes: Vec<u8>,
    lists: Vec<SegmentList>,
}

pub fn parcel(store: &StoreFolder, tree: &Tree, lie: impl Fn(&mut SegmentList)) -> Parcel {
    let begun = store.publisher.begin(&web(), &tree.encoded).unwrap();
    let wanted: HashSet<BlobDigest> = begun.missing.into_iter().collect();
    let mut lists = cut_files(tree.dir.path(), &tree.manifest, &wanted, &()).unwrap();
    let segments = lists.iter().flat_map(|list| &list.segments);
    let mut known: HashSet<_> = segments.map(|segment| segment.digest).collect();
    let asked: Vec<_> = known.iter().copied().collect();
    let missing = store.publisher.missing_segments(Some(tree.manifest.id()), &asked);
    let missing = missing.unwrap();
    known.retain(|segment| !missing.contains(segment));
    lists.iter_mut().for_each(lie);
    let parts = Parts {
        wanted: &wanted,
        lists: &lists,
        known: &known,
    };
    let mut bytes = Vec::new();
    let packed = pack_parts(tree.dir.path(), &tree.manifest, &parts, 3, &mut bytes, &()).unwrap();
    Parcel {
        digest: packed.digest,
        bytes,
        lists,
    }
}

pub fn upload(store: &StoreFolder, parcel: &Parcel) -> Result<UploadedBundle, UploadError> {
    let mut upload = store.publisher.upload()?;
    upload.push(&parcel.bytes)?;
    upload.finish(Some(parcel.digest))
}

pub fn commit(store: &StoreFolder, tree: &Tree, bundle: BundleDigest, number: u64) -> ReleaseRecord {
    let commit = Commit {
        app: web(),
        id: tree.manifest.id(),
        bundle: Some(bundle),
        provenance: Provenance::default(),
        request: request(number),
        who: "publisher/ci".to_owned(),
        at_ms: 1_700_000_000_000 + number,
    };
    store.publisher.commit(&commit).unwrap().record
}

pub fn publish(store: &StoreFolder, tree: &Tree, number: u64) -> (ReleaseRecord, Parcel) {
    let parcel = parcel(store, tree, |_| {});
    upload(store, &parcel).unwrap();
    (commit(store, tree, parcel.digest, number), parcel)
}

/// A store with two releases of a large asset, the second with an insertion near its start.
fn two(dir: &std::path::Path) -> (StoreFolder, [Tree; 2], [(ReleaseRecord, Parcel); 2]) {
    let store = open(dir);
    let large = noise(1, 20 << 20);
    let trees = [
        tree(&web(), &[(ASSET, &large), ("small", b"one")]),
        tree(
            &web(),
            &[
                ("static/app.0123456789abcdef.wasm", &inserted(&large)),
                ("small", b"two"),
            ],
        ),
    ];
    let published = [publish(&store, &trees[0], 1), publish(&store, &trees[1], 2)];
    (store, trees, published)
}

#[test]
fn an_insertion_uploads_a_few_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (store, trees, [first, second]) = two(dir.path());
    assert_eq!(first.0.new_bytes, first.0.bytes);
    assert!(second.0.new_bytes < 6 << 20, "{:?}", second.0);
    assert!(second.0.stored_bytes < 6 << 20, "{:?}", second.0);
    assert_eq!(second.0.bytes, first.0.bytes + 8);
    // The file lies where it is listed, before and after a start.
    let blob = second.1.lists[0].blob;
    let located = store.places.locate(&[blob], &[]);
    assert_eq!(located[0].bundle, second.1.digest);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.places.locate(&[blob], &[]), located);
    assert!(store.places.locate(&[blob], &[second.1.digest]).is_empty());
    let begun = store.publisher.begin(&web(), &trees[1].encoded).unwrap();
    assert_eq!(begun.missing, []);
    let report = ship_store::admin::verify(&store).unwrap();
    assert!(report.is_good(), "{report}");
}

#[test]
fn the_union_and_deltas_are_made_out_of_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (store, trees, [first, second]) = two(dir.path());
    let (places, blobs) = (Arc::clone(&store.places), Arc::clone(&store.blobs));
    let unions = Unions::new(dir.path().join("assets"), blobs, places, Arc::new(Shelf::new()));
    assert!(unions.catch_up(&store.ledger).unwrap().is_empty());
    for tree in &trees {
        let (path, ..) = tree.manifest.files().find(|file| file.2 > 8 << 20).unwrap();
        let path = path.to_string();
        let served = std::fs::read(dir.path().join("assets/web.files").join(&path)).unwrap();
        assert!(
            served == std::fs::read(tree.dir.path().join(&path)).unwrap(),
            "{path}"
        );
    }
    let deltas = Arc::new(Deltas::load(&*store.blobs).unwrap());
    let maker = Maker::new(Arc::clone(&store.blobs), Arc::clone(&store.places), deltas);
    let made = maker.make((first.0.id, second.0.id), Effort::AT_ONCE).unwrap();
    assert!(made.bytes < 1 << 20, "{made:?}");
}

#[test]
fn a_list_that_lies_is_refused_and_nothing_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let large = noise(2, 12 << 20);
    publish(&store, &tree(&web(), &[("a", &large)]), 1);
    let second = tree(&web(), &[("a", &inserted(&large))]);
    let before = store.places.len();
    let swapped = parcel(&store, &second, |list| {
        let last = list.segments.len() - 1;
        list.segments.swap(last, last - 1);
    });
    let refused = upload(&store, &swapped).unwrap_err();
    assert!(matches!(refused, UploadError::List { .. }), "{refused}");
    assert_eq!(store.places.len(), before);
    // Segments that are nowhere.
    let elsewhere = open(&dir.path().join("elsewhere"));
    let honest = parcel(&store, &second, |_| {});
    let refused = upload(&elsewhere, &honest).unwrap_err();
    assert!(matches!(refused, UploadError::Segments { .. }), "{refused}");
    let begun = elsewhere.publisher.begin(&web(), &second.encoded).unwrap();
    assert_eq!(begun.missing.len(), 1);
    upload(&store, &honest).unwrap();
}

#[test]
fn a_lost_bundle_is_missed_by_every_file_that_has_segments_there_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, trees, [first, second]) = two(dir.path());
    store.blobs.quarantine(Object::Bundle(first.1.digest)).unwrap();
    store.places.forget(&*store.blobs, first.1.digest).unwrap();
    let missing = |tree: &Tree| {
        store
            .publisher
            .begin(&web(), &tree.encoded)
            .unwrap()
            .missing
            .len()
    };
    assert_eq!((missing(&trees[0]), missing(&trees[1])), (2, 1));
    // The first release brings all segments back, and the second release is whole with it.
    publish(&store, &trees[0], 3);
    assert_eq!((missing(&trees[0]), missing(&trees[1])), (0, 0));
    drop(store);
    let store = open(dir.path());
    let blob = second.1.lists[0].blob;
    assert_eq!(store.places.locate(&[blob], &[])[0].bundle, second.1.digest);
}

#[test]
fn rot_that_a_proof_meets_is_put_aside_and_healed_by_publishing_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let large = noise(3, 12 << 20);
    let (_, first) = publish(&store, &tree(&web(), &[("a", &large)]), 1);
    let hex = first.digest.to_string();
    let path = dir.path().join("objects/bundle").join(&hex[..2]).join(&hex);
    let mut bytes = first.bytes.clone();
    bytes[9 << 20] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let second = tree(&web(), &[("a", &inserted(&large))]);
    let refused = upload(&store, &parcel(&store, &second, |_| {})).unwrap_err();
    assert!(matches!(refused, UploadError::List { .. }), "{refused}");
    assert!(!path.exists());
    let (record, _) = publish(&store, &second, 2);
    assert_eq!(record.new_bytes, record.bytes);
}
