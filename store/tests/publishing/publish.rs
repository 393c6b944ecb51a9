//! What a publisher gets.

use std::collections::BTreeSet;

use ship_model::digest::BlobDigest;
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;
use ship_store::ledger::{AssetClaim, ClaimToken};
use ship_store::publish::{BeginError, CommitError};

use super::tree::{bundle, open, prepare, publish, request, tree, web};

#[test]
fn a_release_is_numbered_located_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = tree(
        &web(),
        &[("index.html", b"one"), ("static/app-f00dfeed12345678.js", b"js")],
    );
    let record = publish(&store.publisher, &one, 1).unwrap();
    assert_eq!(
        (record.number, record.files, record.bytes),
        (ReleaseNumber(1), 2, 5)
    );
    assert_eq!(record.new_bytes, 5);
    assert!(record.stored_bytes > 0);
    assert_eq!(record.publisher, "publisher/ci");

    // Only what is new is asked for, and counted.
    let two = tree(
        &web(),
        &[("index.html", b"two!"), ("static/app-f00dfeed12345678.js", b"js")],
    );
    let begun = store.publisher.begin(&web(), &two.encoded).unwrap();
    assert_eq!(begun.missing.len(), 1);
    let record = publish(&store.publisher, &two, 2).unwrap();
    assert_eq!((record.number, record.new_bytes), (ReleaseNumber(2), 4));

    let all: Vec<_> = two.manifest.files().map(|(_, _, _, digest)| digest).collect();
    let located = store.places.locate(&all, &[]);
    assert_eq!(located.len(), 2);
    assert_eq!(located.iter().map(|found| found.blobs.len()).sum::<usize>(), 2);

    let newest = store.ledger.newest_release(&web()).unwrap().unwrap();
    assert_eq!(newest, record);
    let listed = store.ledger.releases(&web(), 10).unwrap();
    assert_eq!(listed.iter().map(|r| r.number.0).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(store.ledger.apps().unwrap(), [web()]);
    let ids = store.ledger.releases_of_id(&record.id).unwrap();
    assert_eq!(ids, [(web(), ReleaseNumber(2))]);
    let facts = store.ledger.bundle(&record.bundle.unwrap()).unwrap().unwrap();
    assert_eq!((facts.bytes, facts.blobs), (record.stored_bytes, 1));
}

#[test]
fn the_same_tree_gets_a_new_number_and_brings_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = tree(&web(), &[("a", b"1")]);
    let first = publish(&store.publisher, &one, 1).unwrap();
    let again = publish(&store.publisher, &one, 2).unwrap();
    assert_eq!((first.number.0, again.number.0), (1, 2));
    assert_eq!(first.id, again.id);
    assert_eq!((again.new_bytes, again.stored_bytes, again.bundle), (0, 0, None));
}

#[test]
fn the_same_request_makes_one_release() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = tree(&web(), &[("a", b"1"), ("static/a-f0a1b2c3d4e5.js", b"x")]);
    let commit = prepare(&store.publisher, &one, 1);
    let first = store.publisher.commit(&commit).unwrap();
    let mut later = commit.clone();
    later.at_ms += 60_000;
    let again = store.publisher.commit(&later).unwrap();
    // Whoever lost the answer finds nothing missing when they start over, and uploads nothing.
    later.bundle = None;
    assert_eq!(store.publisher.commit(&later).unwrap().record, first.record);
    assert_eq!((first.new, again.new), (true, false));
    assert_eq!(first.record, again.record);
    assert_eq!(store.ledger.releases(&web(), 10).unwrap().len(), 1);

    let mut other = commit;
    other.provenance.label = Some("other".to_owned());
    let refused = store.publisher.commit(&other).unwrap_err();
    assert!(refused.to_string().contains("new request id"), "{refused}");
}

#[test]
fn what_an_unfinished_publish_uploaded_is_counted_by_the_one_that_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = tree(&web(), &[("a", b"12345")]);
    let unfinished = prepare(&store.publisher, &one, 1);
    let record = publish(&store.publisher, &one, 2).unwrap();
    assert_eq!((record.bundle, record.new_bytes), (unfinished.bundle, 5));
    assert!(record.stored_bytes > 5);
}

