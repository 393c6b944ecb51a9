//! Many at once, and one alone.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;
use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim, http, wait};

use crate::look;

const PUBLISHES: usize = 50;

#[test]
fn fifty_publishes_at_once_get_fifty_numbers() {
    let fleet = Fleet::start(1);
    let trees: Vec<String> = (0..PUBLISHES)
        .map(|index| {
            let tree = fleet.beside(&format!("tree-{index}"));
            std::fs::write(tree.join("ship.toml"), "app = \"site\"\n").unwrap();
            std::fs::write(tree.join("page.html"), format!("page {index}")).unwrap();
            std::fs::write(tree.join("same.txt"), "the same in all").unwrap();
            tree.to_string_lossy().into_owned()
        })
        .collect();
    let published: Vec<Value> = std::thread::scope(|scope| {
        let told: Vec<_> = trees
            .iter()
            .map(|tree| scope.spawn(|| fleet.shipctl(&["publish", tree, "-o", "json"]).json()))
            .collect();
        told.into_iter().map(|told| told.join().unwrap()).collect()
    });
    let numbers: BTreeSet<u64> = published
        .iter()
        .filter_map(|done| done["release"].as_u64())
        .collect();
    assert_eq!(numbers, (1..=PUBLISHES as u64).collect());
    // Each number is what its publisher was told, after the store's sudden end as before it.
    fleet.kill(Victim::Store);
    fleet.whole();
    let listed = fleet.shipctl(&["releases", "-n", "100", "-o", "json"]).json();
    let listed: BTreeSet<_> = listed["releases"].as_array().unwrap().iter().map(named).collect();
    assert_eq!(listed, published.iter().map(named).collect());
}

fn named(release: &Value) -> (u64, String) {
    let id = release["id"].as_str().unwrap().to_owned();
    (release["release"].as_u64().unwrap(), id)
}

#[test]
fn a_host_goes_back_with_store_and_agent_dead_and_is_reconciled() {
    let fleet = Fleet::start(2);
    fleet.publish_sample(1);
    fleet.publish_sample(2);
    fleet.shipctl(&["promote", "web@1"]).expect(0);
    fleet.shipctl(&["promote", "web@2"]).expect(0);
    let address = fleet.listening(APP, "http")[0];
    let users = look::users(&fleet);
    // `up` would start them again: it stands still first, and its children with no sign die alone.
    fleet.freeze(true);
    for victim in [Victim::Store, Victim::Agent("h1")] {
        fleet.signal(victim, Signal::KILL);
    }
    wait::until("an agent that answers no more", || {
        let said = fleet.on_host("h1", &["status", "-o", "json"]).stdout;
        let status: Value = serde_json::from_slice(&said).ok()?;
        let dead = status["store_error"].as_str()?.contains("the agent does not run");
        dead.then_some(())
    });
    let said = fleet.on_host("h1", &["revert", APP, "-m", "500s", "-o", "json"]);
    assert!(said.status.success(), "{said:?}");
    wait::until("the old release", || {
        let page = http::get(address, "/").ok()?;
        (page.header("x-release") == Some("1")).then_some(())
    });
    look::complete(&fleet, "h1", 1);
    fleet.freeze(false);
    wait::until("the store to be told", || {
        let app = look::try_app(&fleet)?;
        let host = app["hosts"]
            .as_array()?
            .iter()
            .find(|host| host["host"] == "h1")?
            .clone();
        let told = host["release"] == 1 && host["held"]["reason"] == "500s";
        told.then_some(())
    });
    let other = wait::until("the other host to be heard again", || {
        look::try_app(&fleet)?["hosts"][1]["release"].as_u64()
    });
    assert_eq!(other, 2, "the other host stays");
    fleet.publish_sample(3);
    fleet.shipctl(&["promote", "web@3"]).expect(0);
    look::all_run(&fleet, 3);
    look::nothing_lost(users);
}
