//! Each member of a group of listeners is shut down, closed or killed, under connections: nobody is lost, and nobody comes to
//! a generation that is not proven. (A canary's end is in `canary.rs`.)
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::path::PathBuf;

use rustix::process::{Pid, Signal};
use ship_keeper::protocol::*;
use stage::{Load, Stage, ask, get, until};

const ANY: &str = "tcp:127.0.0.1:0";

/// What a generation does to its listener.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Shutdown,
    Close,
    Kill,
}

const ALL: [How; 3] = [How::Shutdown, How::Close, How::Kill];

impl How {
    fn manners(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown-later",
            Self::Close => "close-later",
            Self::Kill => "",
        }
    }

    fn intent(self, stage: &Stage, number: u64, more: &str) -> Intent {
        let mut intent = stage.intent(number, &format!("{},{more}", self.manners()), ANY);
        intent.processes[0].env.insert(
            "FIXTURE_TRIGGER".to_owned(),
            trigger(stage, number).display().to_string(),
        );
        intent
    }

    fn happens(self, stage: &Stage, number: u64) {
        if self != Self::Kill {
            std::fs::write(trigger(stage, number), b"").unwrap();
            return;
        }
        let status = stage.status();
        let found = status
            .generations
            .iter()
            .find(|generation| generation.release == number);
        let pid = found.unwrap().processes[0].pid.unwrap();
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    /// So that the next start of the same release does not do it again.
    fn over(self, stage: &Stage, number: u64) {
        let _ = std::fs::remove_file(trigger(stage, number));
    }
}

fn trigger(stage: &Stage, number: u64) -> PathBuf {
    stage.dir.path().join(format!("trigger-{number}"))
}

fn runs(status: &Status, release: u64) -> bool {
    let is_it = |running: &ReleaseRef| running.release == release;
    status.running.as_ref().is_some_and(is_it)
}

#[test]
fn the_old_one_that_is_warm() {
    for how in ALL {
        let mut stage = Stage::new();
        stage.start();
        stage.switch(how.intent(&stage, 1, ""));
        stage.switch(stage.intent(2, "", ANY));
        let load = Load::on(stage.bound());
        how.happens(&stage, 1);
        if how == How::Close {
            let addr = stage.bound();
            stage.client().revert(None, "back", None).unwrap();
            // Nobody accepts in what was steered back to, which is found out.
            until("it is started again", || stage.status().counters.restarts > 0);
            how.over(&stage, 1);
            until("it answers", || {
                get(addr, "/").is_ok_and(|body| body == "release 1")
            });
        } else {
            stage.until("it is not warm any more", |status| !status.revert.warm);
            how.over(&stage, 1);
            stage.client().revert(None, "back", None).unwrap();
            stage.until("it is back", |status| runs(status, 1));
        }
        let account = load.end();
        assert_eq!(account.failed, Vec::<String>::new(), "{how:?}");
        assert_eq!(get(stage.bound(), "/").unwrap(), "release 1", "{how:?}");
    }
}

#[test]
fn the_old_one_while_it_drains() {
    for manners in ["shutdown-on-drain", "close-on-drain"] {
        let mut stage = Stage::new();
        stage.start();
        let intent = |number| Intent {
            soak_ms: 0,
            ..stage.intent(number, manners, ANY)
        };
        stage.switch(intent(1));
        let load = Load::on(stage.bound());
        for number in 2..=6 {
            assert_eq!(stage.switch(intent(number)).result, SwitchResult::Switched);
            stage.until("the old one is gone", |status| status.generations.len() == 1);
        }
        let account = load.end();
        assert_eq!(account.failed, Vec::<String>::new(), "{manners}");
    }
}

