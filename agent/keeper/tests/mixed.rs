//! Datagrams, and listeners of every kind in one process.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ship_keeper::protocol::*;
use stage::{Load, Stage, ask, get, refusal, until};

/// For one datagram and its answer; a lost one fails.
const ANSWER: Duration = Duration::from_secs(10);

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket
}

fn ask_udp(socket: &UdpSocket, addr: SocketAddr) -> std::io::Result<String> {
    let mut answer = [0; 64];
    socket.send_to(b"?", addr)?;
    let (length, _) = socket.recv_from(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Clients that send one datagram after the other.
struct Datagrams {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<(usize, Vec<String>)>>,
}

impl Datagrams {
    fn to(addr: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..4).map(|_| {
            let stop = stop.clone();
            let socket = client();
            let (mut sent, mut seen) = (0, vec![ask_udp(&socket, addr).unwrap()]);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask_udp(&socket, addr).unwrap_or_else(|error| error.to_string());
                    sent += 1;
                    if seen.last() != Some(&answer) {
                        seen.push(answer);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                (sent, seen)
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    /// What each client saw, without repetitions.
    fn end(self) -> Vec<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(|thread| thread.join().unwrap());
        let (sent, seen): (Vec<_>, Vec<_>) = ended.unzip();
        eprintln!("{} datagrams", sent.iter().sum::<usize>());
        assert!(sent.iter().all(|sent| *sent > 20), "{sent:?}");
        seen
    }
}

/// Every datagram was answered, by these releases in this order; a slow client may have missed one between.
fn only(all: &[Vec<String>], releases: &[&str]) {
    for seen in all {
        let mut wanted = releases.iter();
        let in_order = seen.iter().all(|seen| wanted.any(|wanted| wanted == seen));
        assert!(
            in_order && seen.first().map(String::as_str) == releases.first().copied(),
            "{seen:?}"
        );
    }
}

fn by_command(intent: &mut Intent, word: &str) {
    let probe = intent.processes[0].probe.as_mut().unwrap();
    probe.kind = ProbeKind::Command {
        words: vec!["bin/server".to_owned(), word.to_owned()],
    };
}

fn udp(stage: &Stage, number: u64, addr: &str) -> Intent {
    let mut intent = stage.intent(number, "", addr);
    by_command(&mut intent, "--check-udp");
    intent.soak_ms = 600_000;
    intent
}

fn bound(stage: &Stage, listener: &str) -> String {
    let status = stage.status();
    let found = status.listeners.iter().find(|found| found.name == listener);
    found.unwrap().bound.clone()
}

#[test]
fn datagrams_are_steered_and_none_is_lost() {
    let any = "udp:127.0.0.1:0";
    let mut stage = Stage::new();
    stage.start();
    let outcome = stage.switch(udp(&stage, 1, any));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    assert_eq!(stage.status().listeners[0].steering, Steering::Bpf);
    let addr: SocketAddr = bound(&stage, "http")
        .strip_prefix("udp:")
        .unwrap()
        .parse()
        .unwrap();
    let taken = UdpSocket::bind(addr).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse, "it is nobody else's");
    let load = Datagrams::to(addr);
    // One that answers nothing is never seen; the probe is led to it alone.
    let mut idle = udp(&stage, 2, any);
    idle.processes[0]
        .env
        .insert("FIXTURE".to_owned(), "idle".to_owned());
    idle.processes[0].ready_timeout_ms = 1_500;
    let failed = stage.switch(idle);
    assert_eq!(failed.result, SwitchResult::Failed, "{failed:?}");
    let outcome = stage.switch(udp(&stage, 3, any));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    let client = client();
    assert_eq!(ask_udp(&client, addr).unwrap(), "release 3");
    stage.kill_keeper();
    assert_eq!(ask_udp(&client, addr).unwrap(), "release 3");
    stage.start();
    assert_eq!(ask_udp(&client, addr).unwrap(), "release 3");
    stage.client().revert(None, "back", None).unwrap();
    until("the old one answers", || {
        ask_udp(&client, addr).unwrap() == "release 1"
    });
    stage.until("the other is gone", |status| status.generations.len() == 1);
    let last = Intent {
        soak_ms: 0,
        ..udp(&stage, 4, any)
    };
    assert_eq!(stage.switch(last).result, SwitchResult::Switched);
    stage.until("the old one is gone", |status| status.generations.len() == 1);
    assert_eq!(bound(&stage, "http"), format!("udp:{addr}"));
    only(&load.end(), &["release 1", "release 3", "release 1", "release 4"]);
}

#[test]
fn datagrams_wait_for_the_next_one_where_two_may_not_run() {
    let any = "udp:127.0.0.1:0";
    let mut stage = Stage::new();
    stage.start();
    let alone = |number| Intent {
        coexist: false,
        soak_ms: 0,
        ..udp(&stage, number, any)
    };
    stage.switch(alone(1));
    let addr: SocketAddr = bound(&stage, "http")
        .strip_prefix("udp:")
        .unwrap()
        .parse()
        .unwrap();
    let load = Datagrams::to(addr);
    for number in 2..=3 {
        assert_eq!(stage.switch(alone(number)).result, SwitchResult::Switched);
        stage.until("the old one is gone", |status| status.generations.len() == 1);
    }
    only(&load.end(), &["release 1", "release 2", "release 3"]);
}

#[test]
fn a_datagram_listener_cannot_be_asked_by_a_connection() {
    let mut stage = Stage::new();
    stage.start();
    let intent = stage.intent(1, "", "udp:127.0.0.1:0");
    assert_eq!(refusal(stage.client().switch(intent)), Refusal::BadIntent);
}

/// A process that listens in every way there is.
struct Places<'a> {
    stage: &'a Stage,
    path: &'a Path,
}

impl Places<'_> {
    fn intent(&self, number: u64, manners: &str) -> Intent {
        let mut intent = self.stage.intent(number, manners, "tcp:127.0.0.1:0");
        let six = if TcpListener::bind("[::1]:0").is_ok() {
            "tcp:[::1]:0"
        } else {
            "tcp:127.0.0.2:0"
        };
        for (name, addr) in [
            ("six", six.to_owned()),
            ("unix", format!("unix:{}", self.path.display())),
            ("dns", "udp:127.0.0.1:0".to_owned()),
        ] {
            let name = name.to_owned();
            intent.processes[0].listen.push(ListenSpec { name, addr });
        }
        intent
    }

    fn tcp(&self, name: &str) -> SocketAddr {
        let bound = bound(self.stage, name);
        bound.strip_prefix("tcp:").unwrap().parse().unwrap()
    }

    fn udp(&self) -> SocketAddr {
        let bound = bound(self.stage, "dns");
        bound.strip_prefix("udp:").unwrap().parse().unwrap()
    }

    fn all_answer(&self, release: u64) {
        let wanted = format!("release {release}");
        assert_eq!(get(self.tcp("http"), "/").unwrap(), wanted);
        assert_eq!(get(self.tcp("six"), "/").unwrap(), wanted);
        assert_eq!(
            ask(&mut UnixStream::connect(self.path).unwrap(), "/").unwrap(),
            wanted
        );
        assert_eq!(ask_udp(&client(), self.udp()).unwrap(), wanted);
    }
}

/// The keeper becomes a program in place, the same one under another name.
fn upgraded(stage: &Stage) {
    let program = std::fs::canonicalize(stage.dir.path()).unwrap().join("second");
    stage::copy_program(Path::new(env!("CARGO_BIN_EXE_ship-keeper")), &program);
    stage.client().upgrade(&program).unwrap();
    stage.until("the keeper is the new program", |status| {
        status.counters.upgrades == 1
    });
}

#[test]
fn one_socket_of_each_kind_goes_along_to_the_next_program() {
    let mut stage = Stage::new();
    stage.flags = vec!["--no-steering"];
    stage.start();
    let path = stage.dir.path().join("web.sock");
    let places = Places {
        stage: &stage,
        path: &path,
    };
    stage.switch(places.intent(1, ""));
    let before = stage.status().listeners;
    assert!(before.iter().all(|found| !found.reason.is_empty()), "{before:?}");
    upgraded(&stage);
    assert_eq!(stage.status().listeners, before);
    places.all_answer(1);
    let next = Intent {
        soak_ms: 0,
        ..places.intent(2, "")
    };
    assert_eq!(stage.switch(next).result, SwitchResult::Switched);
    stage.until("only one is left", |status| status.generations.len() == 1);
    places.all_answer(2);
}

#[test]
fn listeners_of_every_kind_in_one_process() {
    let mut stage = Stage::new();
    stage.start();
    let path = stage.dir.path().join("web.sock");
    let places = Places {
        stage: &stage,
        path: &path,
    };
    let outcome = stage.switch(places.intent(1, ""));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    places.all_answer(1);
    let loads = [Load::on(places.tcp("http")), Load::on(places.tcp("six"))];
    let datagrams = Datagrams::to(places.udp());
    let outcome = stage.switch(places.intent(2, ""));
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    places.all_answer(2);
    // The next program of the keeper has all of them.
    let before = stage.status().listeners;
    upgraded(&stage);
    assert_eq!(stage.status().listeners, before);
    places.all_answer(2);
    assert_eq!(
        stage.switch(places.intent(3, "sick")).result,
        SwitchResult::Failed
    );
    places.all_answer(2);
    let now = |status: &Status, release| status.running.as_ref().is_some_and(|now| now.release == release);
    stage.client().revert(None, "back", None).unwrap();
    stage.until("it is back", |status| now(status, 1));
    until("it is steered", || {
        get(places.tcp("http"), "/").unwrap() == "release 1"
    });
    places.all_answer(1);
    let last = Intent {
        soak_ms: 0,
        ..places.intent(4, "")
    };
    assert_eq!(stage.switch(last).result, SwitchResult::Switched);
    places.all_answer(4);
    stage.until("only one is left", |status| status.generations.len() == 1);
    places.all_answer(4);
    for load in loads {
        let account = load.end();
        assert_eq!(account.failed, Vec::<String>::new());
        assert!(!account.releases.contains_key("release 3"), "{account:?}");
    }
    only(
        &datagrams.end(),
        &["release 1", "release 2", "release 1", "release 4"],
    );
    let kinds: Vec<_> = stage
        .status()
        .listeners
        .iter()
        .map(|found| found.steering)
        .collect();
    assert_eq!(
        kinds,
        [Steering::Bpf, Steering::Bpf, Steering::Path, Steering::Bpf]
    );
}
