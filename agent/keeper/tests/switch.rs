//! Switching under load, failing unseen, and going back.
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
use stage::{Load, Stage, get, memory_kib, refusal, until};

const ANY: &str = "tcp:127.0.0.1:0";

#[test]
fn five_switches_under_load_lose_nothing() {
    let mut stage = Stage::new();
    stage.start();
    let first = stage.switch(stage.intent(1, "", ANY));
    assert_eq!(first.result, SwitchResult::Switched, "{first:?}");
    let addr = stage.bound();
    let load = Load::on(addr);
    for number in 2..=6 {
        let intent = Intent {
            soak_ms: 100,
            ..stage.intent(number, "", ANY)
        };
        let outcome = stage.switch(intent);
        assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
        assert_eq!(get(addr, "/").unwrap(), format!("release {number}"));
        assert_eq!(
            stage.link("current").unwrap(),
            format!("releases/{number}-{number:08x}")
        );
        assert_eq!(
            stage.link("previous").unwrap(),
            format!("releases/{0}-{0:08x}", number - 1)
        );
    }
    stage.until("all is quiet", |status| status.phase == Phase::Idle);
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
    assert!(account.good > 200, "{account:?}");
    let status = stage.status();
    assert_eq!(status.generations.len(), 1);
    assert_eq!(status.listeners[0].steering, Steering::Bpf);
    assert_eq!(status.counters.switches, 6);
    assert_eq!(status.counters.connections_cut, 0);
    until("its memory is small again", || {
        memory_kib(status.pid, "VmRSS") <= 3 * 1024
    });
    for figure in ["VmRSS", "RssAnon", "RssFile", "VmHWM"] {
        eprintln!("keeper {figure}: {} KiB", memory_kib(status.pid, figure));
    }
    stage.stop();
    assert_eq!(stage.processes(), Vec::<u32>::new());
    assert!(get(addr, "/").is_err());
}

#[test]
fn a_boot_lasts_until_the_last_answer() {
    let mut stage = Stage::new();
    stage.start();
    let mut intent = stage.intent(1, "", ANY);
    let probe = intent.processes[0].probe.as_mut().unwrap();
    (probe.times, probe.interval_ms) = (3, 50);
    let outcome = stage.switch(intent);
    assert!(outcome.boot_ms >= 100, "{outcome:?}");
    assert!(outcome.boot_ms <= outcome.switch_ms, "{outcome:?}");
    assert!(
        outcome.first_answer_ms.unwrap() + 100 <= outcome.switch_ms,
        "{outcome:?}"
    );
    stage.stop();
}

#[test]
fn a_broken_release_never_sees_a_user() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let addr = stage.bound();
    let load = Load::on(addr);
    let cases = [
        ("exit", Phase::Spawned),
        ("never-ready", Phase::Spawned),
        ("sick", Phase::Ready),
    ];
    for (number, (manners, step)) in (2..).zip(cases) {
        let mut intent = stage.intent(number, manners, ANY);
        // So long that it has come up by then.
        intent.processes[0].ready_timeout_ms = 5_000;
        let epoch = intent.epoch;
        let again = intent.clone();
        let outcome = stage.switch(intent);
        assert_eq!(outcome.result, SwitchResult::Failed, "{manners}");
        assert_eq!(outcome.failed_step, Some(step), "{manners}: {outcome:?}");
        assert_eq!(outcome.running, Some(1));
        assert!(
            outcome.last_lines.iter().any(|line| line.contains("says hello")),
            "{outcome:?}"
        );
        assert_eq!(stage.link("current").unwrap(), "releases/1-00000001");
        assert_eq!(stage.link("previous"), None);
        let held = stage.status().held.unwrap();
        assert_eq!((held.epoch, held.release), (epoch, number));
        assert_eq!(
            refusal(stage.client().switch(again)),
            Refusal::Held {
                epoch,
                release: number
            }
        );
    }
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
    assert_eq!(account.releases.keys().collect::<Vec<_>>(), ["release 1"]);
    assert_eq!(stage.status().counters.failures, 3);
    assert_eq!(stage.processes().len(), 1);
}

