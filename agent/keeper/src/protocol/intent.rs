//! A release and how to run it: what a keeper is asked for, and all it needs to run it again later.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ship_model::spec::{Canary, Hook, HookPoint, Restart, Standby, Strategy};

use super::ReleaseRef;

/// A release and how to run it on this host: all a keeper needs to run it again later, with nobody to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The release's number within the app.
    pub release: u64,
    /// The release's content id, in hex.
    pub id: String,
    /// The unpacked release: an absolute path without links, inside `<home>/releases`.
    pub dir: PathBuf,
    /// The deploy that wants it.
    #[serde(default)]
    pub deploy: u64,
    /// The fence that wants it.
    pub epoch: u64,
    /// The environment's name, e.g. `production`.
    #[serde(default)]
    pub environment: String,
    /// The processes of one generation; at least one.
    pub processes: Vec<ProcessSpec>,
    /// Whether two generations may run at once. If not, the old one is stopped before the new one starts, and the
    /// listeners queue meanwhile.
    #[serde(default = "yes")]
    pub coexist: bool,
    /// Where there is no memory for two at once, the switch fails; if not, the old one is stopped first then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub must_coexist: bool,
    /// How long the old generation stays warm after the switch, for an instant way back.
    #[serde(default = "default_soak")]
    pub soak_ms: u64,
    /// What stays of the generation before it after the soak; none: nothing. Both together are all that runs then: the next
    /// switch waits until the standby is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
    /// Commands of the release at the steps of a switch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hooks: BTreeMap<HookPoint, Vec<Hook>>,
}

/// One process of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Its name, e.g. `web`.
    pub name: String,
    /// Program and arguments; the program is relative to the release's folder when it contains a slash, absolute, or a
    /// name looked up in PATH.
    pub command: Vec<String>,
    /// How it takes over from its predecessor, the process of the same name in the active generation.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strategy: Strategy,
    /// The strategy that was asked for, where that was not possible and `strategy` was taken instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_for: Option<Strategy>,
    /// What the strategy is carried out with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Whether its predecessor may still run when it starts.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub overlap: bool,
    /// How many of the new connections it gets at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Variables set for it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A file of `KEY=VALUE` lines read at every start; `env` wins over it. Absolute.
    #[serde(default)]
    pub env_file: Option<PathBuf>,
    /// Listeners handed to it from descriptor 3 on, in this order.
    #[serde(default)]
    pub listen: Vec<ListenSpec>,
    /// What must be answered before users are sent to it.
    #[serde(default)]
    pub probe: Option<ProbeSpec>,
    /// Whether it must say `READY=1` on its notify socket.
    #[serde(default)]
    pub notify: bool,
    /// It says `WATCHDOG=1` at least so often, or is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog_ms: Option<u64>,
    /// From start to ready and probed, at most.
    #[serde(default = "default_ready_timeout")]
    pub ready_timeout_ms: u64,
    /// From the drain file to the stop signal, at most.
    #[serde(default = "default_drain")]
    pub drain_ms: u64,
    /// The signal that asks it to end: `TERM`, `QUIT`, `INT`, `USR1`, ...
    #[serde(default = "default_stop_signal")]
    pub stop_signal: String,
    /// From the stop signal to SIGKILL.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout_ms: u64,
    /// While it holds a lock on the file `SHIP_LOCK_FILE` it is not replaced, for so long at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_wait_ms: Option<u64>,
    /// When that time is over it is replaced all the same; if not, the switch fails.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lock_overrule: bool,
    /// It can never gain privileges.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_new_privs: bool,
    /// The user it runs as; only a keeper of root can choose another than its own.
    #[serde(default)]
    pub user: Option<String>,
    /// Limits of the process.
    #[serde(default)]
    pub limits: Limits,
}

/// A listener and its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenSpec {
    /// Its name, for LISTEN_FDNAMES and the probe.
    pub name: String,
    /// `tcp:IP:PORT`, `tcp:PORT` (all IPv4 addresses), `tcp:[IP6]:PORT`, the same with `udp`, or `unix:/absolute/path`. Port 0 takes a free one and keeps it.
    pub addr: String,
}

/// A check that the new generation answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// What is asked.
    pub kind: ProbeKind,
    /// The listener it is asked at; empty for a command that needs none.
    #[serde(default)]
    pub listener: String,
    /// How many good answers in a row are needed; 0 counts as 1.
    #[serde(default = "default_times")]
    pub times: u32,
    /// Between two attempts.
    #[serde(default = "default_interval")]
    pub interval_ms: u64,
    /// For one attempt.
    #[serde(default = "default_probe_timeout")]
    pub timeout_ms: u64,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeKind {
    /// `GET path` must be answered with a status of 200 to 399.
    Http {
        /// The path, starting with a slash.
        path: String,
    },
    /// The generation must accept the connection and neither reset nor close it at once.
    Tcp,
    /// gRPC's health service must answer SERVING for this service; empty: for the server as a whole.
    Grpc {
        /// The service's full name.
        service: String,
    },
    /// A program must end with 0.
    Command {
        /// Program and arguments, as of a process.
        words: Vec<String>,
    },
}

/// Limits set in the child before it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Open files.
    #[serde(default)]
    pub nofile: Option<u64>,
    /// Bytes of memory of the process and all it starts, together; where no control group can hold that, bytes of address
    /// space of each of them (RLIMIT_AS: it counts mappings).
    #[serde(default)]
    pub memory: Option<u64>,
    /// Processes and threads, together; held by a control group or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Its weight when processor time is short, 1 to 10000 where others have 100; held by a control group or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
}

impl ProbeKind {
    /// Whether the keeper does not ask this itself.
    #[must_use]
    pub fn is_asked_by_child(&self) -> bool {
        matches!(self, Self::Grpc { .. } | Self::Command { .. })
    }
}

impl ProcessSpec {
    /// As it was asked for, whatever was taken instead.
    #[must_use]
    pub fn as_asked(&self) -> Self {
        let strategy = self.asked_for.unwrap_or(self.strategy);
        Self {
            strategy,
            asked_for: None,
            ..self.clone()
        }
    }
}

impl Intent {
    /// What stands for the release of a process that no keeper has started: number 0, which is never published, and the id
    /// `adopted`. It is drained and stopped as `process` says and never started again, neither after its end nor after a
    /// boot; a revert goes to it only while it is warm.
    #[must_use]
    pub fn adopted(dir: PathBuf, epoch: u64, process: ProcessSpec) -> Self {
        Self {
            release: 0,
            id: "adopted".to_owned(),
            dir,
            deploy: 0,
            epoch,
            environment: String::new(),
            processes: vec![process],
            coexist: true,
            must_coexist: false,
            soak_ms: default_soak(),
            standby: None,
            hooks: BTreeMap::new(),
        }
    }

    /// Whether this is [`Intent::adopted`].
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.release == 0
    }

    /// The release by number.
    #[must_use]
    pub fn reference(&self) -> ReleaseRef {
        ReleaseRef {
            release: self.release,
            id: self.id.clone(),
            deploy: self.deploy,
            epoch: self.epoch,
        }
    }
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_yes(flag: &bool) -> bool {
    *flag
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_soak() -> u64 {
    10_000
}

fn default_ready_timeout() -> u64 {
    30_000
}

fn default_drain() -> u64 {
    30_000
}

fn default_stop_signal() -> String {
    "TERM".to_owned()
}

fn default_stop_timeout() -> u64 {
    10_000
}

fn default_times() -> u32 {
    3
}

fn default_interval() -> u64 {
    100
}

fn default_probe_timeout() -> u64 {
    2_000
}
