//! Assets in a whole fleet: why they are kept, who was asked for them, and what happens when a host has lost one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::path::PathBuf;

use rustix::process::Signal;
use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim, http, wait};

/// The url of a fingerprinted asset of a release.
fn some_asset(fleet: &Fleet, release: &str) -> String {
    let listed = fleet.shipctl(&["asset", "ls", release, "-o", "json"]).json();
    let mut assets = listed["assets"].as_array().unwrap().iter();
    let found = assets.find(|asset| asset["fingerprinted"] == true).unwrap();
    found["url"].as_str().unwrap().to_owned()
}

fn on_hosts(fleet: &Fleet, url: &str) -> Vec<PathBuf> {
    let at = |host: &&str| fleet.home(host, APP).join("assets").join(&url[1..]);
    ["h1", "h2"].iter().map(at).collect()
}

/// What the fleet's hosts and store answer, and under which status.
fn ask_all(fleet: &Fleet, url: &str) -> Vec<(String, u16, Vec<u8>)> {
    let bases = fleet.asset_urls(APP);
    assert!(bases.len() >= 3, "two hosts and the store: {bases:?}");
    let ask = |base: String| {
        let answer = http::get_url(&format!("{base}{url}")).unwrap();
        (base, answer.status, answer.body)
    };
    bases.into_iter().map(ask).collect()
}

#[test]
fn a_lost_asset_is_had_from_the_store_and_every_reason_to_keep_it_is_told() {
    let fleet = Fleet::start(2);
    fleet.publish_sample(1);
    fleet.shipctl(&["promote", APP]).expect(0);
    let url = some_asset(&fleet, "web@1");
    let files = on_hosts(&fleet, &url);
    let bytes = std::fs::read(&files[0]).unwrap();
    for file in &files {
        std::fs::remove_file(file).unwrap();
    }
    for (base, status, body) in ask_all(&fleet, &url) {
        assert_eq!(status, 200, "{base}{url}: {}", String::from_utf8_lossy(&body));
        assert!(body == bytes, "{base}{url} has other bytes");
    }
    for file in &files {
        assert!(std::fs::read(file).unwrap() == bytes, "{}", file.display());
    }
    for (base, status, _) in ask_all(&fleet, "/assets/never-published.3f9a12bc77d01e55.js") {
        assert_eq!(status, 404, "{base}");
    }

    // A word of it comes with the heartbeats.
    let why = wait::until("a request to be told", || {
        let why = fleet
            .shipctl(&["asset", "why", &url, "-a", APP, "-o", "json"])
            .json();
        let told = why["asked_of"].as_str()?.starts_with("dev/");
        told.then_some(why)
    });
    assert_eq!(why["kept"], true);
    let reasons = why["reasons"].as_array().unwrap();
    let has = |kind: &str| reasons.iter().any(|reason| reason["kind"] == kind);
    assert!(has("reachable") && has("young") && has("requested"), "{why:#}");
    let stands = why["stands_on"].as_array().unwrap();
    assert!(stands.iter().any(|host| host == "dev/h1"), "{why:#}");
    let told = fleet.shipctl(&["asset", "why", &url, "-a", APP]).expect(0);
    assert!(told.stdout.contains("dev runs it"), "{told}");
    let listed = fleet.shipctl(&["asset", "gc", APP, "--dry-run"]).expect(0);
    assert!(listed.stdout.contains(&url), "{listed}");
    assert!(listed.stderr.contains("Nothing was removed"), "{listed}");
    let expired = fleet
        .shipctl(&["asset", "ls", APP, "--expired", "-o", "json"])
        .json();
    assert_eq!(expired["assets"].as_array().unwrap().len(), 0);
    fleet
        .shipctl(&["asset", "why", "/none.3f9a12bc.js", "-a", APP])
        .expect(1);
    // Without the word it is refused: this version removes nothing.
    fleet.shipctl(&["asset", "gc", APP]).expect(2);
}

#[test]
fn with_the_store_dead_what_is_lost_is_answered_so_that_no_cache_keeps_it() {
    let fleet = Fleet::start(2);
    fleet.publish_sample(1);
    fleet.shipctl(&["promote", APP]).expect(0);
    let url = some_asset(&fleet, "web@1");
    let bases = fleet.asset_urls(APP);
    let files = on_hosts(&fleet, &url);
    // Frozen, `up` does not start it again.
    fleet.freeze(true);
    fleet.signal(Victim::Store, Signal::KILL);
    wait::until("the store's end", || {
        let answers = bases
            .iter()
            .filter(|base| http::get_url(&format!("{base}/")).is_ok());
        (answers.count() == 2).then_some(())
    });
    for file in &files {
        std::fs::remove_file(file).unwrap();
    }
    let mut asked = 0;
    for base in bases {
        let Ok(answer) = http::get_url(&format!("{base}{url}")) else {
            // The store's own address.
            continue;
        };
        asked += 1;
        assert_eq!(answer.status, 503, "{base}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{base}");
        assert!(answer.header("retry-after").is_some(), "{base}");
    }
    assert_eq!(asked, 2, "both hosts answer");
    fleet.freeze(false);
}
