//! A publisher's store, killed at every fault point it passes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use ship_durable::fault::FAULT_VARIABLE;
use ship_store::admin::verify;
use ship_store::folder::StoreFolder;
use ship_store::publish::Limits;

use super::child::{acked, acknowledge, ended, inside, kill_everywhere, points_of, scenario, work_dir};
use super::tree::{Tree, open, publish, tree, web};

const RELEASES: u64 = 3;

/// A tree with something new, something old and an asset of its own.
fn release(number: u64) -> Tree {
    let text = format!("release {number}");
    let asset = format!("static/app-f{number:015x}.js");
    tree(
        &web(),
        &[
            ("index.html", text.as_bytes()),
            ("static/same-f00dfeed12345678.css", b"same"),
            (&asset, text.as_bytes()),
        ],
    )
}

fn publish_all(store: &StoreFolder, told: impl Fn(u64, &str)) {
    for number in 1..=RELEASES {
        let record = publish(&store.publisher, &release(number), number).unwrap();
        told(record.number.0, &record.id.to_string());
    }
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn publishes() {
    let Some(dir) = work_dir() else { return };
    let store = open(&dir);
    publish_all(&store, |number, id| acknowledge(&format!("{number} {id}")));
}

/// The points that the scenario passes, with how often.
fn points() -> BTreeMap<String, usize> {
    points_of("publishing::publishes", tempfile::tempdir().unwrap().path())
}

/// What a scenario said that it had published.
fn acknowledged(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(acked).map(str::to_owned).collect()
}

/// What stands is whole, what was acknowledged is among it, and publishing again makes what is missing.
fn check(dir: &Path, fault: &str, names: &[String]) {
    let _open = inside();
    let (store, report) = StoreFolder::open(dir, Limits::default()).unwrap();
    assert!(report.places.unread.is_empty(), "{fault}: {report:?}");
    let found = verify(&store).unwrap();
    assert!(found.is_good(), "{fault}: {found}");
    let releases = || {
        let mut lines: Vec<String> = Vec::new();
        for record in store.ledger.releases(&web(), 100).unwrap() {
            lines.push(format!("{} {}", record.number, record.id));
        }
        lines.reverse();
        lines
    };
    let stand = releases();
    assert!(stand.len() <= RELEASES as usize, "{fault}: {stand:?}");
    assert!(
        stand.starts_with(names),
        "{fault}: {names:?} were acknowledged, {stand:?} stand"
    );
    assert!(stand.len() <= names.len() + 1, "{fault}: {names:?}, {stand:?}");

    // The same requests again: what stands is answered, what is missing is made.
    publish_all(&store, |number, id| {
        assert_eq!(
            releases()[number as usize - 1],
            format!("{number} {id}"),
            "{fault}"
        );
    });
    assert_eq!(releases().len(), RELEASES as usize, "{fault}");
    let found = verify(&store).unwrap();
    assert!(found.is_good(), "{fault}: {found}");
    assert_eq!(found.audit.links, RELEASES, "{fault}");
}

#[test]
fn a_publish_killed_anywhere_is_whole_or_absent() {
    let points = points();
    for step in [
        "begin.kept",
        "upload.kept",
        "claim.before",
        "number.before",
        "number.after",
    ] {
        assert!(
            points.contains_key(&format!("store.publish.{step}")),
            "{step} was not passed"
        );
    }
    let empty = || tempfile::tempdir().unwrap();
    kill_everywhere(
        "publishing::publishes",
        points,
        &[2],
        empty,
        |dir, fault, killed| {
            check(dir, fault, &acknowledged(killed));
        },
    );
}

#[test]
fn a_step_that_fails_leaves_a_store_that_goes_on() {
    for (point, times) in points() {
        if !point.starts_with("store.") && !point.starts_with("durable.journal") {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let fault = format!("{point}=error@{times}");
        let failed = ended(scenario("publishing::publishes", dir.path()).env(FAULT_VARIABLE, &fault));
        check(dir.path(), &fault, &acknowledged(&failed));
    }
}
