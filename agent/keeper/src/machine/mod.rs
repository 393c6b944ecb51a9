//! The switch machine: what runs, what is on its way, what is leaving, and what to do next.
//!
//! It is pure. [`step()`] takes a state, an event and the time, and gives the next state and the effects that bring the
//! world there; [`recover()`] does the same for a keeper that has just started over an older state. The edge writes the
//! state to the journal *before* it carries an effect out, so a state tells what may have been done, and every effect can be
//! done again.
//!
//! ```text
//! rising:   PREPARED → (CLEARING) → SPAWNED → READY → PROBED → LINKED → steered: becomes active
//!               └──────────┴───────────┴────────┴────────┴────────┴──▶ ABORTING → gone
//! retiring: WARM (soak) → DRAINING → STOPPING → KILLING → gone
//!               └──▶ steered back: becomes active, what was active retires
//! ```
//!
//! Until new connections are steered, users see the active generation and nothing else; a rising one can only fail. A
//! warm generation is complete and idle: going back to it starts nothing. Times are milliseconds since boot.

mod judge;
mod recover;
mod retire;
mod rise;
mod run;
mod step;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use judge::{Verdict, judge_revert, judge_switch};
pub use recover::{Living, recover};
pub use step::step;

use crate::protocol::{Counters, Held, Intent, Outcome, Phase, ProcessState, ReleaseRef, Role};

/// Good releases remembered, so that a revert needs nobody.
const GOOD_KEPT: usize = 8;
/// Failed releases remembered.
const BAD_KEPT: usize = 64;
/// Failures in a row after which an earlier release is started instead.
const FAILURES_TO_FALL_BACK: u32 = 3;

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
    /// See [`Counters`].
    pub counters: Counters,
    /// The app is being stopped for good, then the keeper exits.
    pub stopping: bool,
    /// The app was stopped: nothing is started before the next switch.
    pub stopped: bool,
    /// Where listeners are bound, by the key of the listener: port 0 keeps its port for the app's life.
    pub bound: std::collections::BTreeMap<String, String>,
    /// The inodes of each listener's sockets in the kernel's order, by the key of the listener.
    #[serde(default)]
    pub layout: std::collections::BTreeMap<String, Vec<u64>>,
    /// The folder of a notify socket whose regular path is too long.
    pub notify_folder: Option<std::path::PathBuf>,
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
    /// The inodes of its listening sockets, in the order of the spec: how the next keeper finds them again.
    pub sockets: Vec<u64>,
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
    /// Let go; not ready yet.
    Starting,
    /// Ready.
    Up,
    /// Ended by itself; forked again at `until`.
    BackingOff {
        /// When.
        until: u64,
    },
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
    /// How often it was begun before.
    pub attempt: u32,
}

/// How far a rising generation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RisingPhase {
    /// Its listeners are being bound.
    Prepared,
    /// The active generation, which may not run beside it, is ending.
    Clearing(Leaving),
    /// Its processes are started.
    Spawned,
    /// All are ready; being probed.
    Ready,
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
    /// Complete; may be steered back to.
    Warm,
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
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A switch, judged acceptable.
    Switch(Box<Intent>),
    /// A revert, judged acceptable.
    Revert {
        /// Where to; none: the best there is.
        to: Option<u64>,
        /// Why.
        reason: String,
        /// Its fence.
        epoch: Option<u64>,
    },
    /// The app is to be stopped for good.
    Stop,
    /// An identical release runs; only its epoch and deploy are newer.
    Renew(Box<Intent>),
    /// A remembered release's folder is gone.
    Missing(u64),
    /// The generation has its sockets (inodes per slot), or why not.
    Bound {
        /// Which.
        generation: u64,
        /// Inodes per slot, or the reason.
        sockets: Result<Vec<Vec<u64>>, String>,
    },
    /// A process exists and waits to be let go.
    Forked {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
        /// Which.
        process: Process,
    },
    /// The process runs its program.
    Started {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
    },
    /// The process ended, or could not be started.
    Ended {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
        /// How, for people.
        how: String,
    },
    /// The process said `READY=1`.
    Ready {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
    },
    /// The process asked for more time.
    Extend {
        /// Of which generation.
        generation: u64,
        /// Milliseconds from now.
        by: u64,
    },
    /// The probe had its good answers.
    Probed {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
        /// When the first came.
        first_answer_at: u64,
    },
    /// The probe failed for good.
    ProbeFailed {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
        /// What was wrong.
        reason: String,
    },
    /// The links name the generation's release, or why not.
    Linked {
        /// Which.
        generation: u64,
        /// Done, or the reason.
        result: Result<(), String>,
    },
    /// New connections go to the generation, or why not.
    Steered {
        /// Which.
        generation: u64,
        /// Done, or the reason.
        result: Result<(), String>,
    },
    /// The generation has no connection left, established or queued.
    Idle {
        /// Which.
        generation: u64,
    },
    /// No process of the generation is left.
    Gone {
        /// Which.
        generation: u64,
        /// Connections that were open when it was told to stop.
        cut: u64,
    },
}

