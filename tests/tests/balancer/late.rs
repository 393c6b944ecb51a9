//! A gap that nobody could know of before: the keeper finds out on the way, and the host leaves rotation all the same.

use rustix::process::Signal;
use serde_json::Value;
use ship_tests::{Fleet, Victim, wait};

use crate::scene::{self, APP, Scene, UPGRADES};

#[test]
fn a_gap_that_shows_on_the_way_loses_nothing_either() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(2), 2);
    let (told, checking) = (scene.haproxy_beside(), scene.checking());
    scene.begin_as(UPGRADES, |host| {
        scene::runtime_api(host, &told) + &scene::agent_check(host, &checking)
    });
    let all_up = || {
        [&told, &checking]
            .into_iter()
            .for_each(|haproxy| haproxy.all_up())
    };
    all_up();
    let loads = [("runtime API", &told), ("agent-check", &checking)];
    let loads = loads.map(|(who, haproxy)| (who, crate::users(haproxy.front())));
    scene.publish(2, UPGRADES);
    let plan = scene.fleet.shipctl(&["plan", APP]).expect(0).stdout;
    assert!(!plan.contains("a gap"), "known before: {plan}");
    scene.promote(2);
    all_up();
    scene.fleet.shipctl(&["revert", APP]).expect(0);
    scene.all_run(1);
    all_up();
    for (who, load) in loads {
        crate::nothing_lost(who, load);
    }
}

/// The host is out, and the agent dies before it can say so: the next one does, and puts the host back.
#[test]
fn an_agent_that_dies_before_the_word_leaves_it_to_the_next() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::armable(2), 2);
    let haproxy = scene.haproxy();
    scene.begin_as(UPGRADES, |host| scene::runtime_api(host, &haproxy));
    haproxy.all_up();
    let load = crate::users(haproxy.front());
    scene.publish(2, UPGRADES);
    let fault = "agent.gap.left=kill@1";
    let pid = scene.fleet.rearm(Victim::Agent("h1"), fault);
    scene.promote(2);
    assert_ne!(
        scene.fleet.pid(Victim::Agent("h1")),
        Some(pid),
        "{fault} was not met"
    );
    haproxy.all_up();
    crate::nothing_lost("a dying agent", load);
}

#[test]
fn a_balancer_that_cannot_be_told_of_a_late_gap_has_the_keeper_called_back() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(1), 1);
    let mut haproxy = scene.haproxy();
    scene.begin_as(UPGRADES, |host| scene::runtime_api(host, &haproxy));
    let pids = scene.fleet.app_pids("h1", APP);
    haproxy.kill();
    scene.publish(2, UPGRADES);
    let ran = scene.fleet.shipctl(&["promote", APP]);
    scene::refused(&ran, &["HAProxy cannot be reached", "nothing was stopped"]);
    assert_eq!(scene.fleet.app_pids("h1", APP), pids);
    scene.all_run(1);
    haproxy.again();
    haproxy.all_up();
    scene.promote(2);
}

#[test]
fn a_revert_with_the_agent_dead_hears_of_a_late_gap_too() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(2), 2);
    let haproxy = scene.haproxy();
    scene.begin_as(UPGRADES, |host| scene::runtime_api(host, &haproxy));
    scene.publish(2, UPGRADES);
    scene.promote(2);
    haproxy.all_up();
    let load = crate::users(haproxy.front());
    // `up` would start it again.
    scene.fleet.freeze(true);
    scene.fleet.signal(Victim::Agent("h1"), Signal::KILL);
    let said = scene.fleet.on_host("h1", &["revert", APP, "-o", "json"]);
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(report["release"], 1, "{report:#}");
    haproxy.all_up();
    crate::none_failed("a revert", &load.finish());
    scene.fleet.freeze(false);
    wait::until("the agent to know of it", || {
        (scene.fleet.running(APP) == [Some(1), Some(2)]).then_some(())
    });
}
