//! The agent is killed at every point it passes on the way from one release to the next, and back: after a restart the host
//! comes to what was wanted, and in between `current` leads to a whole release, old or new.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    dead_code,
    reason = "a failed test says so by stopping, and each test uses its part of the fleet"
)]

mod fleet;

use std::collections::BTreeMap;

use fleet::agent::Host;
use fleet::faults::{killed_everywhere, points_in};
use fleet::release::site;
use fleet::store::{Store, web};
use fleet::until;
use ship_model::release::Target;

struct Scenario {
    store: Store,
    host: Host,
    one: Target,
    two: Target,
}

/// A host at rest on release 1, its agent dead, release 2 desired.
fn at_rest() -> Scenario {
    let store = Store::start();
    let (one, two) = (store.publish(1), store.publish(2));
    let mut host = Host::new(&store);
    host.start();
    store.desire(vec![web(1, Some(one), &[one])]);
    store.wait("release 1", |app| app.running == Some(one) && app.assets == [one]);
    host.kill();
    store.desire(vec![web(2, Some(two), &[one, two])]);
    Scenario {
        store,
        host,
        one,
        two,
    }
}

/// What `current` leads to is whole. The link is followed once: a living agent may move it meanwhile.
fn whole(host: &Host) {
    let release = std::fs::canonicalize(host.app("current")).expect("current leads somewhere");
    let page = std::fs::read_to_string(release.join("index.html")).unwrap();
    let version = if page.ends_with("v1") { 1 } else { 2 };
    for (path, content) in site(version) {
        let found = std::fs::read(release.join(&path)).unwrap();
        assert_eq!(found, content, "{path} of version {version}");
    }
}

/// The points passed on the way from 1 to 2, each with how often.
fn points() -> BTreeMap<String, u32> {
    let Scenario {
        store, mut host, two, ..
    } = at_rest();
    let trace = host.path("trace");
    host.start_with(&[("SHIP_FAULT_TRACE", trace.to_str().unwrap())]);
    store.wait("release 2", |app| {
        app.running == Some(two) && app.assets.len() == 2
    });
    host.kill();
    let points = points_in(&trace);
    assert!(points.len() > 15, "{points:?}");
    for needed in [
        "agent.fence.before",
        "agent.switch.journal.after",
        "agent.switch.links.after",
        "bundle.stage.name.before",
    ] {
        assert!(points.contains_key(needed), "{needed} is not passed: {points:?}");
    }
    points
}

#[test]
fn killed_anywhere_between_two_releases() {
    killed_everywhere(points(), kill_at);
}

fn kill_at(point: &str, turn: u32) {
    let Scenario {
        store,
        mut host,
        one,
        two,
    } = at_rest();
    host.start_with(&[("SHIP_FAULT", &format!("{point}=kill@{turn}"))]);
    // The number of passages differs a little from run to run: an agent that arrives was not killed.
    until(&format!("the end at {point}@{turn}"), || {
        let arrived = store
            .inner
            .report
            .borrow()
            .apps
            .iter()
            .any(|app| app.running == Some(two) && app.assets.len() == 2);
        (host.has_ended() || arrived).then_some(())
    });
    whole(&host);
    host.kill();
    store.forget_report();
    host.start();
    store.wait(&format!("release 2 after {point}@{turn}"), |app| {
        app.running == Some(two) && app.assets == [one, two] && app.previous == Some(one)
    });
    whole(&host);
    assert!(host.page().unwrap().ends_with("v2"), "{point}");
    // They are looked at after the report.
    until(&format!("no leftovers after {point}@{turn}"), || {
        let names = std::fs::read_dir(host.app("releases")).unwrap();
        let mut names = names.map(|entry| entry.unwrap().file_name());
        let left = names.any(|name| name.as_encoded_bytes().starts_with(b"."));
        (!left).then_some(())
    });
    let said = host.ask(&["verify", "--full"]);
    let damaged = said["releases"]
        .as_array()
        .unwrap()
        .iter()
        .any(|line| line["damage"][0].is_string());
    assert!(!damaged, "{point}: {said}");
}

#[test]
fn killed_anywhere_in_a_revert_on_the_host() {
    let points = {
        let Scenario {
            store,
            mut host,
            one,
            two,
        } = at_rest();
        host.start();
        store.wait("release 2", |app| {
            app.running == Some(two) && app.previous == Some(one)
        });
        host.kill();
        let trace = host.path("trace");
        let said = host.say_with(
            &["revert", "web"],
            &[("SHIP_FAULT_TRACE", trace.to_str().unwrap())],
        );
        assert!(said.status.success(), "{said:?}");
        let mut points: Vec<_> = std::fs::read_to_string(trace)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        points.sort();
        points.dedup();
        points
    };
    for point in points {
        let Scenario {
            store,
            mut host,
            one,
            two,
        } = at_rest();
        host.start();
        store.wait("release 2", |app| {
            app.running == Some(two) && app.previous == Some(one)
        });
        host.kill();
        let said = host.say_with(&["revert", "web"], &[("SHIP_FAULT", &format!("{point}=kill"))]);
        assert!(!said.status.success(), "{point}");
        whole(&host);
        // Noted or not: the host comes to rest on one of the two, and says which.
        store.forget_report();
        host.start();
        let report = store.wait(&format!("rest after {point}"), |app| match &app.held {
            Some(held) => app.running == Some(held.to),
            None => app.running == Some(two),
        });
        whole(&host);
        assert!(report.running == Some(one) || report.held.is_none(), "{point}");
    }
}
