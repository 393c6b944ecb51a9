//! Users ask all the time, on new and on kept connections, while agents and keepers die at any moment.

use rustix::process::{Pid, Signal};
use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim, wait};

use crate::look;

/// Who dies once its agent has said what: on the way forward, and on the way back.
const FORWARD: [(&str, &str); 4] = [
    ("h1", "job=Stage"),
    ("h2", "job=Assets"),
    ("h1", "keeper asked to switch"),
    ("h2", "keeper asked to switch"),
];
const BACK: [(&str, &str); 2] = [("h1", "keeper asked to switch"), ("h2", "desired state taken")];

fn two_releases(hosts: usize) -> Fleet {
    let fleet = Fleet::start(hosts);
    fleet.publish_sample(1);
    fleet.publish_sample(2);
    fleet.shipctl(&["promote", "web@1"]).expect(0);
    fleet
}

fn agent_of(host: &str) -> Victim {
    if host == "h1" {
        Victim::Agent("h1")
    } else {
        Victim::Agent("h2")
    }
}

/// Kills agents at their moments until the rollout has ended; gives how many.
fn kill_agents(fleet: &Fleet, moments: &[(&str, &str)], ended: impl Fn() -> bool) -> usize {
    let said_before = ["h1", "h2"].map(|host| said(fleet, host).len());
    let mut killed = 0;
    for (host, words) in moments {
        let from = said_before[usize::from(*host == "h2")];
        let come = wait::until(&format!("{words} of {host}, or the end"), || {
            let come = said(fleet, host)
                .get(from..)
                .is_some_and(|new| new.contains(words));
            (come || ended()).then_some(come)
        });
        if come {
            fleet.kill(agent_of(host));
            killed += 1;
        }
    }
    killed
}

/// What the agent of a host has said in all its lives.
fn said(fleet: &Fleet, host: &str) -> String {
    std::fs::read_to_string(fleet.dir().join("logs").join(format!("{host}.log"))).unwrap_or_default()
}

#[test]
fn agents_that_die_at_any_moment_cost_no_request_and_touch_no_app() {
    let fleet = two_releases(2);
    let users = look::users(&fleet);
    for (words, number, moments) in [
        (["promote", "web@2"], 2, &FORWARD[..]),
        (["revert", "web"], 1, &BACK),
    ] {
        std::thread::scope(|scope| {
            let told = scope.spawn(|| fleet.shipctl(&words));
            assert!(kill_agents(&fleet, moments, || told.is_finished()) > 0);
            told.join().unwrap().expect(0);
        });
        look::all_run(&fleet, number);
    }
    let pids = || ["h1", "h2"].map(|host| fleet.app_pids(host, APP));
    let before = pids();
    fleet.kill(Victim::Agent("h1"));
    fleet.kill(Victim::Agent("h2"));
    fleet.whole();
    assert_eq!(pids(), before, "apps are untouched");
    assert!(before.iter().all(|pids| pids.len() == 1), "{before:?}");
    look::nothing_lost(users);
}

#[test]
fn keepers_that_die_idle_or_soaking_cost_no_request() {
    let fleet = two_releases(2);
    let users = look::users(&fleet);
    let pids = fleet.app_pids("h1", APP);
    for _ in 0..2 {
        fleet.kill(Victim::Keeper("h1", APP));
        assert_eq!(fleet.app_pids("h1", APP), pids, "the app is taken over as it is");
    }
    std::thread::scope(|scope| {
        let told = scope.spawn(|| fleet.shipctl(&["promote", "web@2"]));
        let keeper = soaking(&fleet);
        rustix::process::kill_process(keeper, Signal::KILL).unwrap();
        fleet.reborn(Victim::Keeper("h1", APP), keeper);
        told.join().unwrap().expect(0);
    });
    look::all_run(&fleet, 2);
    fleet.shipctl(&["revert", APP]).expect(0);
    look::all_run(&fleet, 1);
    look::nothing_lost(users);
}

/// The keeper of h1, once it soaks the new release.
fn soaking(fleet: &Fleet) -> Pid {
    wait::until("a keeper that soaks", || {
        let status = fleet.keeper("h1", APP)?;
        let pid = i32::try_from(status["pid"].as_i64()?).ok()?;
        (status["phase"] == "soak").then(|| Pid::from_raw(pid))?
    })
}
