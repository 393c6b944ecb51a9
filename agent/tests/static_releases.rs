//! Static releases on one host: fetched, staged, switched and taken back by a real agent, from a store on a real port.

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
use fleet::release::{noise, site, static_spec};
use fleet::store::{Store, web};
use fleet::until;
use ship_model::release::Target;
use ship_model::report::AppReport;

fn runs(target: Target) -> impl Fn(&AppReport) -> bool {
    move |app| app.running == Some(target) && app.healthy
}

fn http_get(url: &str) -> (u16, Vec<u8>) {
    use std::io::{Read, Write};
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, answer[end + 4..].to_vec())
}

/// A host that runs release 2 after release 1.
fn two_releases() -> (Store, Host, Target, Target) {
    let store = Store::start();
    let (one, two) = (store.publish(1), store.publish(2));
    let mut host = Host::new(&store);
    host.start();
    store.desire(vec![web(1, Some(one), &[one])]);
    store.wait("release 1", runs(one));
    store.desire(vec![web(2, Some(two), &[one, two])]);
    store.wait("release 2", |app| {
        runs(two)(app) && app.assets.len() == 2 && app.previous == Some(one)
    });
    (store, host, one, two)
}

#[test]
fn a_release_travels_and_comes_back() {
    let (store, host, one, two) = two_releases();
    let report = store.wait("the figures", |app| app.update.fetched_bytes > 0);
    assert_eq!(report.previous, Some(one));
    assert_eq!((report.epoch.0, report.deploy.0), (2, 20));
    // What release 1 had already was not fetched again.
    assert!(report.update.fetched_bytes < 450_000, "{report:?}");
    assert!(host.page().unwrap().ends_with("v2"));
    for (path, content) in site(2) {
        assert_eq!(std::fs::read(host.app("current").join(path)).unwrap(), content);
    }

    // Both versions' assets are served, the mutable one from what runs.
    let url = store.inner.report.borrow().asset_url.clone().unwrap();
    for version in [1, 2] {
        let (path, content) = &site(version)[1];
        assert_eq!(http_get(&format!("{url}/{path}")), (200, content.clone()));
        assert_eq!(std::fs::read(host.app("assets").join(path)).unwrap(), *content);
    }
    assert_eq!(
        http_get(&format!("{url}/assets/logo.txt")),
        (200, b"logo of 2".to_vec())
    );
    assert_eq!(http_get(&format!("{url}/assets/none.js")).0, 404);

    // The environment takes it back.
    store.desire(vec![web(3, Some(one), &[one, two])]);
    store.wait("release 1 again", runs(one));
    assert!(host.page().unwrap().ends_with("v1"));
    assert!(host.log().lines().all(|line| {
        ["app=", "host=h1", "pid=", "release=", "deploy="]
            .iter()
            .all(|f| line.contains(f))
    }));
}

#[test]
fn the_fence_refuses_what_is_older_or_different() {
    let (store, mut host, one, two) = two_releases();
    let look = |store: &Store, host: &Host, words: &str| {
        until(words, || host.log().contains(words).then_some(()));
        let app = host.ask(&["status"])["apps"][0].clone();
        assert_eq!(
            (app["release"].as_u64(), app["epoch"].as_u64()),
            (Some(2), Some(2))
        );
        assert_eq!(store.wait("a report", |_| true).running, Some(two));
    };
    store.desire(vec![web(1, Some(one), &[one])]);
    look(&store, &host, "its epoch is older than one seen");
    store.desire(vec![web(2, Some(one), &[one])]);
    look(&store, &host, "its epoch was taken with other content");
    let mut elsewhere = web(9, Some(one), &[one]);
    elsewhere.env = "production".parse().unwrap();
    store.desire(vec![elsewhere]);
    look(&store, &host, "it is for another environment");
    // The fence outlives the agent.
    host.kill();
    store.desire(vec![web(1, Some(one), &[])]);
    std::fs::remove_file(host.path("agent.log")).unwrap();
    host.start();
    look(&store, &host, "its epoch is older than one seen");
}

