//! A host lets go of assets that have expired: of exactly those, whenever it hears of it and wherever it is killed meanwhile.

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
use ship_model::desired::DesiredApp;
use ship_model::release::Target;

/// The path of the one asset of version `number`.
fn url(number: u64) -> String {
    format!("/{}", site(number)[1].0)
}

fn urls(numbers: &[u64]) -> Vec<String> {
    numbers.iter().map(|number| url(*number)).collect()
}

/// Versions whose asset stands in the host's folder, each with the right bytes.
fn stand(host: &Host) -> Vec<u64> {
    let stands = |number: &u64| {
        let file = host.app("assets").join(&url(*number)[1..]);
        let found = std::fs::read(file).ok();
        found.is_some_and(|bytes| {
            assert_eq!(bytes, site(*number)[1].1, "{number}");
            true
        })
    };
    (1..=5).filter(stands).collect()
}

/// Holds assets alone.
fn holds(epoch: u64, assets: &[Target]) -> DesiredApp {
    DesiredApp {
        runs_app: false,
        ..web(epoch, None, assets)
    }
}

struct Scene {
    store: Store,
    host: Host,
    releases: Vec<Target>,
}

/// A store with five releases, and a host.
fn scene() -> Scene {
    let store = Store::start();
    let releases = (1..=5).map(|number| store.publish(number)).collect();
    let host = Host::new(&store);
    Scene {
        store,
        host,
        releases,
    }
}

#[test]
fn what_expired_goes_what_runs_stays_and_what_is_wanted_again_comes_back() {
    let Scene {
        store,
        mut host,
        releases,
    } = scene();
    let &[one, two, three, ..] = &releases[..] else {
        panic!()
    };
    host.start();
    store.desire(vec![web(1, Some(three), &[one, two, three])]);
    store.wait("all assets", |app| {
        app.running == Some(three) && app.assets == [one, two, three]
    });
    // The store is wrong about the third: this host runs it.
    let list = store.expire(&urls(&[1, 3]));
    store.desire(vec![web(1, Some(three), &[one, two, three])]);
    store.wait("the list to be acted on", |app| app.expired == Some(list));
    assert_eq!(stand(&host), [2, 3]);
    store.wait("the rest", |app| app.assets == [two, three]);
    // Nobody brings it again: a restart, a new epoch.
    host.kill();
    store.forget_report();
    store.desire(vec![web(2, Some(three), &[one, two, three])]);
    host.start();
    store.wait("the list once more", |app| {
        app.expired == Some(list) && app.epoch.0 == 2
    });
    assert_eq!(stand(&host), [2, 3]);
    // A release that names it is published or promoted.
    let list = store.expire(&urls(&[2]));
    store.desire(vec![web(3, Some(three), &[one, two, three])]);
    store.wait("the first back, the second gone", |app| {
        app.expired == Some(list) && app.assets == [one, three]
    });
    assert_eq!(stand(&host), [1, 3]);
    // It is to run: then all of it stands first.
    store.desire(vec![web(4, Some(two), &[one, two, three])]);
    store.wait("release 2", |app| {
        app.running == Some(two) && app.assets == [one, two, three]
    });
    assert_eq!(stand(&host), [1, 2, 3]);
}

#[test]
fn a_host_that_was_away_or_is_new_fetches_nothing_that_expired() {
    let Scene {
        store,
        mut host,
        releases,
    } = scene();
    host.start();
    store.desire(vec![holds(1, &releases[..2])]);
    store.wait("two", |app| app.assets == releases[..2]);
    host.kill();
    // Weeks later.
    let list = store.expire(&urls(&[1, 3, 4]));
    store.desire(vec![holds(9, &releases)]);
    store.forget_report();
    host.start();
    let kept = [releases[1], releases[4]];
    store.wait("what is kept", |app| {
        app.expired == Some(list) && app.assets == kept
    });
    assert_eq!(stand(&host), [2, 5]);
    host.kill();
    store.forget_report();
    let mut new = Host::new(&store);
    new.start();
    store.wait("what is kept, on a new host", |app| {
        app.expired == Some(list) && app.assets == kept
    });
    assert_eq!(stand(&new), [2, 5]);
    assert!(!new.log().contains("job=Stage"), "{}", new.log());
}

