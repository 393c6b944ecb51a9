//! A share of the clients comes to a new release first: which ones, and what becomes of them.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ship_keeper::listen::is_in;
use ship_keeper::protocol::*;
use ship_model::spec::Canary;
use stage::{Stage, ask, until};

const ANY: &str = "tcp:127.0.0.1:0";
/// Nothing grows while a test looks.
const LONG_MS: u64 = 3_600_000;

fn four(count: u16) -> Vec<IpAddr> {
    let address = |number: u16| {
        let [high, low] = number.to_be_bytes();
        IpAddr::from(Ipv4Addr::new(127, 101, high, low))
    };
    (1..=count).map(address).collect()
}

/// A connection from this address.
fn connect(client: IpAddr, addr: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType};
    let family = if client.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(client, 0))?;
    rustix::net::connect(&socket, &addr)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(stage::PATIENCE))?;
    Ok(stream)
}

fn get_from(client: IpAddr, addr: SocketAddr) -> std::io::Result<String> {
    ask(&mut connect(client, addr)?, "/")
}

/// Clients that the release of this number answers.
fn on(release: u64, clients: &[IpAddr], addr: SocketAddr) -> BTreeSet<IpAddr> {
    let answered = format!("release {release}");
    let clients = clients.iter().copied();
    clients
        .filter(|client| get_from(*client, addr).unwrap() == answered)
        .collect()
}

/// Those that a share of so many per cent of this release is made of.
fn share(release: u32, percent: u8, clients: &[IpAddr]) -> BTreeSet<IpAddr> {
    let clients = clients.iter().copied();
    clients
        .filter(|client| is_in(*client, release, percent))
        .collect()
}

/// All clients come again and again; what each of them saw, one after the other.
struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Seen>>,
}

#[derive(Default, Debug)]
struct Seen {
    good: usize,
    /// Releases in turn, without repetitions.
    releases: BTreeMap<IpAddr, Vec<String>>,
    failed: BTreeMap<IpAddr, String>,
}

