//! Where a fleet's bytes come from: a real nginx as a mirror while the store has none to give, and many hosts that get a
//! release from each other.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use ship_tests::nginx::Nginx;
use ship_tests::{Fleet, bin, http, skipped, wait};

/// A static site whose only page is `len` bytes that do not compress.
fn site(fleet: &Fleet, version: u64, len: usize) -> PathBuf {
    let tree = fleet.beside(&format!("site-{version}"));
    let mut state = version.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut page = Vec::with_capacity(len + 8);
    while page.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        page.extend_from_slice(&state.to_le_bytes());
    }
    std::fs::write(tree.join("index.html"), page).unwrap();
    std::fs::write(tree.join("ship.toml"), "app = \"site\"\n").unwrap();
    tree
}

/// Publishes it; gives the bytes that went to the store.
fn publish(fleet: &Fleet, tree: &Path) -> u64 {
    let done = fleet.shipctl(&["publish", tree.to_str().unwrap(), "-o", "json"]);
    done.json()["stored_bytes"].as_u64().unwrap()
}

fn hosts(fleet: &Fleet) -> Vec<Value> {
    let hosts = fleet.shipctl(&["hosts", "-o", "json"]).json();
    hosts["hosts"].as_array().unwrap().clone()
}

fn mirror(fleet: &Fleet, out: &Path) -> String {
    let done = Command::new(bin("shipstore"))
        .args(["mirror", "--dir"])
        .arg(fleet.dir().join("store"))
        .arg("--out")
        .arg(out)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Removes every file below the folder, and leaves folders.
fn empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            empty(&path);
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
}

const PAGE: usize = 3 << 20;

#[test]
fn a_mirror_gives_what_the_store_cannot() {
    let mut fleet = Fleet::start(2);
    let one = site(&fleet, 1, PAGE);
    publish(&fleet, &one);
    fleet.shipctl(&["promote", "site"]).expect(0);
    let two = site(&fleet, 2, PAGE);
    publish(&fleet, &two);
    // Else it comes between two looks of the mirror, which has deltas too.
    wait::until("the delta to be made", || (fleet.deltas_made() > 0).then_some(()));
    let out = fleet.beside("mirror");
    let said = mirror(&fleet, &out);
    assert!(said.contains(", 0 were there"), "{said}");
    // What was broken off goes on; what is there stays.
    let bundles: Vec<_> = std::fs::read_dir(out.join("bundles")).unwrap().collect();
    assert_eq!(bundles.len(), 2);
    std::fs::remove_file(bundles[0].as_ref().unwrap().path()).unwrap();
    std::fs::write(out.join("bundles/.tmp-half"), "half").unwrap();
    let said = mirror(&fleet, &out);
    assert!(said.starts_with("1 files added"), "{said}");
    assert!(!out.join("bundles/.tmp-half").exists());
    assert!(mirror(&fleet, &out).starts_with("0 files added"));

    let servers = |front| {
        let out = out.display();
        format!(
            "    server {{\n        listen {front};\n        location /ship/ {{ alias {out}/; }}\n    }}\n"
        )
    };
    let Some(nginx) = Nginx::with(servers) else {
        return skipped("a_mirror_gives_what_the_store_cannot", "nginx is not installed");
    };
    fleet.stop();
    let settings = fleet.dir().join("store/store.toml");
    let mut text = std::fs::read_to_string(&settings).unwrap();
    text.push_str(&format!(
        "\n[[mirror]]\nurl = \"http://{}/ship\"\nenv = \"dev\"\n",
        nginx.front()
    ));
    std::fs::write(&settings, text).unwrap();
    fleet.up(2, &[]);
    // The store knows what there is, and has not a byte of it.
    for kind in ["bundle", "delta"] {
        empty(&fleet.dir().join("store/objects").join(kind));
    }
    fleet.shipctl(&["promote", "site@2"]).expect(0);
    let page = std::fs::read(two.join("index.html")).unwrap();
    for host in ["h1", "h2"] {
        assert!(std::fs::read(fleet.home(host, "site").join("current/index.html")).unwrap() == page);
    }
    for host in fleet.app("site")["hosts"].as_array().unwrap() {
        let from = &host["fetched_from"];
        assert!(from["mirrors"].as_u64().unwrap() as usize > PAGE, "{host:#}");
        assert!(from["store"].as_u64().unwrap() < 100_000, "{host:#}");
    }
    for host in hosts(&fleet) {
        assert!(
            host["fetched_from"]["mirrors"].as_u64().unwrap() as usize > PAGE,
            "{host:#}"
        );
        assert_eq!(host["source_faults"], Value::Array(Vec::new()));
    }
    // What lies on the hosts needs neither.
    drop(nginx);
    fleet.shipctl(&["promote", "site@1"]).expect(0);
    assert_eq!(fleet.running("site"), [Some(1), Some(1)]);
}

