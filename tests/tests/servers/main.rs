//! Real servers, switched to and fro under real users: no request, stream or WebSocket is lost, bad releases included.
#![allow(clippy::panic, reason = "tests fail by panicking")]

mod in_place;

use std::time::Duration;

use ship_keeper::protocol::SwitchResult;
use ship_tests::servers::{Manners, Stage, Subject};

const LONG_SOAK: Duration = Duration::from_secs(60);
const SHORT_SOAK: Duration = Duration::from_millis(100);

/// Each kind of user sends so many requests a second.
const RATE: u32 = 30;

fn to_and_fro(name: &str, subject: Option<Subject>) {
    let Some(subject) = subject else {
        return ship_tests::skipped(name, "the server is not installed: run tests/setup");
    };
    let websockets = subject.websockets;
    let mut stage = Stage::new(subject);
    switched(&stage.switch(1, Manners::Good, SHORT_SOAK), 1);
    let users = stage.users(RATE);

    switched(&stage.switch(2, Manners::Good, LONG_SOAK), 2);
    reverted(&stage.revert(), 1);
    stage.settle();
    switched(&stage.switch(2, Manners::Good, SHORT_SOAK), 2);
    stage.settle();
    reverted(&stage.revert(), 1);
    stage.settle();
    switched(&stage.switch(2, Manners::Good, SHORT_SOAK), 2);
    stage.settle();
    reverted(&stage.revert(), 1);
    stage.settle();

    for (release, manners) in [(3, Manners::Exits), (4, Manners::Sick)] {
        let outcome = stage.switch(release, manners, SHORT_SOAK);
        let seen = (outcome.result, outcome.running);
        assert_eq!(seen, (SwitchResult::Failed, Some(1)), "{name}: {outcome:?}");
    }

    let cut = stage.settle().counters.connections_cut;
    let seen = users.finish();
    let count = |pointer: &str| {
        seen.pointer(pointer)
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0)
    };
    assert_eq!((count("/failed"), cut), (0, 0), "{name}: {seen:#}");
    for kind in [
        "/connection/ok",
        "/keep_alive/ok",
        "/stream/ok",
        "/releases/1/answers",
        "/releases/2/answers",
    ] {
        assert!(count(kind) > 0, "{name}: nothing counted under {kind}: {seen:#}");
    }
    assert_eq!(
        (count("/releases/3/answers"), count("/releases/4/answers")),
        (0, 0),
        "{name}: {seen:#}"
    );
    if websockets {
        // Six switches, and each generation closed what it had.
        assert!(count("/websocket/moved") >= 6, "{name}: {seen:#}");
        assert!(count("/websocket/echoed") > 0, "{name}: {seen:#}");
    }
}

fn switched(outcome: &ship_keeper::protocol::Outcome, release: u64) {
    let seen = (outcome.result, outcome.running);
    assert_eq!(seen, (SwitchResult::Switched, Some(release)), "{outcome:?}");
}

fn reverted(outcome: &ship_keeper::protocol::Outcome, release: u64) {
    let seen = (outcome.result, outcome.running);
    assert_eq!(seen, (SwitchResult::Reverted, Some(release)), "{outcome:?}");
}

#[test]
fn uvicorn() {
    to_and_fro("uvicorn", Subject::uvicorn());
}

#[test]
fn hypercorn() {
    to_and_fro("hypercorn", Subject::hypercorn());
}

#[test]
fn gunicorn() {
    to_and_fro("gunicorn", Subject::gunicorn());
}

#[test]
fn puma() {
    to_and_fro("puma", Subject::puma());
}

#[test]
fn unicorn() {
    to_and_fro("unicorn", Subject::unicorn());
}

#[test]
fn node() {
    to_and_fro("node", Subject::node());
}

#[test]
fn go() {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
    to_and_fro("go", Subject::go(folder.path()));
}

#[test]
fn hyper() {
    to_and_fro("hyper", Some(Subject::hyper()));
}

#[test]
fn sample() {
    to_and_fro("sample", Some(Subject::sample()));
}
