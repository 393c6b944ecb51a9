//! Full disks, missing rights and power cuts.
#![allow(
    unsafe_code,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise; a filter of system calls is set in the child"
)]

mod stage;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ship_durable::Journal;
use ship_durable::fault::FAULT_VARIABLE;
use ship_keeper::Taken;
use ship_keeper::protocol::*;
use stage::{Load, Stage, exited, get, refusal, until};

const ANY: &str = "tcp:127.0.0.1:0";

fn soaking(intent: Intent, soak_ms: u64) -> Intent {
    Intent { soak_ms, ..intent }
}

// --- a full disk

/// A small file system of its own, gone with its test.
struct Mount(PathBuf);

impl Mount {
    fn at(folder: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "ship-test"])
            .arg(folder)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder.to_owned())),
            other => {
                eprintln!("SKIPPED: a small file system cannot be mounted here: {other:?}");
                None
            }
        }
    }

    /// Not one more byte fits.
    fn fill(&self) {
        let mut filler = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.0.join("filler"))
            .unwrap();
        for size in [64 * 1024, 4096, 1] {
            while filler.write(&vec![0x55; size]).is_ok_and(|written| written > 0) {}
        }
        assert!(std::fs::write(self.0.join("one-more"), b"x").is_err());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Takes release 2 back to 1 on a disk that is full to the last byte.
fn revert_on_a_full_disk(soak_ms: u64) {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::at(dir.path()) else {
        return;
    };
    let mut stage = Stage::inside(dir, "run");
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    stage.switch(soaking(stage.intent(2, "", ANY), soak_ms));
    if soak_ms == 0 {
        stage.until("1 is gone", |status| status.phase == Phase::Idle);
    }
    let addr = stage.bound();
    // What it takes to stand there is made before.
    stage.release(3);
    let load = Load::gently(addr);
    mount.fill();
    let client = stage.client();
    assert_eq!(client.revert(None, "it smells", None).unwrap(), Taken::Accepted);
    stage.until("1 runs", |status| {
        let back = status
            .running
            .as_ref()
            .is_some_and(|running| running.release == 1);
        back && status.switching_to.is_none() && status.queued.is_none()
    });
    assert_eq!(get(addr, "/").unwrap(), "release 1");
    until("links are back", || {
        stage.link("current").as_deref() == Some("releases/1-00000001")
    });
    // What 2 leaves behind when it ends gives room.
    stage.until("what leaves is gone", |status| {
        let stays = |role| matches!(role, Role::Active | Role::Warm);
        status.generations.iter().all(|found| stays(found.role))
    });
    mount.fill();
    // A new switch is refused, a dead keeper's successor knows what was done.
    let refused = refusal(client.switch(stage.intent(3, "", ANY)));
    assert_eq!(refused, Refusal::Journal);
    stage.kill_keeper();
    stage.start();
    let status = stage.status();
    assert_eq!(status.running.as_ref().unwrap().release, 1, "{status:?}");
    assert_eq!(status.held.as_ref().unwrap().release, 2, "{status:?}");
    assert_eq!(get(addr, "/").unwrap(), "release 1");
    assert_eq!(load.end().failed, Vec::<String>::new());
    // With room again, all is as ever.
    std::fs::remove_file(mount.0.join("filler")).unwrap();
    assert_eq!(
        stage.switch(stage.intent(4, "", ANY)).result,
        SwitchResult::Switched
    );
    stage.stop();
}

#[test]
fn a_warm_revert_needs_no_room_on_the_disk() {
    revert_on_a_full_disk(600_000);
}

#[test]
fn a_cold_revert_needs_no_room_on_the_disk() {
    revert_on_a_full_disk(0);
}

// --- a keeper that may not take sockets back

/// From now on `pidfd_getfd` is refused, as without CAP_SYS_PTRACE.
fn refuse_taking_back(command: &mut Command) {
    let number = u32::try_from(libc::SYS_pidfd_getfd).unwrap();
    let op = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let mut program = [
        // The number of the call is the first word of what is looked at.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        op(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
        ),
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
        if set {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(set) };
}

