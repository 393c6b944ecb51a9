//! Releases told by what changed: fetched as a delta where that is the cheaper way, whole where a delta is wrong, away or
//! dearer; always the same bytes on the disk.

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

use std::sync::atomic::Ordering;

use fleet::agent::Host;
use fleet::release::{Offer, Shelf, noise, static_spec};
use fleet::store::{Store, web};
use ship_model::digest::DeltaDigest;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::AppReport;

const LEN: usize = 400_000;

/// Bytes that do not compress, turned by some way: nothing in them is new, and everything stands elsewhere.
fn turned(by: usize) -> Vec<u8> {
    let mut bytes = noise(5, LEN);
    bytes.rotate_left(by % LEN);
    bytes
}

fn publish(store: &Store, number: u64) -> Target {
    let page = format!("<p>release {number}");
    let big = turned(number as usize * 50_000);
    let same = noise(6, 10_000);
    let files: [(&str, &[u8]); 4] = [
        ("assets/logo.txt", b"logo"),
        ("index.html", page.as_bytes()),
        ("big.bin", &big),
        ("same.bin", &same),
    ];
    store
        .inner
        .shelf
        .lock()
        .unwrap()
        .publish(number, &static_spec(), &files)
}

fn check(host: &Host, number: u64) {
    let current = |file: &str| std::fs::read(host.app("current").join(file)).unwrap();
    assert_eq!(host.page().unwrap(), format!("<p>release {number}"));
    assert_eq!(current("big.bin"), turned(number as usize * 50_000));
    assert_eq!(current("same.bin"), noise(6, 10_000));
}

fn go(store: &Store, epoch: u64, target: Target) -> AppReport {
    store.desire(vec![web(epoch, Some(target), &[])]);
    store.wait("the release", |app| app.running == Some(target) && app.healthy)
}

#[test]
fn an_update_moves_what_changed() {
    let store = Store::start();
    let (one, two, three) = (publish(&store, 1), publish(&store, 2), publish(&store, 3));
    let mut host = Host::new(&store);
    host.start();
    let first = go(&store, 1, one).update;
    assert!(
        first.fetched_bytes > LEN as u64 && first.delta_from.is_none(),
        "{first:?}"
    );

    store.inner.shelf.lock().unwrap().offer(one, two, |_| {});
    let second = go(&store, 2, two).update;
    assert_eq!(second.delta_from, Some(ReleaseNumber(1)));
    assert!(second.fetched_bytes < LEN as u64 / 20, "{second:?}");
    check(&host, 2);

    // The smaller of two, from an older release that still lies here; others' words about deltas are checked.
    let mut shelf = store.inner.shelf.lock().unwrap();
    let small = shelf.offer(one, three, |_| {}).clone();
    let nobody = Target {
        number: ReleaseNumber(9),
        id: three.id,
    };
    shelf.offers.insert(
        0,
        Offer {
            base: nobody.id,
            ..small
        },
    );
    drop(shelf);
    let third = go(&store, 3, three).update;
    assert_eq!(third.delta_from, Some(ReleaseNumber(1)));
    check(&host, 3);
    let shown = host.ask(&["status"]);
    assert_eq!(shown["apps"][0]["delta_from"], 1, "{shown}");
}

#[test]
fn a_delta_that_costs_more_than_what_is_missing_stays_where_it_is() {
    let store = Store::start();
    let (one, two) = (publish(&store, 1), publish(&store, 2));
    let other = noise(8, LEN);
    let big = turned(50_000);
    let mut shelf = store.inner.shelf.lock().unwrap();
    let logo: (&str, &[u8]) = ("assets/logo.txt", b"logo");
    let files: [(&str, &[u8]); 3] = [logo, ("index.html", b"<p>release 3"), ("big.bin", &other)];
    let three = shelf.publish(3, &static_spec(), &files);
    // All but a page of it lies in release 1, of which the delta from 3 knows nothing.
    let files: [(&str, &[u8]); 3] = [logo, ("index.html", b"<p>release 4"), ("big.bin", &big)];
    let four = shelf.publish(4, &static_spec(), &files);
    shelf.offer(three, four, |_| {});
    drop(shelf);
    let mut host = Host::new(&store);
    host.start();
    for (epoch, target) in [(1, two), (2, one), (3, three)] {
        go(&store, epoch, target);
    }
    let update = go(&store, 4, four).update;
    assert_eq!(update.delta_from, None, "{update:?}");
    assert!(update.fetched_bytes < LEN as u64 / 4, "{update:?}");
    assert_eq!(std::fs::read(host.app("current/big.bin")).unwrap(), big);
}

