//! Processes that bind by themselves and know nothing of a keeper.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unsafe_code,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;

use ship_keeper::protocol::*;
use ship_keeper::{AskError, Taken};
use ship_model::spec::Strategy;
use stage::{Load, Stage, get, until};

/// A free address that no other test of this machine takes: one of its own, which is nobody else's to connect from.
fn own_address() -> SocketAddr {
    let own = stage::own_address();
    own.strip_prefix("tcp:").unwrap().parse().unwrap()
}

/// A release that binds `bind` by itself where `listen` says that it listens.
fn binds(stage: &Stage, number: u64, strategy: Strategy, listen: SocketAddr, bind: &str) -> Intent {
    let mut intent = stage.intent(number, "bind", &format!("tcp:{listen}"));
    intent.processes[0].strategy = strategy;
    let env = &mut intent.processes[0].env;
    env.insert("FIXTURE_BIND".to_owned(), bind.to_owned());
    intent
}

fn with_manners(mut intent: Intent, manners: &str) -> Intent {
    intent.processes[0]
        .env
        .insert("FIXTURE".to_owned(), manners.to_owned());
    // So long that it has come up by then.
    intent.processes[0].ready_timeout_ms = 4_000;
    intent
}

fn switched(stage: &Stage, intent: Intent) -> Outcome {
    let outcome = stage.switch(intent);
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    outcome
}

fn failed(stage: &Stage, intent: Intent) -> Outcome {
    let outcome = stage.switch(intent);
    assert_eq!(outcome.result, SwitchResult::Failed, "{outcome:?}");
    outcome
}

fn says(outcome: &Outcome, parts: &[&str]) {
    let reason = outcome.reason.clone().unwrap_or_default();
    for part in parts {
        assert!(reason.contains(part), "{part:?} is not in {reason:?}");
    }
}

#[test]
fn two_servers_that_bind_share_their_address_and_only_the_proven_one_is_seen() {
    let mut stage = Stage::new();
    stage.start();
    let at = own_address();
    let bind = at.to_string();
    let release = |number| binds(&stage, number, Strategy::BindJoin, at, &bind);
    switched(&stage, release(1));
    let status = stage.status();
    assert_eq!(status.listeners[0].steering, Steering::Bpf);
    let process = &status.generations[0].processes[0];
    assert_eq!(process.strategy, Strategy::BindJoin);
    assert_eq!(process.reason, format!("it binds {at} by itself"));
    let load = Load::on(at);
    assert_eq!(switched(&stage, release(2)).rungs, Vec::new());
    failed(&stage, with_manners(release(3), "bind,sick"));
    let outcome = failed(&stage, with_manners(release(4), "idle"));
    says(&outcome, &["process web has not bound", &bind]);
    stage.client().revert(None, "a test", None).unwrap();
    stage.until("it is back", |status| {
        status
            .running
            .as_ref()
            .is_some_and(|running| running.release == 1)
    });
    assert_eq!(get(at, "/").unwrap(), "release 1");
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
    let mut seen: Vec<_> = account.releases.keys().map(String::as_str).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["release 1", "release 2"]);
}

#[test]
fn who_refuses_while_it_boots_is_asked_again_and_not_waited_for() {
    let mut stage = Stage::new();
    stage.start();
    let at = own_address();
    let mut intent = binds(&stage, 1, Strategy::StopStart, at, &at.to_string());
    let process = &mut intent.processes[0];
    process.env.insert("FIXTURE".to_owned(), "slow,bind".to_owned());
    process.notify = false;
    // An attempt that nobody takes up would last longer than the whole switch may.
    process.ready_timeout_ms = 15_000;
    process.probe.as_mut().unwrap().timeout_ms = 60_000;
    switched(&stage, intent);
    assert_eq!(get(at, "/").unwrap(), "release 1");
}

#[test]
fn what_a_process_does_decides_its_strategy() {
    let mut stage = Stage::new();
    stage.start();
    let at = own_address();
    let bind = at.to_string();
    let auto = |number| binds(&stage, number, Strategy::Auto, at, &bind);
    let taker = |number| {
        let mut intent = auto(number);
        intent.processes[0]
            .env
            .insert("FIXTURE".to_owned(), String::new());
        intent
    };
    let load = |stage: &Stage| Load::on(stage.bound());
    let outcome = switched(&stage, auto(1));
    assert_eq!(outcome.rungs.len(), 1, "{outcome:?}");
    assert_eq!(outcome.rungs[0].strategy, Strategy::BindJoin);
    let load = load(&stage);
    // One that takes what it is handed replaces one that binds, and the other way round: the sockets are the same.
    let outcome = switched(&stage, taker(2));
    assert_eq!(outcome.rungs[0].strategy, Strategy::ListenFds, "{outcome:?}");
    let told = stage.status();
    let newest = &told.generations.last().unwrap().processes[0];
    assert_eq!(newest.strategy, Strategy::ListenFds);
    assert!(newest.reason.contains("LISTEN_FDS"), "{newest:?}");
    switched(&stage, auto(3));
    let outcome = failed(&stage, with_manners(auto(4), "idle"));
    says(&outcome, &["has not bound", "by itself", "LISTEN_FDS"]);
    let elsewhere = binds(&stage, 5, Strategy::Auto, at, &format!("{}:0", at.ip()));
    let outcome = failed(&stage, with_manners(elsewhere, "bind"));
    says(&outcome, &["has not bound"]);
    let other = own_address();
    let elsewhere = binds(&stage, 6, Strategy::Auto, at, &other.to_string());
    let outcome = failed(&stage, with_manners(elsewhere, "bind"));
    says(&outcome, &["has not bound", &format!("it binds {other}")]);
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
}