#[test]
fn a_restart_goes_on_and_needs_no_store() {
    let (mut store, mut host, one, two) = two_releases();
    host.kill();
    store.die();
    assert!(host.page().unwrap().ends_with("v2"));
    host.start();
    host.wait_ready();
    let status = until("the app without a store, and why", || {
        let status = host.ask(&["status"]);
        (status["apps"][0]["release"] == 2 && status["store_error"] != "").then_some(status)
    });
    assert_eq!(status["store_connected"], false);
    // Somebody moved the link: what was desired last is brought about again.
    std::fs::remove_file(host.app("current")).unwrap();
    until("the link again", || {
        host.page().filter(|page| page.ends_with("v2"))
    });

    // The word on the host, with the store dead.
    let report = host.ask(&["revert", "web", "-m", "500s"]);
    assert_eq!(
        (report["release"].as_u64(), report["held"]["reason"].as_str()),
        (Some(1), Some("500s"))
    );
    assert!(host.page().unwrap().ends_with("v1"));
    // The store learns of it, and cannot undo it without a newer epoch.
    store.listen();
    let held = store.wait("the hold", |app| app.held.is_some());
    assert_eq!((held.running, held.held.unwrap().from), (Some(one), Some(two)));
    store.desire(vec![web(2, Some(two), &[one, two])]);
    store.wait("still held", |app| app.held.is_some() && app.running == Some(one));
    let three = store.publish(3);
    store.desire(vec![web(3, Some(three), &[one, two, three])]);
    let report = store.wait("release 3", runs(three));
    assert_eq!(report.held, None);
    assert!(host.stop().success());
}

#[test]
fn a_revert_works_with_the_agent_dead() {
    let (store, mut host, one, two) = two_releases();
    host.kill();
    // A damaged release is refused, by name, unless that is what is wanted.
    let victim = host.app("releases").join(one.folder()).join("only.bin");
    let sound = std::fs::read(&victim).unwrap();
    std::fs::remove_file(&victim).ok();
    let tree = victim.parent().unwrap();
    make_writable(tree);
    std::fs::remove_file(&victim).ok();
    let said = host.say(&["revert", "web"]);
    assert_eq!(said.status.code(), Some(4), "{said:?}");
    assert!(
        String::from_utf8_lossy(&said.stderr).contains("only.bin"),
        "{said:?}"
    );
    assert!(host.page().unwrap().ends_with("v2"));
    assert!(!host.say(&["verify", "web"]).status.success());
    let report = host.ask(&["revert", "web", "--force"]);
    assert_eq!(report["release"], 1);
    std::fs::write(&victim, sound).unwrap();
    // Once more: nothing older lies here.
    let said = host.say(&["revert", "web"]);
    assert_eq!(said.status.code(), Some(4), "{said:?}");
    assert!(
        String::from_utf8_lossy(&said.stderr).contains("nothing to revert to"),
        "{said:?}"
    );
    // The agent that comes back keeps to it and tells.
    host.start();
    let report = store.wait("the hold", |app| app.held.is_some());
    assert_eq!((report.running, report.epoch.0), (Some(one), 2));
    assert_eq!(report.held.unwrap().from, Some(two));
}

/// A file over 8 MiB of which a few segments are new: the others are copied from the release that lies here. A host of the class
/// `assets` puts it together from both bundles.
#[test]
fn a_large_file_is_made_of_what_lies_here_and_a_few_segments() {
    let store = Store::start();
    let large = noise(5, 20 << 20);
    let grown = [&large[..300_000], b"inserted", &large[300_000..]].concat();
    let publish = |number, content: &[u8]| {
        let asset = format!("assets/film.{number:08x}{number:08x}.bin");
        let files = [
            (asset.as_str(), content),
            ("assets/logo.txt", b"logo"),
            ("index.html", b"page"),
        ];
        let mut shelf = store.inner.shelf.lock().unwrap();
        shelf.publish(number, &static_spec(), &files)
    };
    let (one, two) = (publish(1, &large), publish(2, &grown));
    let mut host = Host::new(&store);
    host.start();
    store.desire(vec![web(1, Some(one), &[one])]);
    store.wait("release 1", runs(one));
    store.desire(vec![web(2, Some(two), &[one, two])]);
    let report = store.wait("release 2", |app| runs(two)(app) && app.assets.len() == 2);
    assert!(report.update.fetched_bytes < 6 << 20, "{report:?}");
    let at = host.app("current/assets/film.0000000200000002.bin");
    assert!(std::fs::read(at).unwrap() == grown);
    drop(host);
    store.forget_report();
    let mut shelf_only = Host::with(&store, "[\"assets\"]", tempfile::tempdir().unwrap());
    shelf_only.start();
    store.desire(vec![web(3, None, &[one, two])]);
    store.wait("the assets", |app| app.assets.len() == 2);
    for (name, content) in [
        ("film.0000000100000001.bin", &large),
        ("film.0000000200000002.bin", &grown),
    ] {
        assert!(&std::fs::read(shelf_only.app("assets/assets").join(name)).unwrap() == content);
    }
}

