//! Servers without the drain contract behind HAProxy as `agent/drain/haproxy.cfg` has it: what they cut, it sends again.

use std::time::Duration;

use ship_tests::Haproxy;
use ship_tests::load::Load;
use ship_tests::servers::{Manners, Stage, Subject};

use super::{RATE, SHORT_SOAK, reverted, switched};

/// Longer than an answer takes on a machine that is short of everything: a POST that is under way when the server is stopped
/// is cut by those that close what they have accepted and not read yet, and nobody may send it again.
const DRAIN: Duration = Duration::from_secs(6);

const RECIPE: &str = include_str!("../../../agent/drain/haproxy.cfg");

fn loses_nothing_behind_haproxy(name: &'static str, subject: Option<Subject>) {
    let Some(subject) = subject else {
        return ship_tests::skipped(name, "the server is not installed: run tests/setup");
    };
    let mut stage = Stage::new(Subject {
        drain: DRAIN,
        ..subject
    });
    switched(&stage.switch(1, Manners::Good, SHORT_SOAK), 1);
    let server = stage.address().to_string();
    let haproxy = Haproxy::with(|socket, front| {
        let recipe = RECIPE.replace("<SERVER>", &server);
        let recipe = recipe.replace("<ADDRESS>", &front.to_string());
        format!(
            "global\n    stats socket {} level admin\n{recipe}",
            socket.display()
        )
    });
    let Some(haproxy) = haproxy else {
        return ship_tests::skipped(name, "haproxy is not installed: run tests/setup");
    };
    let users = [&[][..], &["--post"][..]].map(|more| users(&haproxy, more));
    for _ in 0..3 {
        switched(&stage.switch(2, Manners::Good, SHORT_SOAK), 2);
        stage.settle();
        reverted(&stage.revert(), 1);
        stage.settle();
    }
    for (kind, users) in ["GET", "POST"].iter().zip(users) {
        let seen = users.finish();
        // Over one kept connection a user meets first one release and then the other.
        let mixed = &seen["failures"]["mixed"];
        assert_eq!(&seen["failed"], mixed, "{name}, {kind}: {seen:#}");
        for answered in ["/releases/1/answers", "/releases/2/answers", "/keep_alive/ok"] {
            let count = seen.pointer(answered).and_then(serde_json::Value::as_u64);
            assert!(count > Some(0), "{name}, {kind}: {answered}: {seen:#}");
        }
    }
}

fn users(haproxy: &Haproxy, more: &[&str]) -> Load {
    let base = format!("http://{}/", haproxy.front());
    let rate = RATE.to_string();
    let mut words = vec!["--rate", &rate, "--keep-alive-rate", &rate, "--connections", "6"];
    words.extend(["--target", &base]);
    words.extend(more);
    Load::with(&words.into_iter().map(str::to_owned).collect::<Vec<_>>())
}

#[test]
fn gunicorn_without_the_contract_behind_haproxy() {
    loses_nothing_behind_haproxy("gunicorn behind HAProxy", Subject::plain_gunicorn());
}

#[test]
fn uvicorn_without_the_contract_behind_haproxy() {
    loses_nothing_behind_haproxy("uvicorn behind HAProxy", Subject::plain_uvicorn());
}
