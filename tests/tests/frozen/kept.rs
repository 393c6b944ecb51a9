//! Who counts requests for assets, and when each content was last asked for.

use ship_model::digest::BlobDigest;
use ship_store::retention::Evidence;

use super::{frozen, writes_the_same};

const FILE: &str = "asset-requests-1";
const NOW: u64 = 1_760_000_000_000;

#[test]
fn what_was_heard_of_requests_is_written_and_read_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = Evidence::open(dir.path(), NOW);
    assert!(evidence.hear("production/h1", 7, [BlobDigest::of(b"one")], NOW));
    assert!(evidence.hear("store", 0, [], NOW + 1_000));
    evidence.save(true).unwrap();
    let path = dir.path().join("asset-requests");
    writes_the_same(FILE, &std::fs::read(&path).unwrap());

    std::fs::write(&path, frozen(FILE)).unwrap();
    let read = Evidence::open(dir.path(), NOW + 9_000);
    assert_eq!(
        read.last(&BlobDigest::of(b"one")),
        Some((NOW, "production/h1".to_owned()))
    );
    assert_eq!(read.counts_since("store"), Some(NOW + 1_000));
}
