//! What the fleet thinks of a host, and what its operators want of it.
//!
//! [`HostState::after`] is the one table of states; `store/HOST_STATES.md` is made from it. [`standing`] holds what operators
//! say: it is kept in the host's record, the state is not.

pub mod standing;
mod table;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use table::markdown;

/// The states of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// Known by its certificate; has not yet reported that it runs what it should.
    Installing,
    /// Reports, and runs what it should.
    Available,
    /// Runs what it should, and that is not healthy.
    Restarting,
    /// Goes from one release to another.
    Upgrading,
    /// Has not reported for a while: neither healthy nor dead.
    Uncertain,
    /// Silent for so long that it counts as lost.
    Unavailable,
    /// Leaves rotation, then stops what it runs, for good.
    Retiring,
    /// Runs nothing of the fleet's any more; its certificate is no longer accepted.
    Retired,
    /// As retired, and no longer listed unless all are asked for.
    Archived,
    /// An operator said that the machine is gone.
    Terminated,
}

/// What happens to a host, as far as its state goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostEvent {
    /// It reports, runs what it should, and that is healthy.
    Serves,
    /// It reports, runs what it should, and that is not healthy.
    Ails,
    /// It reports, and runs something else, or nothing.
    Lags,
    /// It has not reported for a while.
    FellSilent,
    /// It has not reported for long.
    Lost,
    /// An operator retires it.
    Retire,
    /// It reports that nothing runs there any more.
    Emptied,
    /// An operator takes it back into the fleet.
    Recall,
    /// An operator needs it listed no longer.
    Archive,
    /// An operator says that the machine is gone.
    Vanish,
}

impl HostEvent {
    /// Every event, in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Serves,
        Self::Ails,
        Self::Lags,
        Self::FellSilent,
        Self::Lost,
        Self::Retire,
        Self::Emptied,
        Self::Recall,
        Self::Archive,
        Self::Vanish,
    ];
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

    /// The state after `event`; none: the event means nothing in this state, which stays.
    ///
    /// Silence only worsens a state, and only a report betters it: a clock that jumps back makes no lost host healthy.
    pub const fn after(self, event: HostEvent) -> Option<Self> {
        use HostEvent::{Ails, Archive, Emptied, FellSilent, Lags, Lost, Recall, Retire, Serves, Vanish};
        use HostState::{
            Archived, Available, Installing, Restarting, Retired, Retiring, Terminated, Unavailable,
            Uncertain, Upgrading,
        };
        match (self, event) {
            (Retiring, Emptied) => Some(Retired),
            (Retiring | Retired, Recall) => Some(Installing),
            (Retired, Archive) => Some(Archived),
            (Archived | Terminated, _) => None,
            (_, Vanish) => Some(Terminated),
            (Retiring | Retired, _) | (_, Emptied | Recall | Archive) => None,
            (_, Retire) => Some(Retiring),
            (_, Serves) => Some(Available),
            // Until it has run what it should once, it is not one of those that serve.
            (Installing, Ails | Lags) => Some(Installing),
            (_, Ails) => Some(Restarting),
            (_, Lags) => Some(Upgrading),
            (Unavailable, FellSilent) => None,
            (_, FellSilent) => Some(Uncertain),
            (_, Lost) => Some(Unavailable),
        }
    }

    /// Whether it is unknown what the host does: it is neither counted nor restarted nor switched.
    pub const fn is_away(self) -> bool {
        matches!(self, Self::Uncertain | Self::Unavailable)
    }

    /// Whether it leaves the fleet, or has left: nobody plans with it.
    pub const fn is_leaving(self) -> bool {
        matches!(self, Self::Retiring) || self.is_gone()
    }

    /// Whether it has left the fleet: nothing is told it, and its certificate is not accepted.
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Retired | Self::Archived | Self::Terminated)
    }
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
