//! Readiness that cannot lie: what processes say of themselves, and what probes find out.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test may fail loudly"
)]

mod stage;

use std::os::unix::net::UnixDatagram;

use ship_keeper::protocol::*;
use ship_model::spec::{Reload, Restart, Strategy};
use stage::{Stage, get, until};

const ANY: &str = "tcp:127.0.0.1:0";

fn failed(outcome: &Outcome) -> String {
    assert_eq!(outcome.result, SwitchResult::Failed, "{outcome:?}");
    outcome.reason.clone().unwrap_or_default()
}

/// An intent whose process gets these changes.
fn with(mut intent: Intent, change: impl FnOnce(&mut ProcessSpec)) -> Intent {
    change(&mut intent.processes[0]);
    intent
}

fn variable(process: &mut ProcessSpec, name: &str, value: impl AsRef<std::path::Path>) {
    let value = value.as_ref().to_str().unwrap().to_owned();
    process.env.insert(name.to_owned(), value);
}

fn active(status: &Status) -> Option<&ProcessStatus> {
    let mut generations = status.generations.iter();
    let active = generations.find(|generation| generation.role == Role::Active)?;
    active.processes.first()
}

fn probe(process: &mut ProcessSpec) -> &mut ProbeSpec {
    process.probe.as_mut().unwrap()
}

fn command(words: &[&str]) -> ProbeKind {
    ProbeKind::Command {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
    }
}

#[test]
fn a_silent_watchdog_ends_the_process_and_it_is_started_again() {
    let mut stage = Stage::new();
    stage.start();
    let trigger = stage.run.join("trigger");
    let intent = with(stage.intent(1, "beats", ANY), |process| {
        process.watchdog_ms = Some(4_000);
        variable(process, "FIXTURE_TRIGGER", &trigger);
    });
    assert_eq!(stage.switch(intent).result, SwitchResult::Switched);
    let first = active(&stage.status()).unwrap().pid;
    std::fs::write(&trigger, b"").unwrap();
    let status = stage.until("it is missed", |status| status.crash.is_some());
    let reason = status.crash.unwrap().reason;
    assert!(reason.contains("missed its watchdog"), "{reason}");
    std::fs::remove_file(&trigger).unwrap();
    stage.until("another one is up", |status| {
        active(status).is_some_and(|found| found.state == ProcessState::Up && found.pid != first)
    });
    assert!(stage.log().contains("missed its watchdog"));
    assert_eq!(get(stage.bound(), "/").unwrap(), "release 1");
}

#[test]
fn ready_before_the_reload_begins_does_not_count() {
    let mut stage = Stage::new();
    stage.start();
    let trigger = stage.run.join("trigger");
    let reloading = |number| {
        with(stage.intent(number, "reloads", ANY), |process| {
            process.listen.clear();
            process.probe = None;
            process.strategy = Strategy::SignalReload;
            process.restart = Some(Restart::Reload(Reload {
                signal: "HUP".to_owned(),
            }));
            variable(process, "FIXTURE_TRIGGER", &trigger);
        })
    };
    let first = reloading(1);
    assert_eq!(stage.switch(first).result, SwitchResult::Switched);
    let second = reloading(2);
    let epoch = second.epoch;
    stage.client().switch(second).unwrap();
    let said = |status: &Status, words: &str| active(status).is_some_and(|found| found.said == words);
    let status = stage.until("it lies", |status| said(status, "too early"));
    assert_eq!(status.running.unwrap().release, 1);
    assert_eq!(status.phase, Phase::Spawned);
    std::fs::write(&trigger, b"").unwrap();
    assert_eq!(stage.outcome_of(epoch, 2).result, SwitchResult::Switched);
}

#[test]
fn a_wrapper_names_the_process_to_look_after() {
    let mut stage = Stage::new();
    stage.start();
    let intent = stage.intent(1, "main-pid", ANY);
    assert_eq!(stage.switch(intent).result, SwitchResult::Switched);
    // What it wraps may be ready before it is named.
    stage.until("the wrapper is not the main process any more", |status| {
        active(status).is_some_and(|found| {
            let environment = found
                .pid
                .map(|pid| std::fs::read_to_string(format!("/proc/{pid}/environ")));
            matches!(environment, Some(Ok(environment)) if environment.contains("FIXTURE=\0"))
        })
    });
    let pid = active(&stage.status()).unwrap().pid.unwrap();
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    stage.until("it is started again", |status| {
        status.counters.restarts == 1 && active(status).is_some_and(|found| found.state == ProcessState::Up)
    });
    assert_eq!(get(stage.bound(), "/").unwrap(), "release 1");
}

