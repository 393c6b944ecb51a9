//! All that the machine knows; what the journal holds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use ship_model::spec::{HookPoint, Strategy};

use crate::protocol::{Counters, Crash, Held, Intent, Outcome, Rung};

/// All that the machine knows; what the journal holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The kernel's boot id when this was written: process ids mean nothing in another boot.
    pub boot_id: String,
    /// The number the next generation gets.
    pub next_generation: u64,
    /// The newest epoch taken.
    pub epoch: u64,
    /// The release not to try again under this epoch.
    pub held: Option<Held>,
    /// Releases that were active and are fit to go back to, the latest last.
    pub good: Vec<Intent>,
    /// Releases that failed or were reverted from; never gone back to.
    pub bad: Vec<u64>,
    /// Gets all new connections.
    pub active: Option<Generation>,
    /// On its way, unseen by users.
    pub rising: Option<Rising>,
    /// On their way out, the latest last. At most one is warm.
    pub retiring: Vec<Retiring>,
    /// Begun when the machine is free.
    pub queued: Option<Queued>,
    /// How the last switch or revert ended.
    pub outcome: Option<Outcome>,
    /// The generation whose last lines belong to the outcome, until the edge has put them there.
    pub outcome_of: Option<u64>,
    /// Why no generation stands by any more before its hold was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby_lost: Option<String>,
    /// The last crash of an active process; the edge puts its last lines in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crash: Option<Crash>,
    /// See [`Counters`].
    pub counters: Counters,
    /// The app is being stopped for good, then the keeper exits.
    pub stopping: bool,
    /// The app was stopped: nothing is started before the next switch.
    pub stopped: bool,
    /// Where listeners are bound, by the key of the listener: port 0 keeps its port for the app's life.
    pub bound: BTreeMap<String, String>,
    /// The inodes of each listener's sockets in the kernel's order, by the key of the listener.
    #[serde(default)]
    pub layout: BTreeMap<String, Vec<u64>>,
    /// Commands of releases that are to run at a step of theirs, until they have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Pending>,
    /// Holds the listeners for the next keeper while nobody accepts from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Process>,
    /// The folder of a notify socket whose regular path is too long.
    pub notify_folder: Option<PathBuf>,
}

/// One incarnation of the app's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// What it runs.
    pub intent: Intent,
    /// One per process of the intent, in its order.
    pub slots: Vec<Slot>,
}

/// The place of one process in a generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The process, once forked and until it has ended.
    pub process: Option<Process>,
    /// What it is doing.
    pub state: SlotState,
    /// Failures in a row.
    pub failures: u32,
    /// When it was last started or got up.
    pub since: u64,
    /// Ready as far as it must tell.
    pub ready: bool,
    /// Probed as far as it must be.
    pub probed: bool,
    /// What was wrong with the last answer to its probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The inodes of its listening sockets, in the order of the spec: how the next keeper finds them again.
    pub sockets: Vec<u64>,
    /// The generation and slot it was born in, whose marks, pipes and drain file its process has, where that is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<(u64, usize)>,
    /// The slot of the active generation whose running process it takes over, until it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heir_of: Option<usize>,
    /// What its process did about its listeners, where that decides its strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<Way>,
}

/// What a process did about its listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The strategy that this makes it; none: nothing is decided by that.
    pub strategy: Option<Strategy>,
    /// What it did, or what stands in its way.
    pub reason: String,
}

/// Commands of a generation's release that are to run at a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Whose; it may be gone itself.
    pub generation: Generation,
    /// The step.
    pub point: HookPoint,
}

/// A process for sure: a pid alone may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The process id; never 0 or 1.
    pub pid: u32,
    /// Its start in clock ticks since boot.
    pub start: u64,
}

/// What a slot's process is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotState {
    /// Not started.
    #[default]
    Waiting,
    /// To be forked now.
    Forking,
    /// Forked and waiting to be let go.
    Forked,
    /// The running process is asked to become this one, or to bring it forth.
    Asked,
    /// Let go; not ready yet.
    Starting,
    /// Ready.
    Up,
    /// Ended by itself; forked again at `until`.
    BackingOff {
        /// When.
        until: u64,
    },
    /// Asked to end, since its successor may not run beside it.
    Yielding,
    /// Has made room for its successor.
    Yielded,
    /// Ended for good.
    Ended,
}