#[test]
fn a_keeper_that_may_not_take_sockets_back_starts_the_app_anew_and_says_so() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    stage.switch(stage.intent(2, "", ANY));
    let addr = stage.bound();
    let before = stage.processes();
    assert_eq!(before.len(), 2);
    stage.kill_keeper();
    stage.prepare = Some(refuse_taking_back);
    stage.start();
    let status = stage.until("2 runs again", |status| {
        let up = |process: &ProcessStatus| process.state == ProcessState::Up;
        let mut generations = status.generations.iter();
        generations.any(|found| found.role == Role::Active && found.processes.iter().all(up))
            && status.phase == Phase::Idle
    });
    assert_eq!(status.running.unwrap().release, 2);
    for part in [
        "keeps its listeners to itself",
        "Operation not permitted",
        "started anew",
    ] {
        let told = status.notes.iter().any(|note| note.contains(part));
        assert!(told, "{part}: {:?}", status.notes);
    }
    assert_eq!(stage.bound(), addr);
    until("it answers", || {
        get(addr, "/").is_ok_and(|body| body == "release 2")
    });
    until("only the one that was started anew is there", || {
        let after = stage.processes();
        after.len() == 1 && after.iter().all(|pid| !before.contains(pid))
    });
    assert_eq!(stage.link("current").unwrap(), "releases/2-00000002");
    // It is a keeper like any other from here on.
    let load = Load::on(addr);
    assert_eq!(
        stage.switch(stage.intent(3, "", ANY)).result,
        SwitchResult::Switched
    );
    assert_eq!(load.end().failed, Vec::<String>::new());
}

// --- power cuts

/// Ends everything at once, and lets the journal be of another boot.
fn cut_power(stage: &mut Stage) {
    stage.kill_keeper();
    // One that was just forked has its environment a little later.
    until("all is gone", || {
        for pid in stage.processes() {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        stage.processes().is_empty()
    });
    let path = stage.state.join("journal");
    let mut last = Vec::new();
    let read = Journal::open_with(&path, 4 * 1024 * 1024, |record| last = record.payload.to_vec());
    let (mut journal, _) = read.unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&last).unwrap();
    assert!(state["boot_id"].is_string(), "{state}");
    state["boot_id"] = "an-earlier-boot".into();
    journal.append(&serde_json::to_vec(&state).unwrap()).unwrap();
    journal.sync().unwrap();
    // What lay in memory only is gone as well.
    std::fs::remove_dir_all(&stage.run).unwrap();
}

fn comes_up(stage: &Stage, release: u64) {
    stage.until("the app is up", |status| {
        let runs = status
            .running
            .as_ref()
            .is_some_and(|running| running.release == release);
        runs && status.phase == Phase::Idle && status.queued.is_none()
    });
    assert_eq!(get(stage.bound(), "/").unwrap(), format!("release {release}"));
    assert_eq!(
        stage.link("current").unwrap(),
        format!("releases/{release}-{release:08x}")
    );
    assert_eq!(stage.processes().len(), 1);
}

#[test]
fn after_a_power_cut_the_app_runs_again_at_its_address() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    stage.switch(stage.intent(2, "", ANY));
    let addr = stage.bound();
    cut_power(&mut stage);
    stage.start();
    comes_up(&stage, 2);
    assert_eq!(stage.bound(), addr);
    // The way back is known, though nothing is warm any more.
    let status = stage.status();
    assert_eq!(status.revert.to.unwrap().release, 1);
    assert!(!status.revert.warm);
    stage.client().revert(None, "back", None).unwrap();
    stage.until("1 runs", |status| {
        status
            .running
            .as_ref()
            .is_some_and(|running| running.release == 1)
    });
}

/// Power is cut in the middle of a switch from 1 to 2, at this point; `release` is the one that the link names then.
fn cut_in_a_switch(point: &str, release: u64) {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    stage.kill_keeper();
    stage.start_with(&[(FAULT_VARIABLE, &format!("{point}=kill"))]);
    stage.wait_for_keeper();
    let _ = stage.client().switch(stage.intent(2, "", ANY));
    until("the keeper is killed", || exited(&stage));
    let current = stage.link("current").unwrap();
    assert_eq!(current, format!("releases/{release}-{release:08x}"), "{point}");
    cut_power(&mut stage);
    stage.start();
    comes_up(&stage, release);
    let next = stage.intent(3, "", ANY);
    assert_eq!(stage.switch(next).result, SwitchResult::Switched, "{point}");
}

#[test]
fn a_power_cut_before_the_link_is_moved_leaves_the_old_release() {
    cut_in_a_switch("keeper.spawned.after", 1);
    cut_in_a_switch("keeper.probed.after", 1);
}

#[test]
fn a_power_cut_after_the_link_was_moved_leaves_the_new_release() {
    cut_in_a_switch("keeper.linked.before", 2);
    cut_in_a_switch("keeper.linked.after", 2);
}
