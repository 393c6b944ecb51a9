//! `ship-agent exec`: a command in the surroundings of a release, with nobody else alive.
#![allow(
    dead_code,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed test says so by stopping, and each test uses its part of the fleet"
)]

mod fleet;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use fleet::agent::Host;
use fleet::store::{Store, web};
use fleet::until;
use ship_keeper::Client;
use ship_model::release::Target;
use ship_model::spec::{Limits, ProcessSpec, ReleaseSpec, Strategy};

struct Scene {
    host: Host,
}

impl Drop for Scene {
    /// The app outlives agents by design; here it must not outlive the test.
    fn drop(&mut self) {
        self.host.kill();
        let client = Client::new(&self.host.path("run/web"), std::time::Duration::from_secs(10));
        client.stop().ok();
        until("the keeper's end", || client.status().is_err().then_some(()));
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn spec() -> ReleaseSpec {
    let mut spec = ReleaseSpec::static_files("web".parse().unwrap());
    let process = ProcessSpec {
        command: vec!["bin/serve".to_owned()],
        class: "web".parse().unwrap(),
        listen: BTreeMap::new(),
        strategy: Strategy::ListenFds,
        restart: None,
        overlap: true,
        canary: None,
        coexist: true,
        must_coexist: false,
        probe: None,
        notify: false,
        watchdog_ms: None,
        lock_wait_ms: None,
        lock_overrule: false,
        no_new_privs: true,
        ready_timeout_ms: 20_000,
        soak_ms: 0,
        drain_ms: 100,
        stop_signal: "TERM".to_owned(),
        stop_timeout_ms: 1000,
        user: is_root().then(|| "nobody".to_owned()),
        limits: Limits {
            nofile: Some(77),
            ..Limits::default()
        },
        env: BTreeMap::from([("COLOUR".to_owned(), "green".to_owned())]),
    };
    spec.processes.insert("web".parse().unwrap(), process);
    spec
}

const SERVE: &[u8] = b"#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.05; done\n";

/// Releases 1 and 2 lie on a host, 2 runs; agent and store are dead.
fn scene() -> Scene {
    let store = Store::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut scene = Scene {
        host: Host::with(&store, "[\"web\"]", folder),
    };
    scene.host.start();
    let publish = |number: u64| -> Target {
        let said = format!("release {number}\n");
        let files: [(&str, &[u8]); 3] = [
            ("bin/serve!", SERVE),
            ("said", said.as_bytes()),
            ("bin/plain", b"not a program\n"),
        ];
        store.inner.shelf.lock().unwrap().publish(number, &spec(), &files)
    };
    let (one, two) = (publish(1), publish(2));
    for (epoch, target) in [(1, one), (2, two)] {
        store.desire(vec![web(epoch, Some(target), &[one, two])]);
        store.wait("a release", |app| app.running == Some(target) && app.healthy);
    }
    store.wait("both to lie there", |app| app.staged.len() == 2);
    scene.host.kill();
    std::fs::write(scene.host.app("shared/env"), "SECRET=sesame\n").unwrap();
    scene
}

impl Scene {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ship-agent"));
        command
            .args(["exec", "web", "--config"])
            .arg(self.host.path("agent.toml"))
            .args(words);
        command.current_dir(self.host.folder.path()).stdin(Stdio::null());
        command
    }

    fn exec(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_command_runs_in_the_surroundings_of_a_release_with_nobody_else_alive() {
    let scene = scene();
    let ask = "cat said; echo $SHIP_APP $SHIP_RELEASE $SHIP_PROCESS $COLOUR $SECRET; ulimit -n; id -un; pwd; \
               echo \"$PWD\"; grep NoNewPrivs /proc/self/status | tr -d '\\t'; echo ${LISTEN_FDS-none} ${NOTIFY_SOCKET-none}";
    let output = scene.exec(&["--", "sh", "-c", ask]);
    let lines: Vec<_> = told(&output).lines().map(str::to_owned).collect();
    assert_eq!(
        lines[..3],
        ["release 2", "web 2 web green sesame", "77"],
        "{}",
        complaint(&output)
    );
    if is_root() {
        assert_eq!(lines[3], "nobody");
    }
    assert!(lines[4].contains("/releases/2-"), "{lines:?}");
    assert_eq!((&lines[5], &lines[6]), (&lines[4], &"NoNewPrivs:1".to_owned()));
    assert_eq!(lines[7], "none none");
    let output = scene.exec(&["--release", "1", "--process", "web", "--", "cat", "said"]);
    assert_eq!(told(&output), "release 1");
    // Its end is the command's, and so is its input.
    assert_eq!(scene.exec(&["--", "sh", "-c", "exit 42"]).status.code(), Some(42));
    let mut cat = scene.command(&["--", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut cat.stdin.take().unwrap(), b"hello").unwrap();
    assert_eq!(told(&cat.wait_with_output().unwrap()), "hello");
}

#[test]
fn signals_reach_the_command_and_its_release_is_held_while_it_runs() {
    let scene = scene();
    // Neither its folder nor its program tells what it uses.
    let mut command = scene.command(&[
        "--release",
        "1",
        "--",
        "sh",
        "-c",
        "cd /; trap 'exit 9' TERM; echo up; while :; do sleep 0.02; done",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "up\n");
    let releases = std::fs::read_dir(scene.host.app("releases")).unwrap().flatten();
    let folder = releases
        .map(|entry| entry.path())
        .find(|path| path.is_dir() && path.to_str().unwrap().contains("/1-"));
    let folder = std::fs::File::open(folder.unwrap()).unwrap();
    let free = || rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok();
    assert!(!free());
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    // A child of its own may end a moment later.
    until("the release is free", || free().then_some(()));
}

#[test]
fn what_cannot_be_run_is_told_with_the_codes_of_a_shell() {
    let scene = scene();
    for (words, code, text) in [
        (
            &["--", "no-such-program"][..],
            127,
            "no-such-program is not in its PATH",
        ),
        (&["--", "bin/none"], 127, "cannot run bin/none"),
        (&["--", "bin/plain"], 126, "cannot run bin/plain"),
        (
            &["--release", "7", "--", "true"],
            1,
            "web@7 does not lie here; there are: 1, 2",
        ),
        (
            &["--process", "w", "--", "true"],
            1,
            "has no process \"w\" on this host; there are: web",
        ),
    ] {
        let output = scene.exec(words);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{words:?}: {}",
            complaint(&output)
        );
        assert!(
            complaint(&output).contains(text),
            "{words:?}: {}",
            complaint(&output)
        );
    }
    assert_eq!(scene.exec(&[]).status.code(), Some(2));
}
