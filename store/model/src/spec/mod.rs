//! The checked meaning of a `ship.toml`, part of a release's identity.
//!
//! Serialized, it is canonical: maps are sorted, defaults are filled in, keys that came later are left out
//! while they have their default, so that an older release keeps its id. Times are milliseconds.

mod assets;
mod check;
mod error;
mod fields;
mod process;
mod read;
mod template;
#[cfg(test)]
mod tests;
mod values;

pub use check::SpecDefect;
pub use error::{SpecError, SpecErrors};
pub use read::read_ship_toml;
pub use template::init_template;

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
            external_links: Vec::new(),
            keep: None,
        }
    }

    pub fn is_static(&self) -> bool {
        self.processes.is_empty()
    }
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
    /// Whether two generations may serve at the same time.
    pub coexist: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Whether the process says READY=1 on `NOTIFY_SOCKET`; without it, alive and probed is ready.
    pub notify: bool,
    pub ready_timeout_ms: u64,
    /// How long the old generation stays warm, unasked, after a switch: reverts then start nothing.
    pub soak_ms: u64,
    pub drain_ms: u64,
    /// Name without SIG: `TERM`, `QUIT`, `INT`, …
    pub stop_signal: String,
    pub stop_timeout_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// How a new generation takes over; see the design, section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The process gets its sockets as `LISTEN_FDS`.
    ListenFds,
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
    /// Absolute, or relative to the app's run folder.
    Unix { path: String },
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
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
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
}

impl AssetRoot {
    /// The rest of `path` if it is an asset of this root.
    pub fn below<'p>(&self, path: PathRef<'p>) -> Option<&'p [u8]> {
        match &self.root {
            Some(root) => path.below(root),
            None => Some(path.as_bytes()).filter(|name| *name != b"ship.toml"),
        }
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
