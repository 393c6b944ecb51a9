//! Servers that bind by themselves and know nothing of handed-over sockets: two of them share an address all the same.

use ship_keeper::protocol::{Outcome, Steering, SwitchResult};
use ship_model::spec::Strategy;
use ship_tests::http;
use ship_tests::servers::{Manners, Stage, Subject};
use ship_tests::wait;

use super::{LONG_SOAK, SHORT_SOAK, reverted, switched};

/// Requests a second of each kind: `python -m http.server` listens with a backlog of five and keeps no connection, so that
/// more of them find it full whenever a busy machine lets it wait for a moment.
const FEW: u32 = 6;

/// Six switches, half of them back, then two bad releases; `path` answers which release it is.
///
/// None of these servers drains: what is lost on kept connections is theirs. No new one is lost.
fn joins(subject: Option<Subject>, name: &str, path: &str) {
    let Some(subject) = subject else {
        return ship_tests::skipped(name, "the server is not installed: run tests/setup");
    };
    let strategy = subject.strategy;
    let mut stage = Stage::new(subject);
    told(&stage.switch(1, Manners::Good, SHORT_SOAK), strategy);
    let status = stage.status();
    assert_eq!(status.listeners[0].steering, Steering::Bpf);
    let process = &status.generations[0].processes[0];
    assert_eq!(process.strategy, Strategy::BindJoin, "{name}: {process:?}");
    let address = stage.address();
    let shows = |release: &str| {
        // A full backlog of five drops a connection now and then; whoever answers must be of this release.
        let answer = wait::until("an answer", || http::get(address, path).ok());
        assert_eq!(answer.text(), release, "{name}");
    };
    shows("1");
    let users = stage.users(FEW);
    for soak in [LONG_SOAK, SHORT_SOAK, SHORT_SOAK] {
        told(&stage.switch(2, Manners::Good, soak), strategy);
        shows("2");
        if soak == SHORT_SOAK {
            stage.settle();
        }
        reverted(&stage.revert(), 1);
        shows("1");
        stage.settle();
    }
    for (release, manners) in [(3, Manners::Exits), (4, Manners::Sick)] {
        let outcome = stage.switch(release, manners, SHORT_SOAK);
        let seen = (outcome.result, outcome.running);
        assert_eq!(seen, (SwitchResult::Failed, Some(1)), "{name}: {outcome:?}");
        shows("1");
    }
    let restarts = stage.settle().counters.restarts;
    assert_eq!(restarts, 0, "{name}");
    let seen = users.finish();
    let count = |pointer: &str| seen.pointer(pointer).and_then(serde_json::Value::as_u64);
    assert!(count("/connection/ok").unwrap_or(0) > 0, "{name}: {seen:#}");
    assert_eq!(count("/connection/failed").unwrap_or(0), 0, "{name}: {seen:#}");
}

/// Under `auto`, what it did is in the record.
fn told(outcome: &Outcome, strategy: Strategy) {
    switched(outcome, outcome.release);
    let rungs: Vec<_> = outcome.rungs.iter().map(|rung| rung.strategy).collect();
    let wanted = match strategy {
        Strategy::Auto => vec![Strategy::BindJoin],
        _ => Vec::new(),
    };
    assert_eq!(rungs, wanted, "{outcome:?}");
}

#[test]
fn python_http_server() {
    joins(Subject::python_http(), "python -m http.server", "/release");
}

#[test]
fn streamlit() {
    joins(Subject::streamlit(), "streamlit", "/app/static/release.txt");
}

#[test]
fn node_http() {
    joins(Subject::node_http(), "node http", "/");
}

#[test]
fn java() {
    joins(Subject::java(), "java", "/");
}

#[test]
fn auto_sees_that_node_binds() {
    let auto = Subject::node_http().map(|subject| Subject {
        strategy: Strategy::Auto,
        ..subject
    });
    joins(auto, "node http, auto", "/");
}
