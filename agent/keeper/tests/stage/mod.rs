//! A keeper on a stage of its own: folders, releases, a client, and nothing left behind.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ship_keeper::protocol::*;
use ship_keeper::{AskError, Client, Taken};

/// Long enough for a loaded machine; nothing is measured by it.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub struct Stage {
    pub dir: tempfile::TempDir,
    pub home: PathBuf,
    pub state: PathBuf,
    pub run: PathBuf,
    pub keeper: Option<Child>,
    pub flags: Vec<&'static str>,
    /// A place to listen that nobody else takes while nobody listens there.
    pub own: String,
    /// Done to the keeper's command before it is run.
    pub prepare: Option<fn(&mut Command)>,
    epoch: AtomicU64,
}

/// Not a port of the range that the kernel gives away, at an address of the loopback net of its own. Nobody has bound it to
/// find it free: a process that another test is just starting would hold it still.
pub fn own_address() -> String {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(9_000);
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    format!("tcp:127.{}.{b}.{}:{port}", 128 | a, c.max(1))
}

pub fn fixture() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let fixture = exe.parent().unwrap().parent().unwrap().join("examples/fixture");
    assert!(
        fixture.exists(),
        "build it with `cargo build -p ship-keeper --example fixture`"
    );
    fixture
}

/// Puts a program where it can be run at once. A child does that: what this process had open for writing may be held open by
/// a process that another test is just starting, and cannot be run so long.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.unwrap().success(), "{} is not copied", from.display());
}

impl Stage {
    pub fn new() -> Self {
        Self::with_run("run")
    }

    pub fn with_run(run: &str) -> Self {
        Self::inside(tempfile::tempdir().unwrap(), run)
    }

    pub fn inside(dir: tempfile::TempDir, run: &str) -> Self {
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let (home, state, run) = (root.join("home"), root.join("state"), root.join(run));
        std::fs::create_dir_all(home.join("releases")).unwrap();
        Self {
            dir,
            home,
            state,
            run,
            keeper: None,
            flags: Vec::new(),
            own: own_address(),
            prepare: None,
            epoch: AtomicU64::new(1),
        }
    }

    /// Starts a keeper in the foreground and waits until it answers.
    pub fn start(&mut self) {
        self.start_with(&[]);
        self.wait_for_keeper();
    }

    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ship-keeper"));
        command
            .args(["run", "--app", "web", "--host", "h1", "--foreground"])
            .args(&self.flags);
        command
            .arg("--home")
            .arg(&self.home)
            .arg("--state")
            .arg(&self.state)
            .arg("--run")
            .arg(&self.run);
        command.envs(environment.iter().copied()).stdin(Stdio::null());
        self.prepare.iter().for_each(|prepare| prepare(&mut command));
        self.keeper = Some(command.spawn().unwrap());
    }

    pub fn wait_for_keeper(&self) {
        until("the keeper answers", || self.client().status().is_ok());
    }

    pub fn client(&self) -> Client {
        Client::new(&self.run, Duration::from_secs(10))
    }

    pub fn status(&self) -> Status {
        self.client().status().unwrap()
    }

    /// SIGKILLs the keeper.
    pub fn kill_keeper(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            keeper.kill().unwrap();
            keeper.wait().unwrap();
        }
    }

    pub fn release(&self, number: u64) -> PathBuf {
        let dir = self.home.join(format!("releases/{number}-{number:08x}"));
        if !dir.exists() {
            std::fs::create_dir_all(dir.join("bin")).unwrap();
            std::os::unix::fs::symlink(fixture(), dir.join("bin/server")).unwrap();
        }
        dir
    }

    /// An intent for a release with these manners, probed over HTTP, with the newest epoch.
    pub fn intent(&self, number: u64, manners: &str, addr: &str) -> Intent {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst);
        let process = ProcessSpec {
            name: "web".to_owned(),
            command: vec!["bin/server".to_owned()],
            strategy: ship_model::spec::Strategy::ListenFds,
            restart: None,
            overlap: true,
            asked_for: None,
            canary: None,
            env: [("FIXTURE".to_owned(), manners.to_owned())].into(),
            env_file: None,
            listen: vec![ListenSpec {
                name: "http".to_owned(),
                addr: addr.to_owned(),
            }],
            probe: Some(ProbeSpec {
                kind: ProbeKind::Http {
                    path: "/healthz".to_owned(),
                },
                listener: "http".to_owned(),
                times: 2,
                interval_ms: 10,
                timeout_ms: 2_000,
            }),
            notify: true,
            watchdog_ms: None,
            lock_wait_ms: None,
            lock_overrule: false,
            no_new_privs: false,
            ready_timeout_ms: 20_000,
            drain_ms: 5_000,
            stop_signal: "TERM".to_owned(),
            stop_timeout_ms: 5_000,
            user: None,
            limits: Limits::default(),
        };
        Intent {
            release: number,
            id: format!("{number:08x}"),
            dir: self.release(number),
            deploy: number,
            epoch,
            environment: "test".to_owned(),
            processes: vec![process],
            coexist: true,
            must_coexist: false,
            soak_ms: 60_000,
            standby: None,
            hooks: std::collections::BTreeMap::new(),
        }
    }

    pub fn switch(&self, intent: Intent) -> Outcome {
        let (epoch, release) = (intent.epoch, intent.release);
        assert_eq!(self.client().switch(intent).unwrap(), Taken::Accepted);
        self.outcome_of(epoch, release)
    }

    pub fn outcome_of(&self, epoch: u64, release: u64) -> Outcome {
        let mut found = None;
        until("the switch ends", || {
            let Ok(status) = self.client().status() else {
                return false;
            };
            let settled =
                status.switching_to.is_none() && status.queued.is_none() && status.phase != Phase::Aborting;
            found = status
                .outcome
                .filter(|outcome| outcome.epoch == epoch && outcome.release == release);
            settled && found.is_some()
        });
        found.unwrap()
    }

    pub fn until(&self, what: &str, good: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        until(what, || {
            last = self.client().status().ok();
            last.as_ref().is_some_and(&good)
        });
        last.unwrap()
    }

    pub fn bound(&self) -> SocketAddr {
        let status = self.status();
        status.listeners[0]
            .bound
            .strip_prefix("tcp:")
            .unwrap()
            .parse()
            .unwrap()
    }

    pub fn link(&self, name: &str) -> Option<String> {
        let target = std::fs::read_link(self.home.join(name)).ok()?;
        Some(target.to_str().unwrap().to_owned())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.state.join("logs/app.log")).unwrap_or_default()
    }

    pub fn stop(&mut self) {
        self.client().stop().unwrap();
        let mut keeper = self.keeper.take().unwrap();
        until("the keeper exits", || keeper.try_wait().unwrap().is_some());
    }

    /// This stage's keepers, and what they have forked aside of themselves: shadows, holders.
    fn keepers(&self) -> Vec<u32> {
        let run = self.run.display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = words.split(|byte| *byte == 0);
            let keeper = words.next().is_some_and(|name| name.ends_with(b"ship-keeper"));
            keeper && words.any(|word| word == run.as_bytes())
        })
        .chain(self.client().status().map(|status| status.pid))
        .collect()
    }

    /// Living processes that this stage's keepers have started.
    pub fn processes(&self) -> Vec<u32> {
        let mark = format!("SHIP_DRAIN_FILE={}/", self.run.display());
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let zombie = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
            // One that has ended between the two looks has no such line.
            !stat.is_empty()
                && !zombie
                && environment
                    .windows(mark.len())
                    .any(|window| window == mark.as_bytes())
        })
        .collect()
    }
}

