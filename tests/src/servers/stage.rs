//! One keeper, one app, and users beside it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use ship_keeper::Client;
use ship_keeper::protocol::{
    Intent, Limits, ListenSpec, Outcome, Phase, ProbeKind, ProbeSpec, ProcessSpec, Status,
};

use super::Subject;
use crate::{bin, load::Load, wait};

/// A keeper with a subject's releases.
#[derive(Debug)]
pub struct Stage {
    subject: Subject,
    keeper: Child,
    root: PathBuf,
    epoch: u64,
    /// Where a subject listens that binds by itself: an address of its own, so that none is taken.
    own: SocketAddr,
    _dir: tempfile::TempDir,
}

/// How a release of the subject behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    Good,
    /// Cannot go on from what the release before it left; started anew it is good.
    Estranged,
    /// Ends as soon as it is started.
    Exits,
    /// Answers its probe with 500.
    Sick,
}

impl Stage {
    /// # Panics
    /// When the keeper cannot be started.
    #[must_use]
    pub fn new(subject: Subject) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
        let root = std::fs::canonicalize(dir.path()).unwrap_or_else(|_| dir.path().to_owned());
        let mut command = Command::new(bin("ship-keeper"));
        command.args(["run", "--app", "web", "--host", "h1", "--foreground"]);
        for (option, folder) in [("--home", "home"), ("--state", "state"), ("--run", "run")] {
            command.arg(option).arg(root.join(folder));
        }
        let keeper = command.stdin(Stdio::null()).spawn();
        let stage = Self {
            keeper: keeper.unwrap_or_else(|error| panic!("ship-keeper: {error}")),
            subject,
            root,
            epoch: 0,
            own: own_address(),
            _dir: dir,
        };
        wait::until("the keeper to answer", || stage.client().status().ok());
        stage
    }

    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.root.join("run"), Duration::from_secs(10))
    }

    /// The keeper's own process.
    #[must_use]
    pub fn keeper(&self) -> u32 {
        self.keeper.id()
    }

    /// # Panics
    /// When the keeper does not answer.
    #[must_use]
    pub fn status(&self) -> Status {
        let status = self.client().status();
        status.unwrap_or_else(|error| panic!("status: {error}"))
    }

    /// Switches to a release of these manners and waits for the outcome.
    ///
    /// # Panics
    /// When the keeper refuses.
    pub fn switch(&mut self, release: u64, manners: Manners, soak: Duration) -> Outcome {
        let intent = self.intent(release, manners, soak);
        let (epoch, taken) = (intent.epoch, self.client().switch(intent));
        taken.unwrap_or_else(|error| panic!("{}: switch to {release}: {error}", self.subject.name));
        self.outcome(epoch)
    }

    /// Starts the subject as people do without Ship: from a folder of its own, at its own address, in nobody's care.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn by_hand(&self) -> ByHand {
        let dir = self.tree(BY_HAND, Manners::Good);
        let mut words = self.subject.command.iter();
        let words: Vec<_> = words
            .by_ref()
            .map(|word| self.fill(word, BY_HAND, Manners::Good))
            .collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&dir);
        command.envs(self.subject.env.iter().map(|(name, value)| (*name, value)));
        command
            .env("ADDR", self.own.to_string())
            .env("SHIP_RELEASE", BY_HAND.to_string());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("{} by hand: {error}", self.subject.name));
        let server = ByHand { child };
        wait::until("the server that was started by hand", || {
            crate::http::get(self.own, "/").ok()
        });
        server
    }

    /// Has the keeper look after it.
    ///
    /// # Panics
    /// When the keeper refuses.
    pub fn adopt(&mut self, server: &ByHand) -> Status {
        let mut intent = self.intent(BY_HAND, Manners::Good, Duration::ZERO);
        let process = intent.processes.remove(0);
        let taken = self.client().adopt(server.child.id(), process);
        taken.unwrap_or_else(|error| panic!("adopt {}: {error}", self.subject.name));
        self.status()
    }

    /// Goes back to the release before.
    ///
    /// # Panics
    /// When the keeper refuses.
    pub fn revert(&mut self) -> Outcome {
        self.epoch += 1;
        let taken = self.client().revert(None, "a test", Some(self.epoch));
        taken.unwrap_or_else(|error| panic!("{}: revert: {error}", self.subject.name));
        self.outcome(self.epoch)
    }

    fn outcome(&self, epoch: u64) -> Outcome {
        wait::until("the outcome", || {
            let status = self.client().status().ok()?;
            let settled =
                status.switching_to.is_none() && status.queued.is_none() && status.phase != Phase::Aborting;
            status.outcome.filter(|outcome| settled && outcome.epoch == epoch)
        })
    }

    /// Waits until only one generation is left.
    pub fn settle(&self) -> Status {
        wait::until("the old generation to end", || {
            let status = self.client().status().ok()?;
            (status.phase == Phase::Idle && status.generations.len() == 1).then_some(status)
        })
    }

    fn intent(&mut self, release: u64, manners: Manners, soak: Duration) -> Intent {
        self.epoch += 1;
        let dir = self.tree(release, manners);
        let mut env: std::collections::BTreeMap<_, _> = self
            .subject
            .env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let broken = match manners {
            Manners::Good | Manners::Estranged => None,
            Manners::Exits => Some("exit"),
            Manners::Sick => Some("sick"),
        };
        env.extend(broken.map(|broken| ("BROKEN".to_owned(), broken.to_owned())));
        // A sick release fails at the end of this time, and so does one whose master starts dead workers again and again;
        // good ones must not.
        let ready = match manners {
            Manners::Good | Manners::Estranged => 60_000,
            Manners::Exits => 8_000,
            Manners::Sick => 4_000,
        };
        let command = match manners {
            // These do not know how to be as bad as that.
            Manners::Exits if self.subject.made || self.subject.plain => vec!["/bin/false".to_owned()],
            _ => self
                .subject
                .command
                .iter()
                .map(|word| self.fill(word, release, manners))
                .collect(),
        };
        if self.subject.listens_at_own() {
            env.insert("ADDR".to_owned(), self.own.to_string());
            env.insert(
                "CURRENT".to_owned(),
                self.root.join("home/current").display().to_string(),
            );
        }
        let process = ProcessSpec {
            name: "web".to_owned(),
            command,
            strategy: self.subject.strategy,
            restart: self.subject.restart.clone(),
            overlap: true,
            asked_for: None,
            canary: None,
            watchdog_ms: None,
            lock_wait_ms: None,
            lock_overrule: false,
            no_new_privs: false,
            env,
            env_file: None,
            listen: vec![ListenSpec {
                name: "http".to_owned(),
                addr: if self.subject.listens_at_own() {
                    format!("tcp:{}", self.own)
                } else {
                    "tcp:127.0.0.1:0".to_owned()
                },
            }],
            probe: Some(ProbeSpec {
                kind: ProbeKind::Http {
                    path: "/healthz".to_owned(),
                },
                listener: "http".to_owned(),
                times: 2,
                interval_ms: 20,
                timeout_ms: 2_000,
            }),
            notify: false,
            ready_timeout_ms: ready,
            drain_ms: millis(self.subject.drain),
            stop_signal: self.subject.stop_signal.to_owned(),
            stop_timeout_ms: 20_000,
            user: None,
            limits: Limits::default(),
        };
        Intent {
            release,
            id: format!("{release:012x}"),
            dir,
            deploy: self.epoch,
            epoch: self.epoch,
            environment: "test".to_owned(),
            processes: vec![process],
            coexist: true,
            must_coexist: false,
            soak_ms: millis(soak),
            standby: self.subject.standby,
            hooks: std::collections::BTreeMap::new(),
        }
    }

    fn tree(&self, release: u64, manners: Manners) -> PathBuf {
        let dir = self.root.join(format!("home/releases/{release}-{release:012x}"));
        if self.subject.made {
            if !dir.exists() {
                let version = u32::try_from(release).unwrap_or(u32::MAX);
                crate::sample::make(&dir, version, manners == Manners::Sick);
            }
            return dir;
        }
        if let Some(build) = self.subject.build.filter(|_| !dir.exists()) {
            build(&dir, release, manners);
        }
        if dir.exists() {
            return dir;
        }
        let made = std::fs::create_dir_all(&dir).and_then(|()| {
            for (from, to) in &self.subject.files {
                if let Some(folder) = dir.join(to).parent() {
                    std::fs::create_dir_all(folder)?;
                }
                match std::fs::read_to_string(from) {
                    Ok(text) => std::fs::write(dir.join(to), self.fill(&text, release, manners))?,
                    Err(_) => super::subject::place(from, &dir.join(to))?,
                }
            }
            std::fs::write(dir.join("release"), release.to_string())?;
            std::fs::write(dir.join("piece"), "a piece\n".repeat(2_560))?;
            match manners {
                Manners::Good | Manners::Estranged => Ok(()),
                Manners::Exits => std::fs::write(dir.join("broken"), "exit"),
                Manners::Sick => std::fs::write(dir.join("broken"), "sick"),
            }
        });
        made.unwrap_or_else(|error| panic!("make release {release} of {}: {error}", self.subject.name));
        dir
    }

    /// What a configuration file says of its release.
    fn fill(&self, text: &str, release: u64, manners: Manners) -> String {
        let health = match manners {
            Manners::Good | Manners::Estranged => "200",
            Manners::Sick => "500",
            // No server takes that, as it takes no configuration with a mistake.
            Manners::Exits => "mistake;;",
        };
        let base = match manners {
            Manners::Good | Manners::Estranged => "",
            Manners::Sick | Manners::Exits => "sick",
        };
        text.replace("@IP@", &self.own.ip().to_string())
            .replace("@PORT@", &self.own.port().to_string())
            .replace("@BASE@", base)
            .replace("@ADDR@", &self.own.to_string())
            .replace("@RUN@", &self.root.join("run").display().to_string())
            .replace("@CURRENT@", &self.root.join("home/current").display().to_string())
            .replace("@RELEASE@", &release.to_string())
            .replace("@HEALTH@", health)
    }

    /// Where the app is bound.
    ///
    /// # Panics
    /// When nothing runs yet.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let status = self.status();
        let bound = status
            .listeners
            .first()
            .and_then(|listener| listener.bound.strip_prefix("tcp:"));
        let address = bound.and_then(|bound| bound.parse().ok());
        address.unwrap_or_else(|| panic!("not bound: {status:?}"))
    }

    /// Where a subject listens that binds by itself.
    #[must_use]
    pub fn own(&self) -> SocketAddr {
        self.own
    }

    /// Users on new connections, kept ones, streams and, where the subject has them, WebSockets.
    #[must_use]
    pub fn users(&self, rate: u32) -> Users {
        self.users_at(self.address(), rate)
    }

    /// The same at this address.
    #[must_use]
    pub fn users_at(&self, address: SocketAddr, rate: u32) -> Users {
        Users::of(address, rate, self.subject.streams, self.subject.websockets)
    }

    /// The app's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("state/logs/app.log")).unwrap_or_default()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What the tree of a server is numbered that was started by hand.
