//! The keeper becomes another program in place, and users notice nothing; a program that cannot take over harms nobody.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ship_durable::fault::FAULT_VARIABLE;
use ship_keeper::Client;
use ship_keeper::protocol::*;
use ship_model::spec::{Hook, HookPoint};
use stage::{Load, Stage, exited, refusal, until};

const ANY: &str = "tcp:127.0.0.1:0";

/// The keeper's program under another name: what a new version is to the old one.
fn next(stage: &Stage, name: &str) -> PathBuf {
    let program = std::fs::canonicalize(stage.dir.path()).unwrap().join(name);
    let own = Path::new(env!("CARGO_BIN_EXE_ship-keeper"));
    if std::fs::hard_link(own, &program).is_err() {
        stage::copy_program(own, &program);
    }
    program
}

fn script(stage: &Stage, name: &str, text: &str) -> PathBuf {
    let program = std::fs::canonicalize(stage.dir.path()).unwrap().join(name);
    let written = program.with_extension("sh");
    std::fs::write(&written, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&written, std::fs::Permissions::from_mode(0o755)).unwrap();
    stage::copy_program(&written, &program);
    program
}

fn upgrade(stage: &Stage, program: &Path) -> Status {
    stage.client().upgrade(program).unwrap();
    let name = program.display().to_string();
    stage.until("the keeper is the new program", |status| status.program == name)
}

/// Why the upgrade failed.
fn fails(stage: &Stage, program: &Path) -> String {
    stage.client().upgrade(program).unwrap();
    let failure = |status: &Status| match &status.upgrade.as_ref()?.stage {
        UpgradeStage::Failed(reason) => Some(reason.clone()),
        _ => None,
    };
    let failed = stage.until("the upgrade fails", |status| failure(status).is_some());
    failure(&failed).unwrap()
}

/// What release 1 has left with the keeper is handed to the next.
fn until_found_in_store(stage: &Stage) {
    let line = "found in store: Some(\\\"of release 1\\\")";
    until("the next release has what was stored", || {
        stage.log().contains(line)
    });
}

fn pids(status: &Status) -> Vec<Option<u32>> {
    let processes = status.generations.iter().flat_map(|found| &found.processes);
    processes.map(|process| process.pid).collect()
}

#[test]
fn under_load_nobody_notices() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "stores", ANY));
    let addr = stage.bound();
    let load = Load::on(addr);
    let watcher = Client::new(&stage.run, Duration::from_secs(30)).watch().unwrap();
    let watcher = std::thread::spawn(move || {
        watcher
            .map(Result::unwrap)
            .map(|status| status.revision)
            .collect::<Vec<_>>()
    });
    let before = stage.status();
    let after = upgrade(&stage, &next(&stage, "second"));
    assert_eq!(
        (after.pid, pids(&after), &after.listeners, after.counters.upgrades),
        (before.pid, pids(&before), &before.listeners, 1)
    );
    assert_eq!((after.upgrade, after.notes), (None, Vec::<String>::new()));
    // It switches, and what was stored with the program before is handed on.
    assert_eq!(
        stage.switch(stage.intent(2, "", ANY)).result,
        SwitchResult::Switched
    );
    until_found_in_store(&stage);
    // In the soak as well: the old generation stays warm, and no process is started to go back.
    let warm = upgrade(&stage, &next(&stage, "third"));
    assert_eq!((warm.phase, warm.pid), (Phase::Soak, before.pid));
    stage.client().revert(None, "back", None).unwrap();
    let back = stage.until("1 runs", |status| status.running.as_ref().unwrap().release == 1);
    assert!(pids(&back).contains(&pids(&before)[0]), "{back:?}");
    // While the other one drains.
    upgrade(&stage, &next(&stage, "fourth"));
    stage.until("2 is gone", |status| status.phase == Phase::Idle);
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
    assert!(account.good > 0);
    stage.stop();
    assert_eq!(stage.processes(), Vec::<u32>::new());
    // One line for all of it: the watcher has seen every program's words, in order.
    let revisions = watcher.join().unwrap();
    assert!(revisions.is_sorted() && revisions.len() > 4, "{revisions:?}");
}

#[test]
fn its_processes_are_still_its_children() {
    let mut stage = Stage::new();
    stage.start();
    let trigger = stage.dir.path().join("trigger");
    let mut intent = stage.intent(1, "exit-later", ANY);
    let variable = ("FIXTURE_TRIGGER".to_owned(), trigger.display().to_string());
    intent.processes[0].env.extend([variable]);
    stage.switch(intent);
    upgrade(&stage, &next(&stage, "second"));
    std::fs::write(&trigger, b"").unwrap();
    let status = stage.until("the crash is told", |status| status.crash.is_some());
    let crash = status.crash.unwrap();
    assert!(crash.reason.contains("ended with status 4"), "{crash:?}");
    assert!(
        crash.last_lines.iter().any(|line| line == "something broke"),
        "{crash:?}"
    );
}

