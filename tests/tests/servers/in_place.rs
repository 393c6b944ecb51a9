//! Servers replaced in place by their own signals: the keeper sends them, finds the successor, proves it, and goes back.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use ship_keeper::protocol::{Steering, SwitchResult};
use ship_tests::servers::{Bare, Manners, Stage, Subject};

use super::{RATE, SHORT_SOAK, reverted, switched};

const SOAK: Duration = Duration::from_secs(60);

/// What the server loses by itself, whoever sends the signal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    /// It closes kept connections while a request may be on its way.
    CutsKept,
    /// Its workers close what they have accepted and not yet read, too.
    CutsUnread,
}

fn in_place(name: &str, subject: Option<Subject>, known: Known) {
    let Some(subject) = subject else {
        return ship_tests::skipped(name, "the server is not installed: run tests/setup");
    };
    let mut stage = Stage::new(subject);
    switched(&stage.switch(1, Manners::Good, SHORT_SOAK), 1);
    assert_eq!(stage.status().listeners[0].steering, Steering::Outside);
    let first = stage.settle().generations[0].processes[0].pid;
    let users = stage.users(RATE);

    switched(&stage.switch(2, Manners::Good, SOAK), 2);
    users.until_answered_by(2);
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
    // A failure leaves nothing in the way of the next one, also while the server goes back from it.
    switched(&stage.switch(5, Manners::Good, SHORT_SOAK), 5);
    serves_alone(&stage, name, 5);
    let settled = stage.settle();
    assert_eq!(
        settled.counters.restarts, 0,
        "{name}: {first:?} was started again: {settled:#?}"
    );
    users.until_answered_by(5);

    let seen = users.finish();
    let count = |pointer: &str| {
        let found = seen.pointer(pointer).and_then(serde_json::Value::as_u64);
        found.unwrap_or(0)
    };
    match known {
        Known::Nothing => assert_eq!(count("/failed"), 0, "{name}: {seen:#}"),
        Known::CutsKept => assert_eq!(count("/connection/failed"), 0, "{name}: {seen:#}"),
        Known::CutsUnread => {}
    }
    for never in ["refused", "timeout", "connect_timeout", "status_5xx", "bad_body"] {
        assert_eq!(count(&format!("/failures/{never}")), 0, "{name}: {seen:#}");
    }
    for release in [1, 2, 5] {
        assert!(
            count(&format!("/releases/{release}/answers")) > 0,
            "{name}: {seen:#}"
        );
    }
}

/// The release was told to be there: somebody serves it now, and soon nobody serves any other.
fn serves_alone(stage: &Stage, name: &str, release: u64) {
    let answers: Vec<_> = (0..40).filter_map(|_| release_at(stage)).collect();
    assert!(
        answers.contains(&release),
        "{name}: {release} was told, and {answers:?} serve"
    );
    let mut good = 0;
    ship_tests::wait::until("the new release to serve alone", || {
        good = if release_at(stage) == Some(release) {
            good + 1
        } else {
            0
        };
        (good > 40).then_some(())
    });
}

/// Which release answers a new connection.
fn release_at(stage: &Stage) -> Option<u64> {
    let answer = ship_tests::http::get(stage.own(), "/").ok()?;
    answer.header("x-release")?.parse().ok()
}

#[test]
fn unicorn_by_usr2() {
    in_place("unicorn_by_usr2", Subject::unicorn_reexec(), Known::Nothing);
}

#[test]
fn gunicorn_by_usr2() {
    in_place("gunicorn_by_usr2", Subject::gunicorn_reexec(), Known::CutsUnread);
}

/// What became of failed requests, a reset and an end being the same cut, with how many there were.
fn cuts(seen: &Value) -> (BTreeSet<&'static str>, u64) {
    let names = [
        ("reset_before_byte", "before its answer"),
        ("eof_before_byte", "before its answer"),
        ("reset_mid", "in its answer"),
        ("eof_mid", "in its answer"),
        ("refused", "refused"),
        ("timeout", "timeout"),
        ("connect_timeout", "timeout"),
        ("status_5xx", "status"),
        ("bad_body", "wrong"),
    ];
    let count = |name: &str| seen["failures"][name].as_u64().unwrap_or(0);
    let found = names.into_iter().filter(|(name, _)| count(name) > 0);
    let failed = seen["failed"].as_u64().unwrap_or(u64::MAX);
    (found.map(|(_, kind)| kind).collect(), failed)
}

/// It ends kept connections while a request may be on its way, whoever sends it the signals: under the same users, four
/// upgrades by hand and four by the keeper. Its kinds of cuts are its own, and so is about how many there are.
#[test]
fn gunicorn_by_usr2_cuts_nothing_that_it_does_not_cut_bare() {
    let name = "gunicorn, bare and by USR2";
    let Some(subject) = Subject::gunicorn_reexec() else {
        return ship_tests::skipped(name, "the server is not installed: run tests/setup");
    };
    let rate = 4 * RATE;
    let mut bare = Bare::gunicorn(&subject);
    let users = bare.users(rate);
    for release in ["2", "1", "2", "1"] {
        bare.upgrade_to(release);
    }
    let alone = users.finish();
    drop(bare);

    let mut stage = Stage::new(subject);
    switched(&stage.switch(1, Manners::Good, SHORT_SOAK), 1);
    stage.settle();
    let users = stage.users(rate);
    for _ in 0..2 {
        switched(&stage.switch(2, Manners::Good, SHORT_SOAK), 2);
        stage.settle();
        reverted(&stage.revert(), 1);
        stage.settle();
    }
    let kept = users.finish();
    let ((mut known, by_itself), (kinds, failed)) = (cuts(&alone), cuts(&kept));
    // Whether it came to that this time or not: it closes what it has accepted and not read.
    known.insert("before its answer");
    assert!(
        kinds.is_subset(&known),
        "{name}: {kinds:?} of {known:?}: {alone:#} {kept:#}"
    );
    // So many connections are kept: chance decides which of them are just in use.
    assert!(
        failed <= 2 * by_itself + 6,
        "{name}: {failed} for {by_itself}: {alone:#} {kept:#}"
    );
}

#[test]
fn puma_phased() {
    in_place("puma_phased", Subject::puma_phased(), Known::CutsKept);
}

/// A release promoted while the server still goes back from a failed one, and would not hear of it.
#[test]
fn a_phased_restart_is_over_before_the_next_is_asked_for() {
    let name = "a_phased_restart_is_over_before_the_next_is_asked_for";
    let Some(subject) = Subject::deaf_while_it_restarts() else {
        return ship_tests::skipped(name, "python3 is not installed: run tests/setup");
    };
    let mut stage = Stage::new(subject);
    switched(&stage.switch(1, Manners::Good, SHORT_SOAK), 1);
    stage.settle();
    let outcome = stage.switch(4, Manners::Sick, SHORT_SOAK);
    let seen = (outcome.result, outcome.running);
    assert_eq!(seen, (SwitchResult::Failed, Some(1)), "{outcome:?}");
    switched(&stage.switch(5, Manners::Good, SHORT_SOAK), 5);
    serves_alone(&stage, name, 5);
    stage.settle();
}

#[test]
fn nginx_by_hup() {
    in_place("nginx_by_hup", Subject::nginx_reload(), Known::CutsKept);
}

#[test]
fn nginx_by_usr2() {
    in_place("nginx_by_usr2", Subject::nginx_reexec(), Known::CutsKept);
}

#[test]
fn haproxy_by_usr2() {
    in_place("haproxy_by_usr2", Subject::haproxy_reload(), Known::CutsKept);
}
