//! A real Erlang release, upgraded and downgraded from inside while its state and its users stay.

use ship_keeper::protocol::{Outcome, SwitchResult};
use ship_model::spec::Strategy;
use ship_tests::http;
use ship_tests::servers::{Manners, Stage, Subject, Users};

use super::{RATE, SHORT_SOAK, reverted, switched};

const NAME: &str = "erlang";

struct Node {
    stage: Stage,
    users: Users,
    /// What was counted last.
    count: u64,
    pid: Option<u32>,
}

impl Node {
    fn begin() -> Option<Self> {
        let Some(subject) = Subject::erlang() else {
            ship_tests::skipped(NAME, "erlang-base is not installed: run tests/setup");
            return None;
        };
        let mut stage = Stage::new(subject);
        switched(&stage.switch(1, Manners::Good, SHORT_SOAK), 1);
        let pid = stage.settle().generations[0].processes[0].pid;
        let users = stage.users(RATE);
        let mut node = Self {
            stage,
            users,
            count: 0,
            pid,
        };
        node.goes_on_as(1);
        Some(node)
    }

    /// The number of the one before plus one, kept as this release keeps it.
    fn goes_on_as(&mut self, release: u64) {
        self.count += 1;
        let answer =
            http::get(self.stage.address(), "/count").unwrap_or_else(|error| panic!("{NAME}: {error}"));
        let wanted = format!("{} in a state of release {release}", self.count);
        assert_eq!(answer.text(), wanted);
    }

    fn is_the_same(&self) {
        let status = self.stage.settle();
        assert_eq!(status.generations[0].processes[0].pid, self.pid, "{status:#?}");
        assert_eq!(status.counters.restarts, 0, "{status:#?}");
    }
}

fn without_rungs(outcome: &Outcome) {
    assert_eq!(outcome.rungs, Vec::new(), "{outcome:?}");
}

#[test]
fn erlang_by_relup_there_and_back_keeps_state_and_users() {
    let Some(mut node) = Node::begin() else { return };
    for _ in 0..2 {
        let outcome = node.stage.switch(2, Manners::Good, SHORT_SOAK);
        switched(&outcome, 2);
        without_rungs(&outcome);
        node.goes_on_as(2);
        node.users.until_answered_by(2);
        node.is_the_same();
        let outcome = node.stage.revert();
        reverted(&outcome, 1);
        without_rungs(&outcome);
        node.goes_on_as(1);
        node.is_the_same();
    }
    // Its code is fine, and what it answers is not: it is taken back from inside as well.
    let outcome = node.stage.switch(4, Manners::Sick, SHORT_SOAK);
    assert_eq!(
        (outcome.result, outcome.running),
        (SwitchResult::Failed, Some(1)),
        "{outcome:?}"
    );
    ship_tests::wait::until("it is as it was", || {
        let answer = http::get(node.stage.address(), "/release").ok()?;
        (answer.text() == "1").then_some(())
    });
    node.goes_on_as(1);
    node.is_the_same();
    let seen = node.users.finish();
    let count = |pointer: &str| seen.pointer(pointer).and_then(serde_json::Value::as_u64);
    // A connection that spoke for one release and goes on for the next is what this way is for.
    let kept = count("/failures/mixed");
    assert!(kept.is_some_and(|kept| kept > 0), "{seen:#}");
    assert_eq!(count("/failed"), kept, "{seen:#}");
    for release in ["1", "2"] {
        let answers = count(&format!("/releases/{release}/answers"));
        assert!(answers.is_some_and(|answers| answers > 0), "{seen:#}");
    }
}

#[test]
fn erlang_that_cannot_take_the_state_over_is_restarted_and_that_is_told() {
    let Some(mut node) = Node::begin() else { return };
    let outcome = node.stage.switch(3, Manners::Estranged, SHORT_SOAK);
    switched(&outcome, 3);
    assert_eq!(outcome.rungs.len(), 1, "{outcome:?}");
    let rung = &outcome.rungs[0];
    assert_eq!(
        (rung.process.as_str(), rung.strategy),
        ("web", Strategy::StopStart)
    );
    let words = &rung.reason;
    let told = words.contains("cannot_take_over") || words.contains("while it was upgraded");
    assert!(
        words.starts_with("its upgrade command failed: ") && told,
        "{words}"
    );
    let status = node.stage.settle();
    assert_ne!(status.generations[0].processes[0].pid, node.pid);
    // It began anew.
    node.count = 0;
    node.goes_on_as(3);
    // And the next upgrade from there works again.
    node.pid = status.generations[0].processes[0].pid;
    let outcome = node.stage.switch(5, Manners::Good, SHORT_SOAK);
    switched(&outcome, 5);
    without_rungs(&outcome);
    node.goes_on_as(5);
    node.is_the_same();
    drop(node.users.finish());
}
