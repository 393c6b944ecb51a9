//! The keeper dies at any moment; the next one goes on.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use ship_keeper::protocol::*;
use stage::{Load, Stage, get, until};

const ANY: &str = "tcp:127.0.0.1:0";

#[test]
fn the_next_keeper_takes_the_app_over_and_switches_it() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let addr = stage.bound();
    let load = Load::on(addr);
    for number in 2..=5 {
        let before = stage.status();
        let pid = before.generations.last().unwrap().processes[0].pid;
        stage.kill_keeper();
        assert_eq!(get(addr, "/").unwrap(), format!("release {}", number - 1));
        stage.start();
        let after = stage.status();
        assert_eq!(after.generations.last().unwrap().processes[0].pid, pid);
        assert_eq!(after.listeners, before.listeners);
        assert_eq!(after.notes, Vec::<String>::new());
        let outcome = stage.switch(stage.intent(number, "", ANY));
        assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
        assert_eq!(get(addr, "/").unwrap(), format!("release {number}"));
    }
    // The warm one was adopted as well: back without a start.
    stage.kill_keeper();
    stage.start();
    let warm = stage
        .status()
        .generations
        .iter()
        .find(|found| found.role == Role::Warm)
        .unwrap()
        .clone();
    stage.client().revert(None, "back", None).unwrap();
    let status = stage.until("4 runs", |status| status.running.as_ref().unwrap().release == 4);
    let active = status
        .generations
        .iter()
        .find(|found| found.role == Role::Active)
        .unwrap();
    assert_eq!(active.processes[0].pid, warm.processes[0].pid);
    assert_eq!(get(addr, "/").unwrap(), "release 4");
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
    stage.stop();
    assert_eq!(stage.processes(), Vec::<u32>::new());
}

#[test]
fn a_terminated_keeper_leaves_the_app_running() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let addr = stage.bound();
    let keeper = stage.keeper.as_mut().unwrap();
    let pid = rustix::process::Pid::from_raw(keeper.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    until("it leaves", || keeper.try_wait().unwrap().is_some());
    assert_eq!(get(addr, "/").unwrap(), "release 1");
    stage.keeper = None;
    stage.start();
    assert_eq!(stage.status().running.unwrap().release, 1);
}

#[test]
fn what_died_with_the_keeper_is_started_again() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let addr = stage.bound();
    stage.kill_keeper();
    for pid in stage.processes() {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    until("the app is gone", || stage.processes().is_empty());
    stage.start();
    until("it answers", || {
        get(addr, "/").is_ok_and(|body| body == "release 1")
    });
    assert_eq!(stage.bound(), addr);
}

#[test]
fn a_stopped_app_stays_stopped() {
    let mut stage = Stage::new();
    stage.start();
    let intent = stage.intent(1, "", ANY);
    stage.switch(intent.clone());
    stage.stop();
    stage.start();
    assert_eq!(stage.status().phase, Phase::Empty);
    assert!(stage.processes().is_empty());
    assert_eq!(stage.switch(intent).result, SwitchResult::Switched);
}

#[test]
fn a_damaged_journal_is_put_aside() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    stage.stop();
    let path = stage.state.join("journal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    stage.start();
    let status = stage.status();
    assert!(
        status.notes.iter().any(|note| note.contains("put aside")),
        "{:?}",
        status.notes
    );
    assert_eq!(
        stage.switch(stage.intent(2, "", ANY)).result,
        SwitchResult::Switched
    );
}
