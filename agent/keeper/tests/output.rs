//! The app's output, and the control socket's manners.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use ship_keeper::protocol::*;
use stage::{Stage, until};

const ANY: &str = "tcp:127.0.0.1:0";

#[test]
fn every_line_says_where_it_comes_from() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(4, "noisy", ANY));
    let mut log = String::new();
    until("all is written", || {
        log = stage.log();
        let words = ["up as generation 1", "phase idle"];
        log.ends_with('\n') && words.iter().all(|words| log.contains(words))
    });
    let pid = stage.status().generations[0].processes[0].pid.unwrap();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let noise = lines
        .iter()
        .filter(|line| line["line"].as_str().unwrap().starts_with("line "))
        .count();
    assert_eq!(noise, 20_000);
    let hello = lines
        .iter()
        .find(|line| line["line"] == "release 4 says hello")
        .unwrap();
    assert_eq!(hello["app"], "web");
    assert_eq!(hello["host"], "h1");
    assert_eq!(hello["release"], 4);
    assert_eq!(hello["deploy"], 4);
    assert_eq!(hello["gen"], 1);
    assert_eq!(hello["pid"], pid);
    assert_eq!(hello["stream"], "stdout");
    assert!(hello["ts"].as_str().unwrap().ends_with('Z'));
    let complaint = lines
        .iter()
        .find(|line| line["line"] == "and complains a little")
        .unwrap();
    assert_eq!(complaint["stream"], "stderr");
    assert!(
        lines
            .iter()
            .any(|line| line["stream"] == "keeper" && line["line"] == "phase idle")
    );
    assert_eq!(keepers_lines_but_the_first(&stage, 4), Vec::<String>::new());
}

/// What the keeper wrote about other releases than `release`, after its own greeting.
fn keepers_lines_but_the_first(stage: &Stage, release: u64) -> Vec<String> {
    let log = stage.log();
    let lines = log.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line
    });
    lines
        .filter(|line| line["stream"] == "keeper")
        .skip(1)
        .filter(|line| line["release"] != release || line["deploy"] != release)
        .map(|line| line.to_string())
        .collect()
}

#[test]
fn lines_about_a_first_release_that_fails_name_it() {
    let mut stage = Stage::new();
    stage.start();
    let outcome = stage.switch(stage.intent(4, "exit", ANY));
    assert_eq!(outcome.result, ship_keeper::protocol::SwitchResult::Failed);
    until("it is gone", || stage.log().contains("generation 1 is gone"));
    stage.stop();
    assert_eq!(keepers_lines_but_the_first(&stage, 4), Vec::<String>::new());
}

#[test]
fn output_written_while_no_keeper_lives_is_not_lost() {
    let mut stage = Stage::new();
    stage.start();
    let trigger = stage.dir.path().join("trigger");
    let mut intent = stage.intent(1, "speak-later", ANY);
    let path = trigger.to_str().unwrap().to_owned();
    intent.processes[0]
        .env
        .insert("FIXTURE_TRIGGER".to_owned(), path.clone());
    stage.switch(intent);
    stage.kill_keeper();
    std::fs::write(&trigger, b"").unwrap();
    until("it has spoken", || {
        std::path::Path::new(&(path.clone() + ".done")).exists()
    });
    assert!(!stage.log().contains("nobody may be listening"));
    stage.start();
    until("its words are there", || {
        stage.log().contains("nobody may be listening")
    });
}

#[test]
fn a_watcher_sees_the_way_and_the_end() {
    let mut stage = Stage::new();
    stage.start();
    let mut watch = stage.client().watch().unwrap();
    assert_eq!(watch.next().unwrap().unwrap().phase, Phase::Empty);
    stage.client().switch(stage.intent(1, "", ANY)).unwrap();
    let mut phases = Vec::new();
    let mut revision = 0;
    for status in watch {
        let status = status.unwrap();
        assert!(status.revision >= revision);
        revision = status.revision;
        phases.push(status.phase);
        if status.phase == Phase::Idle {
            let process = &status.generations[0].processes[0];
            assert_eq!(process.state, ProcessState::Up);
            break;
        }
    }
    assert!(phases.contains(&Phase::Spawned), "{phases:?}");
}

#[test]
fn bad_requests_are_answered_and_hurt_nobody() {
    let mut stage = Stage::new();
    stage.start();
    let socket = stage.run.join(SOCKET_NAME);
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let long = vec![b'x'; MAX_LINE + 10];
    let bad: [&[u8]; 5] = [
        b"\n",
        b"{}\n",
        b"{\"v\":1,\"op\":\"dance\"}\n",
        b"{\"v\":9,\"op\":\"status\"}\n",
        &long,
    ];
    for request in bad {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // The keeper may hang up before it has read all of the long one.
        let _ = stream.write_all(request);
        let mut answer = String::new();
        let _ = BufReader::new(stream).read_line(&mut answer);
        if request.len() < MAX_LINE {
            assert!(answer.contains("bad-request"), "{answer}");
        }
    }
    // One that never finishes its request stops nobody.
    let _idle: Vec<_> = (0..10).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    assert_eq!(stage.status().phase, Phase::Empty);
}

#[test]
fn a_second_keeper_is_refused() {
    let mut stage = Stage::new();
    stage.start();
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_ship-keeper"))
        .args(["run", "--app", "web", "--host", "h1", "--home"])
        .arg(&stage.home)
        .arg("--state")
        .arg(&stage.state)
        .arg("--run")
        .arg(&stage.run)
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(
        said.contains(&format!("is held by process {}", stage.status().pid)),
        "{said}"
    );
    assert_eq!(stage.status().phase, Phase::Empty);
}

#[test]
fn a_daemon_listens_when_its_starter_ends() {
    let mut stage = Stage::new();
    let starter = std::process::Command::new(env!("CARGO_BIN_EXE_ship-keeper"))
        .args(["run", "--app", "web", "--host", "h1", "--home"])
        .arg(&stage.home)
        .arg("--state")
        .arg(&stage.state)
        .arg("--run")
        .arg(&stage.run)
        .output()
        .unwrap();
    assert!(starter.status.success(), "{starter:?}");
    let status = stage.status();
    let said = std::fs::read_to_string(format!("/proc/{}/stat", status.pid)).unwrap();
    let fields: Vec<_> = said.rsplit(") ").next().unwrap().split(' ').collect();
    let own = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ours: Vec<_> = own.rsplit(") ").next().unwrap().split(' ').collect();
    assert_ne!(fields[3], ours[3], "a session of its own");
    assert_eq!(
        stage.switch(stage.intent(1, "", ANY)).result,
        SwitchResult::Switched
    );
    stage.client().stop().unwrap();
    until("it exits", || {
        !std::path::Path::new(&format!("/proc/{}", status.pid)).exists()
    });
    assert_eq!(stage.processes(), Vec::<u32>::new());
    stage.keeper = None;
}