pub const BY_HAND: u64 = 9;

/// A server that no keeper has started.
#[derive(Debug)]
pub struct ByHand {
    child: Child,
}

impl ByHand {
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub fn wait_for_end(&mut self) {
        wait::until("the server that was started by hand to end", || {
            self.child.try_wait().ok().flatten()
        });
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Users at work.
#[derive(Debug)]
pub struct Users(Load);

impl Users {
    /// So many requests a second of each kind.
    pub(super) fn of(address: SocketAddr, rate: u32, streams: bool, websockets: bool) -> Self {
        let base = format!("http://{address}");
        let rate = rate.to_string();
        let mut words = vec![
            "--rate".to_owned(),
            rate.clone(),
            "--keep-alive-rate".to_owned(),
            rate,
        ];
        words.extend(["--connections", "6", "--target"].map(str::to_owned));
        words.push(format!("{base}/"));
        if streams {
            words.extend(["--stream-rate", "1", "--stream"].map(str::to_owned));
            words.push(format!("{base}/stream?seconds=1"));
        }
        if websockets {
            words.extend(["--sockets", "5", "--websocket"].map(str::to_owned));
            words.push(format!("{base}/ws"));
        }
        Self(Load::with(&words))
    }

    /// Waits until they have a new answer of this release.
    ///
    /// # Panics
    /// When none comes.
    pub fn until_answered_by(&self, release: u64) {
        self.0.until_answered_by(release);
    }

    /// Ends them and gives what they saw.
    #[must_use]
    pub fn finish(self) -> Value {
        self.0.finish()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}: log\n{}", self.subject.name, self.log());
            eprintln!("--- {}: status\n{:#?}", self.subject.name, self.client().status());
        }
        self.end_app();
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// An address of the loopback net that no other test of this machine takes.
pub(super) fn own_address() -> SocketAddr {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(8_000);
    let port = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 64 | a, b, c.max(1)], port))
}

impl Stage {
    /// Kills what the keeper has started. Each process got the path of its drain file; those that write their title over
    /// their environment run in a folder of ours, or name one in that title.
    fn end_app(&mut self) {
        // A keeper that lives would start them again.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        let mark = format!("{}/", self.root.display());
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            let words = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let names_it = |text: &[u8]| text.windows(mark.len()).any(|window| window == mark.as_bytes());
            let at_home =
                || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at.starts_with(&self.root));
            let ours = names_it(&words("environ")) || names_it(&words("cmdline")) || at_home();
            if let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| ours) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}