/// A store that was put back from a backup has not heard of release 2.
#[test]
fn a_store_that_does_not_know_a_release_takes_nothing_of_it() {
    let Scene {
        store,
        mut host,
        releases,
    } = scene();
    host.start();
    store.desire(vec![holds(1, &releases)]);
    store.wait("all", |app| app.assets == releases);
    let list = store.expire(&urls(&[1, 2]));
    let known = [&releases[..1], &releases[2..]].concat();
    store.desire(vec![holds(2, &known)]);
    store.wait("the list to be acted on", |app| app.expired == Some(list));
    assert_eq!(stand(&host), [2, 3, 4, 5]);
    // One that is older than what the host has seen is not heard at all.
    store.expire(&urls(&[3, 4, 5]));
    store.desire(vec![holds(1, &releases)]);
    until("the refusal", || {
        host.log().contains("older than one seen").then_some(())
    });
    assert_eq!(stand(&host), [2, 3, 4, 5]);
}

/// Back and forth: what is reported as held under a wish stands until the next.
#[test]
fn what_is_reported_as_held_stands_whatever_was_begun_before() {
    let Scene {
        store,
        mut host,
        releases,
    } = scene();
    host.start();
    store.desire(vec![holds(1, &releases)]);
    store.wait("all", |app| app.assets == releases);
    for turn in 1..=12 {
        store.expire(&urls(&[1, 2, 3]));
        store.desire(vec![holds(2 * turn, &releases)]);
        if turn % 2 == 0 {
            // Wherever it has come with that.
            until("something to go", || (stand(&host).len() < 5).then_some(()));
        }
        store.expire(&urls(&[3]));
        store.desire(vec![holds(2 * turn + 1, &releases)]);
        store.wait("the first two to be held", |app| {
            app.epoch.0 == 2 * turn + 1
                && app.assets.contains(&releases[0])
                && app.assets.contains(&releases[1])
        });
        let stands = stand(&host);
        assert!(stands.contains(&1) && stands.contains(&2), "{turn}: {stands:?}");
    }
}

fn points() -> BTreeMap<String, u32> {
    let Scene {
        store,
        mut host,
        releases,
    } = at_rest();
    let trace = host.path("trace");
    host.start_with(&[("SHIP_FAULT_TRACE", trace.to_str().unwrap())]);
    done(&store, &releases);
    host.kill();
    let points = points_in(&trace);
    for needed in ["agent.expel.before", "assets.forget.unlink"] {
        assert!(points.contains_key(needed), "{needed} is not passed: {points:?}");
    }
    points
}

/// A host with all assets, its agent dead, and two of them expired.
fn at_rest() -> Scene {
    let mut scene = scene();
    let Scene {
        store,
        host,
        releases,
    } = &mut scene;
    host.start();
    store.desire(vec![web(1, Some(releases[4]), releases)]);
    store.wait("all", |app| app.assets == *releases);
    host.kill();
    store.expire(&urls(&[1, 2]));
    store.desire(vec![web(1, Some(releases[4]), releases)]);
    store.forget_report();
    scene
}

fn done(store: &Store, releases: &[Target]) {
    store.wait("what is kept", |app| {
        app.expired.is_some() && app.assets == releases[2..] && app.running == Some(releases[4])
    });
}

#[test]
fn killed_anywhere_it_loses_nothing_that_is_kept_and_ends_what_it_began() {
    killed_everywhere(points(), kill_at);
}

fn kill_at(point: &str, turn: u32) {
    let Scene {
        store,
        mut host,
        releases,
    } = at_rest();
    host.start_with(&[("SHIP_FAULT", &format!("{point}=kill@{turn}"))]);
    // The number of passages differs a little from run to run: an agent that arrives was not killed.
    until(&format!("the end at {point}@{turn}"), || {
        let report = store.inner.report.borrow().clone();
        let arrived = report.apps.iter().any(|app| app.expired.is_some());
        (host.has_ended() || arrived).then_some(())
    });
    let kept = stand(&host);
    assert!(kept.ends_with(&[3, 4, 5]), "{point}@{turn}: {kept:?}");
    host.kill();
    store.forget_report();
    host.start();
    done(&store, &releases);
    assert_eq!(stand(&host), [3, 4, 5], "{point}@{turn}");
    // And back.
    let list = store.expire(&[]);
    store.desire(vec![web(1, Some(releases[4]), &releases)]);
    store.wait(&format!("all again after {point}@{turn}"), |app| {
        app.expired == Some(list) && app.assets == releases
    });
    assert_eq!(stand(&host), [1, 2, 3, 4, 5], "{point}@{turn}");
}
