//! A disk that rots, a bundle that is wrong, a fetch that fails half-way: told by name, mended, and not paid for twice.

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

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use fleet::agent::Host;
use fleet::release::{noise, static_spec};
use fleet::store::{Store, web};
use fleet::until;
use ship_model::release::Target;
use ship_model::report::AppReport;
use ship_proto::v1::Wanted;
use ship_proto::v1::give_chunk::What;

fn runs(target: Target) -> impl Fn(&AppReport) -> bool {
    move |app| app.running == Some(target) && app.healthy
}

/// Flips a bit of a staged file and sets its mtime back.
fn rot(path: &std::path::Path) {
    let before = std::fs::metadata(path).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[100] ^= 1;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    drop(file);
    std::fs::set_permissions(path, before.permissions()).unwrap();
}

#[test]
fn rot_is_found_told_refused_and_mended() {
    let store = Store::start();
    let (one, two) = (store.publish(1), store.publish(2));
    let mut host = Host::new(&store);
    let mut config = std::fs::File::options()
        .append(true)
        .open(host.path("agent.toml"))
        .unwrap();
    config.write_all(b"[scrub]\nevery_seconds = 1\n").unwrap();
    host.start();
    store.desire(vec![web(1, Some(one), &[one])]);
    store.wait("release 1", runs(one));
    store.desire(vec![web(2, Some(two), &[one, two])]);
    store.wait("release 2", |app| {
        runs(two)(app) && app.previous == Some(one) && app.assets.len() == 2
    });

    // Nobody can mend it while the store is sick. Both releases have the file; where it is one inode, both turn red by one flip.
    store.inner.sick.store(true, Ordering::Relaxed);
    let files = [one, two].map(|release| host.app("releases").join(release.folder()).join("same.bin"));
    let inode =
        |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    rot(&files[0]);
    if inode(&files[0]) != inode(&files[1]) {
        rot(&files[1]);
    }
    let red = store.wait("both releases red", |app| app.damaged.len() == 2);
    assert!(
        red.damaged
            .iter()
            .all(|damaged| damaged.reason.contains("same.bin")),
        "{red:?}"
    );
    assert_eq!(
        (red.running, red.previous, red.staged.len()),
        (Some(two), None, 0)
    );
    let said = host.say(&["revert", "web"]);
    assert_eq!(said.status.code(), Some(4), "{said:?}");
    assert!(
        String::from_utf8_lossy(&said.stderr).contains("same.bin"),
        "{said:?}"
    );
    assert_eq!(host.ask(&["status"])["apps"][0]["damaged"][0]["release"], 1);

    // A restart forgets nothing.
    host.kill();
    store.forget_report();
    host.start();
    store.inner.sick.store(false, Ordering::Relaxed);
    let whole = store.wait("both releases whole", |app| {
        app.damaged.is_empty() && app.staged.len() == 2 && app.previous == Some(one)
    });
    assert_eq!((whole.running, whole.failure), (Some(two), None));
    for file in files {
        assert_eq!(std::fs::read(&file).unwrap(), noise(77, 400_000));
    }
    assert_eq!(host.ask(&["revert", "web"])["release"], 1);
    assert!(host.stop().success());
}

/// A release of `count` files of a MiB each, that do not compress.
fn large(count: u64) -> Vec<(String, Vec<u8>)> {
    (0..count)
        .map(|number| (format!("f{number:02}"), noise(1000 + number, 1 << 20)))
        .collect()
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files
        .iter()
        .map(|(path, bytes)| (path.as_str(), &bytes[..]))
        .collect()
}

/// The site's asset root must not be empty.
fn with_assets(mut files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    files.push(("assets/logo.txt".to_owned(), b"logo".to_vec()));
    files
}

/// Flips a bit near the end of the frames of the only bundle; the same again mends it.
fn flip(store: &Store) {
    let mut shelf = store.inner.shelf.lock().unwrap();
    let bundle = shelf.bundles.values_mut().next().unwrap();
    let at = bundle.len() * 3 / 4;
    bundle[at] ^= 0x10;
}

#[test]
fn what_was_fetched_whole_is_not_fetched_again() {
    let store = Store::start();
    let files = with_assets(large(16));
    let one = store
        .inner
        .shelf
        .lock()
        .unwrap()
        .publish(1, &static_spec(), &borrowed(&files));
    flip(&store);
    let mut host = Host::new(&store);
    host.start();
    store.desire(vec![web(1, Some(one), &[one])]);
    let failed = store.wait("the failure", |app| {
        app.failure.as_ref().is_some_and(|failure| !failure.transient)
    });
    let reason = failed.failure.unwrap().reason;
    let bundle = store
        .inner
        .shelf
        .lock()
        .unwrap()
        .bundles
        .keys()
        .next()
        .copied()
        .unwrap();
    assert!(reason.contains(&bundle.to_string()), "{reason}");
    flip(&store);
    // The next try may come after a restart.
    host.kill();
    host.start();
    store.desire(vec![web(2, Some(one), &[one])]);
    let report = store.wait("release 1", runs(one));
    let fetched = report.update.fetched_bytes;
    assert!(
        (1 << 20..12 << 20).contains(&fetched),
        "{fetched} bytes were fetched"
    );
    for (path, content) in &files {
        assert_eq!(std::fs::read(host.app("current").join(path)).unwrap(), *content);
    }
    // What was fetched for nothing goes when nobody wants it any more.
    flip(&store);
    let more = with_assets(large(20));
    let two = store
        .inner
        .shelf
        .lock()
        .unwrap()
        .publish(2, &static_spec(), &borrowed(&more));
    for bundle in store.inner.shelf.lock().unwrap().bundles.values_mut() {
        let at = bundle.len() * 3 / 4;
        bundle[at] ^= 0x10;
    }
    store.desire(vec![web(3, Some(two), &[one, two])]);
    store.wait("the second failure", |app| {
        app.failure
            .as_ref()
            .is_some_and(|failure| failure.release == two && !failure.transient)
    });
    let left = || {
        let names = std::fs::read_dir(host.app("releases")).unwrap();
        let mut names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
        names.any(|name| name.starts_with(".staging") || name.starts_with(".kept"))
    };
    store.desire(vec![web(4, Some(one), &[one])]);
    store.wait("release 1 is enough", |app| app.epoch.0 == 4);
    until("nothing is left", || (!left()).then_some(()));
}