#[test]
fn a_switch_is_not_interrupted() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    // Nothing is copied, and the switch does not end, between the two words.
    let program = next(&stage, "second");
    let hook = Hook {
        command: [
            "/bin/sh",
            "-c",
            "while [ ! -e \"$SHIP_RUN_DIR/on\" ]; do sleep 0.02; done",
        ]
        .map(str::to_owned)
        .to_vec(),
        timeout_ms: 60_000,
    };
    let mut slow = stage.intent(2, "", ANY);
    slow.hooks.insert(HookPoint::BeforeSwitch, vec![hook]);
    stage.client().switch(slow).unwrap();
    stage.client().upgrade(&program).unwrap();
    stage.until("it waits", |status| {
        let stage = status.upgrade.as_ref().map(|upgrade| &upgrade.stage);
        matches!(stage, Some(UpgradeStage::Waiting(what)) if what == "the switch")
    });
    std::fs::write(stage.run.join("on"), b"").unwrap();
    let name = program.display().to_string();
    let status = stage.until("it is the new program", |status| status.program == name);
    assert_eq!(status.running.unwrap().release, 2);
    assert_eq!(status.counters.failures, 0);
}

#[test]
fn a_program_that_cannot_take_over_is_not_run() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let before = stage.status();
    let no_keeper = fails(&stage, Path::new("/bin/true"));
    assert!(no_keeper.contains("no keeper"), "{no_keeper}");
    let old = script(
        &stage,
        "old",
        "echo a state of version 1 is not known here; exit 1",
    );
    let old = fails(&stage, &old);
    assert!(
        old.contains("status 1: a state of version 1 is not known"),
        "{old}"
    );
    for nothing in ["/nowhere/ship-keeper", "ship-keeper", "/"] {
        let refused = refusal(stage.client().upgrade(Path::new(nothing)));
        assert_eq!(refused, Refusal::BadRequest);
    }
    let after = stage.status();
    assert_eq!((after.pid, after.program), (before.pid, before.program));
    assert_eq!(
        stage.switch(stage.intent(2, "", ANY)).result,
        SwitchResult::Switched
    );
}

#[test]
fn a_program_that_ends_while_it_takes_over_leaves_the_old_one_at_work() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "stores", ANY));
    let addr = stage.bound();
    let load = Load::on(addr);
    let before = stage.status();
    let broken = script(
        &stage,
        "broken",
        "[ \"$1\" = --can-adopt ] && echo ship-keeper 9 && exit 0; exit 3",
    );
    let why = fails(&stage, &broken);
    assert!(why.contains("ended before it had taken over"), "{why}");
    let after = stage.status();
    assert_eq!((&after.program, pids(&after)), (&before.program, pids(&before)));
    assert_ne!(after.pid, before.pid);
    until("the process of the broken program is gone", || exited(&stage));
    // It is a whole keeper, and can become a good program, too.
    let good = upgrade(&stage, &next(&stage, "second"));
    assert_eq!(good.pid, after.pid);
    assert_eq!(
        stage.switch(stage.intent(2, "", ANY)).result,
        SwitchResult::Switched
    );
    until_found_in_store(&stage);
    assert_eq!(load.end().failed, Vec::<String>::new());
    stage.client().stop().unwrap();
    until("all is gone", || {
        stage.client().status().is_err() && stage.processes().is_empty()
    });
}

#[test]
fn killed_on_the_way_the_app_runs_on() {
    for point in ["keeper.upgrade.begin", "keeper.upgrade.exec"] {
        let mut stage = Stage::new();
        stage.start_with(&[(FAULT_VARIABLE, &format!("{point}=kill@1"))]);
        stage.wait_for_keeper();
        stage.switch(stage.intent(1, "", ANY));
        let addr = stage.bound();
        let load = Load::gently(addr);
        let before = stage.status();
        stage.client().upgrade(&next(&stage, "second")).unwrap();
        until("the keeper is dead", || exited(&stage));
        stage.kill_keeper();
        if point.ends_with("begin") {
            stage.start();
        }
        // Where it had a shadow, that one answers.
        stage.wait_for_keeper();
        let after = stage.status();
        assert_eq!(
            (pids(&after), &after.listeners),
            (pids(&before), &before.listeners),
            "{point}"
        );
        let switched = stage.switch(stage.intent(2, "", ANY));
        assert_eq!(switched.result, SwitchResult::Switched, "{point}");
        assert_eq!(load.end().failed, Vec::<String>::new(), "{point}");
        stage.client().stop().unwrap();
        until("all is gone", || {
            stage.client().status().is_err() && stage.processes().is_empty()
        });
    }
}
