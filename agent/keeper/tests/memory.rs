//! The keeper stays small while it switches, counts, probes, logs and tells.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::net::TcpStream;
use std::time::Duration;

use ship_keeper::Client;
use ship_keeper::protocol::*;
use stage::{Load, Stage, get, memory_kib, until};

const ANY: &str = "tcp:127.0.0.1:0";
/// Promised: resident, at rest.
const MOST_KIB: u64 = 3 * 1024;
/// In a switch, and at its peak: nine tenths of it are code that the switch runs through, of a build that is larger than a
/// release's.
const PEAK_KIB: u64 = 4 * 1024 + 512;

fn tell(when: &str, pid: u32) {
    let figures: Vec<_> = ["VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem"]
        .iter()
        .map(|figure| format!("{figure} {}", memory_kib(pid, figure)))
        .collect();
    eprintln!("{when}: {}", figures.join(", "));
    let resident = memory_kib(pid, "VmRSS");
    assert!(resident <= PEAK_KIB, "{when}: {resident} KiB");
}

#[test]
fn twenty_switches_under_load_never_take_more_than_promised() {
    let mut stage = Stage::new();
    stage.start();
    let pid = stage.status().pid;
    tell("started", pid);
    assert_eq!(
        stage.switch(stage.intent(1, "noisy", ANY)).result,
        SwitchResult::Switched
    );
    let addr = stage.bound();
    tell("first switch", pid);
    // An agent listens to all that happens, and users are there all the time, some for long.
    let watcher = Client::new(&stage.run, Duration::from_secs(30)).watch().unwrap();
    let watcher = std::thread::spawn(move || watcher.filter(Result::is_ok).count());
    let load = Load::on(addr);
    let mut idle = Vec::new();
    for number in 2..=21 {
        idle.extend((0..20).map(|_| TcpStream::connect(addr).unwrap()));
        let manners = if number % 5 == 0 { "noisy" } else { "" };
        let intent = Intent {
            soak_ms: 50,
            ..stage.intent(number, manners, ANY)
        };
        // As long as an answer may take here; those who stay for longer are cut.
        let intent = drain_within(intent, 600);
        let outcome = stage.switch(intent);
        assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
        tell(&format!("switch {number}"), pid);
    }
    assert_eq!(get(addr, "/").unwrap(), "release 21");
    stage.until("all is quiet", |status| status.phase == Phase::Idle);
    let account = load.end();
    assert_eq!(account.failed, Vec::<String>::new());
    let most = memory_kib(pid, "VmHWM");
    assert!(most <= PEAK_KIB, "{most} KiB");
    until("it has given memory back", || {
        memory_kib(pid, "VmRSS") <= MOST_KIB.min(most * 7 / 8)
    });
    stage.stop();
    assert!(watcher.join().unwrap() > 20);
}

fn drain_within(mut intent: Intent, millis: u64) -> Intent {
    for process in &mut intent.processes {
        process.drain_ms = millis;
    }
    intent
}
