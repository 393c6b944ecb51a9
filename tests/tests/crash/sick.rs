//! A release that is sick on one host only: the host puts itself back, the rollout turns back, users see none of it.

use serde_json::Value;
use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim};

use crate::look;

fn host<'a>(app: &'a Value, name: &str) -> &'a Value {
    let mut hosts = app["hosts"].as_array().unwrap().iter();
    hosts.find(|host| host["host"] == name).unwrap()
}

#[test]
fn a_host_that_fails_puts_itself_back_and_the_rollout_turns_back() {
    let fleet = Fleet::start(3);
    fleet.publish_sample(1);
    fleet.shipctl(&["promote", APP]).expect(0);
    let sick = fleet.sample_sick_on("h2", 2);
    assert_eq!(fleet.publish_tree(&sick), 2);
    let users = look::users(&fleet);

    let refused = fleet.shipctl(&["promote", "web@2"]).expect(5);
    assert!(refused.stderr.contains("h2"), "the host is named: {refused}");
    let last = look::ended(&fleet);
    assert_eq!(last["outcome"], "reverted", "{last:#}");
    look::all_run(&fleet, 1);
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.contains("h2") && reason.contains("probe"), "{reason}");

    let summary = look::nothing_lost(users);
    let app = fleet.app(APP);
    let listening = host(&app, "h2")["listen"]["http"].as_str().unwrap();
    let targets = summary["targets"].as_array().unwrap();
    let seen = targets
        .iter()
        .find(|target| target["url"].as_str().unwrap().contains(listening))
        .unwrap();
    let releases: Vec<_> = seen["releases"].as_object().unwrap().keys().collect();
    assert_eq!(releases, ["1"], "no user saw the sick release: {seen:#}");

    // What failed is not tried again by itself, neither by an agent that comes back; a good release goes everywhere.
    fleet.kill(Victim::Agent("h2"));
    fleet.whole();
    look::all_run(&fleet, 1);
    assert_eq!(fleet.publish_sample(3), 3);
    fleet.shipctl(&["promote", "web@3"]).expect(0);
    look::all_run(&fleet, 3);
}
