//! The checked meaning of a `ship.toml`, part of a release's identity.
//!
//! Serialized, it is canonical: maps are sorted, defaults are filled in, keys that came later are left out
//! while they have their default, so that an older release keeps its id. Times are milliseconds.

mod assets;
mod check;
mod error;
pub(crate) mod fields;
mod hooks;
mod marks;
mod memory;
mod pattern;
mod probe;
mod process;
mod read;
mod restart;
mod strategy;
mod template;
#[cfg(test)]
mod tests;
pub(crate) mod values;
mod waits;
mod ways;

pub use check::SpecDefect;
pub use error::{SpecError, SpecErrors};
pub use hooks::{Hook, HookPoint};
pub use marks::{Marks, MarksError};
pub use memory::{Tight, starts_beside, tight, wanted};
pub use pattern::{Pattern, PatternError};
pub use read::read_ship_toml;
pub use restart::{Canary, Reexec, Reload, Restart, Standby, Strategy, Upgrade};
pub use template::init_template;
pub use ways::{Gap, ProcessWay, Waiting, ways};

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::{AppName, ClassName, ProcessName};
use crate::path::{PathRef, TreePath};

/// What a release says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseSpec {
    pub app: AppName,
    /// `linux/amd64`, `linux/arm64`; empty: any host may run it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platform: Vec<String>,
    /// No process: the release is a set of static files, switched by the link alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub processes: BTreeMap<ProcessName, ProcessSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assets: Vec<AssetRoot>,
    #[serde(default, skip_serializing_if = "Shared::is_empty")]
    pub shared: Shared,
    /// Commands run at the steps of a switch, in their order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hooks: BTreeMap<HookPoint, Vec<Hook>>,
    /// Absolute link targets outside the tree that are allowed, each by its full text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_links: Vec<String>,
    /// Retained releases besides the running and the previous one; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u32>,
}

impl ReleaseSpec {
    /// A release of static files without any setting, as a tree without `ship.toml` has it.
    pub fn static_files(app: AppName) -> Self {
        Self {
            app,
            platform: Vec::new(),
            processes: BTreeMap::new(),
            assets: Vec::new(),
            shared: Shared::default(),
            hooks: BTreeMap::new(),
            external_links: Vec::new(),
            keep: None,
        }
    }

    pub fn is_static(&self) -> bool {
        self.processes.is_empty()
    }

    /// As a `ship.toml` could say it: without what publish found out of the files.
    #[must_use]
    pub fn as_written(&self) -> Self {
        let mut written = self.clone();
        written.assets.iter_mut().for_each(|root| root.marks = None);
        written
    }
}

