//! A gap that shows on the way: whoever leads users elsewhere hears of it first, and nothing is stopped before the word.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::path::PathBuf;
use std::time::Duration;

use ship_keeper::protocol::*;
use ship_keeper::{AskError, Client, Taken};
use stage::{Load, Stage, until};

const ANY: &str = "tcp:127.0.0.1:0";
const LONG: Duration = Duration::from_secs(600);

/// A keeper of a machine with as much memory as [`Machine::available`] says.
struct Machine(PathBuf);

impl Machine {
    fn of(stage: &mut Stage) -> Self {
        let machine = stage.dir.path().join("machine");
        std::fs::create_dir_all(machine.join("self")).unwrap();
        for file in ["self/mountinfo", "self/cgroup"] {
            std::fs::write(machine.join(file), "").unwrap();
        }
        let flag: &'static str = Box::leak(machine.to_str().unwrap().to_owned().into_boxed_str());
        stage.flags.extend(["--machine", flag]);
        let machine = Self(machine);
        machine.available(1 << 30);
        machine
    }

    fn available(&self, kib: u64) {
        std::fs::write(self.0.join("meminfo"), format!("MemAvailable: {kib} kB\n")).unwrap();
    }
}

/// Release 1 runs, and there is no memory for another beside it.
fn narrow() -> (Stage, Machine) {
    let mut stage = Stage::new();
    let machine = Machine::of(&mut stage);
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    machine.available(64);
    (stage, machine)
}

fn noticed(stage: &Stage, notice: Duration) -> Client {
    stage.client().with_notice(notice)
}

fn announced(stage: &Stage, release: u64) -> Announced {
    let told = stage.until("the gap is announced", |status| status.announced.is_some());
    let announced = told.announced.unwrap();
    assert_eq!(announced.release, release);
    assert_eq!(told.running.unwrap().release, 1);
    announced
}

fn serves(stage: &Stage) -> Vec<(u64, u32)> {
    let status = stage.status();
    let generations = status.generations.iter();
    let pids = generations.flat_map(|generation| {
        let pids = generation.processes.iter().filter_map(|process| process.pid);
        pids.map(|pid| (generation.release, pid))
    });
    pids.collect()
}

#[test]
fn nothing_is_stopped_before_users_were_led_elsewhere() {
    let (mut stage, _machine) = narrow();
    let before = serves(&stage);
    let intent = stage.intent(2, "", ANY);
    let epoch = intent.epoch;
    assert_eq!(noticed(&stage, LONG).switch(intent).unwrap(), Taken::Accepted);
    let gap = announced(&stage, 2);
    assert!(gap.reason.contains("64 KiB available on the host"), "{gap:?}");
    let load = Load::gently(stage.bound());
    assert_eq!(serves(&stage), before);
    // Only for what is announced, and whoever says it twice has said it once.
    let refused = stage.client().may_clear(1);
    assert!(
        matches!(
            refused,
            Err(AskError::Refused {
                refusal: Refusal::NothingAnnounced,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(load.end().failed, Vec::<String>::new());
    assert_eq!(stage.client().may_clear(2).unwrap(), Taken::Accepted);
    let outcome = stage.outcome_of(epoch, 2);
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    assert!(stage.status().announced.is_none());
    assert!(stage.client().may_clear(2).is_err());
    // Back the same way.
    stage.until("the old one is gone", |status| status.generations.len() == 1);
    noticed(&stage, LONG).revert(Some(1), "test", None).unwrap();
    let told = stage.until("the way back is announced", |status| status.announced.is_some());
    assert_eq!(told.running.unwrap().release, 2);
    stage.client().may_clear(1).unwrap();
    stage.until("it is back", |status| {
        let running = status.running.as_ref().map(|running| running.release);
        running == Some(1) && status.switching_to.is_none()
    });
    stage.stop();
}

#[test]
fn whoever_announced_it_is_not_waited_for_for_ever() {
    let (mut stage, _machine) = narrow();
    let intent = stage.intent(2, "", ANY);
    let epoch = intent.epoch;
    noticed(&stage, Duration::from_millis(300))
        .switch(intent)
        .unwrap();
    let outcome = stage.outcome_of(epoch, 2);
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    let notes = stage.status().notes;
    assert!(
        notes.iter().any(|note| note.contains("led elsewhere")),
        "{notes:?}"
    );
    stage.stop();
}

#[test]
fn a_keeper_that_dies_while_users_are_led_elsewhere_leaves_that_to_the_next() {
    let (mut stage, _machine) = narrow();
    let before = serves(&stage);
    let intent = stage.intent(2, "", ANY);
    let epoch = intent.epoch;
    noticed(&stage, LONG).switch(intent).unwrap();
    announced(&stage, 2);
    stage.kill_keeper();
    stage.start();
    announced(&stage, 2);
    assert_eq!(serves(&stage), before);
    stage.client().may_clear(2).unwrap();
    let outcome = stage.outcome_of(epoch, 2);
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    stage.stop();
}

#[test]
fn a_switch_whose_gap_nobody_wants_is_called_back_and_nothing_was_stopped() {
    let (mut stage, _machine) = narrow();
    let before = serves(&stage);
    noticed(&stage, LONG).switch(stage.intent(2, "", ANY)).unwrap();
    announced(&stage, 2);
    stage
        .client()
        .revert(Some(1), "the balancer is dead", None)
        .unwrap();
    until("the switch is over", || {
        let status = stage.status();
        status.switching_to.is_none() && status.announced.is_none() && status.phase == Phase::Idle
    });
    assert_eq!(serves(&stage), before);
    stage.stop();
}
