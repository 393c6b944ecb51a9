//! One host with its agent: a real process in folders of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::store::Store;

pub struct Host {
    pub folder: tempfile::TempDir,
    agent: Option<Child>,
}

impl Host {
    /// A host of class `web` that knows `store`.
    pub fn new(store: &Store) -> Self {
        Self::with(store, "[\"web\", \"assets\"]", tempfile::tempdir().unwrap())
    }

    pub fn with(store: &Store, classes: &str, folder: tempfile::TempDir) -> Self {
        Self::named(store, "h1", classes, "", folder)
    }

    /// A host by its name, with more keys in its file.
    pub fn named(store: &Store, name: &str, classes: &str, more: &str, folder: tempfile::TempDir) -> Self {
        store.authority.write_host(&folder.path().join("tls"), name);
        let config = format!(
            "version = 1\nenv = \"dev\"\nhost = \"{name}\"\n{more}classes = {classes}\nstore = \"https://{}\"\n\
             address = \"127.0.0.1\"\nasset_listen = \"127.0.0.1:0\"\napps_dir = \"apps\"\nstate_dir = \"state\"\n\
             run_dir = \"run\"\n[tls]\nca = \"tls/ca.pem\"\ncert = \"tls/cert.pem\"\nkey = \"tls/key.pem\"\n",
            store.address
        );
        std::fs::write(folder.path().join("agent.toml"), config).unwrap();
        Self { folder, agent: None }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub fn app(&self, below: &str) -> PathBuf {
        self.path("apps/web").join(below)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ship-agent"));
        command.args(words).arg("--config").arg(self.path("agent.toml"));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the agent with variables set, as for a fault point.
    pub fn start_with(&mut self, variables: &[(&str, &str)]) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("agent.log"))
            .unwrap();
        let mut command = self.command(&["run"]);
        command.envs(variables.iter().copied()).stderr(log);
        self.agent = Some(command.spawn().unwrap());
    }

    /// Whether the agent has ended; waits for nothing.
    pub fn has_ended(&mut self) -> bool {
        let ended = self
            .agent
            .as_mut()
            .is_none_or(|agent| agent.try_wait().unwrap().is_some());
        if ended {
            self.agent = None;
        }
        ended
    }

    /// The running agent's.
    pub fn pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().ok();
            agent.wait().unwrap();
        }
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        let mut agent = self.agent.take().unwrap();
        let pid = rustix::process::Pid::from_child(&agent);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        agent.wait().unwrap()
    }

    /// One word to the agent.
    pub fn say(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// As [`Host::say`], with variables set, as for a fault point.
    pub fn say_with(&self, words: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = self.command(words);
        command.envs(variables.iter().copied()).output().unwrap()
    }

    /// One word to the agent, answered in JSON.
    pub fn ask(&self, words: &[&str]) -> Value {
        let said = self.say(&[words, &["-o", "json"]].concat());
        assert!(
            said.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&said.stderr)
        );
        serde_json::from_slice(&said.stdout).unwrap()
    }

    /// Waits until the local socket answers.
    pub fn wait_ready(&self) {
        super::until("the agent's socket", || {
            let said = self.say(&["status", "-o", "json"]);
            let status: Value = serde_json::from_slice(&said.stdout).ok()?;
            let dead = status["store_error"]
                .as_str()?
                .starts_with("the agent does not run");
            (!dead).then_some(())
        });
    }

    /// The page that `current` leads to.
    pub fn page(&self) -> Option<String> {
        std::fs::read_to_string(self.app("current/index.html")).ok()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the agent said ---\n{}", self.log());
        }
        writable(&self.app("releases"));
        writable(&self.app("assets"));
    }
}

/// Gives the owner the right to remove what was staged read-only.
fn writable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(found) = std::fs::symlink_metadata(folder) else {
        return;
    };
    if !found.is_dir() {
        return;
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).ok();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        writable(&entry.path());
    }
}
