//! A release that comes as a delta: the same bundle is made of it as would have been uploaded, and nothing that lies is taken.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ship_model::digest::{BundleDigest, DeltaDigest};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;
use ship_store::admin::{optimize, verify};
use ship_store::clock::Clock;
use ship_store::deltas::Deltas;
use ship_store::engine::ObjectKind;
use ship_store::folder::StoreFolder;
use ship_store::ledger::Collected;
use ship_store::publish::{DeltaUploadError, Limits, TakenDelta};

use super::deltas::version;
use super::tree::{Tree, bundle, commit, delta, offer, open, publish, tree, upload_delta, web};

fn begin(store: &StoreFolder, tree: &Tree) -> Vec<ship_model::digest::BlobDigest> {
    let app = &tree.manifest.spec().app;
    store.publisher.begin(app, &tree.encoded).unwrap().missing
}

/// Begin, and what changed since `base`.
fn hand_in(store: &StoreFolder, base: &Tree, tree: &Tree) -> Result<TakenDelta, DeltaUploadError> {
    begin(store, tree);
    let (_, bytes) = delta(base, tree);
    upload_delta(&store.publisher, offer(base, tree, &bytes), &bytes)
}

fn is_good(store: &StoreFolder) {
    let report = verify(store).unwrap();
    assert!(report.is_good(), "{report}");
}

/// Nothing is left of what was refused.
fn has_nothing_of(store: &StoreFolder, dir: &Path, tree: &Tree) {
    assert_eq!(begin(store, tree).len(), 2);
    assert_eq!(store.blobs.list(ObjectKind::Delta).unwrap(), []);
    let incoming = fs::read_dir(dir.join("objects/incoming")).unwrap();
    assert_eq!(incoming.count(), 0);
}

#[test]
fn it_becomes_the_bundle_that_would_have_been_uploaded_and_hosts_get_the_delta() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = [1, 2].map(version);
    publish(&store.publisher, &trees[0], 1).unwrap();
    let (whole, packed) = bundle(&trees[1], &begin(&store, &trees[1]));
    let taken = hand_in(&store, &trees[0], &trees[1]).unwrap();
    let made = taken.bundle.unwrap();
    assert_eq!(
        (made.digest, made.bytes, made.blobs),
        (whole, packed.len() as u64, 2)
    );
    let record = store
        .publisher
        .commit(&commit(&trees[1], Some(whole), 2))
        .unwrap()
        .record;
    assert_eq!(
        (record.number.0, record.bundle, record.stored_bytes),
        (2, Some(whole), made.bytes)
    );
    let new: u64 = trees[1].manifest.files().map(|(_, _, size, _)| size).sum();
    assert_eq!(record.new_bytes, new);
    let kept = taken.kept.unwrap();
    assert!(kept.bytes * 3 < made.bytes, "{kept:?} of {made:?}");
    is_good(&store);
    drop(store);
    let store = open(dir.path());
    let deltas = Deltas::load(&*store.blobs).unwrap();
    let found = deltas.leading_to(trees[1].manifest.id(), &[trees[0].manifest.id()]);
    assert_eq!((found[0].digest, found.len()), (kept.digest, 1));
}

#[test]
fn after_a_lost_answer_nothing_is_missing_and_the_bundle_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = [1, 2].map(version);
    publish(&store.publisher, &trees[0], 1).unwrap();
    let made = hand_in(&store, &trees[0], &trees[1]).unwrap().bundle.unwrap();
    let again = hand_in(&store, &trees[0], &trees[1]).unwrap();
    assert_eq!((again.bundle, again.kept), (None, None));
    let record = store
        .publisher
        .commit(&commit(&trees[1], None, 2))
        .unwrap()
        .record;
    assert_eq!(record.bundle, Some(made.digest));
}

#[test]
fn it_may_be_made_against_a_release_that_is_kept_as_a_delta() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = [1, 2, 3, 4].map(version);
    for (number, tree) in (1..).zip(&trees[..3]) {
        publish(&store.publisher, tree, number).unwrap();
    }
    optimize(&store, &Clock::system(), |_| {}).unwrap();
    let first = trees[0].manifest.id();
    assert!(store.places.link(first).is_some(), "it is no proof");
    let files = trees[0].manifest.files().map(|(_, _, _, digest)| digest);
    assert!(!store.places.absent(files).is_empty(), "it is no proof");
    let made = hand_in(&store, &trees[0], &trees[3]).unwrap().bundle.unwrap();
    let record = store.publisher.commit(&commit(&trees[3], Some(made.digest), 4));
    assert_eq!(record.unwrap().record.number.0, 4);
    is_good(&store);
}

