//! What a host should have and run: a level, never an order. The newest one is all that counts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{AppName, EnvName};
use crate::release::Target;
use crate::retention::Expired;

/// The fence: a number per app and environment that only grows. Every change of what any host should run
/// takes a new one. A host persists the newest it has seen before it acts on it, and refuses older ones,
/// whoever sends them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One change of what an environment runs, numbered per environment and app.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeployNumber(pub u64);

impl fmt::Display for DeployNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What one host should have and run of one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredApp {
    pub app: AppName,
    pub env: EnvName,
    pub epoch: Epoch,
    pub deploy: DeployNumber,
    /// What runs; none: nothing yet.
    pub run: Option<Target>,
    /// Whether this host runs the app at all; an asset host only holds its assets.
    pub runs_app: bool,
    /// Releases that must lie unpacked and verified, the running one among them, besides what the host
    /// itself pins. Whatever is in neither may be deleted, later and slowly.
    pub stage: Vec<Target>,
    /// Releases whose fingerprinted assets this host must serve.
    pub assets: Vec<Target>,
}

/// What one host should have and run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredHost {
    /// Sorted by app.
    pub apps: Vec<DesiredApp>,
    /// Which assets have expired, as far as the store can tell; an app that is missing keeps what it has. Under no
    /// epoch of its own: it counts with the app's, of which it changes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expired: Vec<Expired>,
    /// The host is to stay out of rotation, whatever it runs. Under no epoch of its own either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
}

/// What the fence says to an epoch that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// Newer than all seen: persist it, then act.
    Take,
    /// Seen already: acting again changes nothing.
    Same,
    /// Older than what was seen: somebody acts on an old plan.
    Refuse,
}

impl Fence {
    pub fn check(seen: Option<Epoch>, offered: Epoch) -> Self {
        match seen {
            Some(seen) if offered < seen => Self::Refuse,
            Some(seen) if offered == seen => Self::Same,
            _ => Self::Take,
        }
    }
}
