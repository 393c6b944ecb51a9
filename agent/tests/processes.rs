//! Releases with a process on one host: a real agent, a real keeper, a small server that takes its listener over.
//!
//! The keeper is another package's program: the test needs it beside the agent's, where `cargo build -p ship-keeper` puts it,
//! and says so when it is not there. The server needs python3.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    dead_code,
    reason = "a failed test says so by stopping, and each test uses its part of the fleet"
)]

mod fleet;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use fleet::agent::Host;
use fleet::store::{Store, web};
use fleet::until;
use ship_keeper::Client;
use ship_model::release::Target;
use ship_model::report::AppReport;
use ship_model::spec::{Limits, ListenAddr, Probe, ProbeKind, ProcessSpec, ReleaseSpec, Strategy};

fn program(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_ship-agent")).with_file_name(name);
    if !path.is_file() {
        eprintln!(
            "SKIPPED: {} is not built; run cargo build -p ship-keeper",
            path.display()
        );
        return None;
    }
    Some(path)
}

/// One process that listens at a port of its own and is probed over HTTP.
fn spec() -> ReleaseSpec {
    let mut spec = ReleaseSpec::static_files("web".parse().unwrap());
    let process = ProcessSpec {
        command: vec!["python3".to_owned(), "server.py".to_owned()],
        class: "web".parse().unwrap(),
        listen: BTreeMap::from([("http".to_owned(), ListenAddr::Tcp { ip: None, port: 0 })]),
        strategy: Strategy::ListenFds,
        restart: None,
        overlap: true,
        canary: None,
        coexist: true,
        must_coexist: false,
        probe: Some(Probe {
            kind: ProbeKind::Http {
                path: "/version".to_owned(),
            },
            listener: None,
            times: 2,
            interval_ms: 50,
            timeout_ms: 2000,
        }),
        notify: false,
        watchdog_ms: None,
        lock_wait_ms: None,
        lock_overrule: false,
        no_new_privs: false,
        ready_timeout_ms: 20_000,
        soak_ms: 500,
        drain_ms: 3000,
        stop_signal: "TERM".to_owned(),
        stop_timeout_ms: 5000,
        user: None,
        limits: Limits::default(),
        env: BTreeMap::new(),
    };
    spec.processes.insert("web".parse().unwrap(), process);
    spec
}

fn script(version: &str) -> Vec<u8> {
    format!(
        "import socket, os, sys\n\
         print('version {version} starts', flush=True)\n\
         s = socket.socket(fileno=3)\n\
         while True:\n    c, _ = s.accept()\n    c.recv(65536)\n    \
         c.sendall(b'HTTP/1.1 200 OK\\r\\ncontent-length: {}\\r\\nconnection: close\\r\\n\\r\\n{version}')\n    c.close()\n",
        version.len()
    )
    .into_bytes()
}

