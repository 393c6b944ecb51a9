//! A store that lies: whatever it sends, the host keeps running what it ran, nothing of it is left, and the agent's
//! memory stays bounded.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    dead_code,
    reason = "a failed test says so by stopping, and each test uses its part of the fleet"
)]

mod fleet;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::sync::atomic::Ordering;

use fleet::agent::Host;
use fleet::release::{Shelf, noise, static_spec};
use fleet::store::{Store, web};
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::manifest::{MAX_ENCODED, Manifest};
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::AppPhase;

/// 256 MiB bounds every process of ours.
const MOST_KIB: u64 = 256 << 10;

/// A release whose files are these.
fn publish(shelf: &mut Shelf, number: u64, content: &[u8]) -> Target {
    shelf.publish(number, &static_spec(), &[("index.html", content)])
}

/// The bundle that holds `content`.
fn bundle_of<'a>(shelf: &'a mut Shelf, content: &[u8]) -> (&'a mut Vec<u8>, &'a mut u64) {
    let (bundle, len) = shelf.places.get_mut(&BlobDigest::of(content)).unwrap();
    (shelf.bundles.get_mut(bundle).unwrap(), len)
}

/// Stores bytes as a release's manifest, under the name that they truly have.
fn forged(shelf: &mut Shelf, number: u64, encoded: Vec<u8>) -> Target {
    let id = Manifest::id_of(&encoded);
    shelf.manifests.insert(id, encoded);
    let number = ReleaseNumber(number);
    Target { number, id }
}

/// The manifest of a tree with the files `aa/one` and `aa/two`, with `from` written over by `to`.
fn manifest_with(shelf: &mut Shelf, number: u64, from: &[u8], to: &[u8]) -> Target {
    let files: [(&str, &[u8]); 2] = [("aa/one", b"1"), ("aa/two", b"2")];
    let good = shelf.publish(number, &static_spec(), &files);
    let mut encoded = shelf.manifests[&good.id].clone();
    let at = encoded.windows(from.len()).position(|piece| piece == from);
    encoded[at.unwrap()..][..to.len()].copy_from_slice(to);
    forged(shelf, number, encoded)
}

/// A bundle of one frame that unpacks to a gigabyte, with an index that tells of a small file in it.
fn bomb(blob: BlobDigest, size: u64) -> Vec<u8> {
    let compressed = |len: usize| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        let zeros = vec![0; 1 << 20];
        (0..len >> 20).for_each(|_| encoder.write_all(&zeros).unwrap());
        encoder.write_all(&zeros[..len % (1 << 20)]).unwrap();
        encoder.finish().unwrap()
    };
    let (data, end) = (compressed(1 << 30), compressed(1024));
    let mut index = 2_u32.to_le_bytes().to_vec();
    let mut frame = |len: usize, raw: u64, blobs: u32| {
        index.extend_from_slice(&(len as u64).to_le_bytes());
        index.extend_from_slice(&raw.to_le_bytes());
        index.extend_from_slice(&blobs.to_le_bytes());
        if blobs > 0 {
            index.extend_from_slice(blob.as_bytes());
            index.extend_from_slice(&512_u64.to_le_bytes());
            index.extend_from_slice(&size.to_le_bytes());
        }
    };
    frame(data.len(), 512 + size.next_multiple_of(512), 1);
    frame(end.len(), 1024, 0);
    let packed = zstd::bulk::compress(&index, 3).unwrap();
    let mut bundle = [data, end].concat();
    let data = bundle.len() as u64;
    bundle.extend_from_slice(&0x184D_2A5E_u32.to_le_bytes());
    bundle.extend_from_slice(&(packed.len() as u32 + 24).to_le_bytes());
    bundle.extend_from_slice(&packed);
    bundle.extend_from_slice(&data.to_le_bytes());
    bundle.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    bundle.extend_from_slice(&(index.len() as u32).to_le_bytes());
    bundle.extend_from_slice(b"SHIPBDL\x01");
    bundle
}

/// One lie: makes release `number` and says what the failure must tell.
type Lie = (&'static str, fn(&Store, u64) -> Target, &'static str);

const LIES: &[Lie] = &[
    (
        "a truncated bundle",
        |store, number| spoiled(store, number, |bytes| bytes.truncate(bytes.len() - 9)),
        "footer",
    ),
    (
        "an over-long bundle",
        |store, number| spoiled(store, number, |bytes| bytes.push(0)),
        "footer",
    ),
    (
        "a longer bundle with a good end",
        |store, number| spoiled(store, number, |bytes| drop(bytes.splice(0..0, [0; 100]))),
        "contradicts its length",
    ),
    (
        "a flipped bit",
        |store, number| spoiled(store, number, |bytes| bytes[1000] ^= 0x10),
        "bundle",
    ),
    (
        "the bytes of another bundle",
        other_bundle,
        "no known bundle holds blob",
    ),
    ("a bomb", bombed, "bundle"),
    (
        "a length beyond all",
        |store, number| long(store, number, u64::MAX),
        "bundle",
    ),
    (
        "a path that leaves",
        |store, number| leaving(store, number, b"aa/one", b"../one"),
        "\"../one\" cannot be part",
    ),
    (
        "an absolute path",
        |store, number| leaving(store, number, b"aa/one", b"/a/one"),
        "\"/a/one\" cannot be part",
    ),
    (
        "a path with a NUL",
        |store, number| leaving(store, number, b"aa/one", b"aa/on\0"),
        "cannot be part",
    ),
    (
        "a path twice",
        |store, number| leaving(store, number, b"aa/two", b"aa/one"),
        "stands twice",
    ),
    (
        "a truncated manifest",
        |store, number| manifest(store, number, |bytes| bytes.truncate(bytes.len() - 1)),
        "too early",
    ),
    (
        "an over-long manifest",
        |store, number| manifest(store, number, |bytes| bytes.resize(MAX_ENCODED + 1, 0)),
        "longer than",
    ),
    (
        "random bytes as manifest",
        |store, number| manifest(store, number, |bytes| *bytes = noise(5, 5000)),
        "not a manifest",
    ),
];

