//! Readiness and supervision through a real agent and a real keeper: gRPC's health service, and a release that works at
//! first and crashes later.
//!
//! Needs python3 and, beside the agent, the program that `cargo build -p ship-keeper` makes; says so where they are not.

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

use std::path::Path;

use fleet::agent::Host;
use fleet::store::{Store, web};
use fleet::until;
use ship_keeper::Client;
use ship_model::release::Target;
use ship_model::report::AppReport;
use ship_model::spec::read_ship_toml;

struct Scene {
    store: Store,
    host: Host,
}

impl Scene {
    fn begin() -> Option<Self> {
        let keeper = Path::new(env!("CARGO_BIN_EXE_ship-agent")).with_file_name("ship-keeper");
        let python = std::process::Command::new("python3").arg("--version").output();
        if !keeper.is_file() || python.is_err() {
            eprintln!(
                "SKIPPED: it needs python3, and {} (cargo build -p ship-keeper)",
                keeper.display()
            );
            return None;
        }
        let store = Store::start();
        let mut host = Host::new(&store);
        host.start();
        Some(Self { store, host })
    }

    fn publish(&self, number: u64, toml: &str, server: &str) -> Target {
        let spec = read_ship_toml(toml, None).unwrap();
        let files: [(&str, &[u8]); 1] = [("server.py", server.as_bytes())];
        self.store
            .inner
            .shelf
            .lock()
            .unwrap()
            .publish(number, &spec, &files)
    }

    fn runs(&self, what: &str, target: Target) -> AppReport {
        self.store
            .wait(what, |app| app.running == Some(target) && app.healthy)
    }

    fn client(&self) -> Client {
        Client::new(&self.host.path("run/web"), std::time::Duration::from_secs(10))
    }
}

impl Drop for Scene {
    /// The app outlives agents by design; here it must not outlive the test.
    fn drop(&mut self) {
        self.host.kill();
        self.client().stop().ok();
        until("the keeper's end", || {
            self.client().status().is_err().then_some(())
        });
    }
}

const TOML: &str = "app = \"web\"\n[process.web]\ncommand = [\"python3\", \"server.py\"]\n\
                    listen = { http = \"tcp:0\" }\nsoak = \"200ms\"\ndrain = \"200ms\"\nready_timeout = \"20s\"\n";

/// HTTP/2 as far as one unary call needs it. `HEALTH` is the answer to every question.
const GRPC: &str = r#"
import socket, threading
def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, 'big') + bytes([kind, flags]) + stream.to_bytes(4, 'big') + payload
def literal(name, value):
    return b'\x00' + bytes([len(name)]) + name + bytes([len(value)]) + value
def serve(c):
    f = c.makefile('rb')
    assert f.read(24).startswith(b'PRI * HTTP/2.0')
    c.sendall(frame(4, 0, 0, b''))
    while True:
        head = f.read(9)
        if len(head) < 9:
            return
        payload = f.read(int.from_bytes(head[:3], 'big'))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], 'big')
        if kind == 4 and not flags & 1:
            c.sendall(frame(4, 1, 0, b''))
        if kind == 0 and flags & 1:
            print('asked about', payload[7:].decode(), flush=True)
            c.sendall(frame(1, 4, stream, b'\x88' + literal(b'content-type', b'application/grpc')))
            c.sendall(frame(0, 0, stream, b'\x00\x00\x00\x00\x02\x08' + bytes([HEALTH])))
            c.sendall(frame(1, 5, stream, literal(b'grpc-status', b'0')))
s = socket.socket(fileno=3)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"#;

fn by_hand(address: &str) -> std::process::Output {
    let agent = env!("CARGO_BIN_EXE_ship-agent");
    let asked = std::process::Command::new(agent)
        .args(["probe", "--grpc", address])
        .output();
    asked.unwrap()
}

#[test]
fn grpc_health_decides_whether_a_release_gets_users() {
    let Some(scene) = Scene::begin() else { return };
    let toml = format!(
        "{TOML}probe = {{ grpc = \"shop.v1.Orders\", times = 2, interval = \"50ms\", timeout = \"5s\" }}\n"
    );
    let well = scene.publish(1, &toml, &format!("HEALTH = 1\n{GRPC}"));
    // So long that it has come up by then.
    let short = toml.replace("20s", "10s");
    let sick = scene.publish(2, &short, &format!("HEALTH = 2\n{GRPC}"));
    scene.store.desire(vec![web(1, Some(well), &[well])]);
    let report = scene.runs("release 1", well);
    let (lines, _) = scene.store.ask_logs(7, "web");
    assert!(lines.iter().any(|line| line.line == "asked about shop.v1.Orders"));

    scene.store.desire(vec![web(2, Some(sick), &[well, sick])]);
    let failed = scene.store.wait("the failure", |app| {
        app.failure.as_ref().is_some_and(|failure| !failure.transient)
    });
    let failure = failed.failure.unwrap();
    assert_eq!((failure.release, failure.step.as_str()), (sick, "probe"));
    assert!(failure.reason.contains("it says NOT_SERVING"), "{failure:?}");
    assert_eq!(failed.running, Some(well));

    // The same question by hand.
    let address = &report.listen["http"];
    let said = by_hand(address);
    assert!(said.status.success(), "{said:?}");
    let said = by_hand("127.0.0.1:1");
    assert_eq!(said.status.code(), Some(3), "{said:?}");
}

/// Serves until the file `SHIP_RUN_DIR/crash` is there, then ends, and so at every start.
const CRASHES: &str = r#"
import os, socket, threading, time
crash = os.environ['SHIP_RUN_DIR'] + '/crash'
def watch():
    while not os.path.exists(crash):
        time.sleep(0.01)
    print('out of coffee', flush=True)
    os._exit(4)
threading.Thread(target=watch, daemon=True).start()
s = socket.socket(fileno=3)
kept = []
while True:
    kept.append(s.accept()[0])
"#;

#[test]
fn a_release_that_crashes_later_is_told_and_left_when_it_goes_on() {
    let Some(scene) = Scene::begin() else { return };
    let good = CRASHES.replace("'/crash'", "'/never'");
    let toml = format!("{TOML}probe = {{ tcp = true, times = 1 }}\n");
    let one = scene.publish(1, &toml, &good);
    let two = scene.publish(2, &toml, CRASHES);
    scene.store.desire(vec![web(1, Some(one), &[one])]);
    scene.runs("release 1", one);
    scene.store.desire(vec![web(2, Some(two), &[one, two])]);
    scene.runs("release 2", two);
    scene.store.wait("the soak's end", |app| {
        app.phase == ship_model::report::AppPhase::Idle
    });
    assert_eq!(scene.client().status().unwrap().crash, None);

    std::fs::write(scene.host.path("run/web/crash"), b"").unwrap();
    let report = scene.store.wait("the way back", |app| {
        let failed = app.failure.as_ref().is_some_and(|failure| !failure.transient);
        failed && app.running == Some(one) && app.healthy
    });
    let failure = report.failure.unwrap();
    assert_eq!(
        (failure.release, failure.step.as_str(), failure.epoch.0),
        (two, "run", 2)
    );
    assert!(failure.reason.contains("ended with status 4"), "{failure:?}");
    assert!(
        failure.last_lines.iter().any(|line| line == "out of coffee"),
        "{failure:?}"
    );
}
