//! A host that operators keep out of rotation, through a real agent, a real keeper and a hook that stands for a balancer.
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

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fleet::agent::Host;
use fleet::store::{Store, web};
use fleet::until;
use ship_keeper::Client;
use ship_model::release::Target;
use ship_model::report::{AppPhase, AppReport};
use ship_model::spec::read_ship_toml;

const TOML: &str = "app = \"web\"\n[process.web]\ncommand = [\"python3\", \"server.py\"]\n\
                    listen = { http = \"tcp:0\" }\nsoak = \"200ms\"\ndrain = \"200ms\"\nready_timeout = \"20s\"\n\
                    probe = { tcp = true, times = 1 }\n";
/// Says who it is, and takes whoever comes.
const SERVER: &str = r#"
import os, socket
with open(os.environ['SHIP_RUN_DIR'] + '/pid', 'w') as file:
    file.write(str(os.getpid()))
s = socket.socket(fileno=3)
while True:
    user = s.accept()[0]
    user.recv(1)
    user.close()
"#;

struct Scene {
    store: Store,
    host: Host,
}

impl Scene {
    /// The balancer writes down what it was told, and is told only that a living server goes out. It cannot be told before
    /// the file `there` is.
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
        let file = |name: &str| host.path(name).display().to_string();
        let (there, pid, told) = (file("there"), file("run/web/pid"), file("told"));
        let drain = format!("test -e {there} && kill -0 $(cat {pid}) && echo out >> {told}");
        let hook = format!(
            "[[balancer]]\napp = \"web\"\nkind = \"hook\"\ndrain = [\"sh\", \"-c\", '{drain}']\n\
             ready = [\"sh\", \"-c\", 'echo in >> {told}']\n"
        );
        let config = std::fs::File::options()
            .append(true)
            .open(host.path("agent.toml"));
        config.unwrap().write_all(hook.as_bytes()).unwrap();
        host.start();
        Some(Self { store, host })
    }

    fn publish(&self, number: u64) -> Target {
        let spec = read_ship_toml(TOML, None).unwrap();
        let server = format!("# release {number}\n{SERVER}");
        let files: [(&str, &[u8]); 1] = [("server.py", server.as_bytes())];
        self.store
            .inner
            .shelf
            .lock()
            .unwrap()
            .publish(number, &spec, &files)
    }

    fn drain(&self, drained: bool) {
        self.store.inner.drained.store(drained, Ordering::Relaxed);
    }

    fn runs(&self, target: Target) -> AppReport {
        self.store.wait("the release", |app| {
            app.running == Some(target) && app.healthy && app.phase != AppPhase::Switching
        })
    }

    /// Waits until the report says so of the drain.
    fn says(&self, word: &str) -> AppReport {
        self.store
            .wait(word, |app| app.remarks.iter().any(|remark| remark == word))
    }

    /// What the balancer was told, one word after the other, repeats left out.
    fn told(&self) -> Vec<String> {
        let told = std::fs::read_to_string(self.host.path("told")).unwrap_or_default();
        let mut words: Vec<String> = told.lines().map(str::to_owned).collect();
        words.dedup();
        words
    }

    fn client(&self) -> Client {
        Client::new(&self.host.path("run/web"), Duration::from_secs(10))
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

const OUT: &str = "drained: out of rotation";

#[test]
fn a_drained_host_stays_out_until_it_is_taken_back() {
    let Some(mut scene) = Scene::begin() else { return };
    let (one, two) = (scene.publish(1), scene.publish(2));
    scene.store.desire(vec![web(1, Some(one), &[one])]);
    scene.runs(one);
    scene.drain(true);
    scene.store.desire(vec![web(1, Some(one), &[one])]);
    let report = scene
        .store
        .wait("the balancer that is away", |app| app.failure.is_some());
    let failure = report.failure.unwrap();
    assert!(
        failure.transient && failure.reason.starts_with("not out of rotation: "),
        "{failure:?}"
    );
    assert!(
        report
            .remarks
            .iter()
            .any(|remark| remark == "drained: not out of rotation yet")
    );

    std::fs::write(scene.host.path("there"), b"").unwrap();
    let report = scene.says(OUT);
    assert_eq!(
        (report.running, report.phase, report.healthy),
        (Some(one), AppPhase::Draining, true)
    );
    scene
        .store
        .wait("the failure to be forgotten", |app| app.failure.is_none());
    assert_eq!(scene.told(), ["out"]);

    // It is kept up to date meanwhile, and no death of its agent lets users in.
    scene.host.kill();
    scene.host.start();
    scene.store.desire(vec![web(2, Some(two), &[one, two])]);
    scene.runs(two);
    scene.says(OUT);
    assert_eq!(scene.told(), ["out"]);

    scene.drain(false);
    scene.store.desire(vec![web(2, Some(two), &[one, two])]);
    scene.store.wait("rotation", |app| {
        app.healthy && app.phase == AppPhase::Idle && app.remarks.is_empty()
    });
    assert_eq!(scene.told(), ["out", "in"]);
}

#[test]
fn a_retired_host_loses_its_users_before_its_app() {
    let Some(scene) = Scene::begin() else { return };
    std::fs::write(scene.host.path("there"), b"").unwrap();
    let one = scene.publish(1);
    scene.store.desire(vec![web(1, Some(one), &[one])]);
    scene.runs(one);
    scene.drain(true);
    scene.store.desire(vec![web(2, None, &[])]);
    scene.store.wait("the end of the app", |app| {
        app.epoch.0 == 2 && app.running.is_none() && app.processes.is_empty()
    });
    // Written only while the app lived.
    assert_eq!(scene.told(), ["out"]);
}