/// Whether this stage's keeper has ended by itself.
pub fn exited(stage: &Stage) -> bool {
    let pid = stage.keeper.as_ref().unwrap().id();
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the stage\n{}", self.log());
            eprintln!("--- status\n{:#?}", self.client().status());
        }
        self.kill_keeper();
        // What a keeper has forked aside of itself has its words.
        for pid in self.processes().into_iter().chain(self.keepers()) {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

pub fn until(what: &str, mut good: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !good() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One request on a connection of its own; the body.
pub fn get(addr: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    ask(&mut stream, path)
}

pub fn ask(stream: &mut (impl Read + Write), path: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(format!("answered {answer:?}"))),
    }
}

/// Users that come and go while something is done.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Account>>,
}

/// What the users saw.
#[derive(Default, Debug)]
pub struct Account {
    pub good: u64,
    pub failed: Vec<String>,
    pub releases: std::collections::BTreeMap<String, u64>,
}

impl Load {
    /// Four users without a pause: some hundred connections each second.
    pub fn on(addr: SocketAddr) -> Self {
        Self::with(addr, 4, Duration::from_millis(8))
    }

    /// One user, for tests that run many at once.
    pub fn gently(addr: SocketAddr) -> Self {
        Self::with(addr, 1, Duration::from_millis(15))
    }

    fn with(addr: SocketAddr, users: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..users)
            .map(|_| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let mut account = Account::default();
                    while !stop.load(Ordering::Relaxed) {
                        match get(addr, "/") {
                            Ok(body) => {
                                account.good += 1;
                                *account.releases.entry(body).or_default() += 1;
                            }
                            Err(error) => account.failed.push(error.to_string()),
                        }
                        std::thread::sleep(pause);
                    }
                    account
                })
            })
            .collect();
        Self { stop, threads }
    }

    pub fn end(mut self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Account::default();
        for thread in self.threads.drain(..) {
            let account = thread.join().unwrap();
            all.good += account.good;
            all.failed.extend(account.failed);
            for (release, count) in account.releases {
                *all.releases.entry(release).or_default() += count;
            }
        }
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub fn refusal(result: Result<Taken, AskError>) -> Refusal {
    match result {
        Err(AskError::Refused { refusal, .. }) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// A figure of `/proc/PID/status`, in KiB.
pub fn memory_kib(pid: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.split(':').next() == Some(figure))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
