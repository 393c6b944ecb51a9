//! Agents and keepers die at random instants of promotes and reverts, and users ask all the time.
//!
//! `SHIP_TESTS_LONG=1` kills a hundred; `SHIP_TEST_SEED` repeats a run.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;
use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim, wait};

use crate::look;

/// A promote on one host takes about as long.
const WITHIN_MS: u64 = 2_500;

/// A small generator of numbers that look random and are the same for one seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("SHIP_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .subsec_nanos();
        let seed = seed.unwrap_or_else(|| u64::from(time));
        eprintln!("SHIP_TEST_SEED={seed}");
        Self(seed)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn agents_and_keepers_killed_at_random_instants_cost_no_request() {
    let long = std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1");
    let kills = if long { 100 } else { 10 };
    let mut dice = Dice::new();
    let fleet = Fleet::start(1);
    fleet.publish_sample(1);
    fleet.publish_sample(2);
    fleet.shipctl(&["promote", "web@1"]).expect(0);
    let users = look::users(&fleet);
    let mut back = Vec::new();
    for kill in 0..kills {
        // Forced, since it was taken back before.
        let words: &[&str] = match kill % 2 {
            0 => &["promote", "web@2", "--force"],
            _ => &["revert", APP],
        };
        let victim = match dice.roll(2) {
            0 => Victim::Agent("h1"),
            _ => Victim::Keeper("h1", APP),
        };
        let pause = Duration::from_millis(dice.roll(WITHIN_MS));
        std::thread::scope(|scope| {
            let told = scope.spawn(|| fleet.shipctl(words));
            std::thread::sleep(pause);
            let old = fleet.signal(victim, Signal::KILL);
            let died = Instant::now();
            fleet.reborn(victim, old);
            wait::until("a host that knows what it runs", || knows(&fleet));
            back.push(died.elapsed());
            let ran = told.join().unwrap();
            assert_eq!(ran.code, 0, "{victim:?} killed {pause:?} into {words:?}: {ran}");
        });
    }
    look::all_run(&fleet, if kills % 2 == 0 { 1 } else { 2 });
    let summary = look::nothing_lost(users);
    back.sort();
    eprintln!(
        "{kills} kills under {} requests: {} failed; whole again in {:?} (median), {:?} (worst)",
        summary["sent"],
        summary["failed"],
        back[back.len() / 2],
        back[back.len() - 1],
    );
}

/// Whether the host's agent answers, with the app's release.
fn knows(fleet: &Fleet) -> Option<()> {
    let said = fleet.on_host("h1", &["status", "-o", "json"]).stdout;
    let status: Value = serde_json::from_slice(&said).ok()?;
    let by_agent = !status["store_error"].as_str()?.contains("the agent does not run");
    let app = &status["apps"][0];
    (by_agent && app["release"].is_u64() && app["healthy"] == true).then_some(())
}

/// Nobody is there but the app itself: the word on the host starts a keeper, and that one takes it back.
#[test]
fn a_host_goes_back_with_store_agent_and_keeper_dead() {
    let fleet = Fleet::armable(1);
    fleet.publish_sample(1);
    fleet.publish_sample(2);
    fleet.shipctl(&["promote", "web@1"]).expect(0);
    // The last word of the promote, what to keep, does not reach it: so there is a newer one when it is back, which
    // wants what was taken away.
    fleet.rearm(Victim::Agent("h1"), "agent.fence.before=kill@3");
    let users = look::users(&fleet);
    // `up` would start them again.
    fleet.freeze(true);
    fleet.shipctl(&["promote", "web@2"]).expect(0);
    for victim in [Victim::Store, Victim::Agent("h1"), Victim::Keeper("h1", APP)] {
        fleet.signal(victim, Signal::KILL);
    }
    wait::until("a keeper that answers no more", || {
        fleet.keeper("h1", APP).is_none().then_some(())
    });
    // Nobody can tell that it runs, and nobody says that it does not.
    let status: Value = wait::until("the word of the host alone", || {
        // An agent that dies while it is asked has nothing to say.
        let said = fleet.on_host("h1", &["status", "-o", "json"]).stdout;
        serde_json::from_slice(&said).ok()
    });
    let app = &status["apps"][0];
    assert_eq!(
        (&app["release"], &app["healthy"]),
        (&Value::from(2), &Value::from(false))
    );
    let said = fleet.on_host("h1", &["revert", APP, "-m", "500s", "-o", "json"]);
    assert!(said.status.success(), "{said:?}");
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(report["release"], 1, "{report:#}");
    look::complete(&fleet, "h1", 1);
    let noted = report["held"]["epoch"].as_u64().unwrap();
    fleet.freeze(false);
    let heard = wait::until("the newer word", || {
        let said = fleet.on_host("h1", &["status", "-o", "json"]).stdout;
        let said: Value = serde_json::from_slice(&said).ok()?;
        let app = said["apps"][0].clone();
        (app["epoch"].as_u64()? > noted).then_some(app)
    });
    assert_eq!(
        (&heard["release"], &heard["held"]),
        (&Value::from(1), &report["held"])
    );
    wait::until("the store to be told", || {
        let host = look::try_app(&fleet)?["hosts"][0].clone();
        (host["release"] == 1 && host["held"]["reason"] == "500s").then_some(())
    });
    look::complete(&fleet, "h1", 1);
    look::nothing_lost(users);
}
