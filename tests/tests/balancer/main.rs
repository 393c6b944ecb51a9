//! Hosts behind real balancers, with servers that know no hot restart at all: a rolling promote and a revert under load
//! lose nothing, because each host is out of rotation while its server is stopped.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod alone;
mod fault;
mod late;
mod scene;

use std::net::SocketAddr;

use scene::{APP, Scene};
use serde_json::Value;
use ship_tests::{Fleet, Victim, load::Load, wait};

/// Behind a balancer one kept connection meets both releases during a rollout; that alone is no loss.
fn none_failed(who: &str, summary: &Value) {
    let kinds = summary["failures"].as_object().unwrap();
    let lost: Vec<_> = kinds
        .iter()
        .filter(|(kind, count)| *kind != "mixed" && **count != 0)
        .collect();
    let failed = summary["failed"].as_u64();
    assert!(
        lost.is_empty() && failed == kinds["mixed"].as_u64(),
        "{who}: {lost:?}: {summary:#}"
    );
}

/// None failed, and both releases were met.
fn nothing_lost(who: &str, load: Load) {
    let summary = load.finish();
    none_failed(who, &summary);
    assert!(summary["sent"].as_u64().unwrap() > 100, "{who}: {summary:#}");
    for release in ["/releases/1/answers", "/releases/2/answers"] {
        let answers = summary.pointer(release).and_then(Value::as_u64);
        assert!(
            answers.is_some_and(|answers| answers > 0),
            "{who}: {release}: {summary:#}"
        );
    }
}

fn users(front: SocketAddr) -> Load {
    Load::start(&[front], "/", 15)
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
        assert!(by.starts_with("balancer"), "{plan:#}");
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

/// Five balancers before the same hosts, each told in its own way and each with users of its own.
#[test]
fn a_server_without_hot_restart_loses_nothing_behind_any_balancer() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(3), 3);
    let nginx = ship_tests::Nginx::start(&scene.servers()).unwrap();
    let (told, by_hand) = (scene.haproxy_beside(), scene.haproxy_beside());
    let (checking, asking) = (scene.checking(), scene.asking());
    scene.begin(|host| {
        [
            scene::runtime_api(host, &told),
            scene::agent_check(host, &checking),
            scene::readiness(host, &asking),
            scene::upstream(host, &nginx),
            scene::hook(&by_hand),
        ]
        .concat()
    });
    let proxies = [&told, &by_hand, &checking, &asking];
    let all_in_rotation = || {
        proxies.iter().for_each(|haproxy| haproxy.all_up());
        assert_eq!(nginx.down(), 0);
    };
    all_in_rotation();
    let fronts = [
        ("runtime API", told.front()),
        ("hook", by_hand.front()),
        ("agent-check", checking.front()),
        ("readiness", asking.front()),
        ("nginx", nginx.front()),
    ];
    let loads = fronts.map(|(who, front)| (who, users(front)));
    scene.publish(2, "");
    gap_is_planned(&scene, false);
    scene.promote(2);
    gap_is_planned(&scene, true);
    all_in_rotation();
    scene.fleet.shipctl(&["revert", APP]).expect(0);
    scene.all_run(1);
    all_in_rotation();
    for (who, load) in loads {
        nothing_lost(who, load);
    }
}

#[test]
fn a_balancer_that_cannot_be_reached_refuses_the_switch_before_anything_is_stopped() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(1), 1);
    let mut haproxy = scene.haproxy();
    scene.begin(|host| scene::runtime_api(host, &haproxy));
    let pids = scene.fleet.app_pids("h1", APP);
    haproxy.kill();
    scene.publish(2, "");
    let ran = scene.fleet.shipctl(&["promote", APP]);
    scene::refused(&ran, &["HAProxy cannot be reached", "nothing was stopped"]);
    assert_eq!(scene.fleet.app_pids("h1", APP), pids);
    scene.all_run(1);
    // The release is not to blame: it needs no word of force later.
    haproxy.again();
    haproxy.all_up();
    scene.promote(2);
}

#[test]
fn a_release_that_fails_leaves_the_old_one_in_rotation() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(3), 3);
    let haproxy = scene.haproxy();
    scene.begin(|host| scene::runtime_api(host, &haproxy));
    haproxy.all_up();
    let load = users(haproxy.front());
    scene.publish(2, "sick");
    let ran = scene.fleet.shipctl(&["promote", APP]);
    scene::refused(&ran, &["probe"]);
    wait::until("the old release to run", || {
        (scene.fleet.running(APP) == [Some(1); 3]).then_some(())
    });
    haproxy.all_up();
    none_failed("a sick release", &load.finish());
}

/// Each agent dies once: after the host left rotation, after its keeper was asked, and before it noted that it is back.
#[test]
fn agents_that_die_on_the_way_put_their_hosts_back() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::armable(3), 3);
    let haproxy = scene.haproxy();
    scene.begin(|host| scene::runtime_api(host, &haproxy));
    haproxy.all_up();
    let load = users(haproxy.front());
    scene.publish(2, "");
    let dying = [
        ("h1", "agent.balancer.noted=kill@1"),
        ("h2", "agent.ask.after=kill@1"),
        ("h3", "agent.balancer.ready=kill@1"),
    ]
    .map(|(host, fault)| {
        let agent = Victim::Agent(host);
        (fault, agent, scene.fleet.rearm(agent, fault))
    });
    scene.promote(2);
    for (fault, agent, pid) in dying {
        assert_ne!(scene.fleet.pid(agent), Some(pid), "{fault} was not met");
    }
    haproxy.all_up();
    nothing_lost("dying agents", load);
}
