//! A warm standby behind a real server under real users: one that takes its socket, and one that binds by itself.

use std::time::Duration;

use ship_keeper::protocol::Phase;
use ship_model::spec::{Standby, Strategy};
use ship_tests::servers::{Manners, Stage, Subject};
use ship_tests::{http, wait};

use super::{RATE, SHORT_SOAK, reverted, switched};

/// There, back to the standby without a start, there again, and on to a third: twice a standby makes room.
fn stands_by(name: &str, subject: Option<Subject>) {
    let Some(subject) = subject else {
        return ship_tests::skipped(name, "the server is not installed: run tests/setup");
    };
    let mut stage = Stage::new(Subject {
        strategy: Strategy::CutOver,
        standby: Some(Standby { hold_ms: None }),
        // A standby that makes room is waited for.
        drain: Duration::from_secs(10),
        ..subject
    });
    switched(&stage.switch(1, Manners::Good, SHORT_SOAK), 1);
    let first = stage.settle().generations[0].processes[0].pid;
    let users = stage.users(RATE);
    switched(&stage.switch(2, Manners::Good, SHORT_SOAK), 2);
    let kept = wait::until("the soak to end", || {
        let status = stage.status();
        (status.phase == Phase::Idle && status.revert.standby.is_some()).then_some(status)
    });
    assert_eq!(kept.generations.len(), 2, "{name}: {kept:#?}");
    reverted(&stage.revert(), 1);
    let back = stage.settle().generations[0].processes[0].pid;
    assert_eq!(back, first, "{name}: it was started again");
    for release in [2, 5] {
        switched(&stage.switch(release, Manners::Good, SHORT_SOAK), release);
        let generations = stage.status().generations;
        assert!(generations.len() <= 2, "{name}: {generations:#?}");
        let answer = http::get(stage.address(), "/").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            answer.header("x-release"),
            Some(release.to_string().as_str()),
            "{name}"
        );
    }
    let seen = users.finish();
    let count = |pointer: &str| seen.pointer(pointer).and_then(serde_json::Value::as_u64);
    assert_eq!(count("/connection/failed"), Some(0), "{name}: {seen:#}");
    let answers = count("/releases/1/answers");
    assert!(answers.is_some_and(|answers| answers > 0), "{name}: {seen:#}");
    let seen = stage.status();
    assert_eq!(seen.counters.restarts, 0, "{name}");
}

#[test]
fn cut_over_of_one_that_takes_its_socket() {
    stands_by("sample, cut over", Some(Subject::sample()));
}

#[test]
fn cut_over_of_one_that_binds_by_itself() {
    stands_by("node, cut over", Subject::node_http());
}