/// One lie about a delta from release 1 to the release.
type Lie = (&'static str, fn(&mut Shelf, Target, Target));

const LIES: &[Lie] = &[
    ("its last byte is missing", |shelf, one, to| {
        shelf.offer(one, to, |bytes| bytes.truncate(bytes.len() - 1));
    }),
    ("next to nothing is left of it", |shelf, one, to| {
        shelf.offer(one, to, |bytes| bytes.truncate(10));
    }),
    ("a bit of its manifest is flipped", |shelf, one, to| {
        shelf.offer(one, to, |bytes| bytes[9] ^= 1);
    }),
    ("a bit of its frames is flipped", |shelf, one, to| {
        shelf.offer(one, to, |bytes| {
            let at = bytes.len() / 2;
            bytes[at] ^= 0x10;
        });
    }),
    ("a bit of its index is flipped", |shelf, one, to| {
        shelf.offer(one, to, |bytes| {
            let at = bytes.len() - 100;
            bytes[at] ^= 0x10;
        });
    }),
    ("it is not there", |shelf, one, to| {
        let delta = shelf.offer(one, to, |_| {}).delta;
        shelf.deltas.remove(&delta);
    }),
    ("it is longer than was told", |shelf, one, to| {
        shelf.offer(one, to, |_| {}).bytes -= 7
    }),
    ("it is shorter than was told", |shelf, one, to| {
        shelf.offer(one, to, |_| {}).bytes += 7
    }),
    ("it is as long as no disk", |shelf, one, to| {
        shelf.offer(one, to, |_| {}).bytes = u64::MAX
    }),
    ("it leads elsewhere", |shelf, one, to| {
        let other = shelf.publish(99, &static_spec(), &[("index.html", b"other")]);
        shelf.offer(one, other, |_| {}).target = to.id;
    }),
    ("it comes from elsewhere", |shelf, one, to| {
        let other = shelf.publish(99, &static_spec(), &[("index.html", b"other")]);
        shelf.offer(other, to, |_| {}).base = one.id;
    }),
    ("others' bytes lie under its name", |shelf, one, to| {
        let delta = shelf.offer(one, to, |_| {}).delta;
        shelf.deltas.insert(delta, noise(7, 5_000));
        assert_ne!(delta, DeltaDigest::of(&noise(7, 5_000)));
    }),
];

#[test]
fn whatever_is_wrong_with_a_delta_the_release_comes_whole() {
    let store = Store::start();
    let one = publish(&store, 1);
    let mut host = Host::new(&store);
    host.start();
    go(&store, 1, one);
    for (number, (lie, spoil)) in (2..).zip(LIES) {
        let target = publish(&store, number);
        spoil(&mut store.inner.shelf.lock().unwrap(), one, target);
        // Back to 1 first: from the others, which lie here as well, no delta leads on.
        let epoch = number * 2;
        go(&store, epoch, one);
        let before = store.inner.delta_transfers.load(Ordering::Relaxed);
        let update = go(&store, epoch + 1, target).update;
        assert_eq!(update.delta_from, None, "{lie}");
        assert!(
            store.inner.delta_transfers.load(Ordering::Relaxed) > before,
            "{lie}: nobody looked at it"
        );
        check(&host, number);
        assert!(host.log().contains("delta"), "{lie}: nothing was told");
    }
}
