//! The app's own lock, held by real processes; and memory that is not there for two generations.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use ship_keeper::protocol::*;
use ship_model::spec::Strategy;
use stage::{Load, Stage, until};

const ANY: &str = "tcp:127.0.0.1:0";

/// The first of all holds its lock until the file `go` is there, and says whether it could take it again then.
const BUSY: &str = r#"
cd "$SHIP_RUN_DIR"
trap 'echo "end $SHIP_RELEASE" >> work; exit 0' TERM
grep -qs busy work || (
  flock 9
  echo "busy $SHIP_RELEASE" >> work
  while [ ! -e go ]; do sleep 0.02; done
  echo "done $SHIP_RELEASE" >> work
) 9> "$SHIP_LOCK_FILE"
while :; do flock -n "$SHIP_LOCK_FILE" true || { echo "not now" >> work; sleep 0.2; }; sleep 0.02; done
"#;

fn worker(mut intent: Intent, script: &str, overlap: bool) -> Intent {
    let worker = ProcessSpec {
        name: "worker".to_owned(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        overlap,
        listen: Vec::new(),
        probe: None,
        notify: false,
        lock_wait_ms: Some(60_000),
        ..intent.processes[0].clone()
    };
    intent.processes.push(worker);
    intent.soak_ms = 0;
    intent
}

fn said(stage: &Stage) -> Vec<String> {
    let text = std::fs::read_to_string(stage.run.join("work")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn busy(stage: &Stage, overlap: bool) -> Intent {
    stage.switch(worker(stage.intent(1, "", ANY), BUSY, overlap));
    until("it is busy", || said(stage) == ["busy 1"]);
    worker(stage.intent(2, "", ANY), "while :; do sleep 0.05; done", overlap)
}

fn waits(stage: &Stage) -> Waits {
    let status = stage.until("it waits for the lock", |status| {
        status
            .waits
            .as_ref()
            .is_some_and(|waits| !waits.processes.is_empty())
    });
    status.waits.unwrap()
}

fn ended(stage: &Stage, epoch: u64, result: SwitchResult) {
    stage.until("the switch has ended", |status| {
        let outcome = status.outcome.as_ref();
        outcome.is_some_and(|outcome| outcome.epoch == epoch && outcome.result == result)
    });
}

#[test]
fn a_busy_app_is_replaced_when_it_lets_go_of_its_lock() {
    for overlap in [true, false] {
        let mut stage = Stage::new();
        stage.start();
        let second = busy(&stage, overlap);
        let load = Load::gently(stage.bound());
        let epoch = second.epoch;
        stage.client().switch(second).unwrap();
        let told = waits(&stage);
        assert_eq!(told.processes, ["worker"]);
        assert!(told.left_ms > 30_000 && !told.overrules, "{told:?}");
        let words = told.to_string();
        assert!(
            words.starts_with("waiting for the app's own lock (held by worker), "),
            "{words}"
        );
        // The next keeper goes on waiting.
        stage.kill_keeper();
        stage.start();
        assert!(waits(&stage).left_ms < told.left_ms);
        assert_eq!(said(&stage), ["busy 1"], "overlap {overlap}");
        assert_eq!(stage.link("current").unwrap(), "releases/1-00000001");
        std::fs::write(stage.run.join("go"), b"").unwrap();
        ended(&stage, epoch, SwitchResult::Switched);
        until("the old one has ended", || {
            said(&stage).contains(&"end 1".to_owned())
        });
        assert_eq!(load.end().failed, Vec::<String>::new());
        stage.stop();
    }
}

#[test]
fn who_is_replaced_cannot_take_its_lock_again_and_gets_it_back_when_nothing_came_of_it() {
    let mut stage = Stage::new();
    stage.start();
    let mut second = busy(&stage, true);
    let hook = ship_model::spec::Hook {
        command: [
            "/bin/sh",
            "-c",
            "while [ ! -e \"$SHIP_RUN_DIR/on\" ]; do sleep 0.02; done; exit 1",
        ]
        .map(str::to_owned)
        .to_vec(),
        timeout_ms: 20_000,
    };
    second
        .hooks
        .insert(ship_model::spec::HookPoint::BeforeSwitch, vec![hook]);
    let epoch = second.epoch;
    stage.client().switch(second).unwrap();
    waits(&stage);
    std::fs::write(stage.run.join("go"), b"").unwrap();
    until("it is told that this is no time to begin", || {
        said(&stage).contains(&"not now".to_owned())
    });
    std::fs::write(stage.run.join("on"), b"").unwrap();
    ended(&stage, epoch, SwitchResult::Failed);
    let lock = std::fs::File::open(stage.run.join("lock/1.worker")).unwrap();
    until("its lock is free again", || {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    stage.stop();
}

#[test]
fn when_the_time_is_over_the_switch_fails_or_goes_on_as_was_said() {
    for overrule in [false, true] {
        let mut stage = Stage::new();
        stage.start();
        let mut first = worker(stage.intent(1, "", ANY), BUSY, false);
        (first.processes[1].lock_wait_ms, first.processes[1].lock_overrule) = (Some(500), overrule);
        (first.processes[1].drain_ms, first.processes[1].stop_timeout_ms) = (100, 100);
        stage.switch(first);
        until("it is busy", || said(&stage) == ["busy 1"]);
        let second = worker(stage.intent(2, "", ANY), "while :; do sleep 0.05; done", false);
        let outcome = stage.switch(second);
        if overrule {
            assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
            let notes = stage.status().notes;
            assert!(
                notes
                    .iter()
                    .any(|note| note.contains("though it holds its own lock")),
                "{notes:?}"
            );
        } else {
            assert_eq!((outcome.result, outcome.running), (SwitchResult::Failed, Some(1)));
            let reason = outcome.reason.unwrap();
            assert!(
                reason.contains("held its own lock for 500 ms (process worker)"),
                "{reason}"
            );
            assert_eq!(said(&stage), ["busy 1"]);
        }
        stage.stop();
    }
}

#[test]
fn the_lock_of_one_that_died_is_free() {
    let mut stage = Stage::new();
    stage.start();
    let second = busy(&stage, true);
    let epoch = second.epoch;
    stage.client().switch(second).unwrap();
    waits(&stage);
    let status = stage.status();
    let processes = status
        .generations
        .iter()
        .flat_map(|generation| &generation.processes);
    let holder = processes
        .filter(|process| process.name == "worker")
        .find_map(|process| process.pid);
    // Its shell's child holds the descriptor as well: both go.
    for pid in stage.processes() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let group = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(2)?.parse::<u32>().ok());
        if group == holder {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    ended(&stage, epoch, SwitchResult::Switched);
    stage.stop();
}

#[test]
fn without_memory_for_two_generations_the_old_one_ends_first_and_that_is_recorded() {
    let mut stage = Stage::new();
    let machine = stage.dir.path().join("machine");
    std::fs::create_dir_all(machine.join("self")).unwrap();
    for file in ["self/mountinfo", "self/cgroup"] {
        std::fs::write(machine.join(file), "").unwrap();
    }
    let available =
        |kib: u64| std::fs::write(machine.join("meminfo"), format!("MemAvailable: {kib} kB\n")).unwrap();
    available(1 << 30);
    let flag: &'static str = Box::leak(machine.to_str().unwrap().to_owned().into_boxed_str());
    stage.flags.extend(["--machine", flag]);
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let load = Load::gently(stage.bound());
    let outcome = stage.switch(stage.intent(2, "", ANY));
    assert_eq!(outcome.rungs, []);
    stage.client().revert(None, "warm", None).unwrap();
    stage.until("it is back", |status| {
        status
            .running
            .as_ref()
            .is_some_and(|running| running.release == 1)
    });
    stage.until("the other one is gone", |status| status.generations.len() == 1);
    available(64);
    let mut insisting = stage.intent(3, "", ANY);
    insisting.must_coexist = true;
    let outcome = stage.switch(insisting);
    assert_eq!((outcome.result, outcome.running), (SwitchResult::Failed, Some(1)));
    let reason = outcome.reason.unwrap();
    assert!(
        reason.contains("no memory for two generations") && reason.contains("64 KiB available on the host"),
        "{reason}"
    );
    let outcome = stage.switch(stage.intent(4, "", ANY));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    assert_eq!(outcome.rungs.len(), 1, "{outcome:?}");
    assert_eq!(outcome.rungs[0].strategy, Strategy::StopStart);
    assert!(
        outcome.rungs[0].reason.contains("64 KiB available"),
        "{outcome:?}"
    );
    let status = stage.status();
    let living = status
        .generations
        .iter()
        .flat_map(|generation| &generation.processes);
    let pids: Vec<_> = living.filter_map(|process| process.pid).collect();
    assert_eq!(pids.len(), 1, "two at once: {status:?}");
    // Users waited for a moment, and that was all.
    assert_eq!(load.end().failed, Vec::<String>::new());
    stage.stop();
}
