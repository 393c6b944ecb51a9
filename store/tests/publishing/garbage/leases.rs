//! What publishers were told is there stays for them, whoever collects meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ship_store::engine::Object;
use ship_store::garbage::{LEASE_MS, Sweep};
use ship_store::publish::CommitError;

use super::super::optimize::{assert_given, optimized};
use super::super::scene::{DAY, Room};
use super::super::segments::{self, inserted, noise};
use super::super::tree::{prepare, publish, tree, web};
use super::{Gc, is_whole, objects, plain, published};

#[test]
fn what_a_begun_publish_found_stays_for_its_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (room, _) = published(dir.path(), 3);
    let gc = Gc::new(&room);
    // Release 1's tree again: all of it is there, and nothing is uploaded.
    let commit = prepare(&room.store.publisher, &plain(1), 10);
    assert_eq!(commit.bundle, None);
    gc.collect();
    assert_eq!(gc.collected(), [1, 2]);
    let added = room.store.publisher.commit(&commit).unwrap();
    assert_eq!(added.record.number.0, 4);
    is_whole(&room);
    // Marked before it was begun, and swept after.
    gc.collector().mark(room.now_ms).unwrap();
    let commit = prepare(&room.store.publisher, &plain(3), 11);
    gc.sweep(room.now_ms, 0).unwrap();
    assert_eq!(gc.collected(), [1, 2, 3]);
    room.store.publisher.commit(&commit).unwrap();
    is_whole(&room);
    let twice = gc.collect();
    assert_eq!(
        twice.objects, 1,
        "only the tree of 1, which is release 4: {twice:?}"
    );
}

#[test]
fn a_publish_that_was_given_up_is_garbage_and_its_commit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (room, _) = published(dir.path(), 2);
    let gc = Gc::new(&room);
    let late = prepare(&room.store.publisher, &plain(9), 10);
    let before = objects(&room);
    gc.collect();
    let later = room.now_ms + LEASE_MS - 1;
    gc.collector().mark(later).unwrap();
    gc.sweep(later, 0).unwrap();
    assert!(
        objects(&room).contains(&Object::Manifest(late.id)),
        "its lease stands"
    );
    gc.collector().mark(later + 1).unwrap();
    let swept = gc.sweep(later + 1, 0).unwrap();
    assert_eq!(swept.objects, 2, "{swept:?} of {before:?}");
    let refused = room.store.publisher.commit(&late).unwrap_err();
    assert!(
        matches!(refused, CommitError::NotBegun { .. }),
        "not a release without its content: {refused:?}"
    );
    let record = publish(&room.store.publisher, &plain(9), 10).unwrap();
    assert_eq!(record.number.0, 3);
    is_whole(&room);
}

/// What is decided to go comes back, with the very same bytes, before it is removed.
#[test]
fn an_upload_between_decision_and_removal_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (room, _) = published(dir.path(), 3);
    let gc = Gc::new(&room);
    gc.collector().mark(room.now_ms).unwrap();
    let sweep = Sweep {
        now_ms: room.now_ms,
        wait_ms: 0,
        who: "operator/alice",
        pause: Duration::ZERO,
    };
    let decided = gc.collector().decide(&sweep).unwrap();
    let commit = prepare(&room.store.publisher, &plain(2), 10);
    assert!(commit.bundle.is_some(), "nobody finds what is to go");
    let swept = gc.collector().finish(decided, &sweep, &|| false).unwrap();
    assert_eq!(swept.objects, 1, "the manifest of 1: {swept:?}");
    room.store.publisher.commit(&commit).unwrap();
    is_whole(&room);
}

/// For a loaded machine; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(180);