fn spoiled(store: &Store, number: u64, spoil: fn(&mut Vec<u8>)) -> Target {
    let mut shelf = store.inner.shelf.lock().unwrap();
    let content = noise(number, 2000);
    let target = publish(&mut shelf, number, &content);
    let (bytes, len) = bundle_of(&mut shelf, &content);
    spoil(bytes);
    *len = bytes.len() as u64;
    target
}

fn other_bundle(store: &Store, number: u64) -> Target {
    let mut shelf = store.inner.shelf.lock().unwrap();
    let (wanted, other) = (noise(number, 2000), noise(number + 1000, 2000));
    let target = publish(&mut shelf, number, &wanted);
    publish(&mut shelf, number + 1000, &other);
    let lie = bundle_of(&mut shelf, &other).0.clone();
    let (bytes, len) = bundle_of(&mut shelf, &wanted);
    *len = lie.len() as u64;
    *bytes = lie;
    target
}

fn bombed(store: &Store, number: u64) -> Target {
    let mut shelf = store.inner.shelf.lock().unwrap();
    let content = noise(number, 2000);
    let target = publish(&mut shelf, number, &content);
    let (bytes, len) = bundle_of(&mut shelf, &content);
    *bytes = bomb(BlobDigest::of(&content), 2000);
    *len = bytes.len() as u64;
    target
}

fn long(store: &Store, number: u64, told: u64) -> Target {
    let mut shelf = store.inner.shelf.lock().unwrap();
    let content = noise(number, 2000);
    let target = publish(&mut shelf, number, &content);
    *bundle_of(&mut shelf, &content).1 = told;
    target
}

fn leaving(store: &Store, number: u64, from: &[u8], to: &[u8]) -> Target {
    manifest_with(&mut store.inner.shelf.lock().unwrap(), number, from, to)
}

fn manifest(store: &Store, number: u64, spoil: fn(&mut Vec<u8>)) -> Target {
    let mut shelf = store.inner.shelf.lock().unwrap();
    let good = publish(&mut shelf, number, &noise(number, 2000));
    let mut encoded = shelf.manifests[&good.id].clone();
    spoil(&mut encoded);
    forged(&mut shelf, number, encoded)
}

/// Every name below the host's apps, but for what a failed fetch keeps for the next try: nothing believes it.
fn lies(host: &Host) -> BTreeSet<OsString> {
    let mut found = BTreeSet::new();
    let mut open = vec![host.path("apps")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            if [".staging-", ".kept-"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
            found.insert(entry.path().into_os_string());
        }
    }
    found
}

fn peak_kib(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn no_lie_changes_what_runs_or_leaves_a_trace() {
    let store = Store::start();
    let one = store.publish(1);
    let mut host = Host::new(&store);
    host.start();
    store.desire(vec![web(1, Some(one), &[])]);
    store.wait("release 1", |app| {
        app.running == Some(one) && app.healthy && app.phase == AppPhase::Idle
    });
    let before = lies(&host);
    let refused = |target: Target, name: &str, word: &str| {
        store.desire(vec![web(target.number.0, Some(target), &[])]);
        let report = store.wait(name, |app| {
            let failure = app.failure.as_ref();
            failure.is_some_and(|failure| failure.release == target && !failure.transient)
        });
        let reason = report.failure.unwrap().reason;
        assert!(reason.contains(word), "{name}: {reason}");
        assert_eq!(report.running, Some(one), "{name}");
        assert!(host.page().unwrap().ends_with("v1"), "{name}");
        assert_eq!(lies(&host), before, "{name}");
        assert!(peak_kib(&host) < MOST_KIB, "{name}: {} KiB", peak_kib(&host));
    };
    for (number, (name, lie, word)) in (2..).zip(LIES) {
        refused(lie(&store, number), name, word);
    }
    // Places of blobs that nobody asked for, without end.
    store.inner.flood.store(true, Ordering::Relaxed);
    let content = noise(90, 2000);
    let flooded = publish(&mut store.inner.shelf.lock().unwrap(), 90, &content);
    refused(flooded, "a flood of places", "was not asked");
    store.inner.flood.store(false, Ordering::Relaxed);

    let last = store.publish(91);
    store.desire(vec![web(91, Some(last), &[])]);
    store.wait("a good release", |app| app.running == Some(last) && app.healthy);
    assert!(host.page().unwrap().ends_with("v91"));
}

/// Its index can be read, so that the lie above is seen by nothing less than the bytes themselves.
#[test]
fn the_forged_bundle_is_a_bundle() {
    let content = noise(1, 2000);
    let bytes = bomb(BlobDigest::of(&content), 2000);
    let index = ship_bundle::BundleIndex::read(bytes.len() as u64, |offset, len| {
        Ok(bytes[offset as usize..(offset + len) as usize].to_vec())
    });
    assert_eq!(
        index.unwrap().blobs().count(),
        1,
        "else the test above tests nothing"
    );
    let expected = ship_bundle::Expected {
        digest: Some(BundleDigest::of(&bytes)),
        ..ship_bundle::Expected::default()
    };
    assert!(ship_bundle::verify_bundle(&bytes[..], &expected).is_err());
}
