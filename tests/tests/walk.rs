//! The first walk through the house: static files are published, promoted, taken back, and found again
//! after everything was stopped and started.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::path::Path;

use ship_tests::{Fleet, http, shipctl};

const TOML: &str = r#"
app = "site"
[[assets]]
root = "public"
url = "/"
mutable = ["index.html"]
"#;

fn site(fleet: &Fleet, page: &str, script: (&str, &str)) -> String {
    let tree = fleet.beside("site");
    let _ = fs::remove_dir_all(tree.join("public"));
    fs::create_dir_all(tree.join("public/js")).unwrap();
    fs::write(tree.join("ship.toml"), TOML).unwrap();
    fs::write(tree.join("public/index.html"), page).unwrap();
    fs::write(tree.join("public/js").join(script.0), script.1).unwrap();
    tree.to_str().unwrap().to_owned()
}

fn page_on(fleet: &Fleet, host: &str) -> Option<String> {
    fs::read_to_string(fleet.home(host, "site").join("current/public/index.html")).ok()
}

const FIRST: (&str, &str) = ("app.3f9a12bc77d01e55.js", "first()");
const SECOND: (&str, &str) = ("app.77c1aa0099bbccdd.js", "second()");

#[test]
fn static_files_travel_there_and_back_and_survive_a_restart() {
    let mut fleet = Fleet::start(2);
    let tree = site(&fleet, "one", FIRST);
    let first = fleet.shipctl(&["publish", &tree, "-o", "json"]).json();
    assert_eq!(first["app"], "site");
    assert_eq!(first["release"], 1);
    assert_eq!(first["files"], 3);
    assert_eq!(first["bytes"], first["new_bytes"]);
    assert_eq!(first["id"].as_str().unwrap().len(), 64);
    assert!(page_on(&fleet, "h1").is_none(), "publishing changes no host");
    fleet.shipctl(&["promote", "site"]).expect(0);
    assert_eq!(page_on(&fleet, "h1").as_deref(), Some("one"));

    let tree = site(&fleet, "two", SECOND);
    let second = fleet.shipctl(&["publish", &tree, "-o", "json"]).json();
    assert_eq!(second["release"], 2);
    assert!(
        second["new_bytes"].as_u64() < second["bytes"].as_u64(),
        "ship.toml is not sent again"
    );
    let plan = fleet.shipctl(&["plan", "site", "--exit-code"]).expect(3);
    assert!(plan.stdout.contains("h1") && plan.stdout.contains("h2"), "{plan}");
    assert_eq!(
        page_on(&fleet, "h1").as_deref(),
        Some("one"),
        "planning changes no host"
    );
    fleet.shipctl(&["promote", "site@2", "-m", "second"]).expect(0);
    assert_eq!(fleet.running("site"), [Some(2), Some(2)]);
    both_scripts_are_served(&fleet);

    fleet.shipctl(&["revert", "site"]).expect(0);
    assert_eq!(fleet.running("site"), [Some(1), Some(1)]);
    for host in ["h1", "h2"] {
        assert_eq!(page_on(&fleet, host).as_deref(), Some("one"));
    }
    both_scripts_are_served(&fleet);

    fleet.stop();
    assert_eq!(page_on(&fleet, "h1").as_deref(), Some("one"), "hosts need nobody");
    fleet.up(2, &[]);
    assert_eq!(fleet.running("site"), [Some(1), Some(1)]);
    both_scripts_are_served(&fleet);
    let tree = site(&fleet, "three", SECOND);
    assert_eq!(
        fleet.shipctl(&["publish", &tree, "-o", "json"]).json()["release"],
        3
    );
    fleet.shipctl(&["promote", "site"]).expect(0);
    assert_eq!(page_on(&fleet, "h2").as_deref(), Some("three"));
}

fn both_scripts_are_served(fleet: &Fleet) {
    let urls = fleet.asset_urls("site");
    assert!(urls.len() >= 2, "{urls:?}");
    for base in urls {
        for (name, text) in [FIRST, SECOND] {
            let answer = http::get_url(&format!("{base}/js/{name}")).unwrap();
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, text),
                "{base}/js/{name}"
            );
            assert!(answer.header("cache-control").unwrap().contains("immutable"));
        }
    }
}

#[test]
fn a_first_deploy_has_nothing_to_revert_to() {
    let fleet = Fleet::start(1);
    let tree = site(&fleet, "one", FIRST);
    fleet.shipctl(&["publish", &tree]).expect(0);
    let here = shipctl::command(Some(&fleet.context()), &["promote"])
        .current_dir(&tree)
        .output()
        .unwrap();
    assert!(
        here.status.success(),
        "the ship.toml of this folder names the app: {here:?}"
    );
    let refused = fleet.shipctl(&["revert", "site"]).expect(4);
    assert!(refused.stderr.contains("nothing to revert to"), "{refused}");
    assert_eq!(fleet.running("site"), [Some(1)]);
}

#[test]
fn a_fingerprinted_name_never_changes_its_bytes() {
    let fleet = Fleet::start(1);
    let tree = site(&fleet, "one", FIRST);
    fleet.shipctl(&["publish", &tree]).expect(0);
    let tree = site(&fleet, "one", (FIRST.0, "other()"));
    let refused = fleet.shipctl(&["publish", &tree]).expect(4);
    assert!(
        refused.stderr.contains(FIRST.0) && refused.stderr.contains("site@1"),
        "{refused}"
    );
    assert_eq!(
        fleet.shipctl(&["releases", "-o", "json"]).json()["releases"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn unknown_things_are_named() {
    let fleet = Fleet::start(1);
    let tree = site(&fleet, "one", FIRST);
    fleet.shipctl(&["publish", &tree]).expect(0);
    for (args, named) in [
        (&["promote", "shop"][..], "shop"),
        (&["promote", "site@9"], "9"),
        (&["promote", "site", "-e", "production"], "production"),
        (&["logs", "site", "--host", "h9"], "h9"),
        (&["show", "site@9"], "9"),
    ] {
        let ran = fleet.shipctl(args);
        assert!(ran.code != 0 && ran.stderr.contains(named), "{ran}");
    }
    let usage = fleet.shipctl(&["promte"]).expect(2);
    assert!(usage.stderr.contains("promote"), "{usage}");
}

#[test]
fn what_export_writes_is_what_was_published() {
    let fleet = Fleet::start(1);
    let tree = site(&fleet, "one", FIRST);
    fleet.shipctl(&["publish", &tree]).expect(0);
    let out = fleet.beside("out").join("tree");
    fleet
        .shipctl(&["export", "site@1", out.to_str().unwrap()])
        .expect(0);
    for name in [
        "ship.toml",
        "public/index.html",
        "public/js/app.3f9a12bc77d01e55.js",
    ] {
        assert_eq!(
            fs::read(out.join(name)).unwrap(),
            fs::read(Path::new(&tree).join(name)).unwrap(),
            "{name}"
        );
    }
}