impl Crowd {
    fn on(clients: &[IpAddr], addr: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let part = clients.len().div_ceil(3);
        let threads = clients.chunks(part).map(|clients| {
            let (stop, clients) = (stop.clone(), clients.to_vec());
            std::thread::spawn(move || {
                let mut seen = Seen::default();
                // Each of them comes once at least, however short it is.
                while seen.good == 0 || !stop.load(Ordering::Relaxed) {
                    for client in &clients {
                        seen.take(*client, get_from(*client, addr));
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                }
                seen
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for thread in self.threads {
            let seen = thread.join().unwrap();
            all.good += seen.good;
            all.releases.extend(seen.releases);
            all.failed.extend(seen.failed);
        }
        all
    }
}

impl Seen {
    fn take(&mut self, client: IpAddr, answer: std::io::Result<String>) {
        match answer {
            Ok(release) => {
                self.good += 1;
                let releases = self.releases.entry(client).or_default();
                if releases.last() != Some(&release) {
                    releases.push(release);
                }
            }
            Err(error) => drop(self.failed.insert(client, error.to_string())),
        }
    }

    /// Nobody failed, and nobody saw more than this, in this order.
    fn only(&self, releases: &[&str]) {
        assert_eq!(self.failed, BTreeMap::new());
        for (client, seen) in &self.releases {
            let mut wanted = releases.iter();
            let in_order = seen.iter().all(|seen| wanted.any(|wanted| wanted == seen));
            assert!(in_order, "{client} saw {seen:?}");
        }
    }
}

/// Two releases, the second a canary that its manners may spoil at the trigger.
fn begin(stage: &mut Stage, addr: &str, percent: u8, hold_ms: u64, manners: &str) -> (Intent, PathBuf) {
    stage.start();
    let first = if addr.starts_with("unix:") { "unix" } else { "" };
    stage.switch(stage.intent(1, first, addr));
    let trigger = stage.dir.path().join("trigger");
    let mut intent = stage.intent(2, manners, addr);
    intent.processes[0].canary = Some(Canary { percent, hold_ms });
    // It is probed all the time that users are on it: one that waits for its turn is not one that does not answer.
    intent.processes[0].probe.as_mut().unwrap().timeout_ms = 20_000;
    intent.processes[0]
        .env
        .insert("FIXTURE_TRIGGER".to_owned(), trigger.display().to_string());
    (intent, trigger)
}

fn canary(stage: &Stage) -> CanaryStatus {
    let status = stage.until("a share comes to it", |status| status.canary.is_some());
    assert_eq!(status.phase, Phase::Canary);
    assert_eq!(status.running.unwrap().release, 1);
    assert_eq!(status.switching_to.unwrap().release, 2);
    status.canary.unwrap()
}

#[test]
fn the_share_is_as_wanted_and_grows_without_moving_anyone_who_is_in() {
    let mut stage = Stage::new();
    let (mut intent, _) = begin(&mut stage, ANY, 5, LONG_MS, "");
    let (addr, clients) = (stage.bound(), four(500));
    let crowd = Crowd::on(&clients, addr);
    // Long enough to look at all of them some times at each stage, on this machine as it is now.
    let begun = std::time::Instant::now();
    assert_eq!(on(1, &clients, addr).len(), clients.len());
    let hold_ms = begun.elapsed().as_millis() as u64 * 4 + 1_000;
    intent.processes[0].canary = Some(Canary { percent: 5, hold_ms });
    let (epoch, release) = (intent.epoch, intent.release);
    stage.client().switch(intent).unwrap();
    let mut looked = Vec::new();
    let mut before = canary(&stage);
    while let Some(after) = {
        let found = on(2, &clients, addr);
        let after = stage.status().canary;
        if after
            .as_ref()
            .is_some_and(|after| after.percent == before.percent)
        {
            assert_eq!(found, share(2, before.percent, &clients), "at {before:?}");
            looked.push((before.percent, found.len()));
        }
        after
    } {
        before = after;
    }
    let outcome = stage.outcome_of(epoch, release);
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    assert_eq!(on(2, &clients, addr).len(), clients.len());
    let seen = crowd.end();
    seen.only(&["release 1", "release 2"]);
    assert!(seen.good > 1_000, "{}", seen.good);
    looked.dedup();
    eprintln!("clients of 500 by share: {looked:?}");
    assert!(looked.len() > 1, "{looked:?}");
    for (percent, found) in looked {
        let of_500 = found as f64 / 5.0;
        assert!((of_500 - f64::from(percent)).abs() < 4.0, "{percent}: {found}");
    }
}

#[test]
fn a_canary_that_breaks_hurts_only_those_in_it_and_ends_by_itself() {
    for (manners, reason) in [
        ("exit-later", "process web ended with status 4"),
        ("sick-later", "GET /healthz: it answered with status 500"),
        ("shutdown-later", "it has shut its listener http down"),
    ] {
        let mut stage = Stage::new();
        let (intent, trigger) = begin(&mut stage, ANY, 20, LONG_MS, manners);
        let (addr, clients) = (stage.bound(), four(90));
        let (epoch, release) = (intent.epoch, intent.release);
        stage.client().switch(intent).unwrap();
        assert_eq!(canary(&stage).percent, 20);
        let crowd = Crowd::on(&clients, addr);
        let inside = share(2, 20, &clients);
        until("they are on it", || on(2, &clients, addr) == inside);
        std::fs::write(&trigger, b"").unwrap();
        let outcome = stage.outcome_of(epoch, release);
        assert_eq!(outcome.result, SwitchResult::Reverted, "{outcome:?}");
        assert_eq!(outcome.failed_step, Some(Phase::Canary));
        assert_eq!(outcome.running, Some(1));
        let told = outcome.reason.unwrap();
        assert!(told.contains(reason), "{told:?} has no {reason:?}");
        assert_eq!(on(2, &clients, addr), BTreeSet::new());
        let status = stage.status();
        assert_eq!(status.canary, None);
        assert_eq!(status.held.unwrap().release, 2);
        stage.until("it is gone", |status| status.generations.len() == 1);
        let seen = crowd.end();
        for client in clients {
            // Whoever is in it and comes but once may come when it breaks.
            let releases = seen.releases.get(&client).map(Vec::as_slice).unwrap_or_default();
            if inside.contains(&client) {
                assert!(releases.len() <= 2, "{client} saw {releases:?}");
            } else {
                assert_eq!(releases, ["release 1"], "{client}");
                assert_eq!(seen.failed.get(&client), None, "{client} of {manners}");
            }
        }
        if manners == "sick-later" {
            assert_eq!(seen.failed, BTreeMap::new(), "it still serves while it drains");
        }
        assert_eq!(stage.link("current").unwrap(), "releases/1-00000001");
    }
}

#[test]
fn a_revert_in_the_canary_steers_back_and_cuts_nobody() {
    let mut stage = Stage::new();
    let (mut intent, _) = begin(&mut stage, ANY, 50, LONG_MS, "");
    // The long answer ends when the test says so.
    intent.processes[0].drain_ms = 60_000;
    let (addr, clients) = (stage.bound(), four(60));
    stage.client().switch(intent).unwrap();
    canary(&stage);
    let inside = *share(2, 50, &clients).first().unwrap();
    let mut long = connect(inside, addr).unwrap();
    long.write_all(b"GET /wait HTTP/1.1\r\nConnection: close\r\n\r\n")
        .unwrap();
    until("it is on the canary", || {
        let status = stage.status();
        let rising = status.generations.iter().find(|found| found.role == Role::Rising);
        rising.is_some_and(|rising| rising.processes[0].connections > 0)
    });
    let crowd = Crowd::on(&clients, addr);
    stage.client().revert(None, "looks odd", None).unwrap();
    let status = stage.until("it is taken back", |status| status.canary.is_none());
    let outcome = status.outcome.unwrap();
    assert_eq!(
        (outcome.result, outcome.reason.as_deref(), outcome.running),
        (SwitchResult::Reverted, Some("reverted: looks odd"), Some(1))
    );
    assert_eq!(on(2, &clients, addr), BTreeSet::new());
    long.write_all(b"x").unwrap();
    let mut answer = String::new();
    long.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("release 2"), "{answer}");
    stage.until("it is gone", |status| status.generations.len() == 1);
    assert_eq!(stage.status().counters.connections_cut, 0);
    crowd.end().only(&["release 2", "release 1"]);
}

#[test]
fn the_next_keeper_goes_on_at_the_same_stage_and_moves_nobody() {
    let mut stage = Stage::new();
    let (intent, _) = begin(&mut stage, ANY, 10, 4_000, "");
    let (addr, clients) = (stage.bound(), four(120));
    let (epoch, release) = (intent.epoch, intent.release);
    let crowd = Crowd::on(&clients, addr);
    stage.client().switch(intent).unwrap();
    let mut percent = canary(&stage).percent;
    let mut kills = 0;
    while percent < 40 {
        stage.kill_keeper();
        kills += 1;
        // The shares are the kernel's while nobody minds them.
        let inside = share(2, percent, &clients);
        let found = on(2, &clients, addr);
        assert!(inside.is_subset(&found), "{inside:?} {found:?}");
        stage.start();
        let now = canary(&stage).percent;
        assert!(now == percent || now == percent * 2, "{percent} {now}");
        let grown = stage.until("it grows", |status| {
            status.canary.as_ref().is_none_or(|canary| canary.percent > now)
        });
        percent = grown.canary.map_or(100, |canary| canary.percent);
    }
    assert!(kills > 1);
    let outcome = stage.outcome_of(epoch, release);
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    assert_eq!(stage.status().notes, Vec::<String>::new());
    crowd.end().only(&["release 1", "release 2"]);
}

#[test]
fn a_unix_listener_beside_changes_over_at_the_end_and_alone_has_no_canary() {
    let mut stage = Stage::new();
    let unix = format!("unix:{}", stage.dir.path().join("web.sock").display());
    let (mut intent, _) = begin(&mut stage, &unix, 10, LONG_MS, "unix");
    intent.processes[0].probe.as_mut().unwrap().kind = ProbeKind::Tcp;
    let outcome = stage.switch(intent);
    assert_eq!(outcome.result, SwitchResult::Switched, "{outcome:?}");
    assert!(
        outcome.rungs[0].reason.contains("without its canary"),
        "{outcome:?}"
    );
}

/// Runs this test alone in a network of its own, where loopback has these addresses, too; false where that is not
/// permitted, or when it is there already.
fn in_own_network(test: &str, addresses: &[IpAddr]) -> bool {
    if std::env::var_os("SHIP_TEST_OWN_NETWORK").is_some() {
        return false;
    }
    let add = |address: &IpAddr| format!("addr add {address}/128 dev lo nodad\n");
    let batch: String = addresses.iter().map(add).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("addresses");
    std::fs::write(&file, batch).unwrap();
    let script = "ip link set lo up && ip -6 -batch \"$1\" || exit 77; shift; exec \"$@\"";
    let status = std::process::Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", script, "sh"])
        .arg(&file)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SHIP_TEST_OWN_NETWORK", "1")
        .status();
    match status.map(|status| status.code()) {
        Ok(Some(0)) => {}
        Ok(Some(77 | 1)) | Err(_) => eprintln!("no network of its own here"),
        other => panic!("{other:?}"),
    }
    true
}

#[test]
fn ipv6_clients_are_told_apart_by_all_of_their_address() {
    let six: Vec<IpAddr> = (1..=300_u32)
        .map(|number| format!("fd00::{:x}:{:x}", number % 3, number).parse().unwrap())
        .collect();
    if in_own_network("ipv6_clients_are_told_apart_by_all_of_their_address", &six) {
        return;
    }
    let mut stage = Stage::new();
    let (intent, _) = begin(&mut stage, "tcp:[::]:0", 20, LONG_MS, "");
    let port = stage.bound().port();
    let (by_six, by_four) = (
        SocketAddr::new("::1".parse().unwrap(), port),
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
    );
    stage.client().switch(intent).unwrap();
    canary(&stage);
    let found = on(2, &six, by_six);
    assert_eq!(found, share(2, 20, &six));
    assert!((30..=90).contains(&found.len()), "{}", found.len());
    let clients = four(200);
    assert_eq!(on(2, &clients, by_four), share(2, 20, &clients));
}
