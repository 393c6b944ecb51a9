//! Listeners of every kind, and what is done to them.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ship_keeper::protocol::*;
use stage::{Load, Stage, ask, exists, get, refusal, until};

const ANY: &str = "tcp:127.0.0.1:0";

#[test]
fn ipv6_is_steered_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("no IPv6 here");
        return;
    }
    for addr in ["tcp:[::1]:0", "tcp:[::]:0"] {
        let mut stage = Stage::new();
        stage.start();
        stage.switch(stage.intent(1, "", addr));
        let bound = stage.bound();
        let reach: SocketAddr = format!("[::1]:{}", bound.port()).parse().unwrap();
        let load = Load::on(reach);
        assert_eq!(
            stage.switch(stage.intent(2, "", addr)).result,
            SwitchResult::Switched
        );
        let mut sick = stage.intent(3, "sick", addr);
        sick.processes[0].ready_timeout_ms = 2_000;
        assert_eq!(stage.switch(sick).result, SwitchResult::Failed);
        assert_eq!(get(reach, "/").unwrap(), "release 2");
        let account = load.end();
        assert_eq!(account.failed, Vec::<String>::new());
        assert!(!account.releases.contains_key("release 3"), "{account:?}");
        assert_eq!(stage.bound(), bound, "port 0 keeps its port");
    }
}

#[test]
fn all_addresses_of_ipv4_are_steered() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", "tcp:0.0.0.0:0"));
    let reach: SocketAddr = format!("127.0.0.1:{}", stage.bound().port()).parse().unwrap();
    assert_eq!(
        stage.switch(stage.intent(2, "sick", "tcp:0.0.0.0:0")).result,
        SwitchResult::Failed
    );
    assert_eq!(
        stage.switch(stage.intent(3, "", "tcp:0.0.0.0:0")).result,
        SwitchResult::Switched
    );
    assert_eq!(get(reach, "/").unwrap(), "release 3");
}

#[test]
fn a_unix_listener_is_steered_by_its_path() {
    let mut stage = Stage::new();
    stage.start();
    let long = stage.dir.path().join("d".repeat(60)).join("e".repeat(60));
    std::fs::create_dir_all(&long).unwrap();
    for path in [stage.dir.path().join("web.sock"), long.join("web.sock")] {
        let addr = format!("unix:{}", path.display());
        let first = stage.status().running.map_or(0, |running| running.release);
        stage.switch(stage.intent(first + 1, "unix", &addr));
        assert_eq!(ask_unix(&path), format!("release {}", first + 1));
        assert_eq!(
            stage.switch(stage.intent(first + 2, "unix,sick", &addr)).result,
            SwitchResult::Failed
        );
        assert_eq!(ask_unix(&path), format!("release {}", first + 1));
        assert_eq!(
            stage.switch(stage.intent(first + 3, "unix", &addr)).result,
            SwitchResult::Switched
        );
        assert_eq!(ask_unix(&path), format!("release {}", first + 3));
        assert_eq!(stage.status().listeners[0].steering, Steering::Path);
        stage.client().revert(None, "back", None).unwrap();
        until("the old answers", || {
            ask_unix(&path) == format!("release {}", first + 1)
        });
        stage.switch(stage.intent(first + 4, "unix", &addr));
    }
    stage.stop();
    assert!(!exists(&long.join("web.sock")));
}

fn ask_unix(path: &Path) -> String {
    let folder = std::fs::File::open(path.parent().unwrap()).unwrap();
    let short = format!(
        "/proc/self/fd/{}/web.sock",
        std::os::fd::AsRawFd::as_raw_fd(&folder)
    );
    let mut stream = UnixStream::connect(short).unwrap();
    ask(&mut stream, "/").unwrap()
}

#[test]
fn a_taken_address_is_refused_and_nothing_changes() {
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let addr = stage.bound();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp:{}", other.local_addr().unwrap());
    let bare = other.local_addr().unwrap().to_string();
    assert_eq!(
        refusal(stage.client().switch(stage.intent(2, "", &taken))),
        Refusal::AddressTaken { address: bare }
    );
    // Another group of the same user is somebody else too.
    let mut neighbour = Stage::new();
    neighbour.start();
    let theirs = format!("tcp:{addr}");
    let refused = refusal(neighbour.client().switch(neighbour.intent(1, "", &theirs)));
    assert_eq!(
        refused,
        Refusal::AddressTaken {
            address: addr.to_string()
        }
    );
    assert_eq!(get(addr, "/").unwrap(), "release 1");
    let status = stage.status();
    assert_eq!(
        (status.phase, status.generations.len(), status.epoch),
        (Phase::Idle, 1, 1)
    );
}