/// Publishers of a few trees, again and again, while everything that is unused goes as soon as it is.
#[test]
fn whatever_the_order_a_release_has_all_of_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let (room, _) = published(dir.path(), 2);
    let room = Arc::new(room);
    let gc = Gc::new(&room);
    let begun = Instant::now();
    let (ended, swept, rounds) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..3_u64)
            .map(|who| {
                let (room, swept, rounds) = (&room, &swept, &rounds);
                scope.spawn(move || {
                    // Until enough went beside it for this to say something.
                    let is_enough = || swept.load(Ordering::Relaxed) > 5;
                    for turn in (0..10_000).take_while(|turn| *turn < 25 || !is_enough()) {
                        // Each round takes as long as there are releases: who collects must not fall behind for good.
                        let round = rounds.load(Ordering::Relaxed);
                        while turn >= 25 && rounds.load(Ordering::Relaxed) == round && !is_enough() {
                            assert!(begun.elapsed() < PATIENCE, "nobody collects");
                            std::thread::yield_now();
                        }
                        let shared = plain((3 * who + turn) % 12);
                        let request = 10_000 * (who + 1) + turn;
                        match publish(&room.store.publisher, &shared, request) {
                            Ok(record) => {
                                let files = shared.manifest.files().map(|(_, _, _, digest)| digest);
                                let missing = room.store.places.missing(files);
                                let now = room.store.ledger.collected(&web(), record.number).unwrap();
                                assert!(missing.is_empty() || now.is_some(), "{record:?}");
                            }
                            Err(error) => panic!("a lease was broken: {error:?}"),
                        }
                    }
                })
            })
            .collect();
        let collecting = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                swept.fetch_add(gc.collect().objects, Ordering::Relaxed);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let done: Vec<_> = publishers.into_iter().map(|publisher| publisher.join()).collect();
        ended.store(true, Ordering::Relaxed);
        collecting.join().unwrap();
        assert!(done.iter().all(Result::is_ok));
    });
    is_whole(&room);
    assert!(swept.into_inner() > 5, "this says nothing");
}

/// Segments of a large file that the publisher does not send are relied on as files are.
#[test]
fn segments_that_a_publisher_was_told_of_stay_beside_a_collector_and_an_optimizer() {
    let dir = tempfile::tempdir().unwrap();
    let mut room = Room::open(dir.path(), &["production"]);
    room.now_ms += DAY;
    let large = noise(7, 12 << 20);
    let (first, _) = segments::publish(&room.store, &tree(&web(), &[("large", &large)]), 1);
    room.unions.add(&first).unwrap();
    let second = tree(&web(), &[("large", &inserted(&large))]);
    let parcel = segments::parcel(&room.store, &second, |_| {});
    // Nothing else needs them any more.
    let newer = publish(&room.store.publisher, &plain(3), 3).unwrap();
    room.unions.add(&newer).unwrap();
    let gc = Gc::new(&room);
    gc.settle();
    assert_eq!(gc.collected(), [1]);
    optimized(&room.store);
    drop(gc);
    drop(room);
    // A store that was started again knows it too.
    let mut room = Room::open(dir.path(), &["production"]);
    room.now_ms += DAY;
    let gc = Gc::new(&room);
    gc.settle();
    optimized(&room.store);
    segments::upload(&room.store, &parcel).unwrap();
    gc.settle();
    segments::commit(&room.store, &second, parcel.digest, 2);
    is_whole(&room);
    assert_given(&room.store, &second);
    // It is released with the publish: what is needed no more goes now.
    publish(&room.store.publisher, &plain(4), 4).unwrap();
    gc.settle();
    assert_eq!(gc.collected(), [1, 2, 3]);
    assert_eq!(room.store.ledger.relied_on().unwrap().len(), 0);
    is_whole(&room);
    let missing = segments_of(&room, &second);
    assert!(missing > 0, "the large file went");
}

fn segments_of(room: &Room, tree: &super::super::tree::Tree) -> usize {
    let files = tree.manifest.files().map(|(_, _, _, digest)| digest);
    room.store.places.missing(files).len()
}

/// An optimizer lets go of bundles whose files kept deltas give; not of those whose segments somebody counts on.
#[test]
fn an_optimizer_leaves_the_segments_of_a_slow_publisher() {
    let dir = tempfile::tempdir().unwrap();
    let mut room = Room::open(dir.path(), &["production"]);
    room.now_ms += DAY;
    let mut large = noise(8, 12 << 20);
    let first = tree(&web(), &[("large", &large), ("page", b"1")]);
    segments::publish(&room.store, &first, 1);
    let other = tree(&web(), &[("else", &large[..9 << 20])]);
    let parcel = segments::parcel(&room.store, &other, |_| {});
    for number in 2..=4 {
        large.splice(500_000..500_000, *b"inserted");
        large.splice(7_000_000..7_000_000, *b"inserted");
        let next = tree(&web(), &[("large", &large), ("page", &[number as u8])]);
        segments::publish(&room.store, &next, number);
    }
    assert_eq!(optimized(&room.store).after[0].kept, 3);
    segments::upload(&room.store, &parcel).unwrap();
    segments::commit(&room.store, &other, parcel.digest, 9);
    is_whole(&room);
    assert_given(&room.store, &other);
    assert_given(&room.store, &first);
}
