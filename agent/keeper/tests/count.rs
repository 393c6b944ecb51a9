//! Connections are counted wherever an app keeps them.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::net::TcpStream;

use ship_keeper::protocol::*;
use stage::{Stage, get};

const ANY: &str = "tcp:127.0.0.1:0";
const USERS: u32 = 7;

fn counted(status: &Status) -> u32 {
    status.generations.last().unwrap().processes[0].connections
}

fn counts(manners: &str) {
    let mut stage = Stage::new();
    stage.start();
    let mut first = stage.intent(1, manners, ANY);
    // Its user leaves it by himself.
    first.processes[0].drain_ms = 60_000;
    assert_eq!(stage.switch(first).result, SwitchResult::Switched);
    let addr = stage.bound();
    let users: Vec<_> = (0..USERS).map(|_| TcpStream::connect(addr).unwrap()).collect();
    stage.until("all are counted", |status| counted(status) == USERS);
    // The next keeper is nobody's parent.
    stage.kill_keeper();
    stage.start();
    stage.until("all are counted again", |status| counted(status) == USERS);
    drop(users);
    stage.until("nobody is counted", |status| counted(status) == 0);
    // One user stays, so the old generation is not idle before its time.
    let user = TcpStream::connect(addr).unwrap();
    stage.until("it is counted", |status| counted(status) == 1);
    let next = Intent {
        soak_ms: 0,
        ..stage.intent(2, manners, ANY)
    };
    assert_eq!(stage.switch(next).result, SwitchResult::Switched);
    stage.until("1 drains", |status| status.phase == Phase::Draining);
    drop(user);
    let status = stage.until("1 is gone", |status| status.generations.len() == 1);
    assert_eq!(status.counters.connections_cut, 0);
    assert_eq!(get(addr, "/").unwrap(), "release 2");
    stage.stop();
    assert_eq!(stage.processes(), Vec::<u32>::new());
}

#[test]
fn of_the_process_itself() {
    counts("");
}

#[test]
fn of_its_children() {
    counts("prefork");
}

#[test]
fn of_orphans_it_has_left() {
    counts("orphan");
}
