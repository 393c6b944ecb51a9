//! Assets in a whole fleet: why they are kept, who was asked for them, and what happens when a host has lost one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim, http, wait};

/// The urls of the fingerprinted assets of a release.
fn assets(fleet: &Fleet, release: &str) -> Vec<String> {
    let listed = fleet.shipctl(&["asset", "ls", release, "-o", "json"]).json();
    let assets = listed["assets"].as_array().unwrap().iter();
    let found = assets.filter(|asset| asset["fingerprinted"] == true);
    found
        .map(|asset| asset["url"].as_str().unwrap().to_owned())
        .collect()
}

fn some_asset(fleet: &Fleet, release: &str) -> String {
    assets(fleet, release).remove(0)
}

/// One that `release` has and `other` has not.
fn own_asset(fleet: &Fleet, release: &str, other: &str) -> String {
    let others = assets(fleet, other);
    let mut own = assets(fleet, release).into_iter();
    own.find(|url| !others.contains(url)).unwrap()
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
}

fn edit_store(fleet: &Fleet, change: impl FnOnce(&mut toml::Table)) {
    let path = fleet.dir().join("store/store.toml");
    let mut table: toml::Table = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut table);
    std::fs::write(path, toml::to_string(&table).unwrap()).unwrap();
    fleet.kill(Victim::Store);
    fleet.whole();
}

/// What the store itself answers.
fn of_store(fleet: &Fleet, path: &str) -> http::Answer {
    let addresses = std::fs::read(fleet.dir().join("store/run/addresses.json")).unwrap();
    let addresses: serde_json::Value = serde_json::from_slice(&addresses).unwrap();
    let assets = addresses["assets"].as_str().unwrap();
    http::get_url(&format!("http://{assets}{path}")).unwrap()
}

/// Files of an asset that stand, on the two hosts and in a folder that a push goes to.
fn standing(fleet: &Fleet, pushed: &Path, url: &str) -> usize {
    let mut files = on_hosts(fleet, url);
    files.push(pushed.join(&url[1..]));
    files.iter().filter(|file| file.exists()).count()
}

#[test]
fn what_expired_is_removed_everywhere_and_comes_back_with_a_release_that_names_it() {
    let fleet = Fleet::start(2);
    let pushed = fleet.beside("cdn");
    edit_store(&fleet, |settings| {
        let times = [
            ("min_age", "1s"),
            ("idle", "1s"),
            ("grace", "1s"),
            ("uncounted", "ignore"),
        ];
        let times = times.map(|(key, time)| (key.to_owned(), time.into()));
        settings.insert("retention".to_owned(), toml::Table::from_iter(times).into());
        let push = [
            ("name", "cdn"),
            ("env", "dev"),
            ("folder", pushed.to_str().unwrap()),
        ];
        let push = push.map(|(key, value)| (key.to_owned(), value.into()));
        let push: toml::Value = toml::Table::from_iter(push).into();
        settings.insert("push".to_owned(), vec![push].into());
    });
    for release in 1..=5 {
        let tree = fleet.sample(release);
        let spec = tree.join("ship.toml");
        let text = std::fs::read_to_string(&spec).unwrap();
        std::fs::write(&spec, format!("{text}\n[retention]\nkeep = 1\n")).unwrap();
        fleet.publish_tree(&tree);
        fleet.shipctl(&["promote", APP]).expect(0);
    }
    let own: Vec<String> = (1..=4)
        .map(|release| {
            let next = format!("web@{}", release + 1);
            own_asset(&fleet, &format!("web@{release}"), &next)
        })
        .collect();
    let (url, now) = (own[0].clone(), own_asset(&fleet, "web@5", "web@4"));
    let expired = || {
        let listed = fleet.shipctl(&["asset", "ls", APP, "--expired", "-o", "json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).ok()?;
        let found = listed["assets"].as_array()?.iter();
        let urls: Vec<String> = found
            .filter_map(|one| Some(one["url"].as_str()?.to_owned()))
            .collect();
        urls.contains(&url).then_some(urls)
    };
    // Hosts have the release until they have been at rest for a minute.
    let patience = std::time::Duration::from_secs(300);
    let gone = wait::until_within(patience, "the first release's asset to expire", expired);
    assert_eq!(standing(&fleet, &pushed, &url), 3);
    let swept = fleet.shipctl(&["asset", "gc", APP, "-o", "json"]).json();
    assert!(swept["removed"].as_u64().unwrap() >= 1, "{swept} of {gone:?}");
    // What hosts are slow to do the command does not wait for.
    wait::until("every host and the folder to follow", || {
        (standing(&fleet, &pushed, &url) == 0).then_some(())
    });
    // What runs, and what a revert goes to.
    for kept in [&now, &own[3]] {
        assert_eq!(standing(&fleet, &pushed, kept), 3, "{kept}");
        for (base, status, _) in ask_all(&fleet, kept) {
            assert_eq!(status, 200, "{base}{kept}");
        }
    }
    for (base, status, _) in ask_all(&fleet, &url) {
        assert_eq!(status, 404, "{base}{url}");
    }
    // Nor does a push by hand bring it, unless its release is asked for.
    let by_hand = fleet.beside("by-hand");
    let push = |release: &str| {
        let folder = by_hand.to_str().unwrap();
        fleet
            .shipctl(&["asset", "push", release, "--to", folder])
            .expect(0);
        by_hand.join(&url[1..]).exists()
    };
    assert!(!push(APP), "it has expired");
    assert!(by_hand.join(&now[1..]).exists());
    assert!(push("web@1"), "asked for by its number");
    let why = fleet.shipctl(&["asset", "why", &url, "-a", APP]).expect(0);
    assert!(why.stdout.contains("expired and removed"), "{why}");
    let figures = of_store(&fleet, "/metrics").body;
    let figures = String::from_utf8(figures).unwrap();
    assert!(!figures.contains("ship_asset_expired_total 0"), "{figures}");
    let said = fleet.shipctl(&["events", "-o", "json"]).expect(0);
    assert!(said.stdout.contains("\"sweep\""), "{said}");
    // Agents that start anew, and a host that was away, bring nothing of it back.
    fleet.kill(Victim::Agent("h1"));
    fleet.whole();
    // Back to what is retained, and then forward to the one that was given up.
    fleet.shipctl(&["revert", APP]).expect(0);
    assert_eq!(standing(&fleet, &pushed, &url), 0);
    assert_eq!(standing(&fleet, &pushed, &some_asset(&fleet, "web@4")), 3);
    fleet.shipctl(&["promote", "web@1"]).expect(0);
    assert_eq!(standing(&fleet, &pushed, &url), 3);
    for (base, status, _) in ask_all(&fleet, &url) {
        assert_eq!(status, 200, "{base}{url}");
    }
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