#[test]
fn what_cannot_be_run_is_told() {
    let mut stage = Stage::new();
    stage.start();
    let mut intent = stage.intent(1, "", ANY);
    intent.processes[0].command = vec!["bin/absent".to_owned()];
    let outcome = stage.switch(intent);
    assert_eq!(outcome.result, SwitchResult::Failed);
    assert!(
        outcome
            .reason
            .as_ref()
            .unwrap()
            .contains("cannot run bin/absent: No such file"),
        "{outcome:?}"
    );
    assert_eq!(stage.status().phase, Phase::Empty);
    assert_eq!(
        refusal(stage.client().revert(None, "x", None)),
        Refusal::NothingToRevertTo
    );
}

#[test]
fn a_warm_revert_starts_nothing_and_a_cold_one_is_probed() {
    let mut stage = Stage::new();
    stage.start();
    for number in 1..=3 {
        stage.switch(stage.intent(number, "", ANY));
    }
    let addr = stage.bound();
    let load = Load::on(addr);
    let before = stage.status();
    assert_eq!(before.revert.to.as_ref().unwrap().release, 2);
    assert!(before.revert.warm);
    let warm = before
        .generations
        .iter()
        .find(|generation| generation.role == Role::Warm)
        .unwrap();
    assert_eq!(
        stage.client().revert(None, "it smells", None).unwrap(),
        Taken::Accepted
    );
    let after = stage.until("2 runs", |status| status.running.as_ref().unwrap().release == 2);
    let active = after
        .generations
        .iter()
        .find(|generation| generation.role == Role::Active)
        .unwrap();
    assert_eq!(
        (active.generation, active.processes[0].pid),
        (warm.generation, warm.processes[0].pid)
    );
    assert_eq!(get(addr, "/").unwrap(), "release 2");
    until("links are back", || {
        stage.link("current").unwrap() == "releases/2-00000002"
    });
    assert_eq!(stage.link("previous").unwrap(), "releases/1-00000001");
    let outcome = after.outcome.unwrap();
    assert_eq!(
        (outcome.result, outcome.running),
        (SwitchResult::Reverted, Some(2))
    );
    assert_eq!(outcome.reason.as_deref(), Some("it smells"));
    // Again goes further back; that one is cold by now.
    assert_eq!(
        stage.client().revert(None, "still", None).unwrap(),
        Taken::Accepted
    );
    let after = stage.until("1 runs", |status| status.running.as_ref().unwrap().release == 1);
    assert_eq!(after.outcome.unwrap().result, SwitchResult::Reverted);
    assert_eq!(get(addr, "/").unwrap(), "release 1");
    until("links are back", || {
        stage.link("current").unwrap() == "releases/1-00000001"
    });
    assert_eq!(stage.link("previous"), None);
    assert_eq!(
        refusal(stage.client().revert(None, "more", None)),
        Refusal::NothingToRevertTo
    );
    // Nothing goes forward to what was reverted from without a newer epoch.
    let held = stage.status().held.unwrap();
    assert_eq!(held.release, 2);
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
}

#[test]
fn a_crash_in_the_soak_goes_back_to_the_warm_one() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let addr = stage.bound();
    let trigger = stage.dir.path().join("trigger");
    let mut intent = stage.intent(2, "exit-later", ANY);
    intent.processes[0]
        .env
        .insert("FIXTURE_TRIGGER".to_owned(), trigger.to_str().unwrap().to_owned());
    assert_eq!(stage.switch(intent).result, SwitchResult::Switched);
    assert_eq!(get(addr, "/").unwrap(), "release 2");
    std::fs::write(&trigger, b"").unwrap();
    let status = stage.until("1 runs again", |status| {
        status.running.as_ref().unwrap().release == 1 && status.generations.len() == 1
    });
    let outcome = status.outcome.unwrap();
    assert_eq!(
        (outcome.result, outcome.failed_step),
        (SwitchResult::Reverted, Some(Phase::Soak))
    );
    assert!(outcome.reason.unwrap().contains("ended with status 4"));
    assert!(outcome.last_lines.iter().any(|line| line == "something broke"));
    assert_eq!(get(addr, "/").unwrap(), "release 1");
    until("links are back", || {
        stage.link("current").unwrap() == "releases/1-00000001"
    });
    assert_eq!(status.held.unwrap().release, 2);
}

