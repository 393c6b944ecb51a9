//! Three hosts behind a real HAProxy, with servers that know no hot restart at all: a rolling promote and a revert under
//! load lose nothing, because each host is out of rotation while its server is stopped.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod scene;

use scene::{APP, Scene};
use serde_json::Value;
use ship_tests::{Fleet, Victim, load::Load, wait};

/// Behind a balancer one kept connection meets both releases during a rollout; that alone is no loss.
fn none_failed(summary: &Value) {
    let kinds = summary["failures"].as_object().unwrap();
    let lost: Vec<_> = kinds
        .iter()
        .filter(|(kind, count)| *kind != "mixed" && **count != 0)
        .collect();
    let failed = summary["failed"].as_u64();
    assert!(
        lost.is_empty() && failed == kinds["mixed"].as_u64(),
        "{lost:?}: {summary:#}"
    );
}

fn nothing_lost(summary: &Value) {
    none_failed(summary);
    assert!(summary["sent"].as_u64().unwrap() > 200, "{summary:#}");
    for release in ["/releases/1/answers", "/releases/2/answers"] {
        let answers = summary.pointer(release).and_then(Value::as_u64);
        assert!(
            answers.is_some_and(|answers| answers > 0),
            "{release}: {summary:#}"
        );
    }
}

/// The plan to go on, or back where it was promoted, says of each host that there is a gap and that the balancer covers it;
/// how long, once there was one.
fn gap_is_planned(scene: &Scene, promoted: bool) {
    let revert: &[&str] = if promoted { &["--revert"] } else { &[] };
    let args = [&["plan", APP, "-o", "json"], revert].concat();
    let plan = scene.fleet.shipctl(&args).expect(0).json();
    let ways = plan["ways"].as_array().cloned().unwrap_or_default();
    assert_eq!(ways.len(), 3, "{plan:#}");
    for way in ways {
        let gap = &way["gap"];
        assert_eq!(gap["cause"], "strategy = \"stop-start\"", "{plan:#}");
        let by = gap["covered_by"].as_str().unwrap_or_default();
        assert!(by.starts_with("balancer "), "{plan:#}");
        assert_eq!(gap["expected_ms"].is_u64(), promoted, "{plan:#}");
    }
    let mut args = vec!["plan", APP];
    args.extend(revert);
    let said = scene.fleet.shipctl(&args).expect(0).stdout;
    let long = if promoted {
        "as the last time"
    } else {
        "unknown, the first time"
    };
    assert!(said.contains("a gap") && said.contains(long), "{said}");
}

/// Promotes and reverts under load through the balancer.
fn to_and_fro(scene: &Scene) {
    let load = Load::start(&[scene.haproxy.front()], "/", 30);
    scene.publish(2, false);
    gap_is_planned(scene, false);
    scene.fleet.shipctl(&["promote", APP]).expect(0);
    gap_is_planned(scene, true);
    assert_eq!(scene.fleet.running(APP), [Some(2); 3]);
    scene.haproxy.all_up();
    scene.fleet.shipctl(&["revert", APP]).expect(0);
    assert_eq!(scene.fleet.running(APP), [Some(1); 3]);
    scene.haproxy.all_up();
    nothing_lost(&load.finish());
}

#[test]
fn servers_without_hot_restart_lose_nothing_behind_haproxy() {
    let Some(scene) = Scene::start(Fleet::start(3), 3, "", &[], scene::runtime_api) else {
        return;
    };
    to_and_fro(&scene);
}

#[test]
fn the_same_by_agent_check() {
    let Some(scene) = Scene::start(Fleet::start(3), 3, "", &["agent-check"], scene::agent_check) else {
        return;
    };
    to_and_fro(&scene);
}

#[test]
fn the_same_by_readiness() {
    let Some(scene) = Scene::start(Fleet::start(3), 3, "", &["readiness"], scene::readiness) else {
        return;
    };
    to_and_fro(&scene);
}

#[test]
fn a_balancer_that_cannot_be_reached_refuses_the_switch_before_anything_is_stopped() {
    let Some(mut scene) = Scene::start(Fleet::start(1), 1, "", &[], scene::runtime_api) else {
        return;
    };
    let pids = scene.fleet.app_pids("h1", APP);
    scene.haproxy.kill();
    scene.publish(2, false);
    let ran = scene.fleet.shipctl(&["promote", APP]);
    scene::refused(&ran, &["HAProxy cannot be reached", "nothing was stopped"]);
    assert_eq!(scene.fleet.app_pids("h1", APP), pids);
    assert_eq!(scene.fleet.running(APP), [Some(1)]);
}

#[test]
fn a_release_that_fails_leaves_the_old_one_in_rotation() {
    let Some(scene) = Scene::start(Fleet::start(3), 3, "", &[], scene::runtime_api) else {
        return;
    };
    let load = Load::start(&[scene.haproxy.front()], "/", 20);
    scene.publish(2, true);
    let ran = scene.fleet.shipctl(&["promote", APP]);
    scene::refused(&ran, &["probe"]);
    wait::until("the old release to run", || {
        (scene.fleet.running(APP) == [Some(1); 3]).then_some(())
    });
    scene.haproxy.all_up();
    none_failed(&load.finish());
}

/// The agent dies after the host left rotation, and once more before it noted that it is back.
#[test]
fn an_agent_that_dies_on_the_way_puts_the_host_back() {
    for fault in [
        "agent.balancer.noted=kill@1",
        "agent.ask.after=kill@1",
        "agent.balancer.ready=kill@1",
    ] {
        let Some(scene) = Scene::start(Fleet::armable(3), 3, "", &[], scene::runtime_api) else {
            return;
        };
        let load = Load::start(&[scene.haproxy.front()], "/", 20);
        scene.fleet.rearm(Victim::Agent("h1"), fault);
        scene.publish(2, false);
        let dying = scene.fleet.pid(Victim::Agent("h1")).unwrap();
        scene.fleet.shipctl(&["promote", APP]).expect(0);
        assert_ne!(
            scene.fleet.pid(Victim::Agent("h1")),
            Some(dying),
            "{fault} was not met"
        );
        assert_eq!(scene.fleet.running(APP), [Some(2); 3]);
        scene.haproxy.all_up();
        nothing_lost(&load.finish());
    }
}

#[test]
fn what_only_the_balancer_gets_wrong_is_named_a_proxy_fault() {
    let no_sockets = "    http-request del-header upgrade\n";
    let Some(scene) = Scene::start(Fleet::start(1), 1, no_sockets, &[], scene::with_websocket) else {
        return;
    };
    scene.publish(2, false);
    let ran = scene.fleet.shipctl(&["promote", APP]);
    scene::refused(
        &ran,
        &["proxy fault: /ws is answered 101 by the host itself, but 200 through"],
    );
    assert_eq!(scene.fleet.running(APP), [Some(1)]);
    scene.haproxy.all_up();
}