fn ask(address: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    write!(
        stream,
        "GET /version HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.rsplit("\r\n\r\n").next().map(str::to_owned)
}

struct Scenario {
    store: Store,
    host: Host,
}

impl Scenario {
    fn publish(&self, number: u64, script: &[u8]) -> Target {
        self.store
            .inner
            .shelf
            .lock()
            .unwrap()
            .publish(number, &spec(), &[("server.py", script)])
    }

    fn wait(&self, what: &str, target: Target) -> AppReport {
        self.store
            .wait(what, |app| app.running == Some(target) && app.healthy)
    }

    /// Agent, keeper and app, as when a host is shut down in an orderly way.
    fn stop_everything(&mut self) {
        self.host.kill();
        let client = Client::new(&self.host.path("run/web"), std::time::Duration::from_secs(10));
        client.stop().unwrap();
        until("the keeper's end", || client.status().is_err().then_some(()));
        self.store.forget_report();
    }
}

impl Drop for Scenario {
    /// The app outlives agents by design; here it must not outlive the test.
    fn drop(&mut self) {
        self.host.kill();
        let client = Client::new(&self.host.path("run/web"), std::time::Duration::from_secs(10));
        client.stop().ok();
        until("the keeper's end", || client.status().is_err().then_some(()));
    }
}

fn begin() -> Option<Scenario> {
    program("ship-keeper")?;
    if !std::process::Command::new("python3")
        .arg("--version")
        .output()
        .is_ok_and(|found| found.status.success())
    {
        eprintln!("SKIPPED: python3 is not here");
        return None;
    }
    let store = Store::start();
    let mut host = Host::new(&store);
    host.start();
    Some(Scenario { store, host })
}

#[test]
fn a_process_is_switched_kept_and_taken_back() {
    let Some(mut scene) = begin() else { return };
    let one = scene.publish(1, &script("one"));
    let two = scene.publish(2, &script("two"));
    let broken = scene.publish(
        3,
        b"import sys\nprint('no such module: frob', file=sys.stderr)\nsys.exit(3)\n",
    );
    scene.store.desire(vec![web(1, Some(one), &[one])]);
    let report = scene.wait("release 1", one);
    let address = report.listen["http"].clone();
    assert_eq!(ask(&address).as_deref(), Some("one"));

    scene.store.desire(vec![web(2, Some(two), &[one, two])]);
    let report = scene.wait("release 2", two);
    assert_eq!(report.listen["http"], address);
    assert_eq!(ask(&address).as_deref(), Some("two"));
    scene
        .store
        .wait("release 1 as the way back", |app| app.previous == Some(one));

    // The agent killed: the app serves on; the agent that comes back finds it as it is.
    scene.host.kill();
    assert_eq!(ask(&address).as_deref(), Some("two"));
    scene.store.forget_report();
    scene.host.start();
    scene.wait("release 2 after a restart", two);

    // A broken release: told with its last words, and users never see it.
    scene
        .store
        .desire(vec![web(3, Some(broken), &[one, two, broken])]);
    let report = scene.store.wait("the failure", |app| {
        app.failure.as_ref().is_some_and(|f| !f.transient)
    });
    let failure = report.failure.unwrap();
    assert_eq!((failure.release, failure.epoch.0), (broken, 3));
    assert!(
        failure.last_lines.iter().any(|line| line.contains("frob")),
        "{failure:?}"
    );
    assert_eq!(report.running, Some(two));
    assert_eq!(ask(&address).as_deref(), Some("two"));

    // The rollout is turned back, which raises the epoch: what stopped it is told until something newer works.
    scene.store.desire(vec![web(4, Some(two), &[one, two, broken])]);
    let report = scene.store.wait("the newer epoch", |app| app.epoch.0 == 4);
    assert_eq!((report.running, report.deploy.0), (Some(two), 40));
    let kept = report.failure.expect("the failure is told on");
    assert_eq!((kept.release, kept.epoch.0), (broken, 3));
    scene.host.kill();
    scene.store.forget_report();
    scene.host.start();
    let report = scene.wait("release 2 after another restart", two);
    assert_eq!(report.failure, Some(kept));
    let mended = scene.publish(4, &script("four"));
    scene
        .store
        .desire(vec![web(5, Some(mended), &[one, two, mended])]);
    let report = scene.wait("release 4", mended);
    assert_eq!(report.failure, None);
    scene.store.desire(vec![web(6, Some(two), &[one, two])]);
    scene.wait("release 2 once more", two);

    // What the app says is found by store and host alike.
    let (lines, error) = scene.store.ask_logs(7, "web");
    assert_eq!(error, "");
    assert!(
        lines
            .iter()
            .any(|line| line.line == "version two starts" && line.release == 2 && line.host == "h1")
    );
    let said = scene.host.say(&["logs", "web", "--release", "1"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains("version one starts") && !said.contains("version two starts"),
        "{said}"
    );

    // Taken back by a word on the host, with the agent dead.
    scene.host.kill();
    let report = scene.host.ask(&["revert", "web"]);
    assert_eq!(report["release"], 1);
    assert_eq!(ask(&address).as_deref(), Some("one"));
    scene.store.forget_report();
    scene.host.start();
    let report = scene
        .store
        .wait("the hold", |app| app.held.is_some() && app.running.is_some());
    assert_eq!(report.running, Some(one));

    // The keeper dies as well: it is brought back, and the app with it.
    let client = Client::new(&scene.host.path("run/web"), std::time::Duration::from_secs(10));
    let keeper = rustix::process::Pid::from_raw(client.status().unwrap().pid as i32).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    until("another keeper", || {
        let pid = client.status().ok()?.pid;
        (pid != keeper.as_raw_nonzero().get() as u32).then_some(())
    });
    until("the app again", || ask(&address).filter(|answer| answer == "one"));

    // A newer word ends the hold.
    scene.store.desire(vec![web(7, Some(two), &[one, two])]);
    let report = scene
        .store
        .wait("release 2 again or the hold", |app| app.epoch.0 == 7);
    assert!(
        report.held.is_some(),
        "what was taken away by hand is not brought back by the same wish"
    );
}

#[test]
fn an_app_that_was_stopped_with_its_host_runs_again_after_a_promote_and_after_a_revert() {
    let Some(mut scene) = begin() else { return };
    let one = scene.publish(1, &script("one"));
    let two = scene.publish(2, &script("two"));
    scene.store.desire(vec![web(1, Some(one), &[one])]);
    let address = scene.wait("release 1", one).listen["http"].clone();
    scene.stop_everything();
    scene.host.start();
    let report = scene.wait("release 1 again", one);
    assert_eq!(
        report.failure, None,
        "what went well once is not taken for a failure"
    );
    assert_eq!(ask(&address).as_deref(), Some("one"));

    scene.store.desire(vec![web(2, Some(two), &[one, two])]);
    scene.wait("release 2", two);
    scene.store.desire(vec![web(3, Some(one), &[one, two])]);
    scene.wait("release 1 by a revert", one);
    scene.stop_everything();
    scene.host.start();
    let report = scene.wait("release 1 after a revert and a stop", one);
    assert_eq!(report.failure, None);
    assert_eq!(ask(&address).as_deref(), Some("one"));
}
