//! A server that was started by hand is taken in under load, replaced by a release, and nobody is refused.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use ship_keeper::protocol::*;
use ship_keeper::{AskError, Taken};
use stage::{Load, Stage, fixture, get, until};

/// A server by hand, at an address of its own.
struct ByHand {
    child: Child,
    addr: SocketAddr,
    dir: tempfile::TempDir,
}

impl ByHand {
    fn start() -> Self {
        // It must know its port, as servers do.
        let addr = stage::own_address();
        let addr: SocketAddr = addr.strip_prefix("tcp:").unwrap().parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let folder = std::fs::canonicalize(dir.path()).unwrap();
        let child = Command::new(fixture())
            .current_dir(&folder)
            .env("PWD", &folder)
            .env("FIXTURE", "bind")
            .env("FIXTURE_BIND", addr.to_string())
            .env("SHIP_RELEASE", "by hand")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("it answers", || get(addr, "/").is_ok());
        Self { child, addr, dir }
    }

    fn tcp(&self) -> String {
        format!("tcp:{}", self.addr)
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As a release would have it run, with or without its listeners.
fn manners(stage: &Stage, addr: Option<&str>) -> ProcessSpec {
    let mut spec = stage
        .intent(1, "", addr.unwrap_or("tcp:127.0.0.1:1"))
        .processes
        .remove(0);
    if addr.is_none() {
        spec.listen.clear();
    }
    spec.probe = None;
    spec.notify = false;
    spec
}

fn why(result: Result<Taken, AskError>) -> String {
    match result {
        Err(AskError::Refused { message, .. }) => message,
        other => panic!("not refused: {other:?}"),
    }
}

fn soak(intent: Intent, soak_ms: u64) -> Intent {
    Intent { soak_ms, ..intent }
}

#[test]
fn under_load_it_is_adopted_replaced_and_drained() {
    let mut stage = Stage::new();
    stage.start();
    let mut server = ByHand::start();
    let load = Load::on(server.addr);
    let pid = server.child.id();
    let taken = stage.client().adopt(pid, manners(&stage, None)).unwrap();
    assert_eq!(taken, Taken::Accepted);
    let status = stage.status();
    assert_eq!(status.running.as_ref().unwrap().id, "adopted");
    assert_eq!(status.generations[0].processes[0].pid, Some(pid));
    assert_eq!(status.listeners[0].bound, server.tcp());
    assert_eq!(status.listeners[0].steering, Steering::Bpf);
    // The link names releases only.
    assert_eq!(stage.link("current"), None);
    let again = stage.client().adopt(pid, manners(&stage, None)).unwrap();
    assert_eq!(again, Taken::Already);
    // A keeper that takes over finds it again.
    stage.kill_keeper();
    stage.start();
    assert_eq!(stage.status().generations[0].processes[0].pid, Some(pid));
    // The release takes over, the process stays warm, and is gone back to without a start.
    let first = stage.switch(stage.intent(2, "", &server.tcp()));
    assert_eq!(first.result, SwitchResult::Switched, "{first:?}");
    assert_eq!(get(server.addr, "/").unwrap(), "release 2");
    assert!(stage.status().revert.warm);
    stage.client().revert(None, "back", None).unwrap();
    stage.until("it runs again", |status| {
        status.running.as_ref().unwrap().release == 0
    });
    assert_eq!(get(server.addr, "/").unwrap(), "release by hand");
    // For good: it drains and is told to stop.
    let second = stage.switch(soak(stage.intent(3, "", &server.tcp()), 50));
    assert_eq!(second.result, SwitchResult::Switched, "{second:?}");
    until("it has ended", || server.child.try_wait().unwrap().is_some());
    stage.until("only the release is left", |status| status.phase == Phase::Idle);
    let cold = why(stage.client().revert(None, "back", None).map(|_| Taken::Accepted));
    assert!(cold.contains("nothing to revert to"), "{cold}");
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
    assert!(account.releases.len() >= 2, "{:?}", account.releases);
}

#[test]
fn a_release_that_fails_leaves_it_serving() {
    let mut stage = Stage::new();
    stage.start();
    let server = ByHand::start();
    let load = Load::on(server.addr);
    let spec = manners(&stage, Some(&server.tcp()));
    stage.client().adopt(server.child.id(), spec).unwrap();
    let bad = stage.switch(stage.intent(2, "exit", &server.tcp()));
    assert_eq!(bad.result, SwitchResult::Failed);
    assert_eq!(get(server.addr, "/").unwrap(), "release by hand");
    assert_eq!(load.end().failed, Vec::<String>::new());
    assert_eq!(stage.link("current"), None);
}

#[test]
fn when_it_ends_users_are_refused_and_the_next_release_starts() {
    let mut stage = Stage::new();
    stage.start();
    let mut server = ByHand::start();
    stage
        .client()
        .adopt(server.child.id(), manners(&stage, None))
        .unwrap();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let status = stage.until("it is noticed", |status| status.phase == Phase::Empty);
    let crash = status.crash.unwrap();
    assert!(crash.reason.contains("promote a release"), "{crash:?}");
    assert!(std::net::TcpStream::connect(server.addr).is_err());
    let next = stage.switch(stage.intent(2, "", &server.tcp()));
    assert_eq!(next.result, SwitchResult::Switched);
}

#[test]
fn what_cannot_be_adopted_is_refused_with_a_reason_and_runs_on() {
    let mut stage = Stage::new();
    stage.start();
    let server = ByHand::start();
    let pid = server.child.id();
    let adopt = |pid, spec| why(stage.client().adopt(pid, spec));
    let other = adopt(pid, manners(&stage, Some("tcp:127.0.0.1:1")));
    assert!(
        other.contains(&server.tcp()) && other.contains("ship.toml"),
        "{other}"
    );
    let mut sleeper = Command::new("sleep").arg("100").spawn().unwrap();
    let mute = adopt(sleeper.id(), manners(&stage, None));
    assert!(mute.contains("listens on no TCP port"), "{mute}");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let gone = adopt(sleeper.id(), manners(&stage, None));
    assert!(gone.contains("there is no process"), "{gone}");
    let own = adopt(stage.status().pid, manners(&stage, None));
    assert!(own.contains("serves nobody"), "{own}");
    assert_eq!(get(server.addr, "/").unwrap(), "release by hand");
    // What a keeper has started is not another's.
    stage.switch(stage.intent(2, "", "tcp:127.0.0.1:0"));
    let ours = stage.status().generations[0].processes[0].pid.unwrap();
    let busy = adopt(pid, manners(&stage, None));
    assert!(busy.contains("release 2 runs here already"), "{busy}");
    let mut second = Stage::new();
    second.start();
    let foreign = why(second.client().adopt(ours, manners(&second, None)));
    assert!(foreign.contains("was started by a keeper"), "{foreign}");
    assert!(server.dir.path().is_dir());
}

/// Users of another name, where this machine lets us be one.
#[test]
fn another_users_process_needs_a_privilege() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can become another user; left out");
        return;
    }
    let server = ByHand::start();
    let mut stage = Stage::new();
    // World-readable folders, and a keeper without root's rights.
    std::fs::set_permissions(
        stage.dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    stage.prepare = Some(|command| {
        std::os::unix::process::CommandExt::uid(command, 65_534);
        std::os::unix::process::CommandExt::gid(command, 65_534);
    });
    for folder in [stage.home.clone(), stage.home.join("releases")] {
        std::os::unix::fs::chown(folder, Some(65_534), Some(65_534)).unwrap();
    }
    stage.start();
    let refused = why(stage.client().adopt(server.child.id(), manners(&stage, None)));
    assert!(refused.contains("may not be looked into"), "{refused}");
    assert_eq!(get(server.addr, "/").unwrap(), "release by hand");
}
