//! Cut-over: the release before stands by, complete and without new connections, and comes back without a start.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use ship_keeper::Taken;
use ship_keeper::protocol::*;
use ship_model::spec::{Standby, Strategy};
use stage::{Load, Stage, get, until};

const ANY: &str = "tcp:127.0.0.1:0";

/// A release that keeps the one before it for `hold_ms`.
fn cut_over(stage: &Stage, number: u64, hold_ms: Option<u64>) -> Intent {
    let mut intent = stage.intent(number, "", ANY);
    intent.processes[0].strategy = Strategy::CutOver;
    Intent {
        soak_ms: 50,
        standby: Some(Standby { hold_ms }),
        ..intent
    }
}

fn switched(stage: &Stage, intent: Intent) {
    let outcome = stage.switch(intent);
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
}

fn stands_by(stage: &Stage) -> Status {
    stage.until("the soak is over", |status| status.revert.standby.is_some())
}

/// The processes of a part, which has one each.
fn pid_of(status: &Status, role: Role) -> u32 {
    let mut found = status.generations.iter().filter(|found| found.role == role);
    found.next().unwrap().processes[0].pid.unwrap()
}

fn runs(status: &Status, release: u64) -> bool {
    let running = status.running.as_ref();
    running.is_some_and(|running| running.release == release)
}

/// Two releases, of which the first stands by.
fn begin(hold_ms: Option<u64>) -> Stage {
    let mut stage = Stage::new();
    stage.start();
    switched(&stage, cut_over(&stage, 1, hold_ms));
    switched(&stage, cut_over(&stage, 2, hold_ms));
    stage
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_standby_comes_back_without_a_start_and_what_is_left_ends() {
    let stage = begin(None);
    let addr = stage.bound();
    let load = Load::on(addr);
    let before = stands_by(&stage);
    assert_eq!(before.phase, Phase::Idle);
    assert!(before.revert.warm, "{before:#?}");
    let standby = before.revert.standby.clone().unwrap();
    assert_eq!((standby.release, standby.until), (1, None));
    let pid = pid_of(&before, Role::Warm);
    assert_eq!(
        stage.client().revert(None, "it smells", None).unwrap(),
        Taken::Accepted
    );
    let after = stage.until("the one reverted from has ended", |status| {
        runs(status, 1) && status.generations.len() == 1
    });
    assert_eq!(pid_of(&after, Role::Active), pid);
    assert_eq!(after.outcome.unwrap().result, SwitchResult::Reverted);
    assert_eq!(after.revert.standby, None);
    assert_eq!(after.counters.restarts, 0);
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
    assert!(account.releases.contains_key("release 2"), "{account:?}");
    assert_eq!(get(addr, "/").unwrap(), "release 1");
}

#[test]
fn a_standby_goes_when_its_hold_is_over() {
    let stage = begin(Some(5_000));
    let standby = stands_by(&stage).revert.standby.unwrap();
    assert!(standby.until.is_some_and(|until| until.ends_with('Z')));
    let after = stage.until("it is gone", |status| status.generations.len() == 1);
    assert!(runs(&after, 2));
    assert_eq!(after.revert.standby, None);
    assert_eq!(after.revert.standby_lost, None);
    assert!(!after.revert.warm);
}

#[test]
fn a_standby_makes_room_before_the_next_release_is_started() {
    let stage = begin(None);
    let load = Load::gently(stage.bound());
    stands_by(&stage);
    let most = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut most = 0;
            while stage.status().running.is_none_or(|running| running.release != 3) {
                // Whoever is seen at both looks lived between them. While one look is taken one may end and the next begin.
                let (first, second) = (stage.processes(), stage.processes());
                most = most.max(first.iter().filter(|pid| second.contains(pid)).count());
            }
            most
        });
        switched(&stage, cut_over(&stage, 3, None));
        asked.join().unwrap()
    });
    assert!(most <= 2, "{most} at once");
    let standby = stands_by(&stage).revert.standby.unwrap();
    assert_eq!(standby.release, 2);
    assert_eq!(load.end().failed, Vec::<String>::new());
}

#[test]
fn a_standby_that_dies_is_told_and_the_revert_starts_it_anew() {
    let stage = begin(None);
    let load = Load::gently(stage.bound());
    let pid = pid_of(&stands_by(&stage), Role::Warm);
    kill(pid);
    let told = stage.until("it is told", |status| status.revert.standby_lost.is_some());
    let words = told.revert.standby_lost.unwrap();
    assert!(
        words.contains("release 1 stood by until process web was ended by signal 9"),
        "{words}"
    );
    assert!(!told.revert.warm && told.revert.standby.is_none());
    stage.client().revert(None, "it smells", None).unwrap();
    let after = stage.until("1 is back", |status| runs(status, 1));
    assert_ne!(pid_of(&after, Role::Active), pid);
    assert_eq!(after.revert.standby_lost, None);
    assert_eq!(load.end().failed, Vec::<String>::new());
}

#[test]
fn a_standby_outlives_the_keeper() {
    let mut stage = begin(Some(600_000));
    let load = Load::gently(stage.bound());
    let before = stands_by(&stage);
    stage.kill_keeper();
    stage.start();
    let after = stage.status();
    assert_eq!(pid_of(&after, Role::Warm), pid_of(&before, Role::Warm));
    assert!(after.revert.warm && after.phase == Phase::Idle, "{after:#?}");
    assert_eq!(after.revert.standby.unwrap().generation, 1);
    stage.client().revert(None, "it smells", None).unwrap();
    let after = stage.until("1 is back", |status| runs(status, 1));
    assert_eq!(pid_of(&after, Role::Active), pid_of(&before, Role::Warm));
    assert_eq!(load.end().failed, Vec::<String>::new());
}

#[test]
fn a_standby_that_dies_with_the_keeper_is_told_by_the_next() {
    let mut stage = begin(None);
    let pid = pid_of(&stands_by(&stage), Role::Warm);
    stage.kill_keeper();
    kill(pid);
    until("it is dead", || !stage.processes().contains(&pid));
    stage.start();
    let told = stage.until("it is told", |status| status.revert.standby_lost.is_some());
    assert!(!told.revert.warm);
    stage.client().revert(None, "it smells", None).unwrap();
    stage.until("1 is back", |status| runs(status, 1));
}

#[test]
fn a_release_that_keeps_crashing_is_left_for_the_standby_at_once() {
    let stage = begin(None);
    let before = stands_by(&stage);
    let standby = pid_of(&before, Role::Warm);
    let mut last = 0;
    for _ in 0..3 {
        let up = stage.until("it runs again", |status| {
            let mut active = status
                .generations
                .iter()
                .filter(|found| found.role == Role::Active);
            let process = &active.next().unwrap().processes[0];
            process.state == ProcessState::Up && process.pid.is_some_and(|pid| pid != last)
        });
        assert!(runs(&up, 2), "{up:#?}");
        last = pid_of(&up, Role::Active);
        kill(last);
    }
    let after = stage.until("1 is back", |status| runs(status, 1));
    assert_eq!(pid_of(&after, Role::Active), standby);
    assert_eq!(after.held.unwrap().release, 2);
    assert_eq!(get(stage.bound(), "/").unwrap(), "release 1");
}