/// A generation that shuts its listener down when it is to drain would reset whoever waits there.
#[test]
fn whoever_waits_is_taken_before_the_word_to_drain() {
    // The keeper waits two seconds for it, in which a busy machine may not get here.
    let held = (0..3).any(|_| {
        let mut stage = Stage::new();
        stage.start();
        let intent = |number| Intent {
            soak_ms: 0,
            ..stage.intent(number, "shutdown-on-drain", ANY)
        };
        let (first, second) = (intent(1), intent(2));
        let drain_file = stage.run.join("drain/1");
        let old = stage.switch(first);
        assert_eq!(old.result, SwitchResult::Switched);
        let pid = stage.status().generations[0].processes[0].pid.unwrap();
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        let mut waits = std::net::TcpStream::connect(stage.bound()).unwrap();
        assert_eq!(stage.switch(second).result, SwitchResult::Switched);
        stage.until("the old one is to drain", |status| {
            status.phase == Phase::Draining
        });
        let held = !drain_file.exists();
        rustix::process::kill_process(pid, Signal::CONT).unwrap();
        let answer = ask(&mut waits, "/");
        if held {
            assert_eq!(answer.unwrap(), "release 1");
        }
        until("it is told", || {
            drain_file.exists() || stage.status().generations.len() == 1
        });
        held
    });
    assert!(held, "it was told to drain while a user waited");
}

/// It is the neighbour of the spare, which takes its place.
#[test]
fn the_new_one_that_is_not_proven() {
    for how in ALL {
        let mut stage = Stage::new();
        stage.start();
        stage.switch(stage.intent(1, "", ANY));
        let load = Load::on(stage.bound());
        let mut intent = how.intent(&stage, 2, "never-ready");
        // Nothing else ends it when it closes its listener.
        if how == How::Close {
            intent.processes[0].ready_timeout_ms = 6_000;
        }
        let epoch = intent.epoch;
        stage.client().switch(intent).unwrap();
        stage.until("it runs", |status| {
            let mut all = status.generations.iter();
            all.any(|found| found.release == 2 && found.processes[0].pid.is_some())
        });
        until("it is up", || stage.log().contains("up as generation 2"));
        how.happens(&stage, 2);
        let outcome = stage.outcome_of(epoch, 2);
        assert_eq!(outcome.result, SwitchResult::Failed, "{outcome:?}");
        let reason = outcome.reason.unwrap();
        let wanted = match how {
            How::Shutdown => "it has shut its listener http down",
            How::Close => "it did not say READY=1",
            How::Kill => "was ended by signal 9",
        };
        assert!(reason.contains(wanted), "{how:?}: {reason}");
        let next = stage.switch(stage.intent(3, "", ANY));
        assert_eq!(next.result, SwitchResult::Switched, "{next:?}");
        let account = load.end();
        assert_eq!(account.failed, Vec::<String>::new(), "{how:?}");
        assert!(
            !account.releases.contains_key("release 2"),
            "{how:?}: {account:?}"
        );
    }
}

#[test]
fn the_new_one_that_users_come_to() {
    for how in ALL {
        let mut stage = Stage::new();
        stage.start();
        stage.switch(stage.intent(1, "", ANY));
        stage.switch(how.intent(&stage, 2, ""));
        let addr = stage.bound();
        let load = Load::on(addr);
        until("they are on it", || {
            get(addr, "/").is_ok_and(|body| body == "release 2")
        });
        how.happens(&stage, 2);
        let status = stage.until("users are back on the old one", |status| runs(status, 1));
        assert_eq!(status.outcome.unwrap().failed_step, Some(Phase::Soak));
        assert_eq!(get(addr, "/").unwrap(), "release 1");
        stage.until("it is gone", |status| status.generations.len() == 1);
        let account = load.end();
        // Whom it had accepted, and with `shutdown` who was in its queue, is lost by its own doing: at most one of each user.
        let lost = if how == How::Close { 0 } else { 4 };
        assert!(account.failed.len() <= lost, "{how:?}: {account:?}");
    }
}

#[test]
fn the_only_one_while_another_is_not_proven() {
    for how in ALL {
        let mut stage = Stage::new();
        stage.start();
        stage.switch(how.intent(&stage, 1, ""));
        let addr = stage.bound();
        stage
            .client()
            .switch(stage.intent(2, "never-ready", ANY))
            .unwrap();
        until("the new one is up", || stage.log().contains("up as generation 2"));
        let load = Load::on(addr);
        how.happens(&stage, 1);
        stage.until("it is started again", |status| status.counters.restarts > 0);
        how.over(&stage, 1);
        until("it answers again", || get(addr, "/").is_ok());
        let account = load.end();
        assert!(
            !account.releases.contains_key("release 2"),
            "{how:?}: {account:?}"
        );
        let lost = if how == How::Close { 0 } else { 4 };
        assert!(account.failed.len() <= lost, "{how:?}: {account:?}");
    }
}