#[test]
fn stored_descriptors_go_to_the_next_generation_and_survive_a_crash() {
    let mut stage = Stage::new();
    stage.start();
    let stores = stage.intent(1, "stores,barrier", ANY);
    assert_eq!(stage.switch(stores).result, SwitchResult::Switched);
    until("it has been stored", || {
        stage.log().contains("all that was said is done")
    });
    let pid = active(&stage.status()).unwrap().pid.unwrap();
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let found = |release: u64| format!("found in store: Some(\\\"of release {release}\\\")");
    until("the next one has it", || stage.log().contains(&found(1)));
    stage.until("it is up", |status| {
        active(status).is_some_and(|found| found.state == ProcessState::Up)
    });
    let next = stage.intent(2, "", ANY);
    assert_eq!(stage.switch(next).result, SwitchResult::Switched);
    assert_eq!(get(stage.bound(), "/").unwrap(), "release 2");
    let second = |line: &&str| line.contains("\"release\":2") && line.contains(&found(1));
    until("the second release has it", || {
        stage.log().lines().find(second).is_some()
    });
}

#[test]
fn strangers_are_not_heard_and_cannot_hold_the_keeper_up() {
    let mut stage = Stage::new();
    stage.start();
    let intent = with(stage.intent(1, "never-ready", ANY), |process| {
        process.ready_timeout_ms = 5_000;
    });
    stage.client().switch(intent).unwrap();
    stage.until("it is started", |status| status.phase == Phase::Spawned);
    let socket = UnixDatagram::unbound().unwrap();
    let path = stage.run.join("notify.sock");
    for words in [&b"READY=1"[..], &[b'x'; 8000], b"MAINPID=1\nFDSTORE=1", b""] {
        socket.send_to(words, &path).unwrap();
    }
    let status = stage.until("all are read", |status| {
        status.counters.strange_notifications == 4
    });
    assert!(status.running.is_none());
    let outcome = stage.outcome_of(1, 1);
    let reason = failed(&outcome);
    assert!(reason.contains("process web: it did not say READY=1"), "{reason}");
}