#[test]
fn a_child_gets_only_what_it_may_have() {
    let mut stage = Stage::new();
    stage.start();
    std::fs::write(
        stage.dir.path().join("env"),
        "# secrets\nSECRET='s 1'\nFIXTURE=exit\n",
    )
    .unwrap();
    let mut intent = stage.intent(7, "", ANY);
    intent.processes[0].env_file = Some(stage.dir.path().join("env"));
    intent.processes[0].limits.nofile = Some(123);
    stage.switch(intent);
    let addr = stage.bound();
    let environment = get(addr, "/env").unwrap();
    let lines: Vec<_> = environment.lines().collect();
    let dir = stage.release(7);
    for line in [
        "SHIP_APP=web".to_owned(),
        "SHIP_HOST=h1".to_owned(),
        "SHIP_RELEASE=7".to_owned(),
        "SHIP_DEPLOY=7".to_owned(),
        "SHIP_ENV=test".to_owned(),
        "SHIP_GENERATION=1".to_owned(),
        format!("SHIP_ASSETS_DIR={}", stage.home.join("assets").display()),
        format!("SHIP_SHARED_DIR={}", stage.home.join("shared").display()),
        format!("PWD={}", dir.display()),
        "LISTEN_FDS=1".to_owned(),
        "LISTEN_FDNAMES=http".to_owned(),
        "SECRET=s 1".to_owned(),
    ] {
        assert!(lines.contains(&line.as_str()), "{line} is not in {environment}");
    }
    assert!(!environment.contains("CARGO"), "{environment}");
    let descriptors = get(addr, "/fds").unwrap();
    let numbers: Vec<_> = descriptors
        .lines()
        .filter(|line| !line.contains("/proc/"))
        .collect();
    assert!(
        numbers[0].starts_with("0 /dev/null")
            && numbers[1].contains("stdout")
            && numbers[2].contains("stderr")
    );
    // Standard streams, the listener, its two clones and the connection with its clone.
    assert!(
        numbers.len() <= 8 && numbers[3].starts_with("3 socket:"),
        "{descriptors}"
    );
    let pid = stage.status().generations[0].processes[0].pid.unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert!(files.contains(" 123 "), "{files}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for mask in ["SigBlk", "SigIgn"] {
        let line = status.lines().find(|line| line.starts_with(mask)).unwrap();
        // Rust's own runtime ignores SIGPIPE (bit 12) when it starts.
        assert!(
            line.ends_with("0000000000000000") || line.ends_with("0000000000001000"),
            "{line}"
        );
    }
}

#[test]
fn an_unknown_user_is_refused() {
    let mut stage = Stage::new();
    stage.start();
    let mut intent = stage.intent(1, "", ANY);
    intent.processes[0].user = Some("no-such-user-here".to_owned());
    assert_eq!(refusal(stage.client().switch(intent)), Refusal::BadIntent);
    let mut outside = stage.intent(2, "", ANY);
    outside.dir = "/usr".into();
    assert_eq!(refusal(stage.client().switch(outside)), Refusal::BadIntent);
    let mut probe = stage.intent(3, "", ANY);
    probe.processes[0].probe.as_mut().unwrap().listener = "other".to_owned();
    assert_eq!(refusal(stage.client().switch(probe)), Refusal::BadIntent);
    assert_eq!(stage.status().phase, Phase::Empty);
}

#[test]
fn another_user_can_be_become_by_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let mut stage = Stage::new();
    stage.start();
    // The fixture must be reachable for everybody.
    std::fs::set_permissions(stage.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut intent = stage.intent(1, "", ANY);
    intent.processes[0].user = Some("nobody".to_owned());
    let copy = intent.dir.join("bin/copy");
    stage::copy_program(&stage::fixture(), &copy);
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    intent.processes[0].command = vec!["bin/copy".to_owned()];
    let outcome = stage.switch(intent);
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    let pid = stage.status().generations[0].processes[0].pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert!(uid.contains("65534"), "{uid}");
    assert!(get(stage.bound(), "/env").unwrap().contains("USER=nobody"));
}

#[test]
fn long_run_folders_work() {
    let mut stage = Stage::with_run(&format!("{}/{}", "r".repeat(80), "s".repeat(80)));
    stage.start();
    assert_eq!(
        stage.switch(stage.intent(1, "", ANY)).result,
        SwitchResult::Switched
    );
    let environment = get(stage.bound(), "/env").unwrap();
    let socket = environment
        .lines()
        .find_map(|line| line.strip_prefix("NOTIFY_SOCKET="))
        .unwrap();
    assert!(socket.len() <= 107, "{socket}");
    stage.stop();
    let _ = std::fs::remove_dir(Path::new(socket).parent().unwrap());
}