/// Bytes of bundles and deltas that the store has sent.
fn sent(fleet: &Fleet) -> u64 {
    let context = std::fs::read_to_string(fleet.context()).unwrap();
    let context: toml::Table = context.parse().unwrap();
    let url = format!("{}/metrics", context["assets"].as_str().unwrap());
    let page = http::get_url(&url).unwrap().text();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("ship_bundle_bytes_total "));
    line.unwrap_or_else(|| panic!("{page}")).parse().unwrap()
}

/// Every host's file gets a line more, and all start anew.
fn let_hosts_give(fleet: &mut Fleet, count: usize) {
    fleet.stop();
    for number in 1..=count {
        let path = fleet.dir().join(format!("hosts/h{number}/agent.toml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let own: toml::Table = text.parse().unwrap();
        let line = format!("peer_listen = \"{}:0\"\n", own["address"].as_str().unwrap());
        std::fs::write(&path, line + &text).unwrap();
    }
    fleet.up(count, &[]);
    wait::until("all hosts to give", || {
        let hosts = hosts(fleet);
        let giving = hosts.iter().filter(|host| host["peer_address"].is_string());
        (giving.count() == count).then_some(())
    });
    // With its next word each host hears of all others.
    let seen = || -> Vec<String> {
        let seen = |host: &Value| host["last_seen"].as_str().unwrap_or_default().to_owned();
        hosts(fleet).iter().map(seen).collect()
    };
    for _ in 0..2 {
        let before = seen();
        wait::until("a word of every host", || {
            let now = seen();
            let newer = now.iter().zip(&before).all(|(now, before)| now > before);
            newer.then_some(())
        });
    }
}

/// Eight hosts; fifty with `SHIP_TESTS_LONG=1`.
#[test]
fn a_release_leaves_the_store_a_few_times_however_many_hosts_want_it() {
    let long = std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1");
    let count = if long { 50 } else { 8 };
    let mut fleet = Fleet::start(count);
    let_hosts_give(&mut fleet, count);
    let tree = site(&fleet, 1, 8 << 20);
    let stored = publish(&fleet, &tree);
    let before = sent(&fleet);
    fleet.shipctl(&["promote", "site"]).expect(0);
    let left = sent(&fleet) - before;
    let page = std::fs::read(tree.join("index.html")).unwrap();
    for number in 1..=count {
        let home = fleet.home(&format!("h{number}"), "site");
        assert!(
            std::fs::read(home.join("current/index.html")).unwrap() == page,
            "h{number}"
        );
    }
    let hosts = hosts(&fleet);
    let sum = |key: &str| hosts.iter().map(|host| host[key].as_u64().unwrap()).sum::<u64>();
    let served = sum("served_to_peers");
    assert!(
        left >= stored && left <= 3 * stored,
        "{left} bytes left the store for a release of {stored}; hosts gave {served} to each other: {hosts:#?}"
    );
    assert!(served >= (count as u64 - 3) * stored, "{served}");
    let from_peers = hosts
        .iter()
        .map(|host| host["fetched_from"]["peers"].as_u64().unwrap());
    assert!(from_peers.sum::<u64>() >= (count as u64 - 3) * stored);
    assert!(
        hosts
            .iter()
            .all(|host| host["source_faults"] == Value::Array(Vec::new()))
    );
}
