//! `ship-agent revert` and `status` at the instant the agent dies.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    dead_code,
    reason = "tests stop at the first surprise, and each uses its part of the fleet"
)]

mod fleet;

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::net::UnixListener;

use fleet::agent::Host;
use fleet::store::{Store, web};
use ship_model::release::Target;
use ship_model::report::AppPhase;

/// A host at rest on release 3, with 2 and 1 behind it, its agent dead.
fn three_releases() -> (Store, Host, Target) {
    let store = Store::start();
    let mut host = Host::new(&store);
    let releases = [1, 2, 3].map(|number| {
        let page = format!("v{number}").into_bytes();
        let spec = ship_model::spec::ReleaseSpec::static_files("web".parse().unwrap());
        let mut shelf = store.inner.shelf.lock().unwrap();
        shelf.publish(number, &spec, &[("index.html", &page)])
    });
    host.start();
    for (epoch, target) in (1..).zip(releases) {
        store.desire(vec![web(epoch, Some(target), &releases)]);
        store.wait("the release", |app| app.running == Some(target) && app.healthy);
    }
    store.wait("the way back", |app| app.previous == Some(releases[1]));
    host.kill();
    (store, host, releases[1])
}

#[test]
fn a_socket_that_nobody_listens_on_is_no_agent() {
    let (_store, host, _) = three_releases();
    assert!(host.path("run/agent.sock").exists());
    let report = host.ask(&["revert", "web"]);
    assert_eq!(report["release"], 2);
    assert_eq!(host.page().unwrap(), "v2");
}

/// Somebody at the agent's socket who reads what is asked, so many times, and is gone before anything is done.
fn dying_agent(host: &Host, times: usize) -> std::thread::JoinHandle<()> {
    let socket = host.path("run/agent.sock");
    std::fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for _ in 0..times {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0_u8; 64];
            let _ = stream.read(&mut request).unwrap();
        }
    })
}

#[test]
fn an_agent_that_dies_before_it_has_heard_is_done_without() {
    let (_store, host, _) = three_releases();
    let dying = dying_agent(&host, 1);
    let report = host.ask(&["revert", "web"]);
    assert_eq!(report["release"], 2);
    assert_eq!(host.page().unwrap(), "v2");
    dying.join().unwrap();
}

#[test]
fn an_agent_that_dies_while_it_is_asked_how_things_are_is_done_without() {
    let (_store, host, _) = three_releases();
    // Its successor may die as well.
    for times in 1..=2 {
        let dying = dying_agent(&host, times);
        let status = host.ask(&["status"]);
        dying.join().unwrap();
        let why = status["store_error"].as_str().unwrap();
        assert!(why.starts_with("the agent does not run"), "{status:#}");
        assert_eq!(status["apps"][0]["release"], 3, "{status:#}");
    }
}

/// Points that the agent passes only while it takes the app back.
fn points() -> BTreeSet<String> {
    let (store, mut host, two) = three_releases();
    let trace = host.path("trace");
    store.forget_report();
    host.start_with(&[("SHIP_FAULT_TRACE", trace.to_str().unwrap())]);
    host.wait_ready();
    // Whatever it passes when it starts is behind it.
    store.wait("rest", |app| {
        app.previous == Some(two) && app.healthy && app.phase == AppPhase::Idle
    });
    let read = || -> BTreeSet<String> {
        let trace = std::fs::read_to_string(&trace).unwrap_or_default();
        trace.lines().map(str::to_owned).collect()
    };
    let before = read();
    host.ask(&["revert", "web"]);
    let after = read();
    host.kill();
    after.difference(&before).cloned().collect()
}

#[test]
fn an_agent_killed_in_the_call_is_done_without_and_goes_back_once() {
    let points = points();
    assert!(points.len() >= 3, "{points:?}");
    for point in points {
        let (store, mut host, two) = three_releases();
        host.start_with(&[("SHIP_FAULT", &format!("{point}=kill"))]);
        host.wait_ready();
        let said = host.say(&["revert", "web", "-o", "json"]);
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{point}: {error}");
        let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(report["release"], 2, "{point}");
        assert_eq!(host.page().unwrap(), "v2", "{point}");
        // Its socket closes before anybody can wait for it.
        fleet::until(&format!("{point} is passed"), || host.has_ended().then_some(()));
        // The agent that comes back keeps to it.
        store.forget_report();
        host.start();
        let report = store.wait("the hold", |app| app.held.is_some() && app.running.is_some());
        assert_eq!(report.running, Some(two), "{point}");
    }
}