impl ProcessSpec {
    /// What stays of the generation before this one, where its strategy keeps it.
    pub fn standby(&self) -> Option<Standby> {
        match &self.restart {
            Some(Restart::Standby(standby)) => Some(*standby),
            _ => None,
        }
    }
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_true(flag: &bool) -> bool {
    *flag
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// One long-running process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// `command[0]` is relative to the release when it has a slash and is not absolute.
    pub command: Vec<String>,
    /// Hosts of this class run it.
    pub class: ClassName,
    /// Listeners by name, in the order in which the process gets them (sorted by name).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub listen: BTreeMap<String, ListenAddr>,
    pub strategy: Strategy,
    /// What the strategy is carried out with, where it needs anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Whether two generations may serve at the same time.
    pub coexist: bool,
    /// Where there is no memory for two, the switch fails; if not, the old one is stopped first then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub must_coexist: bool,
    /// Whether the old process may still run when the new one starts; for workers without a listener.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub overlap: bool,
    /// How many of a host's clients come to it first, once it is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Whether the process says READY=1 on `NOTIFY_SOCKET`; without it, alive and probed is ready.
    pub notify: bool,
    /// The process says `WATCHDOG=1` at least so often, or is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog_ms: Option<u64>,
    pub ready_timeout_ms: u64,
    /// How long the old generation stays warm, unasked, after a switch: reverts then start nothing.
    pub soak_ms: u64,
    pub drain_ms: u64,
    /// Name without SIG: `TERM`, `QUIT`, `INT`, …
    pub stop_signal: String,
    pub stop_timeout_ms: u64,
    /// A process that holds a lock on the file `SHIP_LOCK_FILE` is not replaced for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_wait_ms: Option<u64>,
    /// When that time is over it is replaced all the same; if not, the switch fails.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lock_overrule: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// It and what it starts can never gain privileges, by a setuid file for one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_new_privs: bool,
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// Where a process listens. `host` is none for "the host's own address".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ListenAddr {
    Tcp {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<IpAddr>,
        port: u16,
    },
    /// Datagrams. Each is led to a generation by itself.
    Udp {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<IpAddr>,
        port: u16,
    },
    /// Absolute, or relative to the app's run folder.
    Unix { path: String },
}

impl ListenAddr {
    /// Whether clients connect to it, so that a probe can ask there.
    pub fn takes_connections(&self) -> bool {
        !matches!(self, Self::Udp { .. })
    }
}

/// What proves that a new generation serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    pub kind: ProbeKind,
    /// The listener to ask; none: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Successes in a row that are needed; 1 to 100.
    pub times: u32,
    pub interval_ms: u64,
    /// For one try.
    pub timeout_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ProbeKind {
    /// `GET path` must answer 200 to 399.
    Http { path: String },
    /// The connection must be accepted.
    Tcp,
    /// gRPC's health service must answer SERVING for this service; empty: for the server as a whole.
    Grpc { service: String },
    /// A program of the release must end with 0; it is given `SHIP_PROBE_ADDR`, where the new generation alone answers.
    Command { words: Vec<String> },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u64>,
    /// Bytes, of the process and all it starts, together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processes and threads, together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Weight when processor time is short, 1 to 10000; others have 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Names in the tree that are links into the app's `shared/` folder on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dirs: Vec<TreePath>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<TreePath>,
}

impl Shared {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Endings of files that hold another one in an encoding of HTTP.
const ENCODED: [&[u8]; 3] = [b".gz", b".br", b".zst"];

/// A folder of the release that browsers fetch from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssetRoot {
    /// None is the release itself, without its `ship.toml`: for a site that a build tool wrote into one folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<TreePath>,
    /// Where pages ask for it: `/static`; `/` alone is allowed. No trailing slash otherwise.
    pub url: String,
    /// Paths below `root` that keep their name while their bytes change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mutable: Vec<TreePath>,
    /// Files below `root` that are in the release and that nobody can fetch: source maps, for one. They are no assets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<Pattern>,
    /// Which of the others carry a fingerprint, where that is not what their names alone tell. Nobody writes it: publish
    /// finds it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Marks>,
}

impl AssetRoot {
    /// A root without any setting; see the fields for what they may be.
    pub fn new(root: Option<TreePath>, url: &str) -> Self {
        Self {
            root,
            url: url.to_owned(),
            mutable: Vec::new(),
            private: Vec::new(),
            marks: None,
        }
    }

    /// The rest of `path` if it is an asset of this root.
    pub fn below<'p>(&self, path: PathRef<'p>) -> Option<&'p [u8]> {
        self.inside(path).filter(|below| !self.is_private(below))
    }

    /// The rest of `path` if it lies in this root, private or not.
    pub fn inside<'p>(&self, path: PathRef<'p>) -> Option<&'p [u8]> {
        match &self.root {
            Some(root) => path.below(root),
            None => Some(path.as_bytes()).filter(|name| *name != b"ship.toml"),
        }
    }

    /// Whether a path below the root is kept from the public. What is kept so is kept so in every encoding:
    /// `main.js.map.gz` is as private as `main.js.map`.
    pub fn is_private(&self, below: &[u8]) -> bool {
        let decoded = ENCODED.iter().find_map(|ending| below.strip_suffix(*ending));
        let names = [Some(below), decoded];
        let matched = |name: &[u8]| self.private.iter().any(|pattern| pattern.matches(name));
        names.into_iter().flatten().any(matched)
    }

    /// As `ship.toml` has it.
    pub fn folder(&self) -> String {
        self.root
            .as_ref()
            .map_or_else(|| ".".to_owned(), ToString::to_string)
    }

    fn overlaps(&self, other: &Option<TreePath>) -> bool {
        match (&self.root, other) {
            (Some(a), Some(b)) => assets::overlap(a, b),
            _ => true,
        }
    }
}