/// Something to do to the world. Each may be done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Give the rising generation its sockets. Answered by [`Event::Bound`].
    Bind {
        /// Which.
        generation: u64,
    },
    /// Fork the slot's process, to wait until it is let go. Answered by [`Event::Forked`] or [`Event::Ended`].
    Fork {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
    },
    /// Let the forked process run its program; its pid is in the journal now.
    Go {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
    },
    /// Probe the slot until it has answered or failed.
    Probe {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
    },
    /// Probe the generation no more.
    EndProbes {
        /// Which.
        generation: u64,
    },
    /// Make `current` and `previous` name these. Answered by [`Event::Linked`].
    Link {
        /// The generation it is done for.
        generation: u64,
        /// The folder `current` shall name; none: the link is left as it is.
        current: Option<std::path::PathBuf>,
        /// The folder `previous` shall name; none: there shall be no such link.
        previous: Option<std::path::PathBuf>,
    },
    /// Send new connections to the generation. Answered by [`Event::Steered`].
    Steer {
        /// Which.
        generation: u64,
    },
    /// Send new connections to no generation: they wait with the keeper.
    Hold {
        /// The generation that got them.
        generation: u64,
    },
    /// Let the drain file appear.
    Drain {
        /// Which.
        generation: u64,
    },
    /// Send every process its stop signal.
    Stop {
        /// Which.
        generation: u64,
    },
    /// Kill what is left of the generation, descendants too.
    Kill {
        /// Which.
        generation: u64,
    },
    /// Kill what is left of an ended process's descendants.
    Sweep {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
        /// What ran there.
        process: Process,
    },
    /// Give back sockets, pipes and files of a generation that is gone.
    Forget {
        /// Which.
        generation: u64,
    },
    /// Everything is stopped: close listeners and exit.
    Exit,
}

impl Generation {
    fn new(number: u64, intent: Intent) -> Self {
        let slots = vec![Slot::default(); intent.processes.len()];
        Self {
            number,
            intent,
            slots,
        }
    }

    /// Whether any process of it is there, as far as is known.
    #[must_use]
    pub fn is_living(&self) -> bool {
        self.slots.iter().any(|slot| slot.process.is_some())
    }

    /// Whether every process of it runs.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.slots.iter().all(|slot| slot.process.is_some())
    }

    fn longest(&self, of: impl Fn(&crate::protocol::ProcessSpec) -> u64) -> u64 {
        self.intent.processes.iter().map(of).max().unwrap_or(0)
    }
}

impl Slot {
    /// What the status tells of it.
    #[must_use]
    pub fn told(&self) -> ProcessState {
        match self.state {
            SlotState::Waiting => ProcessState::Waiting,
            SlotState::Forking | SlotState::Forked | SlotState::Starting => ProcessState::Starting,
            SlotState::Up => ProcessState::Up,
            SlotState::BackingOff { .. } => ProcessState::BackingOff,
            SlotState::Ended => ProcessState::Ended,
        }
    }
}

