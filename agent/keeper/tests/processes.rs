//! Several processes of a release: workers that may not run beside their successors, and hooks.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::collections::BTreeMap;

use ship_keeper::protocol::*;
use ship_model::spec::{Hook, HookPoint};
use stage::{Load, Stage, until};

const ANY: &str = "tcp:127.0.0.1:0";

/// Notes its beginning and its end, and when it is not alone.
const WORKER: &str = r#"
cd "$SHIP_RUN_DIR"
mkdir alone || echo "$SHIP_RELEASE beside another" >> work
trap 'echo "end $SHIP_RELEASE" >> work; rmdir alone; exit 0' TERM
echo "begin $SHIP_RELEASE" >> work
while :; do sleep 0.02; done
"#;

fn worker(intent: &Intent, script: &str) -> ProcessSpec {
    ProcessSpec {
        name: "worker".to_owned(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        overlap: false,
        listen: Vec::new(),
        probe: None,
        notify: false,
        // For what it is in the middle of, and for what a test does meanwhile.
        drain_ms: 60_000,
        ..intent.processes[0].clone()
    }
}

fn with_worker(mut intent: Intent, script: &str) -> Intent {
    intent.processes.push(worker(&intent, script));
    intent.soak_ms = 0;
    intent
}

fn said(stage: &Stage, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(stage.run.join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn begun(stage: &Stage, release: u64) -> bool {
    said(stage, "work").last() == Some(&format!("begin {release}"))
}

#[test]
fn a_worker_without_overlap_ends_before_its_successor_starts() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(with_worker(stage.intent(1, "", ANY), WORKER));
    until("it works", || begun(&stage, 1));
    let load = Load::gently(stage.bound());
    let outcome = stage.switch(with_worker(stage.intent(2, "", ANY), WORKER));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    until("the next one works", || begun(&stage, 2));
    assert_eq!(said(&stage, "work"), ["begin 1", "end 1", "begin 2"]);
    // One whose server fails its probe costs the worker nothing.
    let mut sick = with_worker(stage.intent(3, "sick", ANY), WORKER);
    sick.processes[0].ready_timeout_ms = 1_000;
    assert_eq!(stage.switch(sick).result, SwitchResult::Failed);
    assert_eq!(said(&stage, "work"), ["begin 1", "end 1", "begin 2"]);
    // One whose worker fails gives the old one its place back.
    let mut broken = with_worker(stage.intent(4, "", ANY), "echo no luck; exit 3");
    // It never counts as up before it has ended.
    broken.processes[1].notify = true;
    let outcome = stage.switch(broken);
    assert_eq!((outcome.result, outcome.running), (SwitchResult::Failed, Some(2)));
    assert!(outcome.last_lines.contains(&"no luck".to_owned()), "{outcome:?}");
    until("the old worker is back", || {
        begun(&stage, 2) && said(&stage, "work").len() == 5
    });
    assert_eq!(said(&stage, "work")[3..], ["end 2", "begin 2"]);
    assert_eq!(load.end().failed, Vec::<String>::new());
    stage.stop();
}

#[test]
fn a_worker_that_does_not_end_is_given_its_drain_time_and_then_killed() {
    let mut stage = Stage::new();
    stage.start();
    let stubborn =
        "trap '' TERM; echo \"begin $SHIP_RELEASE\" >> \"$SHIP_RUN_DIR/work\"; while :; do sleep 0.02; done";
    let mut first = with_worker(stage.intent(1, "", ANY), stubborn);
    (first.processes[1].drain_ms, first.processes[1].stop_timeout_ms) = (400, 100);
    stage.switch(first);
    until("it works", || begun(&stage, 1));
    let outcome = stage.switch(with_worker(stage.intent(2, "", ANY), WORKER));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    assert!(outcome.switch_ms >= 500, "{outcome:?}");
    until("the next one works", || begun(&stage, 2));
    assert_eq!(said(&stage, "work"), ["begin 1", "begin 2"]);
    let notes = stage.status().notes;
    assert!(
        notes
            .iter()
            .any(|note| note.contains("process worker of release 1 was killed after 500 ms")),
        "{notes:?}"
    );
    stage.stop();
}

#[test]
fn a_keeper_killed_while_a_worker_makes_room_leaves_one_of_them() {
    let mut stage = Stage::new();
    stage.start();
    let slow = WORKER.replace("trap '", "trap 'while [ ! -e go ]; do sleep 0.02; done; ");
    stage.switch(with_worker(stage.intent(1, "", ANY), &slow));
    until("it works", || begun(&stage, 1));
    let second = with_worker(stage.intent(2, "", ANY), WORKER);
    let epoch = second.epoch;
    stage.client().switch(second).unwrap();
    stage.until("the old worker is to make room", |status| {
        status.phase == Phase::Clearing
    });
    stage.kill_keeper();
    stage.start();
    std::fs::write(stage.run.join("go"), b"").unwrap();
    until("the switch has ended", || {
        let outcome = stage.status().outcome;
        outcome.is_some_and(|outcome| outcome.epoch == epoch && outcome.result == SwitchResult::Switched)
    });
    until("the new worker works", || begun(&stage, 2));
    let lines = said(&stage, "work");
    assert!(!lines.iter().any(|line| line.contains("beside")), "{lines:?}");
    stage.stop();
}

#[test]
fn a_worker_finishes_its_long_job_before_it_is_replaced() {
    let mut stage = Stage::new();
    stage.start();
    // It takes no new job once it is asked to end, and finishes the one it has.
    let jobs = r#"
cd "$SHIP_RUN_DIR"
trap 'asked=1' TERM
while [ -z "$asked" ]; do
  echo "job of $SHIP_RELEASE begins" >> work
  n=0; while [ $n -lt 60 ]; do sleep 0.01; n=$((n + 1)); done
  echo "job of $SHIP_RELEASE ends" >> work
done
echo "$SHIP_RELEASE leaves" >> work
"#;
    stage.switch(with_worker(stage.intent(1, "", ANY), jobs));
    until("it is in a job", || {
        said(&stage, "work")
            .last()
            .is_some_and(|line| line.ends_with("begins"))
    });
    let outcome = stage.switch(with_worker(stage.intent(2, "", ANY), jobs));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    until("the next one works", || {
        said(&stage, "work").iter().any(|line| line == "job of 2 begins")
    });
    let lines = said(&stage, "work");
    let left = lines.iter().position(|line| line == "1 leaves").unwrap();
    let begun = |line: &String| line == "job of 1 begins";
    let ended = |line: &String| line == "job of 1 ends";
    assert_eq!(
        lines.iter().filter(|line| begun(line)).count(),
        lines.iter().filter(|line| ended(line)).count()
    );
    assert!(
        lines[left..].iter().all(|line| !line.starts_with("job of 1")),
        "{lines:?}"
    );
    assert!(
        lines[..left].iter().all(|line| !line.starts_with("job of 2")),
        "{lines:?}"
    );
    assert!(
        stage.status().notes.iter().all(|note| !note.contains("cut")),
        "{:?}",
        stage.status().notes
    );
    stage.stop();
}

fn hooks(commands: &[(HookPoint, &str)]) -> BTreeMap<HookPoint, Vec<Hook>> {
    let mut all: BTreeMap<HookPoint, Vec<Hook>> = BTreeMap::new();
    for (point, script) in commands {
        all.entry(*point).or_default().push(Hook {
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            timeout_ms: 10_000,
        });
    }
    all
}

const NOTE: &str = "echo \"$SHIP_HOOK $SHIP_RELEASE $PWD\" >> \"$SHIP_RUN_DIR/hooks\"";

fn noted(stage: &Stage) -> Vec<String> {
    let lines = said(stage, "hooks");
    lines
        .iter()
        .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
        .collect()
}

fn hooked(stage: &Stage, number: u64, extra: &[(HookPoint, &str)]) -> Intent {
    let mut commands = HookPoint::ALL.map(|(_, point)| (point, NOTE)).to_vec();
    commands.extend_from_slice(extra);
    Intent {
        soak_ms: 0,
        hooks: hooks(&commands),
        ..stage.intent(number, "", ANY)
    }
}

#[test]
fn hooks_run_at_their_steps_and_those_before_users_can_refuse() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(hooked(&stage, 1, &[]));
    let load = Load::gently(stage.bound());
    let outcome = stage.switch(hooked(&stage, 2, &[(HookPoint::AfterSwitch, "exit 9")]));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    until("the old one is gone", || {
        noted(&stage).contains(&"after_stop 1".to_owned())
    });
    let all = noted(&stage);
    let expected = [
        "before_start 1",
        "before_switch 1",
        "after_switch 1",
        "before_start 2",
        "before_switch 2",
    ];
    assert_eq!(all[..5], expected);
    assert!(all.contains(&"after_switch 2".to_owned()) && all.contains(&"before_stop 1".to_owned()));
    assert!(said(&stage, "hooks")[0].ends_with("releases/1-00000001"));
    stage.until("the failed hook is told", |status| {
        status
            .notes
            .iter()
            .any(|note| note.contains("hook after_switch") && note.contains("status 9"))
    });
    let refusing = hooked(
        &stage,
        3,
        &[(HookPoint::BeforeSwitch, "echo the cache is cold; exit 7")],
    );
    let outcome = stage.switch(refusing);
    assert_eq!((outcome.result, outcome.running), (SwitchResult::Failed, Some(2)));
    assert_eq!(outcome.failed_step, Some(Phase::Probed));
    let reason = outcome.reason.clone().unwrap();
    assert!(
        reason.contains("hook before_switch") && reason.contains("status 7"),
        "{reason}"
    );
    assert!(
        outcome.last_lines.contains(&"the cache is cold".to_owned()),
        "{outcome:?}"
    );
    until("the failed one says so", || {
        noted(&stage).last() == Some(&"after_failure 3".to_owned())
    });
    assert_eq!(load.end().failed, Vec::<String>::new());
    let mut slow = hooked(&stage, 4, &[(HookPoint::BeforeStart, "sleep 1000")]);
    slow.hooks.get_mut(&HookPoint::BeforeStart).unwrap()[1].timeout_ms = 100;
    let outcome = stage.switch(slow);
    assert!(outcome.reason.unwrap().contains("took too long"));
    until("this one says so, too", || {
        noted(&stage).last() == Some(&"after_failure 4".to_owned())
    });
    stage.stop();
    assert_eq!(noted(&stage).last(), Some(&"after_stop 2".to_owned()));
    assert_eq!(stage.processes(), Vec::<u32>::new());
}

#[test]
fn a_keeper_killed_in_a_hook_leaves_it_to_the_next() {
    let mut stage = Stage::new();
    stage.start();
    let first = "echo x >> \"$SHIP_RUN_DIR/tries\"; while [ ! -e \"$SHIP_RUN_DIR/go\" ]; do sleep 0.02; done; echo done >> \"$SHIP_RUN_DIR/tries\"";
    let intent = Intent {
        hooks: hooks(&[(HookPoint::AfterSwitch, first)]),
        ..stage.intent(1, "", ANY)
    };
    stage.switch(intent);
    until("the hook runs", || said(&stage, "tries").len() == 1);
    stage.kill_keeper();
    stage.start();
    until("it runs again", || said(&stage, "tries").len() == 2);
    std::fs::write(stage.run.join("go"), b"").unwrap();
    until("it is done", || said(&stage, "tries").len() == 3);
    assert_eq!(said(&stage, "tries"), ["x", "x", "done"]);
    stage.stop();
}

#[test]
fn a_process_without_new_privileges_has_none_and_an_impossible_limit_is_refused_before_anything_begins() {
    let mut stage = Stage::new();
    stage.start();
    let mut intent = stage.intent(1, "", ANY);
    intent.processes[0].no_new_privs = true;
    stage.switch(intent);
    let status = stage.status();
    let pid = status.generations[0].processes[0].pid.unwrap();
    assert_eq!(stage::memory_kib(pid, "NoNewPrivs"), 1);
    let mut greedy = stage.intent(2, "", ANY);
    greedy.processes[0].limits.nofile = Some(1 << 40);
    match stage.client().switch(greedy) {
        Err(ship_keeper::AskError::Refused { refusal, message }) => {
            assert_eq!(refusal, Refusal::BadIntent);
            assert!(
                message.contains("process web: limits.nofile = 1099511627776 is above"),
                "{message}"
            );
        }
        other => panic!("taken: {other:?}"),
    }
    assert_eq!(stage.status().counters.switches, 1);
    stage.stop();
}
