//! No app host shows a page before every asset host has what the page names.

use rustix::process::Signal;
use serde_json::Value;
use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim, wait};

use crate::look;

/// Three hosts, of which h3 serves assets only; a host is uncertain sooner than usual.
fn with_asset_host() -> Fleet {
    let fleet = Fleet::start(3);
    edit(&fleet, "hosts/h3/agent.toml", "classes", |value| {
        *value = toml::Value::try_from(["assets"]).unwrap();
    });
    edit(&fleet, "store/store.toml", "uncertain_after_ms", |value| {
        *value = toml::Value::Integer(5_000);
    });
    fleet.kill(Victim::Agent("h3"));
    fleet.kill(Victim::Store);
    fleet.whole();
    fleet
}

fn edit(fleet: &Fleet, file: &str, key: &str, change: impl FnOnce(&mut toml::Value)) {
    let path = fleet.dir().join(file);
    let mut table: toml::Table = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(
        table
            .get_mut(key)
            .unwrap_or_else(|| panic!("{file} has no {key}")),
    );
    std::fs::write(path, toml::to_string(&table).unwrap()).unwrap();
}

fn host_state(name: &str, fleet: &Fleet) -> Option<String> {
    let ran = fleet.shipctl(&["hosts", "-o", "json"]);
    let said: Value = serde_json::from_str(&ran.stdout).ok()?;
    let mut hosts = said["hosts"].as_array()?.iter();
    let host = hosts.find(|host| host["host"] == name)?;
    host["state"].as_str().map(str::to_owned)
}

fn step(fleet: &Fleet, name: &str) -> Option<Value> {
    let app = look::try_app(fleet)?;
    let mut steps = app["rollout"]["steps"].as_array()?.iter();
    steps.find(|step| step["name"] == name).cloned()
}

/// What each host that runs the app runs.
fn releases(fleet: &Fleet) -> Vec<Option<u64>> {
    let app = fleet.app(APP);
    let hosts = app["hosts"].as_array().unwrap().iter();
    hosts
        .filter(|host| host["runs_app"] == true)
        .map(|host| host["release"].as_u64())
        .collect()
}

#[test]
fn no_app_host_is_switched_while_an_asset_host_lacks_the_assets() {
    let fleet = with_asset_host();
    fleet.publish_sample(1);
    fleet.shipctl(&["promote", APP]).expect(0);
    fleet.publish_sample(2);
    assert_eq!(releases(&fleet), [Some(1), Some(1)]);
    let users = look::users_of(&fleet, 2);

    fleet.signal(Victim::Agent("h3"), Signal::STOP);
    std::thread::scope(|scope| {
        let told = scope.spawn(|| fleet.shipctl(&["promote", "web@2"]));
        wait::until("the barrier", || {
            let running = step(&fleet, "assets")?["state"] == "running";
            assert!(!told.is_finished(), "nobody waited for the asset host");
            running.then_some(())
        });
        // It stands however long the asset host is silent, and does not excuse it when it becomes uncertain.
        wait::until("an uncertain asset host", || {
            assert_eq!(releases(&fleet), [Some(1), Some(1)]);
            (host_state("h3", &fleet)? == "uncertain").then_some(())
        });
        assert_eq!(step(&fleet, "assets").unwrap()["state"], "running");
        assert_eq!(releases(&fleet), [Some(1), Some(1)]);
        fleet.signal(Victim::Agent("h3"), Signal::CONT);
        told.join().unwrap().expect(0);
    });
    assert_eq!(releases(&fleet), [Some(2), Some(2)]);
    look::nothing_lost(users);
}
