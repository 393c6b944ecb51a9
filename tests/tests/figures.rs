//! Figures for graphs in a whole fleet: what agents and the store tell of requests, releases and deploys.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, Write as _};

use ship_tests::sample::APP;
use ship_tests::{Fleet, http, wait};

/// What a page of figures says: lines by name and labels.
fn figures(url: &str) -> BTreeMap<String, u64> {
    let page = http::get_url(url).unwrap();
    assert_eq!(page.status, 200, "{url}");
    let kind = page.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = String::from_utf8(page.body.clone()).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// A host's own page, and the store's.
fn pages(fleet: &Fleet) -> [String; 2] {
    let host = std::fs::read_to_string(fleet.dir().join("hosts/h1/agent.toml")).unwrap();
    let key = "metrics_listen = \"";
    let line = host.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    let context = std::fs::read_to_string(fleet.context()).unwrap();
    let line_too = context
        .lines()
        .find_map(|line| line.strip_prefix("assets = \""))
        .unwrap();
    [
        format!("http://{}/metrics", line.trim_end_matches('"')),
        format!("{}/metrics", line_too.trim_end_matches('"')),
    ]
}

fn some_asset(fleet: &Fleet, release: &str) -> String {
    let listed = fleet.shipctl(&["asset", "ls", release, "-o", "json"]).json();
    let mut assets = listed["assets"].as_array().unwrap().iter();
    let found = assets.find(|asset| asset["fingerprinted"] == true).unwrap();
    found["url"].as_str().unwrap().to_owned()
}

/// Where the only host serves assets.
fn asset_base(fleet: &Fleet) -> String {
    let hosts = fleet.shipctl(&["hosts", "-o", "json"]).json();
    let base = hosts["hosts"][0]["asset_url"].as_str();
    base.unwrap_or_else(|| panic!("{hosts:#}"))
        .trim_end_matches('/')
        .to_owned()
}

#[test]
fn requests_and_misses_are_told_by_release_beside_the_marks_of_deploys() {
    let fleet = Fleet::start(1);
    let [own, stores] = pages(&fleet);
    fleet.publish_sample(1);
    fleet.shipctl(&["promote", APP]).expect(0);
    let (base, url) = (asset_base(&fleet), some_asset(&fleet, "web@1"));
    assert_eq!(http::get_url(&format!("{base}{url}")).unwrap().status, 200);
    fleet.publish_sample(2);
    fleet.shipctl(&["promote", APP]).expect(0);
    // The second release's pages name something that was never published.
    for _ in 0..3 {
        let bad = format!("{base}/static/typo.3f9a12bc77d01e55.js");
        assert_eq!(http::get_url(&bad).unwrap().status, 404);
    }
    let at = "env=\"dev\",host=\"h1\"";
    let asked = |release: u64, answer: &str| {
        format!(
            "ship_host_release_asset_requests_total{{{at},app=\"{APP}\",release=\"{release}\",answer=\"{answer}\"}}"
        )
    };
    let mark = format!("ship_host_switched_seconds{{{at},app=\"{APP}\",release=\"2\",deploy=\"2\"}}");
    for page in [own, stores] {
        // The store knows it with the next heartbeat.
        wait::until("the misses to be told", || {
            let said = figures(&page);
            let of = |name: &str| said.get(name).copied().unwrap_or(0);
            (of(&asked(2, "unknown")) == 3).then_some(())?;
            assert_eq!(of(&asked(1, "unknown")), 0, "{said:#?}");
            assert!(of(&asked(1, "found")) >= 1, "{said:#?}");
            assert_eq!(of(&format!("ship_host_asset_not_found_total{{{at}}}")), 3);
            assert_eq!(of(&format!("ship_host_asset_broken_total{{{at}}}")), 0);
            assert!(of(&format!("ship_host_fetched_bytes_total{{{at}}}")) > 0);
            assert!(of(&format!("ship_host_generations{{{at},app=\"{APP}\"}}")) >= 1);
            assert!(of(&mark) > 1_700_000_000, "{said:#?}");
            Some(())
        });
    }
    let public = http::get_url(&format!("{base}/metrics")).unwrap();
    assert_eq!(public.status, 404, "the public's port tells no figures");
}

#[test]
fn rot_is_told_by_status_and_mended_at_once() {
    let fleet = Fleet::start(1);
    fleet.publish_sample(1);
    fleet.shipctl(&["promote", APP]).expect(0);
    let (base, url) = (asset_base(&fleet), some_asset(&fleet, "web@1"));
    let place = fleet.home("h1", APP).join("assets").join(&url[1..]);
    let published = std::fs::read(&place).unwrap();
    // In the folder's own file alone: the release in use may share it, and is another matter.
    let other = place.with_extension("copy");
    std::fs::copy(&place, &other).unwrap();
    std::fs::rename(&other, &place).unwrap();
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&place);
    let file = file.as_mut().unwrap();
    let mut first = [0];
    file.read_exact(&mut first).unwrap();
    file.rewind().unwrap();
    file.write_all(&[first[0] ^ 1]).unwrap();

    let answer = http::get_url(&format!("{base}{url}")).unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body == published, "a rotten byte was served");
    let host = wait::until("status to tell that it was mended", || {
        let app = fleet.app(APP);
        let host = app["hosts"][0].clone();
        (host["asset_rot"]["mended"] == 1).then_some(host)
    });
    assert_eq!(host["asset_rot"]["found"], 1, "{host:#}");
    assert_eq!(host["asset_rot"]["last_url"], *url, "{host:#}");
    assert!(std::fs::read(&place).unwrap() == published);
    let said = fleet.shipctl(&["status"]).expect(0);
    assert!(
        said.stdout.contains("1 file of assets rotten, made anew"),
        "{said}"
    );
}

#[test]
fn status_tells_what_an_app_has_of_the_memory_and_a_plan_with_room_says_nothing() {
    let fleet = Fleet::start(1);
    fleet.publish_sample(1);
    fleet.shipctl(&["promote", APP]).expect(0);
    // With the heartbeat after the look after the switch.
    let memory = wait::until("status to tell of memory", || {
        let memory = fleet.app(APP)["hosts"][0]["memory"].clone();
        memory.is_object().then_some(memory)
    });
    let used = memory["used"].as_object().unwrap();
    assert!(!used.is_empty(), "{memory:#}");
    for bytes in used.values() {
        assert!(bytes.as_u64().unwrap() > 100_000, "{memory:#}");
    }
    assert!(memory["free"].as_u64().unwrap() > 1 << 20, "{memory:#}");
    fleet.publish_sample(2);
    let plan = fleet.shipctl(&["plan", APP, "-o", "json"]).json();
    let ways = plan["ways"].as_array().unwrap();
    assert!(!ways.is_empty(), "{plan:#}");
    assert!(
        ways.iter()
            .all(|way| way["tight"].is_null() && way["gap"].is_null()),
        "{plan:#}"
    );
}