#[test]
fn of_a_large_file_only_segments_that_are_new_are_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut noise = vec![0; 24 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let inserted = [&noise[..200_000], b"inserted", &noise[200_000..]].concat();
    let (old, new) = (
        tree(&web(), &[("film", &noise)]),
        tree(&web(), &[("film", &inserted)]),
    );
    // As publishers cut: the first one lists its segments.
    let wanted = begin(&store, &old).into_iter().collect();
    let lists = ship_bundle::segments::cut_files(old.dir.path(), &old.manifest, &wanted, &()).unwrap();
    let parts = ship_bundle::Parts {
        wanted: &wanted,
        lists: &lists,
        known: &Default::default(),
    };
    let mut bytes = Vec::new();
    ship_bundle::pack_parts(old.dir.path(), &old.manifest, &parts, 3, &mut bytes, &()).unwrap();
    let mut upload = store.publisher.upload().unwrap();
    upload.push(&bytes).unwrap();
    let first = upload.finish(None).unwrap();
    store
        .publisher
        .commit(&commit(&old, Some(first.digest), 1))
        .unwrap();

    let taken = hand_in(&store, &old, &new).unwrap();
    let made = taken.bundle.unwrap();
    assert!(taken.kept.unwrap().bytes < 1 << 20);
    assert!(made.bytes < first.bytes / 2, "{made:?} beside {first:?}");
    store
        .publisher
        .commit(&commit(&new, Some(made.digest), 2))
        .unwrap();
    is_good(&store);
}

#[test]
fn what_is_bent_gives_nothing_or_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = [1, 2].map(version);
    publish(&store.publisher, &trees[0], 1).unwrap();
    begin(&store, &trees[1]);
    let (_, good) = delta(&trees[0], &trees[1]);
    let take = |bytes: &[u8]| {
        let offer = offer(&trees[0], &trees[1], bytes);
        upload_delta(&store.publisher, offer, bytes)
    };
    for at in (0..good.len()).step_by(good.len() / 60) {
        assert!(take(&good[..at]).is_err(), "cut at {at}");
        let mut bent = good.clone();
        bent[at] ^= 0x11;
        assert!(take(&bent).is_err(), "bent at {at}");
    }
    let longer = [&good[..], &[0]].concat();
    assert!(take(&longer).is_err());
    // What is announced is what must come.
    let mut other = offer(&trees[0], &trees[1], &good);
    other.delta = DeltaDigest::of(b"other");
    let refused = upload_delta(&store.publisher, other, &good).unwrap_err();
    assert!(matches!(refused, DeltaUploadError::Mismatch { .. }), "{refused}");
    has_nothing_of(&store, dir.path(), &trees[1]);
    assert!(take(&good).unwrap().bundle.is_some());
    is_good(&store);
}

#[test]
fn it_copies_out_of_releases_of_the_same_app_only_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = [1, 2].map(version);
    let shop = AppName::new("shop").unwrap();
    let files: Vec<(String, Vec<u8>)> = trees[0]
        .manifest
        .files()
        .map(|(path, ..)| {
            (
                path.to_string(),
                fs::read(trees[0].dir.path().join(path.to_string())).unwrap(),
            )
        })
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
    let secret = tree(&shop, &files);
    publish(&store.publisher, &secret, 1).unwrap();
    let refusal = |base: &Tree, tree: &Tree| hand_in(&store, base, tree).unwrap_err();
    // Every blob of web@1 is here, but it is no release of web.
    for base in [&secret, &trees[0]] {
        let refused = refusal(base, &trees[1]);
        assert!(matches!(refused, DeltaUploadError::Base { .. }), "{refused}");
    }
    publish(&store.publisher, &trees[0], 2).unwrap();
    // An app's name that is not the target's.
    let mut lie = offer(&secret, &trees[1], b"");
    lie.app = shop;
    let (_, bytes) = delta(&secret, &trees[1]);
    lie.delta = DeltaDigest::of(&bytes);
    let refused = upload_delta(&store.publisher, lie, &bytes).unwrap_err();
    assert!(matches!(refused, DeltaUploadError::App { .. }), "{refused}");
    // Another way than was announced.
    let (_, bytes) = delta(&secret, &trees[1]);
    let refused = upload_delta(&store.publisher, offer(&trees[0], &trees[1], &bytes), &bytes);
    assert!(
        matches!(refused, Err(DeltaUploadError::Way { .. })),
        "{refused:?}"
    );
    // To what was not begun.
    let (_, bytes) = delta(&trees[0], &version(9));
    let refused = upload_delta(&store.publisher, offer(&trees[0], &version(9), &bytes), &bytes);
    assert!(
        matches!(refused, Err(DeltaUploadError::NotBegun { .. })),
        "{refused:?}"
    );
    has_nothing_of(&store, dir.path(), &trees[1]);
    // Of what was collected nothing is read, though it lies there yet.
    let mark = Collected {
        at_ms: 1,
        who: "store".to_owned(),
        bare: false,
    };
    store
        .ledger
        .collect(&web(), ReleaseNumber(1), &mark, None)
        .unwrap();
    let refused = refusal(&trees[0], &trees[1]);
    assert!(matches!(refused, DeltaUploadError::Base { .. }), "{refused}");
}

