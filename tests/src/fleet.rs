//! A fleet as `shipctl up` makes it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::shipctl::{self, Ran};
use crate::wait;

/// A running fleet; stopped when dropped.
#[derive(Debug)]
pub struct Fleet {
    dir: PathBuf,
    up: Option<Child>,
    /// Where `shipctl up` and its programs lie, when not in the build's folder.
    programs: Option<PathBuf>,
    /// Last, so that it outlives what works in it.
    folder: Option<tempfile::TempDir>,
}

impl Fleet {
    /// Starts a fleet of `hosts` hosts in a folder of its own and waits until it is up.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(hosts: usize) -> Self {
        Self::start_with(hosts, &[])
    }

    /// The same with variables set for all its processes.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_with(hosts: usize, env: &[(&str, &str)]) -> Self {
        let mut fleet = Self::lying();
        fleet.up(hosts, env);
        fleet
    }

    /// Starts a fleet whose processes can be armed with faults while it runs, each by itself.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn armable(hosts: usize) -> Self {
        let mut fleet = Self::armable_lying();
        fleet.up(hosts, &[]);
        fleet
    }

    /// The same, not yet started: faults for the first life of a process can be ordered.
    ///
    /// # Panics
    /// When its folder cannot be made.
    pub fn armable_lying() -> Self {
        let mut fleet = Self::lying();
        let scripts = fleet.dir.parent().map(crate::victim::make_scripts);
        match scripts {
            Some(Ok(scripts)) => fleet.programs = Some(scripts),
            other => panic!("no scripts: {other:?}"),
        }
        fleet
    }

    fn lying() -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        Self {
            dir: folder.path().join("fleet"),
            up: None,
            programs: None,
            folder: Some(folder),
        }
    }

    /// Starts the same folder again after [`Fleet::stop`].
    ///
    /// # Panics
    /// When it does not come up.
    pub fn up(&mut self, hosts: usize, env: &[(&str, &str)]) {
        let log = std::fs::File::create(self.log())
            .unwrap_or_else(|error| panic!("no log {}: {error}", self.log().display()));
        let log_too = log.try_clone().unwrap_or_else(|error| panic!("no log: {error}"));
        let hosts = hosts.to_string();
        let dir = self.dir.to_string_lossy().into_owned();
        let words = ["up", "--dir", &dir, "--hosts", &hosts];
        let mut command = match &self.programs {
            Some(programs) => shipctl::command_of(&programs.join("shipctl"), None, &words),
            None => shipctl::command(None, &words),
        };
        if let Some(programs) = &self.programs {
            command.env("SHIP_BIN_DIR", programs);
        }
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .envs(env.iter().copied());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("shipctl up: {error}"));
        self.up = Some(child);
        wait::until("the fleet to come up", || {
            self.assert_alive();
            let ready = std::fs::read_to_string(self.log())
                .ok()?
                .contains(" up: environment");
            ready.then_some(())
        });
    }

    fn assert_alive(&mut self) {
        let ended = self.up.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if let Some(status) = ended {
            self.up = None;
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            panic!("shipctl up ended with {status}:\n{log}");
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// What `up` said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Deltas that the store made, or took from publishers, until now.
    pub fn deltas_made(&self) -> usize {
        let log = std::fs::read_to_string(self.dir.join("logs/store.log")).unwrap_or_default();
        log.matches("delta made").count() + log.matches("delta taken").count()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn context(&self) -> PathBuf {
        self.dir.join("context.toml")
    }

    /// A folder beside the fleet's own, for trees and the like.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn beside(&self, name: &str) -> PathBuf {
        let path = self.dir.with_file_name(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Runs `shipctl` as the fleet's operator.
    pub fn shipctl(&self, args: &[&str]) -> Ran {
        shipctl::shipctl(Some(&self.context()), args)
    }

    /// `status -o json`.
    pub fn status(&self) -> Value {
        self.shipctl(&["status", "-o", "json"]).json()
    }

    /// What `status` says of one app.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn app(&self, app: &str) -> Value {
        let status = self.status();
        let apps = status["apps"].as_array();
        let found = apps
            .into_iter()
            .flatten()
            .find(|entry| entry["app"] == app)
            .cloned();
        found.unwrap_or_else(|| panic!("status does not know {app}: {status:#}"))
    }

    /// Where each host's listener of that name is bound.
    pub fn listening(&self, app: &str, listener: &str) -> Vec<SocketAddr> {
        let app = self.app(app);
        let hosts = app["hosts"].as_array().into_iter().flatten();
        hosts
            .filter_map(|host| host["listen"][listener].as_str()?.parse().ok())
            .collect()
    }

    /// Bases under which the app's assets are served.
    pub fn asset_urls(&self, app: &str) -> Vec<String> {
        let app = self.app(app);
        let urls = app["asset_urls"].as_array().into_iter().flatten();
        urls.filter_map(|url| Some(url.as_str()?.trim_end_matches('/').to_owned()))
            .collect()
    }

    /// The release each host runs.
    pub fn running(&self, app: &str) -> Vec<Option<u64>> {
        let app = self.app(app);
        let hosts = app["hosts"].as_array().into_iter().flatten();
        hosts.map(|host| host["release"].as_u64()).collect()
    }

    /// The app's folder on a host.
    pub fn home(&self, host: &str, app: &str) -> PathBuf {
        self.dir.join("hosts").join(host).join("apps").join(app)
    }

    /// Makes `up` itself stand still, so that it starts nothing again, or lets it go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self, still: bool) {
        let signal = if still { Signal::STOP } else { Signal::CONT };
        let done = self
            .up
            .as_ref()
            .and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?))
            .map(|pid| rustix::process::kill_process(pid, signal));
        assert!(matches!(done, Some(Ok(()))), "shipctl up: {done:?}");
        let Some(up) = self.up.as_ref().filter(|_| still) else {
            return;
        };
        // A signal is sent sooner than it is obeyed: until then what is killed may be started again.
        wait::until("shipctl up to stand still", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", up.id())).ok()?;
            stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
        });
    }

    /// Stops it as a user does, with the keyboard's signal, and waits for its end.
    pub fn stop(&mut self) {
        let Some(mut child) = self.up.take() else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::CONT);
            let _ = rustix::process::kill_process(pid, Signal::INT);
        }
        let _ = child.wait();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- shipctl up said:\n{}", self.said());
            eprintln!("--- status:\n{}", self.shipctl(&["status"]).stdout);
            last_words(&self.dir);
        }
        self.stop();
        if std::thread::panicking()
            && std::env::var_os("SHIP_TESTS_KEEP").is_some()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("kept: {}", folder.keep().display());
        }
    }
}

/// The end of every log below the folder.
fn last_words(folder: &Path) {
    const LINES: usize = 40;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            last_words(&path);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let said = std::fs::read(&path).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let lines: Vec<_> = said.lines().collect();
            let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
            eprintln!("--- {}:\n{}", path.display(), last.join("\n"));
        }
    }
}