impl State {
    /// All living generations with their parts, oldest first.
    pub fn generations(&self) -> impl Iterator<Item = (&Generation, Role)> {
        let retiring = self.retiring.iter().map(|leaving| {
            let role = match leaving.phase {
                Leaving::Warm => Role::Warm,
                _ if leaving.failed => Role::Failed,
                _ => Role::Retiring,
            };
            (&leaving.generation, role)
        });
        let active = self.active.iter().map(|generation| (generation, Role::Active));
        let rising = self.rising.iter().map(|rising| {
            let role = if rising.phase == RisingPhase::Aborting {
                Role::Failed
            } else {
                Role::Rising
            };
            (&rising.generation, role)
        });
        retiring.chain(active).chain(rising)
    }

    /// The generation with this number.
    #[must_use]
    pub fn generation(&self, number: u64) -> Option<&Generation> {
        self.generations()
            .map(|(generation, _)| generation)
            .find(|generation| generation.number == number)
    }

    /// A slot of the generation with this number.
    pub fn slot_mut(&mut self, generation: u64, slot: usize) -> Option<&mut Slot> {
        self.generation_mut(generation)?.slots.get_mut(slot)
    }

    fn generation_mut(&mut self, number: u64) -> Option<&mut Generation> {
        let retiring = self.retiring.iter_mut().map(|leaving| &mut leaving.generation);
        let rising = self.rising.iter_mut().map(|rising| &mut rising.generation);
        retiring
            .chain(self.active.iter_mut())
            .chain(rising)
            .find(|generation| generation.number == number)
    }

    /// The release that a revert without a target goes to: the latest good one older than the active.
    #[must_use]
    pub fn revert_target(&self) -> Option<&Intent> {
        let running = self.active.as_ref()?.intent.release;
        self.good
            .iter()
            .filter(|intent| intent.release < running && !self.bad.contains(&intent.release))
            .max_by_key(|intent| intent.release)
    }

    /// The warm generation, if there is one.
    #[must_use]
    pub fn warm(&self) -> Option<&Retiring> {
        self.retiring
            .iter()
            .find(|leaving| leaving.phase == Leaving::Warm && leaving.generation.is_whole())
    }

    /// Where the machine stands, in one word.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.stopping {
            return Phase::ShuttingDown;
        }
        if let Some(rising) = &self.rising {
            return match rising.phase {
                RisingPhase::Prepared => Phase::Prepared,
                RisingPhase::Clearing(_) => Phase::Clearing,
                RisingPhase::Spawned => Phase::Spawned,
                RisingPhase::Ready => Phase::Ready,
                RisingPhase::Probed => Phase::Probed,
                RisingPhase::Linked => Phase::Linked,
                RisingPhase::Aborting => Phase::Aborting,
            };
        }
        match self.retiring.last().map(|leaving| leaving.phase) {
            Some(Leaving::Warm) => Phase::Soak,
            Some(Leaving::Draining) => Phase::Draining,
            Some(Leaving::Stopping | Leaving::Killing) => Phase::Stopping,
            None if self.active.is_some() => Phase::Idle,
            None => Phase::Empty,
        }
    }

    /// What a new status must tell of the queue.
    #[must_use]
    pub fn queued_reference(&self) -> Option<ReleaseRef> {
        self.queued.as_ref().map(|queued| queued.intent.reference())
    }

    /// The next time something is due, if anything is.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let backing_off = self
            .active
            .iter()
            .flat_map(|generation| &generation.slots)
            .filter_map(|slot| {
                if let SlotState::BackingOff { until } = slot.state {
                    Some(until)
                } else {
                    None
                }
            });
        let retiring = self.retiring.iter().map(|leaving| leaving.deadline);
        let rising = self.rising.iter().flat_map(|rising| {
            let settling = (rising.phase == RisingPhase::Spawned)
                .then(|| {
                    let unsettled = rising.generation.slots.iter().filter(|slot| !slot.ready);
                    unsettled.map(|slot| slot.since + rise::SETTLE_MS).min()
                })
                .flatten();
            [Some(rising.deadline), settling].into_iter().flatten()
        });
        let queued = self
            .queued
            .iter()
            .filter(|_| self.is_free())
            .map(|queued| queued.not_before);
        backing_off.chain(retiring).chain(rising).chain(queued).min()
    }

    /// Whether a new generation may rise now.
    fn is_free(&self) -> bool {
        self.rising.is_none() && self.retiring.len() < 2
    }
}