/// A generation on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rising {
    /// The generation.
    pub generation: Generation,
    /// How far it is.
    pub phase: RisingPhase,
    /// Why it rises.
    pub cause: Cause,
    /// When it was asked for.
    pub asked_at: u64,
    /// When its processes were started.
    pub spawned_at: u64,
    /// When its current phase must have ended.
    pub deadline: u64,
    /// When the first good answer came.
    pub first_answer_at: Option<u64>,
    /// When all had answered as often as wanted, or were up where nothing is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_at: Option<u64>,
    /// When the active generation stopped serving to make room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_since: Option<u64>,
    /// How often it was begun before.
    pub attempt: u32,
    /// How often the share of users that it has was doubled; none: users have never come to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<u32>,
    /// Strategies that were left for another, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rungs: Vec<Rung>,
    /// Why there is no room in memory for it beside the active generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tight: Option<String>,
    /// Until when it waits for the app's own lock, once it has begun to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_until: Option<u64>,
    /// The app lets itself be replaced, or is not asked any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unlocked: bool,
    /// How long the active generation goes on serving after it was announced that it must end first; none: nobody wants to
    /// be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice_ms: Option<u64>,
    /// Users were led elsewhere, or are not waited for any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub may_clear: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// How far a rising generation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RisingPhase {
    /// Its listeners are being bound.
    Prepared,
    /// It is told that the active generation must end first; users are being led elsewhere.
    Announced,
    /// The active generation, which may not run beside it, is ending.
    Clearing(Leaving),
    /// The links are moved first, since a process that lives on finds its release by them.
    Linking,
    /// The running app holds its lock: it is not replaced yet.
    Locked {
        /// The new one is proven; if not, it is not started yet, since that would touch the running one.
        proven: bool,
    },
    /// Its hooks of this step run; it goes on when they have.
    Hooking(HookPoint),
    /// Processes that may not run beside their successors are asked to end.
    Yielding(Leaving),
    /// Its processes are started.
    Spawned,
    /// All are ready; being probed.
    Ready,
    /// All answered; a share of the users comes to it.
    Canary,
    /// All answered; the links are being moved.
    Probed,
    /// The links are moved; being steered to.
    Linked,
    /// Failed; being killed.
    Aborting,
}

/// Why a generation rises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A switch was asked for.
    Switch,
    /// A revert was asked for, with this reason.
    Revert(String),
    /// The active release keeps failing, for this reason.
    Fallback(String),
    /// The host has booted, or the keeper found nothing alive.
    Boot,
}

/// A generation on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retiring {
    /// The generation.
    pub generation: Generation,
    /// How far it is.
    pub phase: Leaving,
    /// When its current phase ends at the latest.
    pub deadline: u64,
    /// When new connections were steered away from it.
    pub steered_away_at: u64,
    /// It failed: it is killed, not asked.
    pub failed: bool,
}

/// How far a leaving generation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaving {
    /// Complete; may be steered back to. While it is, a crash of its successor brings it back.
    Warm,
    /// Complete, after the soak; may be steered back to until its hold is over or its slot is needed.
    Standby,
    /// The hooks that come before its end run.
    Parting,
    /// Told to drain.
    Draining,
    /// Told to stop.
    Stopping,
    /// Being killed.
    Killing,
}

/// A release to begin with when the machine is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// What to run.
    pub intent: Intent,
    /// Why.
    pub cause: Cause,
    /// When it was asked for.
    pub asked_at: u64,
    /// Not before this time.
    pub not_before: u64,
    /// How often it was begun before.
    pub attempt: u32,
    /// Strategies that were left for another, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rungs: Vec<Rung>,
    /// As [`Rising::lock_until`], of the time it was begun before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_until: Option<u64>,
    /// See [`Rising::notice_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice_ms: Option<u64>,
}

impl Leaving {
    /// Whether it has not been told to go yet.
    #[must_use]
    pub fn is_warm(self) -> bool {
        matches!(self, Self::Warm | Self::Standby)
    }
}
