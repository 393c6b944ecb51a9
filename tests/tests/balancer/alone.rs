//! `ship-agent revert` with the agent dead tells the balancers itself.

use std::os::unix::process::ExitStatusExt;

use rustix::process::Signal;
use serde_json::Value;
use ship_tests::{Fleet, Victim, http, wait};

use crate::scene::{self, APP, Scene};

#[test]
fn a_revert_with_the_agent_dead_loses_nothing_either() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(2), 2);
    let (told, checking) = (scene.haproxy_beside(), scene.checking());
    scene.begin(|host| scene::runtime_api(host, &told) + &scene::agent_check(host, &checking));
    scene.publish(2, "");
    scene.promote(2);
    told.all_up();
    checking.all_up();
    let loads = [("runtime API", &told), ("agent-check", &checking)];
    let loads = loads.map(|(who, haproxy)| (who, crate::users(haproxy.front())));
    // `up` would start it again: it stands still first, and its children with no sign die alone.
    scene.fleet.freeze(true);
    scene.fleet.signal(Victim::Agent("h1"), Signal::KILL);
    wait::until("an agent that answers no more", || {
        let said = scene.fleet.on_host("h1", &["status", "-o", "json"]).stdout;
        let status: Value = serde_json::from_slice(&said).ok()?;
        let dead = status["store_error"].as_str()?.contains("the agent does not run");
        dead.then_some(())
    });
    let said = scene
        .fleet
        .on_host("h1", &["revert", APP, "-m", "500s", "-o", "json"]);
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(report["release"], 1, "{report:#}");
    for haproxy in [&told, &checking] {
        haproxy.all_up();
        wait::until("the old release to be met through the balancer", || {
            let page = http::get(haproxy.front(), "/").ok()?;
            (page.header("x-release") == Some("1")).then_some(())
        });
    }
    for (who, load) in loads {
        crate::none_failed(who, &load.finish());
    }
    scene.fleet.freeze(false);
    wait::until("the agent to know of it", || {
        (scene.fleet.running(APP) == [Some(1), Some(2)]).then_some(())
    });
}

/// The balancer is dead as well: what runs is bad, so that is no reason to stay with it.
#[test]
fn a_revert_with_agent_and_balancer_dead_goes_on_and_says_so() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(1), 1);
    let mut haproxy = scene.haproxy();
    scene.begin(|host| scene::runtime_api(host, &haproxy));
    scene.publish(2, "");
    scene.promote(2);
    scene.fleet.freeze(true);
    scene.fleet.signal(Victim::Agent("h1"), Signal::KILL);
    haproxy.kill();
    let said = scene.fleet.on_host("h1", &["revert", APP, "-o", "json"]);
    let words = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{words}");
    assert!(
        words.contains("going back without the balancer: HAProxy cannot be reached"),
        "{words}"
    );
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(report["release"], 1, "{report:#}");
    scene.fleet.freeze(false);
}

/// Whoever takes the app back dies when the host is about to leave rotation: the next agent goes on, and puts it back.
#[test]
fn a_revert_that_dies_with_the_agent_dead_is_ended_by_the_next_agent() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(2), 2);
    let haproxy = scene.haproxy();
    scene.begin(|host| scene::runtime_api(host, &haproxy));
    scene.publish(2, "");
    scene.promote(2);
    haproxy.all_up();
    let load = crate::users(haproxy.front());
    scene.fleet.freeze(true);
    let dead = scene.fleet.signal(Victim::Agent("h1"), Signal::KILL);
    let said = std::process::Command::new(ship_tests::bin("ship-agent"))
        .args(["revert", APP, "--config"])
        .arg(scene.fleet.dir().join("hosts/h1/agent.toml"))
        .env("SHIP_FAULT", "agent.offline.noted=kill")
        .output()
        .unwrap();
    assert_eq!(said.status.signal(), Some(9), "{said:?}");
    scene.fleet.freeze(false);
    scene.fleet.reborn(Victim::Agent("h1"), dead);
    wait::until("the first host to be back on release 1", || {
        (scene.fleet.running(APP) == [Some(1), Some(2)]).then_some(())
    });
    haproxy.all_up();
    crate::none_failed("a revert that died", &load.finish());
}
