//! Systems that allow less: one socket for all generations, and it is told why.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unsafe_code,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use ship_keeper::protocol::*;
use stage::{Load, Stage, ask, exists, get, until};

const ANY: &str = "tcp:127.0.0.1:0";

/// From now on this system call is refused with EPERM, or only where its third argument is this.
fn refuse(command: &mut Command, call: libc::c_long, third: Option<i32>) {
    let op = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let third_is = match third {
        Some(third) => op(equal, 0, 1, third.cast_unsigned()),
        None => op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 0),
    };
    let mut program = [
        op(load, 0, 0, 0),
        op(equal, 0, 3, u32::try_from(call).unwrap()),
        op(load, 0, 0, 32),
        third_is,
        op(
            answer,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
        ),
        op(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let set = move || {
        let filter = libc::sock_fprog {
            len: 6,
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

/// One socket, the reason is told, and what answers the probe is the new one.
fn shares_and_tells(stage: &Stage, addr: &str, reason: &str, ask: impl Fn() -> std::io::Result<String>) {
    let outcome = stage.switch(stage.intent(1, "", addr));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    let listener = stage.status().listeners.remove(0);
    assert_eq!(listener.steering, Steering::Shared);
    for told in [&listener.reason, &outcome.rungs[0].reason] {
        assert!(told.contains("one socket for all generations"), "{told}");
        assert!(told.contains(reason), "{told} has no {reason:?}");
    }
    assert_eq!(ask().unwrap(), "release 1");
    // The old one answers the probe half of the time, and well: that proves nothing of the new one.
    let sick = stage.switch(stage.intent(2, "sick", addr));
    assert_eq!(sick.result, SwitchResult::Failed, "{sick:?}");
    let mut idle = stage.intent(3, "idle", addr);
    idle.processes[0].ready_timeout_ms = 1_500;
    let idle = stage.switch(idle);
    assert_eq!(idle.result, SwitchResult::Failed, "{idle:?}");
    assert_eq!(ask().unwrap(), "release 1");
    let next = Intent {
        soak_ms: 0,
        ..stage.intent(4, "", addr)
    };
    let outcome = stage.switch(next);
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    assert_eq!(outcome.rungs.len(), 1, "{outcome:?}");
    stage.until("the old one is gone", |status| status.generations.len() == 1);
    assert_eq!(ask().unwrap(), "release 4");
}

#[test]
fn where_no_program_may_be_attached() {
    let mut stage = Stage::new();
    stage.prepare = Some(|command| {
        refuse(
            command,
            libc::SYS_setsockopt,
            Some(libc::SO_ATTACH_REUSEPORT_CBPF),
        )
    });
    stage.start();
    let bound = || get(stage.bound(), "/");
    shares_and_tells(&stage, ANY, "attach a steering program", bound);
    let load = Load::on(stage.bound());
    assert_eq!(
        stage.switch(stage.intent(5, "", ANY)).result,
        SwitchResult::Switched
    );
    assert_eq!(load.end().failed, Vec::<String>::new());
}

#[test]
fn where_ports_may_not_be_shared() {
    let mut stage = Stage::new();
    stage.prepare = Some(|command| refuse(command, libc::SYS_setsockopt, Some(libc::SO_REUSEPORT)));
    stage.start();
    shares_and_tells(&stage, ANY, "Operation not permitted", || get(stage.bound(), "/"));
}

fn ask_unix(path: &Path) -> std::io::Result<String> {
    ask(&mut UnixStream::connect(path)?, "/")
}

#[test]
fn where_a_path_cannot_name_several_sockets() {
    let mut stage = Stage::new();
    stage.prepare = Some(|command| refuse(command, libc::SYS_linkat, None));
    stage.start();
    let path = stage.dir.path().join("web.sock");
    let addr = format!("unix:{}", path.display());
    shares_and_tells(
        &stage,
        &addr,
        "its path cannot name one socket after the other",
        || ask_unix(&path),
    );
    // Its connections are counted, and the next keeper finds the same socket.
    let mut open = UnixStream::connect(&path).unwrap();
    open.write_all(b"GET /wait HTTP/1.1\r\n\r\n").unwrap();
    stage.until("it is counted", |status| {
        status.generations[0].processes[0].connections == 1
    });
    stage.kill_keeper();
    assert_eq!(ask_unix(&path).unwrap(), "release 4");
    stage.start();
    let listener = stage.status().listeners.remove(0);
    assert_eq!(listener.steering, Steering::Shared, "{listener:?}");
    assert_eq!(
        stage.switch(stage.intent(5, "", &addr)).result,
        SwitchResult::Switched
    );
    until("the new one answers", || {
        ask_unix(&path).is_ok_and(|body| body == "release 5")
    });
    drop(open);
    stage.stop();
    assert!(!exists(&path));
}

#[test]
fn where_the_keeper_is_told_not_to_steer() {
    let mut stage = Stage::new();
    stage.flags = vec!["--no-steering"];
    stage.start();
    shares_and_tells(&stage, ANY, "told not to steer", || get(stage.bound(), "/"));
}