#[test]
fn a_crash_later_is_restarted_and_after_three_the_release_before_runs() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let addr = stage.bound();
    let trigger = stage.dir.path().join("trigger");
    let mut intent = Intent {
        soak_ms: 0,
        ..stage.intent(2, "exit-later", ANY)
    };
    intent.processes[0]
        .env
        .insert("FIXTURE_TRIGGER".to_owned(), trigger.to_str().unwrap().to_owned());
    stage.switch(intent);
    stage.until("1 is gone", |status| status.generations.len() == 1);
    let pid = stage.status().generations[0].processes[0].pid.unwrap();
    let target = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(target, rustix::process::Signal::KILL).unwrap();
    stage.until("it is restarted", |status| {
        status.counters.restarts == 1
            && status.generations[0].processes[0]
                .pid
                .is_some_and(|new| new != pid)
    });
    assert_eq!(get(addr, "/").unwrap(), "release 2");
    std::fs::write(&trigger, b"").unwrap();
    let status = stage.until("1 runs", |status| {
        status
            .running
            .as_ref()
            .is_some_and(|running| running.release == 1)
            && status.generations.len() == 1
    });
    assert_eq!(get(addr, "/").unwrap(), "release 1");
    assert_eq!(status.outcome.unwrap().result, SwitchResult::Reverted);
    assert_eq!(status.held.unwrap().release, 2);
}

#[test]
fn a_newer_switch_supersedes_one_nobody_has_seen() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let slow = stage.intent(2, "never-ready", ANY);
    assert_eq!(stage.client().switch(slow.clone()).unwrap(), Taken::Accepted);
    assert_eq!(stage.client().switch(slow.clone()).unwrap(), Taken::Already);
    let next = stage.intent(3, "", ANY);
    assert_eq!(stage.switch(next.clone()).result, SwitchResult::Switched);
    assert_eq!(get(stage.bound(), "/").unwrap(), "release 3");
    assert_eq!(stage.client().switch(next.clone()).unwrap(), Taken::Already);
    assert_eq!(
        refusal(stage.client().switch(slow)),
        Refusal::StaleEpoch { newest: next.epoch }
    );
    let status = stage.status();
    assert_eq!(status.held, None);
    let renewed = Intent {
        epoch: next.epoch + 7,
        deploy: 99,
        ..next
    };
    assert_eq!(stage.client().switch(renewed).unwrap(), Taken::Already);
    assert_eq!(stage.status().running.unwrap().deploy, 99);
}

#[test]
fn a_revert_ends_a_switch_that_is_under_way() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let slow = stage.intent(2, "never-ready", ANY);
    stage.client().switch(slow.clone()).unwrap();
    stage.client().revert(None, "stop that", None).unwrap();
    let outcome = stage.outcome_of(slow.epoch, 2);
    assert_eq!(
        (outcome.result, outcome.running),
        (SwitchResult::Reverted, Some(1))
    );
    stage.until("the new one is gone", |status| status.generations.len() == 1);
    assert_eq!(
        refusal(stage.client().switch(slow.clone())),
        Refusal::Held {
            epoch: slow.epoch,
            release: 2
        }
    );
}

#[test]
fn those_that_cannot_coexist_follow_one_another_and_users_wait() {
    let mut stage = Stage::new();
    stage.start();
    let alone = |intent: Intent| Intent {
        coexist: false,
        soak_ms: 0,
        ..intent
    };
    stage.switch(alone(stage.intent(1, "", ANY)));
    let addr = stage.bound();
    let load = Load::on(addr);
    let outcome = stage.switch(alone(stage.intent(2, "slow", ANY)));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    let outcome = stage.switch(alone(stage.intent(3, "exit", ANY)));
    assert_eq!((outcome.result, outcome.running), (SwitchResult::Failed, Some(2)));
    until("2 answers again", || {
        get(addr, "/").is_ok_and(|body| body == "release 2")
    });
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
    assert!(!account.releases.contains_key("release 3"));
}

#[test]
fn descendants_do_not_outlive_their_generation() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(Intent {
        soak_ms: 0,
        ..stage.intent(1, "stubborn", ANY)
    });
    until("the child is there", || stage.processes().len() == 2);
    let mut intent = Intent {
        soak_ms: 0,
        ..stage.intent(2, "", ANY)
    };
    intent.processes[0].stop_timeout_ms = 200;
    stage.switch(intent);
    stage.until("1 is gone", |status| status.generations.len() == 1);
    assert_eq!(stage.processes().len(), 1);
}
