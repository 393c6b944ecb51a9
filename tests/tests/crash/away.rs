//! A publisher's terminal while the store dies, and `up` while a keeper is dead.

use rustix::process::Signal;
use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim, wait};

/// Each life of the store dies at the next step of one and the same publish.
#[test]
fn a_store_that_dies_at_every_step_of_a_publish_costs_a_wait_and_no_number() {
    const FAULTS: [&str; 4] = [
        "store.publish.begin.kept",
        "store.publish.upload.kept",
        "store.publish.number.before",
        "store.publish.number.after",
    ];
    let fleet = Fleet::armable(1);
    let tree = fleet.sample(1);
    let armed = |fault: &str| format!("{fault}=kill@1");
    fleet.rearm(Victim::Store, &armed(FAULTS[0]));
    let order = fleet.dir().with_file_name("arm").join("shipstore.store");
    let later: Vec<_> = FAULTS[1..].iter().map(|fault| armed(fault)).collect();
    fleet.arm(Victim::Store, &later.join("\n"));
    let ran = fleet.shipctl(&["publish", &tree.to_string_lossy(), "-o", "json"]);
    assert!(!order.exists(), "not every life of the store ended: {ran}");
    assert!(ran.stderr.contains("store unreachable, trying again"), "{ran}");
    assert_eq!(ran.expect(0).json()["release"], 1);
    let listed = fleet.shipctl(&["releases", APP, "-o", "json"]).json();
    assert_eq!(
        listed["releases"].as_array().unwrap().len(),
        1,
        "one publish, one number"
    );
}

/// The same while it takes a release as a delta: what it made of it is not sent again, and the release is made of it.
#[test]
fn a_store_that_dies_over_a_delta_costs_a_wait_and_no_number() {
    const FAULTS: [&str; 4] = [
        "store.publish.delta.decoded",
        "store.publish.delta.kept",
        "store.publish.number.before",
        "store.publish.number.after",
    ];
    let fleet = Fleet::armable(1);
    let tree = fleet.beside("site");
    let publish = |version: u64| {
        let lines = (0..8_000_u64).map(|line| {
            let number = (line + version * 900) % 8_000;
            format!("{}\n", blake3::hash(&number.to_le_bytes()).to_hex())
        });
        std::fs::write(tree.join("app.js"), lines.collect::<String>()).unwrap();
        fleet.shipctl(&["publish", tree.to_str().unwrap(), "-a", "site", "-o", "json"])
    };
    publish(1).expect(0);
    let armed = |fault: &str| format!("{fault}=kill@1");
    fleet.rearm(Victim::Store, &armed(FAULTS[0]));
    let order = fleet.dir().with_file_name("arm").join("shipstore.store");
    let later: Vec<_> = FAULTS[1..].iter().map(|fault| armed(fault)).collect();
    fleet.arm(Victim::Store, &later.join("\n"));
    let ran = publish(2);
    assert!(!order.exists(), "not every life of the store ended: {ran}");
    assert!(ran.stderr.contains("store unreachable, trying again"), "{ran}");
    let json = ran.expect(0).json();
    assert_eq!(
        (&json["release"], &json["delta_from"]),
        (&2.into(), &1.into()),
        "{json}"
    );
    let listed = fleet.shipctl(&["releases", "site", "-o", "json"]).json();
    assert_eq!(
        listed["releases"].as_array().unwrap().len(),
        2,
        "one publish, one number"
    );
}

#[test]
fn up_ends_an_app_whose_keeper_is_dead() {
    let mut fleet = Fleet::start(1);
    fleet.publish_sample(1);
    fleet.shipctl(&["promote", APP]).expect(0);
    let apps = wait::until("the app", || {
        Some(fleet.app_pids("h1", APP)).filter(|pids| !pids.is_empty())
    });
    // Neither `up` nor the agent gets to start a keeper again.
    fleet.freeze(true);
    fleet.signal(Victim::Agent("h1"), Signal::KILL);
    fleet.signal(Victim::Keeper("h1", APP), Signal::KILL);
    // One that has ended and only waits to be collected does not live.
    let lives = |pid: &i64| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    };
    assert!(apps.iter().all(lives), "an app outlives its keeper");
    fleet.stop();
    wait::until("the end of the app", || (!apps.iter().any(lives)).then_some(()));
}
