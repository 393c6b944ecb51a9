//! Real servers, switched to and fro under real users: no request, stream or WebSocket is lost, bad releases included.
#![allow(clippy::panic, reason = "tests fail by panicking")]

mod adopted;
mod behind;
mod cut_over;
mod http2;
mod in_place;
mod join;
mod relup;
mod skew;

use std::time::Duration;

use serde_json::Value;
use ship_keeper::protocol::{Outcome, SwitchResult};
use ship_tests::servers::{Manners, Stage, Subject};

const LONG_SOAK: Duration = Duration::from_secs(60);
const SHORT_SOAK: Duration = Duration::from_millis(100);

/// Each kind of user sends so many requests a second.
const RATE: u32 = 20;

/// What the users of a server saw.
struct Seen {
    name: &'static str,
    summary: Value,
    /// Connections that the keeper saw open when a generation was stopped.
    cut: u64,
}

impl Seen {
    fn count(&self, pointer: &str) -> u64 {
        self.summary.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
    }

    fn some(&self, pointer: &str) {
        let (name, summary) = (self.name, &self.summary);
        assert!(
            self.count(pointer) > 0,
            "{name}: nothing at {pointer}: {summary:#}"
        );
    }

    fn none(&self, pointer: &str) {
        let (name, summary) = (self.name, &self.summary);
        assert_eq!(self.count(pointer), 0, "{name}: {pointer}: {summary:#}");
    }
}

/// Six switches, half of them back, the first of these while the old generation is warm; then two bad releases.
fn to_and_fro(name: &'static str, subject: Option<Subject>) -> Option<Seen> {
    let Some(subject) = subject else {
        ship_tests::skipped(name, "the server is not installed: run tests/setup");
        return None;
    };
    let streams = subject.streams;
    let mut stage = Stage::new(subject);
    switched(&stage.switch(1, Manners::Good, SHORT_SOAK), 1);
    let users = stage.users(RATE);
    for soak in [LONG_SOAK, SHORT_SOAK, SHORT_SOAK] {
        switched(&stage.switch(2, Manners::Good, soak), 2);
        users.until_answered_by(2);
        if soak == SHORT_SOAK {
            stage.settle();
        }
        reverted(&stage.revert(), 1);
        stage.settle();
    }
    for (release, manners) in [(3, Manners::Exits), (4, Manners::Sick)] {
        let outcome = stage.switch(release, manners, SHORT_SOAK);
        let seen = (outcome.result, outcome.running);
        assert_eq!(seen, (SwitchResult::Failed, Some(1)), "{name}: {outcome:?}");
    }
    let cut = stage.settle().counters.connections_cut;
    let seen = Seen {
        name,
        summary: users.finish(),
        cut,
    };
    seen.some("/connection/ok");
    seen.some("/keep_alive/ok");
    if streams {
        seen.some("/stream/ok");
    }
    for (release, good) in [(1, true), (2, true), (3, false), (4, false)] {
        let answers = format!("/releases/{release}/answers");
        if good {
            seen.some(&answers)
        } else {
            seen.none(&answers)
        }
    }
    Some(seen)
}

/// A server with the drain contract: nothing at all is lost.
fn loses_nothing(name: &'static str, subject: Option<Subject>) {
    let websockets = subject.as_ref().is_some_and(|subject| subject.websockets);
    let Some(seen) = to_and_fro(name, subject) else {
        return;
    };
    seen.none("/failed");
    assert_eq!(seen.cut, 0, "{name}");
    if websockets {
        seen.some("/websocket/echoed");
        // Six generations left, and each asked those that it had to come back.
        let moved = seen.count("/websocket/moved");
        assert!(moved >= 6, "{name}: {moved} moved: {:#}", seen.summary);
    }
}

fn switched(outcome: &Outcome, release: u64) {
    let seen = (outcome.result, outcome.running);
    assert_eq!(seen, (SwitchResult::Switched, Some(release)), "{outcome:?}");
}

fn reverted(outcome: &Outcome, release: u64) {
    let seen = (outcome.result, outcome.running);
    assert_eq!(seen, (SwitchResult::Reverted, Some(release)), "{outcome:?}");
}

#[test]
fn uvicorn() {
    loses_nothing("uvicorn", Subject::uvicorn());
}

#[test]
fn hypercorn() {
    loses_nothing("hypercorn", Subject::hypercorn());
}

#[test]
fn gunicorn() {
    loses_nothing("gunicorn", Subject::gunicorn());
}

#[test]
fn puma() {
    loses_nothing("puma", Subject::puma());
}

#[test]
fn unicorn() {
    loses_nothing("unicorn", Subject::unicorn());
}

#[test]
fn starlet() {
    loses_nothing("starlet", Subject::starlet());
}

#[test]
fn node() {
    loses_nothing("node", Subject::node());
}

#[test]
fn go() {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
    loses_nothing("go", Subject::go(folder.path(), "."));
}

#[test]
fn hyper() {
    loses_nothing("hyper", Some(Subject::hyper()));
}

#[test]
fn sample() {
    loses_nothing("sample", Some(Subject::sample()));
}

#[test]
fn nginx() {
    loses_nothing("nginx", Subject::nginx_beside());
}

/// Told nothing before its stop signal, with which it leaves by itself.
#[test]
fn haproxy() {
    if let Some(seen) = to_and_fro("haproxy", Subject::haproxy_beside()) {
        seen.none("/failed");
    }
}

#[test]
fn without_the_contract_no_new_connection_and_no_stream_is_lost() {
    if let Some(seen) = to_and_fro("uvicorn, plain", Subject::plain_uvicorn()) {
        seen.none("/connection/failed");
        seen.none("/stream/failed");
        // What it loses is what nobody but itself could have kept.
        let lost = seen.count("/keep_alive/failed");
        assert_eq!(seen.count("/keep_alive_cuts"), lost, "{:#}", seen.summary);
    }
}