#[test]
fn all_addresses_are_taken_for_the_one_that_is_listened_on_and_others_are_let_alone() {
    let mut stage = Stage::new();
    stage.start();
    let (at, other) = (own_address(), own_address());
    let all = format!("0.0.0.0:{},{other}", at.port());
    switched(&stage, binds(&stage, 1, Strategy::BindJoin, at, &all));
    assert_eq!(get(at, "/").unwrap(), "release 1");
    assert_eq!(get(other, "/").unwrap(), "release 1");
    let elsewhere: SocketAddr = ([127, 0, 0, 1], at.port()).into();
    assert!(TcpStream::connect(elsewhere).is_err(), "only {at} is to be open");
    if TcpListener::bind("[::1]:0").is_ok() {
        let all = format!("[::]:{}", at.port());
        switched(&stage, binds(&stage, 2, Strategy::BindJoin, at, &all));
        assert_eq!(get(at, "/").unwrap(), "release 2");
    }
}

#[test]
fn a_process_that_crashes_joins_again_and_no_connection_is_lost() {
    let mut stage = Stage::new();
    stage.start();
    let at = own_address();
    switched(&stage, binds(&stage, 1, Strategy::BindJoin, at, &at.to_string()));
    let pid = stage.status().generations[0].processes[0].pid.unwrap();
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    stage.until("it has ended", |status| status.counters.restarts == 1);
    // Who comes meanwhile waits at the listener that the keeper holds.
    assert_eq!(get(at, "/").unwrap(), "release 1");
    stage.until("it is up again", |status| {
        status.counters.restarts == 1 && status.generations[0].processes[0].state == ProcessState::Up
    });
}

#[test]
fn a_bind_while_the_keeper_is_dead_waits_for_the_next_one() {
    let mut stage = Stage::new();
    stage.start();
    let at = own_address();
    let trigger = stage.dir.path().join("trigger");
    let release = |stage: &Stage, number| {
        let mut intent = binds(stage, number, Strategy::BindJoin, at, &at.to_string());
        let env = &mut intent.processes[0].env;
        env.insert("FIXTURE".to_owned(), "bind,bind-later".to_owned());
        env.insert("FIXTURE_TRIGGER".to_owned(), trigger.display().to_string());
        intent
    };
    switched(&stage, release(&stage, 1));
    let pid = stage.status().generations[0].processes[0].pid.unwrap();
    let load = Load::gently(at);
    stage.kill_keeper();
    std::fs::write(&trigger, b"").unwrap();
    let waits = || {
        let calls = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let mut calls =
            calls.map(|task| std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default());
        calls.any(|call| call.starts_with(&format!("{} ", libc::SYS_bind)))
    };
    until("the bind waits", waits);
    stage.start();
    let done = stage.dir.path().join("trigger.done");
    until("the binds are answered", || {
        std::fs::read_to_string(&done).is_ok_and(|text| text == "true")
    });
    let status = stage.status();
    assert_eq!(status.generations[0].processes[0].pid, Some(pid), "{status:#?}");
    switched(&stage, release(&stage, 2));
    assert_eq!(load.end().failed, Vec::<String>::new());
}

#[test]
fn sockets_that_cannot_be_joined_are_refused_before_anything_is_started() {
    let mut stage = Stage::new();
    stage.start();
    let at = own_address();
    for (addr, part) in [("unix:/tmp/x.sock", "Unix socket"), ("tcp:127.0.0.1:0", "port 0")] {
        let mut intent = binds(&stage, 1, Strategy::BindJoin, at, &at.to_string());
        intent.processes[0].listen[0].addr = addr.to_owned();
        let Err(AskError::Refused { refusal, message }) = stage.client().switch(intent) else {
            panic!("{addr} was not refused");
        };
        assert_eq!(refusal, Refusal::BadIntent);
        for part in [part, "listener http", "strategy \"listen-fds\" or \"stop-start\""] {
            assert!(message.contains(part), "{message}");
        }
    }
}

// --- systems that allow less

/// From now on system call `number` is refused with EPERM.
fn refuse(command: &mut Command, number: libc::c_long) {
    let op = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            u32::try_from(number).unwrap(),
        ),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, refused),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let set = move || {
        let filter = libc::sock_fprog {
            len: 4,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: the program lives as long as the call, and both calls allocate nothing.
        let set = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
        };
        set.then_some(()).ok_or_else(std::io::Error::last_os_error)
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(set) };
}