#[test]
fn fifty_publishes_at_once_get_fifty_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let publisher = &store.publisher;
    let numbers: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50_u64)
            .map(|n| {
                scope.spawn(move || {
                    let name = format!("static/app-f{n:015x}.js");
                    let text = n.to_string();
                    let one = tree(&web(), &[("a", text.as_bytes()), (&name, b"same")]);
                    publish(publisher, &one, n).unwrap().number.0
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: BTreeSet<u64> = numbers.into_iter().collect();
    assert_eq!(distinct, (1..=50).collect());
    assert_eq!(store.ledger.releases(&web(), 100).unwrap().len(), 50);
    let audit = store.ledger.verify_audit().unwrap();
    assert_eq!((audit.links, audit.defect), (50, None));
}

#[test]
fn a_fingerprinted_name_never_changes_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let name = "static/app-f00dfeed12345678.js";
    publish(&store.publisher, &tree(&web(), &[(name, b"first")]), 1).unwrap();
    publish(&store.publisher, &tree(&web(), &[("a", b"2")]), 2).unwrap();
    let other = tree(&web(), &[(name, b"other")]);

    let Err(BeginError::Clash(clashes)) = store.publisher.begin(&web(), &other.encoded) else {
        panic!("a clash was not told");
    };
    assert_eq!(clashes.len(), 1);
    let told = clashes[0].to_string();
    for part in [
        "/static/app-f00dfeed12345678.js",
        "web@1",
        &clashes[0].theirs.to_string(),
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert_eq!(clashes[0].ours, other.manifest.files().next().unwrap().3);

    // Other apps have their own names, and what is not fingerprinted may change.
    let shop = AppName::new("shop").unwrap();
    publish(&store.publisher, &tree(&shop, &[(name, b"other")]), 3).unwrap();
    publish(&store.publisher, &tree(&web(), &[("static/plain.js", b"1")]), 4).unwrap();
    publish(&store.publisher, &tree(&web(), &[("static/plain.js", b"2")]), 5).unwrap();
}

#[test]
fn of_two_that_clash_at_the_same_time_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let name = "static/app-f00dfeed12345678.js";
    // Both are begun before either is committed, so only the commit can tell.
    let one = prepare(&store.publisher, &tree(&web(), &[(name, b"one")]), 1);
    let two = prepare(&store.publisher, &tree(&web(), &[(name, b"two")]), 2);
    let (first, second) = std::thread::scope(|scope| {
        let publisher = &store.publisher;
        let first = scope.spawn(|| publisher.commit(&one));
        let second = scope.spawn(|| publisher.commit(&two));
        (first.join().unwrap(), second.join().unwrap())
    });
    let (won, lost) = match (first, second) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        other => panic!("{other:?}"),
    };
    assert_eq!(won.record.number, ReleaseNumber(1));
    assert!(matches!(lost, CommitError::Claim(_)), "{lost}");
    assert_eq!(store.ledger.releases(&web(), 10).unwrap().len(), 1);
}

#[test]
fn everything_is_found_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let one = tree(&web(), &[("a", b"1"), ("b", b"2")]);
    let store = open(dir.path());
    let record = publish(&store.publisher, &one, 1).unwrap();
    drop(store);
    let store = open(dir.path());
    let begun = store.publisher.begin(&web(), &one.encoded).unwrap();
    assert_eq!(begun.missing, []);
    assert_eq!(store.ledger.release(&web(), record.number).unwrap(), Some(record));
    assert_eq!(store.places.len(), (1, 2));
}

#[test]
fn a_blob_in_two_bundles_survives_the_loss_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = tree(&web(), &[("a", b"1"), ("b", b"2")]);
    publish(&store.publisher, &one, 1).unwrap();
    let blobs: Vec<_> = one.manifest.files().map(|(_, _, _, digest)| digest).collect();
    let (other, bytes) = bundle(&one, &blobs[..1]);
    let mut upload = store.publisher.upload().unwrap();
    upload.push(&bytes).unwrap();
    upload.finish(None).unwrap();
    let first = store.places.locate(&blobs, &[])[0].bundle;
    assert_ne!(first, other);
    let around = store.places.locate(&blobs, &[first]);
    assert_eq!(around.len(), 1, "only the first blob lies elsewhere, too");
    assert_eq!((around[0].bundle, &around[0].blobs[..]), (other, &blobs[..1]));
    assert!(store.places.locate(&blobs, &[first, other]).is_empty());
    let object = ship_store::engine::Object::Bundle(first);
    store.blobs.quarantine(object).unwrap();
    store.places.forget(&*store.blobs, first).unwrap();
    assert_eq!(store.places.missing(blobs.clone()), &blobs[1..]);
    assert!(store.places.locate(&blobs, &[other]).is_empty());
    assert_eq!(store.places.locate(&blobs, &[])[0].bundle, other);
    assert_eq!(request(1), request(1));
}

/// A publish that died after it claimed a url must not block it for ever, and must not come back to life.
#[test]
fn a_claim_that_became_nothing_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let name = "static/app-f00dfeed12345678.js";
    let died = AssetClaim {
        url: format!("/{name}"),
        digest: BlobDigest::of(b"never published"),
    };
    let token = ClaimToken::new(request(9), 0);
    store
        .ledger
        .claim_assets(&web(), &token, std::slice::from_ref(&died))
        .unwrap();
    assert_eq!(store.ledger.asset(&web(), &died.url).unwrap(), None);

    let record = publish(&store.publisher, &tree(&web(), &[(name, b"other")]), 1).unwrap();
    let found = store.ledger.asset(&web(), &died.url).unwrap().unwrap();
    assert_eq!(
        (found.first, found.digest),
        (record.number, BlobDigest::of(b"other"))
    );
    assert!(store.ledger.claim_assets(&web(), &token, &[died]).is_err());

    // The request itself is not spent: its next try takes another token.
    let late = publish(&store.publisher, &tree(&web(), &[("a", b"late")]), 9).unwrap();
    assert_eq!(late.number, ReleaseNumber(2));
}
