//! What only the balancer gets wrong is named so, stops the rollout, and is not held against the release.

use ship_tests::{Fleet, wait};

use crate::scene::{self, APP, Scene};

/// The time is for the balancer to do as it should. A loaded machine needs some of it; while it is broken all of it passes.
const SOCKET: &str = "websocket = \"/ws\"\nwait_seconds = 10\n";

#[test]
fn what_only_the_balancer_gets_wrong_is_named_a_proxy_fault() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(2), 2);
    let haproxy = scene.haproxy();
    scene.begin(|host| scene::runtime_api(host, &haproxy) + SOCKET);
    haproxy.all_up();
    let fault = "proxy fault: /ws is answered 101 by the host itself, but 200 through HAProxy web/h1";

    // There before the switch: nothing is stopped.
    let pids = scene.fleet.app_pids("h1", APP);
    haproxy.breaks_upgrades("/ws", true);
    scene.publish(2, "waits");
    scene::refused(
        &scene.fleet.shipctl(&["promote", APP]),
        &[fault, "nothing was stopped"],
    );
    assert_eq!(scene.fleet.app_pids("h1", APP), pids);
    scene.all_run(1);
    haproxy.breaks_upgrades("/ws", false);

    // It comes while the host is out: the rollout stops, and the host stays out while the other serves.
    std::thread::scope(|scope| {
        let promote = scope.spawn(|| scene.fleet.shipctl(&["promote", APP]));
        wait::until("the first host to be out", || {
            (haproxy.states().first()? == "MAINT").then_some(())
        });
        haproxy.breaks_upgrades("/ws", true);
        std::fs::write(scene.gate(), "").unwrap();
        scene::refused(&promote.join().unwrap(), &[fault]);
    });
    wait::until("the first host to be back on release 1, and out", || {
        let runs = scene.fleet.running(APP) == [Some(1); 2];
        let states = haproxy.states();
        (runs && states.first()? == "DRAIN" && states.get(1)? == "UP").then_some(())
    });

    // Mended, it comes back by itself, and the release goes out without a word of force.
    haproxy.breaks_upgrades("/ws", false);
    haproxy.all_up();
    scene.promote(2);
    haproxy.all_up();
}

#[test]
fn the_last_host_of_a_balancer_is_not_kept_out_for_its_fault() {
    if !scene::installed() {
        return;
    }
    let scene = Scene::new(Fleet::start(1), 1);
    let haproxy = scene.haproxy();
    scene.begin(|host| scene::runtime_api(host, &haproxy) + SOCKET);
    haproxy.all_up();
    scene.publish(2, "waits");
    std::thread::scope(|scope| {
        let promote = scope.spawn(|| scene.fleet.shipctl(&["promote", APP]));
        wait::until("the host to be out", || {
            (haproxy.states().first()? == "MAINT").then_some(())
        });
        haproxy.breaks_upgrades("/ws", true);
        std::fs::write(scene.gate(), "").unwrap();
        scene::refused(&promote.join().unwrap(), &["proxy fault: /ws"]);
    });
    haproxy.all_up();
}