fn make_writable(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn nothing_to_revert_to_and_unknown_words() {
    let store = Store::start();
    let one = store.publish(1);
    let mut host = Host::new(&store);
    host.start();
    store.desire(vec![web(1, Some(one), &[one])]);
    store.wait("release 1", runs(one));
    for (words, code, text) in [
        (&["revert", "web"][..], 4, "nothing to revert to"),
        (&["revert", "web@1"], 4, "runs already"),
        (&["revert", "web@7"], 1, "does not lie on this host"),
        (&["revert", "shop"], 1, "not on this host"),
        (&["revert", "455"], 2, "name the app"),
        (&["revert", "Web"], 2, "Web"),
        (&["logs", "../x"], 2, "../x"),
    ] {
        let said = host.say(words);
        assert_eq!(said.status.code(), Some(code), "{words:?}: {said:?}");
        assert!(
            String::from_utf8_lossy(&said.stderr).contains(text),
            "{words:?}: {said:?}"
        );
    }
    let verified = host.ask(&["verify", "--full"]);
    assert_eq!(verified["releases"][0]["damage"].as_array().unwrap().len(), 0);
    // What an interpreter left in the tree is told, and is no damage.
    let tree = host.app("releases").join(one.folder());
    make_writable(&tree);
    std::fs::create_dir(tree.join("__pycache__")).unwrap();
    let verified_again = host.ask(&["verify"]);
    let line = &verified_again["releases"][0];
    assert_eq!(line["damage"].as_array().unwrap().len(), 0, "{line}");
    assert!(
        line["extra"][0].as_str().unwrap().contains("__pycache__"),
        "{line}"
    );
    assert!(verified["releases"][0]["bytes_read"].as_u64().unwrap() > 700_000);
    // A second agent on this host is refused with the first one's pid.
    let second = host.say(&["run"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("runs on this host's state already: process "));
    // A first deploy is taken back: nothing runs.
    store.desire(vec![web(2, None, &[])]);
    store.wait("nothing", |app| app.running.is_none() && app.epoch.0 == 2);
    assert!(host.page().is_none());
}

#[test]
fn bytes_that_are_not_what_was_published_are_never_switched_to() {
    let (store, host, one, two) = two_releases();
    let three = store.publish(3);
    store.inner.shelf.lock().unwrap().damage_bundles();
    store.desire(vec![web(3, Some(three), &[one, two, three])]);
    let report = store.wait("the failure", |app| {
        app.failure.as_ref().is_some_and(|failure| !failure.transient)
    });
    let failure = report.failure.unwrap();
    assert_eq!(
        (failure.release, failure.step.as_str(), failure.epoch.0),
        (three, "stage", 3)
    );
    assert_eq!(report.running, Some(two));
    // It is not tried again, and nothing of it lies here.
    let transfers = store.inner.transfers.load(Ordering::Relaxed);
    store.wait("another report", |app| app.failure.is_some());
    assert_eq!(store.inner.transfers.load(Ordering::Relaxed), transfers);
    assert!(!host.app("releases").join(three.folder()).exists());
    assert!(host.page().unwrap().ends_with("v2"));
    // A manifest with other bytes than its id says.
    let four = store.publish(4);
    if let Some(manifest) = store.inner.shelf.lock().unwrap().manifests.get_mut(&four.id) {
        manifest[40] ^= 1;
    }
    store.desire(vec![web(4, Some(four), &[])]);
    let report = store.wait("the manifest's failure", |app| {
        app.failure
            .as_ref()
            .is_some_and(|failure| failure.release == four)
    });
    assert!(
        report
            .failure
            .unwrap()
            .reason
            .contains("is not what was published")
    );
    assert!(host.page().unwrap().ends_with("v2"));
}

#[test]
fn a_cut_line_and_a_sick_store_only_take_longer() {
    let store = Store::start();
    let one = store.publish(1);
    let mut host = Host::new(&store);
    store.inner.sick.store(true, Ordering::Relaxed);
    host.start();
    until("the trouble is told", || {
        host.log().contains("no session with the store").then_some(())
    });
    // Every transfer breaks after 100,000 bytes: it goes on where it broke.
    store.inner.cut_after.store(100_000, Ordering::Relaxed);
    store.inner.sick.store(false, Ordering::Relaxed);
    store.desire(vec![web(1, Some(one), &[one])]);
    store.wait("release 1", runs(one));
    assert!(store.inner.transfers.load(Ordering::Relaxed) > 3);
    // Sick while it stages: told as transient, and done when the store is well.
    let two = store.publish(2);
    store.desire(vec![web(2, Some(two), &[one, two])]);
    store.inner.sick.store(true, Ordering::Relaxed);
    store.wait("a transient failure or the release", |app| {
        runs(two)(app) || app.failure.as_ref().is_some_and(|failure| failure.transient)
    });
    store.inner.sick.store(false, Ordering::Relaxed);
    let report = store.wait("release 2", runs(two));
    assert_eq!(report.failure, None);
}

#[test]
fn an_asset_host_holds_assets_and_nothing_else() {
    let store = Store::start();
    let (one, two) = (store.publish(1), store.publish(2));
    let mut host = Host::with(&store, "[\"assets\"]", tempfile::tempdir().unwrap());
    let mut wanted = web(1, Some(two), &[one, two]);
    wanted.runs_app = false;
    wanted.stage = Vec::new();
    store.desire(vec![wanted]);
    host.start();
    let report = store.wait("both releases' assets", |app| app.assets == [one, two]);
    assert_eq!((report.running, report.staged.len()), (None, 0));
    let url = store.inner.report.borrow().asset_url.clone().unwrap();
    for version in [1, 2] {
        let (path, content) = &site(version)[1];
        assert_eq!(http_get(&format!("{url}/{path}")), (200, content.clone()));
    }
    assert!(std::fs::read_dir(host.app("releases")).unwrap().next().is_none());
    // The same port after a restart, and the assets at once, with the store dead.
    let mut store = store;
    store.die();
    assert!(host.stop().success());
    host.start();
    host.wait_ready();
    let (path, content) = &site(1)[1];
    until("the union again", || {
        (http_get(&format!("{url}/{path}")) == (200, content.clone())).then_some(())
    });
}

#[test]
fn a_full_disk_refuses_before_anything_is_switched() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
        .arg(folder.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED a_full_disk_refuses_before_anything_is_switched: a small file system needs root");
        return;
    }
    let unmount = Unmount(folder.path().to_owned());
    let store = Store::start();
    let one = store.publish(1);
    let mut host = Host::with(&store, "[\"web\"]", folder);
    host.start();
    store.desire(vec![web(1, Some(one), &[])]);
    store.wait("release 1", runs(one));
    let large = noise(9, 9 << 20);
    let mut shelf = store.inner.shelf.lock().unwrap();
    let two = shelf.publish(2, &static_spec(), &[("index.html", b"v2"), ("large", &large)]);
    drop(shelf);
    store.desire(vec![web(2, Some(two), &[])]);
    let report = store.wait("the failure", |app| app.failure.is_some());
    let failure = report.failure.unwrap();
    assert!(failure.reason.contains("not enough space"), "{failure:?}");
    assert_eq!((report.running, failure.transient), (Some(one), false));
    assert!(host.page().unwrap().ends_with("v1"));
    // Filled to the last byte by somebody else: the way out still works, with the record it has.
    host.kill();
    let page = host.page();
    drop(host);
    drop(unmount);
    assert!(page.is_some());
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status()
            .ok();
    }
}
