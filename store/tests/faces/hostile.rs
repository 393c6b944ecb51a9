//! Bytes that mean harm, from somebody who may publish: refused with a kind, nothing kept, little memory.

use std::io::Write as _;

use futures::stream;
use ship_proto::failure_of;
use ship_proto::v1::{self, FailureKind};

use crate::fleet::{Clients, Store, Tree};

/// 256 MiB bounds every process of ours.
const MOST_KIB: u64 = 256 << 10;

fn kind(status: &tonic::Status) -> FailureKind {
    let reason = failure_of(status).unwrap_or_else(|| panic!("no reason beside the status: {status:?}"));
    reason.kind()
}

fn peak_kib(store: &Store) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", store.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn written_over(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|piece| piece == from).unwrap();
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// A gigabyte of zeros in one frame that asks for this window.
fn zeros(window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(window_log).unwrap();
    let piece = vec![0; 1 << 20];
    (0..1024).for_each(|_| encoder.write_all(&piece).unwrap());
    encoder.finish().unwrap()
}

/// Every file in the store's folder of objects.
fn objects(store: &Store) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![store.folder().join("objects")]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test]
async fn hostile_bytes_are_refused_and_nothing_is_kept() {
    // Made before there is a connection: while this thread is busy it answers no ping, and the store would hang up.
    let (bomb, wide) = (zeros(23), zeros(27));
    let store = Store::start().await;
    let mut clients = Clients::new(store.channel("publisher", "mallory").await);
    let tree = Tree::new("web", &[("aa/one", b"1"), ("aa/two", b"2")]);
    let encoded = tree.manifest.encoded().to_vec();
    let mut longer = encoded.clone();
    longer.push(0);
    for (name, manifest) in [
        ("a path that leaves", written_over(&encoded, b"aa/one", b"../one")),
        ("an absolute path", written_over(&encoded, b"aa/one", b"/a/one")),
        ("a path twice", written_over(&encoded, b"aa/two", b"aa/one")),
        ("a NUL", written_over(&encoded, b"aa/two", b"aa/tw\0")),
        ("a truncated manifest", encoded[..encoded.len() - 1].to_vec()),
        ("an over-long manifest", longer),
        (
            "a count beyond all",
            [&encoded[..encoded.len() / 2], &[0xff; 64]].concat(),
        ),
        ("no manifest", blake3::hash(b"random").as_bytes().repeat(100)),
    ] {
        let chunk = v1::BeginChunk {
            app: "web".to_owned(),
            manifest: manifest.into(),
            check_only: false,
        };
        let refused = clients.releases.begin(stream::iter([chunk])).await;
        assert_eq!(kind(&refused.unwrap_err()), FailureKind::Invalid, "{name}");
    }
    let bundle = tree.pack(&tree.blobs());
    let data = bundle.len() - 200;
    for (name, bytes) in [
        ("a bomb", bomb.clone()),
        ("a bomb with a large window", wide),
        ("a bomb before the bundle", [&bomb[..], &bundle].concat()),
        ("a truncated bundle", bundle[..bundle.len() - 1].to_vec()),
        ("an over-long bundle", [&bundle[..], b"x"].concat()),
        ("a bundle twice", [&bundle[..], &bundle].concat()),
        (
            "a bundle without its middle",
            [&bundle[..data], &bundle[data + 50..]].concat(),
        ),
        ("no bundle", blake3::hash(b"random").as_bytes().repeat(100_000)),
        ("nothing", Vec::from(b"x")),
    ] {
        let refused = clients.upload(&bytes).await.unwrap_err();
        assert_eq!(kind(&refused), FailureKind::Damaged, "{name}: {refused:?}");
    }
    assert_eq!(objects(&store), [""; 0]);
    assert!(peak_kib(&store) < MOST_KIB, "{} KiB", peak_kib(&store));
    let record = clients.publish("web", &[("a", b"good")]).await.unwrap();
    assert_eq!(record.release.unwrap().number, 1);
}
