//! The keeper dies at any moment; the next one goes on.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::io::Write;
use std::net::TcpStream;

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

/// Nobody accepts, and the keeper that has their sockets is killed: they wait on, and are served by what comes.
#[test]
fn who_waits_between_two_generations_outlives_the_keeper() {
    let alone = |intent: Intent| Intent {
        coexist: false,
        ..intent
    };
    let mut stage = Stage::new();
    stage.start();
    let mut first = alone(stage.intent(1, "", ANY));
    first.processes[0].drain_ms = 60_000;
    stage.switch(first);
    let addr = stage.bound();
    // The old one makes room as long as this user is not through.
    let mut long = TcpStream::connect(addr).unwrap();
    long.write_all(b"GET /wait HTTP/1.1\r\nConnection: close\r\n\r\n")
        .unwrap();
    stage.until("it is served", |status| {
        status.generations[0].processes[0].connections == 1
    });
    stage
        .client()
        .switch(alone(stage.intent(2, "slow", ANY)))
        .unwrap();
    stage.until("users wait", |status| status.phase == Phase::Clearing);
    let waiting: Vec<_> = (0..8)
        .map(|_| std::thread::spawn(move || get(addr, "/")))
        .collect();
    until("they wait", || connected(addr) >= 9);
    stage.kill_keeper();
    stage.start();
    long.write_all(b"x").unwrap();
    drop(long);
    for user in waiting {
        let body = user.join().unwrap();
        assert!(
            body.as_ref().is_ok_and(|body| body.starts_with("release ")),
            "{body:?}"
        );
    }
    stage.until("2 runs", |status| {
        let runs = status.running.as_ref();
        runs.is_some_and(|running| running.release == 2) && status.phase != Phase::Clearing
    });
    assert_eq!(get(addr, "/").unwrap(), "release 2");
}

/// Users that have a connection to the address, accepted or not.
fn connected(addr: std::net::SocketAddr) -> usize {
    let port = format!(":{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let is_users = |fields: &Vec<&str>| fields.len() > 3 && fields[2].ends_with(&port) && fields[3] == "01";
    lines.filter(is_users).count()
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
    until("the app is gone", || {
        for pid in stage.processes() {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        stage.processes().is_empty()
    });
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

/// Records that were not synced may be torn in any order when the machine goes down.
#[test]
fn a_torn_record_before_a_whole_one_costs_nothing_when_the_machine_went_down() {
    for same_boot in [false, true] {
        let mut stage = Stage::new();
        stage.start();
        stage.switch(stage.intent(1, "", ANY));
        stage.stop();
        let path = stage.state.join("journal");
        let (mut journal, read) = ship_durable::Journal::open(&path, 1 << 22).unwrap();
        let mut state: serde_json::Value =
            serde_json::from_slice(&read.records.last().unwrap().payload).unwrap();
        if !same_boot {
            state["boot_id"] = "another".into();
        }
        state["epoch"] = 77.into();
        let whole = serde_json::to_vec(&state).unwrap();
        journal.append(&whole).unwrap();
        let torn = usize::try_from(journal.len()).unwrap();
        state["epoch"] = 78.into();
        for _ in 0..2 {
            journal.append(&serde_json::to_vec(&state).unwrap()).unwrap();
        }
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[torn + 100..torn + 200].fill(0);
        std::fs::write(&path, bytes).unwrap();
        stage.start();
        let status = stage.status();
        let aside = status.notes.iter().any(|note| note.contains("put aside"));
        // Damage while the machine was up is none of a crash: what lies before it may be long past.
        let epoch = if same_boot { 0 } else { 77 };
        assert_eq!((aside, status.epoch), (true, epoch), "{same_boot}: {status:#?}");
        stage.stop();
    }
}