#[test]
fn its_size_and_what_it_gives_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        delta_raw_bytes: 100_000,
        ..Limits::default()
    };
    let (store, _) = StoreFolder::open(dir.path(), limits).unwrap();
    let trees = [1, 2].map(version);
    publish(&store.publisher, &trees[0], 1).unwrap();
    let refused = hand_in(&store, &trees[0], &trees[1]).unwrap_err();
    assert!(
        matches!(refused, DeltaUploadError::TooLong { limit: 100_000 }),
        "{refused}"
    );
    let mut upload = store
        .publisher
        .upload_delta(offer(&trees[0], &trees[1], b""))
        .unwrap();
    upload.push(&[0; 100_000]).unwrap();
    let refused = upload.push(&[0]).unwrap_err();
    assert!(matches!(refused, DeltaUploadError::TooLong { .. }), "{refused}");
    drop(upload);
    has_nothing_of(&store, dir.path(), &trees[1]);
}

/// A delta written by hand: each of `frames` is one byte after `spans` times the whole first file of the base; they fill the
/// target's blobs, which are told `times` over.
struct Crafted<'a> {
    base: &'a Manifest,
    target: &'a Manifest,
    frames: &'a [u8],
    spans: u64,
    times: usize,
}

impl Crafted<'_> {
    fn bytes(&self) -> Vec<u8> {
        let number = |out: &mut Vec<u8>, mut number: u64| {
            while number >= 0x80 {
                out.push(number as u8 | 0x80);
                number >>= 7;
            }
            out.push(number as u8);
        };
        let code = |raw: &[u8]| zstd::bulk::compress(raw, 1).unwrap();
        let mut delta = code(self.target.encoded());
        let manifest_len = delta.len();
        let mut index = Vec::new();
        number(&mut index, self.frames.len() as u64);
        for byte in self.frames {
            let frame = code(&[*byte]);
            for value in [frame.len() as u64, 1, self.spans] {
                number(&mut index, value);
            }
            (0..self.spans).for_each(|_| number(&mut index, 0));
            delta.extend(frame);
        }
        let blobs = self.target.files().count() * self.times;
        number(&mut index, blobs as u64);
        let mut last = 0_i64;
        for entry in (0..blobs).map(|blob| (blob % self.target.files().count()) as i64) {
            let step = entry - last;
            last = entry;
            number(&mut index, ((step << 1) ^ (step >> 63)) as u64);
            number(&mut index, 0);
        }
        let coded = code(&index);
        delta.extend(&coded);
        delta.extend(self.base.id().as_bytes());
        delta.extend(self.target.id().as_bytes());
        for len in [
            manifest_len,
            self.target.encoded().len(),
            coded.len(),
            index.len(),
        ] {
            delta.write_all(&(len as u32).to_le_bytes()).unwrap();
        }
        delta.extend(b"\x02SHIPDLT\x01");
        delta
    }
}

#[test]
fn one_written_by_hand_is_taken_when_it_is_honest_and_cheap() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let old = tree(&web(), &[("a", &vec![7; 1 << 20])]);
    let new = tree(&web(), &[("b", b"12345678")]);
    publish(&store.publisher, &old, 1).unwrap();
    begin(&store, &new);
    let craft = |frames: &[u8], spans, times| {
        let crafted = Crafted {
            base: &old.manifest,
            target: &new.manifest,
            frames,
            spans,
            times,
        };
        let bytes = crafted.bytes();
        upload_delta(&store.publisher, offer(&old, &new, &bytes), &bytes)
    };
    let wrong = craft(b"12345679", 1, 1).unwrap_err();
    assert!(matches!(wrong, DeltaUploadError::Content { .. }), "{wrong}");
    let dear = craft(b"12345678", 40, 1).unwrap_err();
    assert!(matches!(dear, DeltaUploadError::Work { .. }), "{dear}");
    let twice = craft(b"1234567812345678", 1, 2).unwrap_err();
    assert!(matches!(twice, DeltaUploadError::Gives), "{twice}");
    let less = craft(b"", 1, 0).unwrap_err();
    assert!(matches!(less, DeltaUploadError::Gives), "{less}");
    assert_eq!(begin(&store, &new).len(), 1);
    assert!(craft(b"12345678", 1, 1).unwrap().bundle.is_some());
    is_good(&store);
}

#[test]
fn a_base_that_rotted_is_put_aside_and_whole_files_heal_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees = [1, 2].map(version);
    let first = publish(&store.publisher, &trees[0], 1).unwrap().bundle.unwrap();
    begin(&store, &trees[1]);
    let file = file_of(dir.path(), first);
    let mut bytes = fs::read(&file).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    bytes[2000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let refused = hand_in(&store, &trees[0], &trees[1]).unwrap_err();
    assert!(matches!(refused, DeltaUploadError::Lay(_)), "{refused}");
    publish(&store.publisher, &trees[1], 2).unwrap();
    publish(&store.publisher, &trees[0], 3).unwrap();
    is_good(&store);
}

fn file_of(dir: &Path, bundle: BundleDigest) -> std::path::PathBuf {
    let hex = bundle.to_string();
    dir.join("objects/bundle").join(&hex[..2]).join(&hex)
}