#[test]
fn a_wrong_bundle_is_gone_round_where_another_has_it() {
    let store = Store::start();
    let files = with_assets(large(6));
    let one = store
        .inner
        .shelf
        .lock()
        .unwrap()
        .publish(1, &static_spec(), &borrowed(&files));
    let wrong = store
        .inner
        .shelf
        .lock()
        .unwrap()
        .bundles
        .keys()
        .next()
        .copied()
        .unwrap();
    flip(&store);
    let mut more = files.clone();
    more.push(("another".to_owned(), b"makes it another bundle".to_vec()));
    store.inner.shelf.lock().unwrap().pack_elsewhere(&borrowed(&more));
    let mut host = Host::new(&store);
    host.start();
    store.desire(vec![web(1, Some(one), &[one])]);
    let report = store.wait("release 1", runs(one));
    assert_eq!(report.failure, None);
    assert!(
        host.log().contains(&wrong.to_string()),
        "the wrong bundle is told by name"
    );
    for (path, content) in &files {
        assert_eq!(std::fs::read(host.app("current").join(path)).unwrap(), *content);
    }
}

#[test]
fn a_bundle_that_is_let_go_in_the_middle_of_a_fetch_costs_a_question() {
    let store = Store::start();
    let files = with_assets(large(12));
    let mut more = files.clone();
    more.push(("another".to_owned(), b"makes it another bundle".to_vec()));
    let one = {
        let mut shelf = store.inner.shelf.lock().unwrap();
        let one = shelf.publish(1, &static_spec(), &borrowed(&files));
        shelf.pack_elsewhere(&borrowed(&more));
        one
    };
    let first = store.inner.shelf.lock().unwrap().bundles.len();
    // The index was read by then.
    store.inner.goes_at.store(1, Ordering::Relaxed);
    let mut host = Host::new(&store);
    host.start();
    store.desire(vec![web(1, Some(one), &[one])]);
    let report = store.wait("release 1", runs(one));
    assert_eq!(report.failure, None);
    assert_eq!(
        store.inner.shelf.lock().unwrap().bundles.len(),
        first - 1,
        "one went"
    );
    assert!(host.log().contains("a bundle is gone"), "it is told");
    for (path, content) in &files {
        assert_eq!(std::fs::read(host.app("current").join(path)).unwrap(), *content);
    }
}

#[test]
fn a_store_that_lost_content_gets_it_back_but_nothing_that_rotted_here() {
    let store = Store::start();
    let one = store.publish(1);
    let mut host = Host::new(&store);
    host.start();
    store.desire(vec![web(1, Some(one), &[one])]);
    store.wait("release 1", runs(one));
    rot(&host.app("releases").join(one.folder()).join("only.bin"));
    let (whole, rotten) = (noise(77, 400_000), noise(1, 300_000));
    let digest = |bytes: &[u8]| blake3::hash(bytes).as_bytes().to_vec();
    store.inner.wanted.send_replace(Some(Wanted {
        number: 5,
        blobs: vec![
            digest(&whole),
            digest(&rotten),
            digest(b"nobody has this"),
            vec![1],
        ],
        manifests: vec![one.id.as_bytes().to_vec(), vec![3; 32]],
    }));
    let given = until("the host's answer", || {
        let given = store.inner.given.borrow().clone();
        (!given.is_empty()).then_some(given)
    });
    assert!(given.iter().all(|chunk| chunk.number == 5));
    assert_eq!(
        (&given[0].what, given[0].data.len()),
        (&None, 0),
        "it answers at once"
    );
    let mut things: Vec<(What, Vec<u8>)> = Vec::new();
    for chunk in &given[1..] {
        match &chunk.what {
            Some(what) => things.push((what.clone(), chunk.data.to_vec())),
            None => things.last_mut().unwrap().1.extend_from_slice(&chunk.data),
        }
    }
    assert_eq!(
        things.len(),
        2,
        "{:?}",
        things.iter().map(|thing| &thing.0).collect::<Vec<_>>()
    );
    assert_eq!(things[0].0, What::Manifest(one.id.as_bytes().to_vec()));
    assert_eq!(digest(&things[0].1), one.id.as_bytes());
    assert_eq!(things[1].0, What::Blob(digest(&whole)));
    assert!(things[1].1 == whole);
}
