//! No app host shows a page before every asset host has what the page names.

use rustix::process::Signal;
use serde_json::Value;
use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim, wait};

use crate::look;

/// Three hosts, of which h3 serves assets only; a host is uncertain sooner than usual.
fn with_asset_host(fleet: Fleet) -> Fleet {
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
    let fleet = with_asset_host(Fleet::start(3));
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

/// Where an asset host dies on its way to a release's assets: when it has heard of it, before and after the first file has
/// its name, and when all are there and none is recorded.
const POINTS: [&str; 4] = [
    "agent.fence.after=kill@1",
    "assets.before_rename=kill@1",
    "assets.after_rename=kill@1",
    "durable.fs.sync.before=kill@1",
];

/// Whether the asset host has recorded that it has all assets of a release.
fn recorded(fleet: &Fleet, number: u32) -> bool {
    let records = fleet.home("h3", APP).join("assets.records");
    let begins = format!("{number}-");
    let mut names = std::fs::read_dir(records).into_iter().flatten().flatten();
    names.any(|entry| entry.file_name().to_string_lossy().starts_with(&begins))
}

#[test]
fn an_asset_host_that_dies_on_its_way_holds_everybody_until_it_has_the_assets() {
    let fleet = with_asset_host(Fleet::armable(3));
    fleet.publish_sample(1);
    fleet.shipctl(&["promote", APP]).expect(0);
    let users = look::users_of(&fleet, 2);
    for (number, fault) in (2_u32..).zip(POINTS) {
        assert_eq!(fleet.publish_sample(number), u64::from(number));
        let was = fleet.rearm(Victim::Agent("h3"), fault);
        std::thread::scope(|scope| {
            let told = scope.spawn(|| fleet.shipctl(&["promote", APP]));
            wait::until_within(wait::PATIENCE * 2, "the promote's end", || {
                let switched = releases(&fleet).contains(&Some(u64::from(number)));
                assert!(
                    !switched || recorded(&fleet, number),
                    "{fault}: switched before the barrier"
                );
                told.is_finished().then_some(())
            });
            told.join().unwrap().expect(0);
        });
        let reborn = wait::until("the asset host", || fleet.pid(Victim::Agent("h3")));
        assert_ne!(reborn, was, "it did not die at {fault}");
        assert_eq!(releases(&fleet), [Some(u64::from(number)); 2], "{fault}");
    }
    // Lost after it has acknowledged: nothing that it has is lost with it.
    fleet.kill(Victim::Agent("h3"));
    fleet.whole();
    assert!((1..=5).all(|number| recorded(&fleet, number)));
    look::nothing_lost(users);
}