#[test]
fn a_failure_says_what_was_wrong() {
    let mut stage = Stage::new();
    stage.start();
    let intent = stage.intent(1, "errno", ANY);
    let reason = failed(&stage.switch(intent));
    assert!(reason.contains("Permission denied"), "{reason}");

    // So long that it has come up by then.
    let intent = with(stage.intent(2, "sick", ANY), |process| {
        process.notify = false;
        process.ready_timeout_ms = 5_000;
    });
    let reason = failed(&stage.switch(intent));
    assert!(
        reason.contains("GET /healthz: it answered with status 500"),
        "{reason}"
    );

    let intent = with(stage.intent(3, "", ANY), |process| {
        process.command = vec!["sleep".to_owned(), "1000".to_owned()];
        process.notify = false;
        process.ready_timeout_ms = 3_000;
        probe(process).timeout_ms = 100;
    });
    let reason = failed(&stage.switch(intent));
    assert!(reason.contains("nobody accepts at tcp:127.0.0.1:"), "{reason}");

    let intent = with(stage.intent(4, "", ANY), |process| {
        process.command = vec!["bin/nothing".to_owned()];
    });
    let reason = failed(&stage.switch(intent));
    assert!(
        reason.contains("cannot run bin/nothing: No such file or directory"),
        "{reason}"
    );

    let script = stage.release(5).join("bin/script");
    let written = stage.dir.path().join("script");
    std::fs::write(&written, "#!/no/such/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&written, mode).unwrap();
    stage::copy_program(&written, &script);
    let intent = with(stage.intent(5, "", ANY), |process| {
        process.command = vec!["bin/script".to_owned()];
    });
    let reason = failed(&stage.switch(intent));
    assert!(reason.contains("not the interpreter"), "{reason}");
}

/// As [`Stage::switch`], with the release's own program as the probe.
fn checked(stage: &Stage, number: u64, kind: ProbeKind) -> Outcome {
    stage.switch(with(stage.intent(number, "", ANY), |process| {
        probe(process).kind = kind;
    }))
}

fn a_command_reaches_the_new_generation(stage: &mut Stage) {
    stage.start();
    for number in 1..=3 {
        let outcome = checked(stage, number, command(&["bin/server", "--check"]));
        assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
        assert!(outcome.first_answer_ms.is_some());
    }
    assert_eq!(stage.status().running.unwrap().release, 3);
}

#[test]
fn a_probing_command_is_led_to_the_new_generation() {
    a_command_reaches_the_new_generation(&mut Stage::new());
}

#[test]
fn a_probing_command_is_led_to_the_new_generation_on_a_shared_socket_too() {
    let mut stage = Stage::new();
    stage.flags = vec!["--no-steering"];
    a_command_reaches_the_new_generation(&mut stage);
}

#[test]
fn a_probing_command_that_fails_tells_its_last_line() {
    let mut stage = Stage::new();
    stage.start();
    let kind = command(&["sh", "-c", "echo first; echo the disk is on fire; exit 3"]);
    let reason = failed(&checked(&stage, 1, kind));
    assert!(
        reason.contains("ended with status 3: the disk is on fire"),
        "{reason}"
    );
    let reason = failed(&checked(&stage, 2, command(&["bin/nothing"])));
    assert!(reason.contains("cannot run bin/nothing"), "{reason}");
    let intent = with(stage.intent(3, "", ANY), |process| {
        process.ready_timeout_ms = 3_000;
        probe(process).kind = command(&["sleep", "1000"]);
        probe(process).timeout_ms = 100;
    });
    let reason = failed(&stage.switch(intent));
    assert!(
        reason.contains("`sleep 1000`: no answer within 100 ms"),
        "{reason}"
    );
    until("no child is left", || stage.processes().is_empty());
}

#[test]
fn a_command_without_a_listener_needs_none() {
    let mut stage = Stage::new();
    stage.start();
    let mark = stage.run.join("mark");
    let intent = with(stage.intent(1, "", ANY), |process| {
        process.listen.clear();
        let script = format!("test -z \"$SHIP_PROBE_ADDR\" && echo x >> {}", mark.display());
        probe(process).kind = command(&["sh", "-c", &script]);
        probe(process).listener.clear();
        probe(process).times = 4;
    });
    assert_eq!(stage.switch(intent).result, SwitchResult::Switched);
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "x\n".repeat(4));
}

#[test]
fn the_old_generation_cannot_answer_for_a_new_one_that_does_not_serve() {
    let mut stage = Stage::new();
    stage.flags = vec!["--no-steering"];
    stage.start();
    let good = stage.intent(1, "", ANY);
    assert_eq!(stage.switch(good).result, SwitchResult::Switched);
    assert_eq!(stage.status().listeners[0].steering, Steering::Shared);
    let liar = with(stage.intent(2, "", ANY), |process| {
        process.command = vec!["sleep".to_owned(), "1000".to_owned()];
        process.notify = false;
        process.ready_timeout_ms = 5_000;
    });
    let reason = failed(&stage.switch(liar));
    assert!(
        reason.contains("another process than the new one's answers"),
        "{reason}"
    );
    assert_eq!(get(stage.bound(), "/").unwrap(), "release 1");
}

#[test]
fn a_stranger_cannot_answer_for_a_process_that_binds_by_itself() {
    let mut stage = Stage::new();
    stage.start();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = format!("tcp:{}", stranger.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        while let Ok((mut stream, _)) = stranger.accept() {
            let mut head = [0_u8; 1024];
            let length = std::io::Read::read(&mut stream, &mut head).unwrap_or(0);
            if head[..length].starts_with(b"END") {
                return;
            }
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let intent = with(stage.intent(1, "", &addr), |process| {
        process.command = vec!["sleep".to_owned(), "1000".to_owned()];
        process.strategy = Strategy::SignalReload;
        process.restart = Some(Restart::Reload(Reload {
            signal: "HUP".to_owned(),
        }));
        process.notify = false;
        process.ready_timeout_ms = 5_000;
    });
    let reason = failed(&stage.switch(intent));
    assert!(
        reason.contains("another process than the new one's answers"),
        "{reason}"
    );
    let mut end = std::net::TcpStream::connect(addr.strip_prefix("tcp:").unwrap()).unwrap();
    std::io::Write::write_all(&mut end, b"END").unwrap();
    serving.join().unwrap();
}
