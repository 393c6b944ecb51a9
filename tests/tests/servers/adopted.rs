//! Servers that were started by hand come into a keeper's care under load, and releases take over from them.

use ship_keeper::protocol::{Role, Steering};
use ship_tests::servers::{BY_HAND, Stage, Subject};
use ship_tests::{http, servers::Manners};

use super::{LONG_SOAK, RATE, SHORT_SOAK, reverted, switched};

/// Adopted, replaced by a release, gone back to while it is warm, replaced for good; `path` answers which release it is.
///
/// None of these servers drains: what is lost on kept connections is theirs. No new one is lost.
fn moves_in(subject: Option<Subject>, name: &str, path: &str) {
    let Some(subject) = subject else {
        return ship_tests::skipped(name, "the server is not installed: run tests/setup");
    };
    let mut stage = Stage::new(subject);
    let mut server = stage.by_hand();
    let address = stage.own();
    let shows = |release: u64| {
        let answer = http::get(address, path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let told = answer.header("x-release").map(str::to_owned);
        assert_eq!(
            told.unwrap_or_else(|| answer.text()),
            release.to_string(),
            "{name}"
        );
    };
    let users = stage.users_at(address, RATE);
    let status = stage.adopt(&server);
    let active = status.generations.iter().find(|found| found.role == Role::Active);
    let pid = active.and_then(|found| found.processes[0].pid);
    assert_eq!(pid, Some(server.pid()), "{name}: {status:?}");
    assert_eq!(status.listeners[0].steering, Steering::Bpf, "{name}");
    shows(BY_HAND);
    // A bad release leaves it where it is.
    let bad = stage.switch(1, Manners::Exits, SHORT_SOAK);
    assert_eq!(bad.running, Some(0), "{name}: {bad:?}");
    shows(BY_HAND);
    switched(&stage.switch(2, Manners::Good, LONG_SOAK), 2);
    shows(2);
    reverted(&stage.revert(), 0);
    shows(BY_HAND);
    stage.settle();
    switched(&stage.switch(3, Manners::Good, SHORT_SOAK), 3);
    server.wait_for_end();
    stage.settle();
    shows(3);
    let seen = users.finish();
    let count = |pointer: &str| seen.pointer(pointer).and_then(serde_json::Value::as_u64);
    assert!(count("/connection/ok").unwrap_or(0) > 0, "{name}: {seen:#}");
    assert_eq!(count("/connection/failed").unwrap_or(0), 0, "{name}: {seen:#}");
}

#[test]
fn python_http_server() {
    moves_in(Subject::python_http(), "python -m http.server", "/release");
}

#[test]
fn uvicorn() {
    moves_in(Subject::uvicorn_binds(), "uvicorn, by hand", "/release");
}

#[test]
fn node() {
    moves_in(Subject::node_http(), "node http", "/");
}