/// All privileges are given up, as of a keeper that root did not start.
fn give_up_privileges(command: &mut Command) {
    let give_up = || {
        // Version 3, this process; no bits set.
        let header = [0x2008_0522_u32, 0];
        let none = [0_u32; 6];
        // SAFETY: both have the layout and size of that version; the bounding set keeps exec from giving them back.
        let done = unsafe {
            (0..64).for_each(|capability| {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            });
            libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) == 0
        };
        done.then_some(()).ok_or_else(std::io::Error::last_os_error)
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(give_up) };
}

#[test]
fn it_works_without_privileges() {
    let mut stage = Stage::new();
    stage.prepare = Some(give_up_privileges);
    stage.start();
    let at = own_address();
    let keeper = stage.keeper.as_ref().unwrap().id();
    let status = std::fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let release = |number| binds(&stage, number, Strategy::BindJoin, at, &at.to_string());
    switched(&stage, release(1));
    let load = Load::gently(at);
    switched(&stage, release(2));
    assert_eq!(load.end().failed, Vec::<String>::new());
    let pid = stage.status().generations[0].processes[0].pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
}

#[test]
fn where_binds_are_not_told_the_reason_is() {
    let mut stage = Stage::new();
    stage.prepare = Some(|command| refuse(command, libc::SYS_seccomp));
    stage.start();
    let at = own_address();
    let release = |number, strategy| binds(&stage, number, strategy, at, &at.to_string());
    let outcome = switched(&stage, release(1, Strategy::BindJoin));
    runs_alone(
        &stage,
        &outcome,
        at,
        1,
        &["does not tell its binds", "Operation not permitted"],
    );
    let mut taker = release(2, Strategy::Auto);
    taker.processes[0].env.insert("FIXTURE".to_owned(), String::new());
    let outcome = switched(&stage, taker);
    assert_eq!(outcome.rungs.len(), 1, "{outcome:?}");
    assert_eq!(outcome.rungs[0].strategy, Strategy::ListenFds);
    assert!(
        outcome.rungs[0].reason.contains("Operation not permitted"),
        "{outcome:?}"
    );
    let outcome = failed(&stage, release(3, Strategy::Auto));
    says(
        &outcome,
        &["Operation not permitted", "strategy = \"stop-start\""],
    );
    assert_eq!(get(at, "/").unwrap(), "release 2");
}

/// One rung down: it listens by itself, and that is told with the reason.
fn runs_alone(stage: &Stage, outcome: &Outcome, at: SocketAddr, release: u64, parts: &[&str]) {
    let rung = outcome.rungs.last().unwrap();
    assert_eq!(rung.strategy, Strategy::StopStart, "{outcome:?}");
    for part in parts {
        assert!(rung.reason.contains(part), "{part:?} is not in {rung:?}");
    }
    assert_eq!(get(at, "/").unwrap(), format!("release {release}"));
    let status = stage.until("the old one is gone", |status| status.generations.len() == 1);
    assert_eq!(status.generations[0].processes[0].strategy, Strategy::StopStart);
    assert_eq!(status.listeners[0].steering, Steering::Outside);
}

#[test]
fn where_a_process_may_not_be_looked_at_it_runs_alone() {
    for call in [libc::SYS_process_vm_readv, libc::SYS_pidfd_getfd] {
        let mut stage = Stage::new();
        stage.prepare = Some(if call == libc::SYS_pidfd_getfd {
            |command| refuse(command, libc::SYS_pidfd_getfd)
        } else {
            |command| refuse(command, libc::SYS_process_vm_readv)
        });
        stage.start();
        let at = own_address();
        let release = |number, strategy| binds(&stage, number, strategy, at, &at.to_string());
        let parts = ["may not be looked at", "Operation not permitted"];
        for number in 1..=3 {
            let intent = Intent {
                epoch: 10 * number,
                ..release(number, Strategy::BindJoin)
            };
            let again = Intent {
                epoch: 10 * number + 1,
                ..intent.clone()
            };
            let outcome = switched(&stage, intent);
            runs_alone(&stage, &outcome, at, number, &parts);
            // The same under a newer epoch is the same, whatever rung it stands on.
            let pid = stage.status().generations[0].processes[0].pid;
            assert_eq!(stage.client().switch(again).unwrap(), Taken::Already);
            assert_eq!(stage.status().generations[0].processes[0].pid, pid);
        }
        // One that fails, alone as well, brings the one before back.
        let epoch = 1_000;
        let sick = Intent {
            epoch,
            ..with_manners(release(4, Strategy::BindJoin), "bind,sick")
        };
        failed(&stage, sick);
        until("the old one is back", || {
            get(at, "/").is_ok_and(|body| body == "release 3")
        });
        if call == libc::SYS_pidfd_getfd {
            let auto = Intent {
                epoch: epoch + 1,
                ..release(5, Strategy::Auto)
            };
            let outcome = switched(&stage, auto);
            runs_alone(&stage, &outcome, at, 5, &parts);
        }
    }
}
