//! What the fleet thinks of a host.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The states of a host. See the design, section 3; edges are checked by [`HostState::may_become`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// Known by its certificate; has not yet reported that it runs what it should.
    Installing,
    /// Reports, and runs what it should.
    Available,
    Restarting,
    /// Goes from one release to another.
    Upgrading,
    /// Has not reported for a while: neither healthy nor dead.
    Uncertain,
    /// Silent for so long, or so broken, that it counts as lost.
    Unavailable,
    Retiring,
    Retired,
    Archived,
    Terminated,
}

impl HostState {
    /// Every state, in the order of a host's life.
    pub const ALL: [Self; 10] = [
        Self::Installing,
        Self::Available,
        Self::Restarting,
        Self::Upgrading,
        Self::Uncertain,
        Self::Unavailable,
        Self::Retiring,
        Self::Retired,
        Self::Archived,
        Self::Terminated,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Installing => "installing",
            Self::Available => "available",
            Self::Restarting => "restarting",
            Self::Upgrading => "upgrading",
            Self::Uncertain => "uncertain",
            Self::Unavailable => "unavailable",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
            Self::Archived => "archived",
            Self::Terminated => "terminated",
        }
    }

    /// Whether a host may go from this state to `next` at once.
    pub const fn may_become(self, next: Self) -> bool {
        use HostState::*;
        match self {
            Installing | Available | Restarting | Upgrading | Uncertain | Unavailable => {
                !matches!(next, Installing | Retired | Archived | Terminated)
            }
            Retiring => matches!(next, Retired | Available | Uncertain | Unavailable),
            Retired => matches!(next, Archived | Terminated | Installing),
            Archived => matches!(next, Terminated),
            Terminated => false,
        }
    }
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
