//! What goes into the machine and what comes out of it.

use std::path::PathBuf;

use ship_model::spec::HookPoint;

use super::{Process, Way};
use crate::protocol::Intent;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A switch, judged acceptable.
    Switch {
        /// What to run.
        intent: Box<Intent>,
        /// See [`Rising::notice_ms`](super::Rising::notice_ms).
        notice_ms: Option<u64>,
    },
    /// A revert, judged acceptable.
    Revert {
        /// Where to; none: the best there is.
        to: Option<u64>,
        /// Why.
        reason: String,
        /// Its fence.
        epoch: Option<u64>,
        /// See [`Rising::notice_ms`](super::Rising::notice_ms).
        notice_ms: Option<u64>,
    },
    /// Users were led elsewhere, judged to be about the gap that is announced.
    MayClear,
    /// The app is to be stopped for good.
    Stop,
    /// A process that no keeper has started is looked after from now on, judged acceptable; its listeners are.
    Adopted {
        /// See [`Intent::adopted`].
        intent: Box<Intent>,
        /// The process.
        process: Process,
        /// The inodes of its listeners, in the order of the spec.
        sockets: Vec<u64>,
    },
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
        /// Slots whose listeners are less than they could be, and why.
        remarks: Vec<(usize, String)>,
        /// Why there is no room in memory for it beside the active generation; none: there is.
        tight: Option<String>,
    },
    /// No process of the active generation holds its lock; the keeper does, so that none can take it now.
    Unlocked {
        /// Which generation may go on.
        generation: u64,
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
    /// The running process did what it was asked, and names its successor if it brought one forth; or why not.
    Asked {
        /// Of which generation, the one that is on its way.
        generation: u64,
        /// In which slot.
        slot: usize,
        /// The successor; none: it is the new one itself.
        result: Result<Option<Process>, String>,
    },
    /// The process became a daemon: this one is it now.
    Daemon {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
        /// Which.
        process: Process,
    },
    /// The process did something about its listeners, or may not be looked at while it does.
    Way {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
        /// What.
        way: Way,
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
    /// What is wrong with the probe's answers so far; it may pass yet.
    ProbeProblem {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
        /// What.
        problem: String,
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
    /// A share of the users comes to the generation, or why not; false: its listeners know no shares.
    Shared {
        /// Which.
        generation: u64,
        /// Done, not possible here, or the reason.
        result: Result<bool, String>,
    },
    /// The generation has no connection left, established or queued.
    Idle {
        /// Which.
        generation: u64,
    },
    /// The hooks of a step have run; or, for a step that can refuse, one has failed.
    Hooked {
        /// Whose.
        generation: u64,
        /// The step.
        point: HookPoint,
        /// Done, or the reason.
        result: Result<(), String>,
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
    /// Go on asking the slot, which has answered as it should, until it gives wrong answers.
    Watch {
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
        current: Option<PathBuf>,
        /// The folder `previous` shall name; none: there shall be no such link.
        previous: Option<PathBuf>,
    },
    /// Send new connections to the generation. Answered by [`Event::Steered`].
    Steer {
        /// Which.
        generation: u64,
    },
    /// Send a share of the new connections to the rising generation, by its processes' canaries. Answered by
    /// [`Event::Shared`].
    Share {
        /// Which.
        generation: u64,
        /// How often the first share was doubled.
        stage: u32,
    },
    /// Send new connections to no generation: they wait with the keeper.
    Hold {
        /// The generation that got them.
        generation: u64,
    },
    /// Tell that the active generation is replaced though a process of it holds its lock.
    Overrule {
        /// Which is replaced.
        generation: u64,
    },
    /// Tell that the active generation is stopped though nobody has said that its users were led elsewhere.
    Unheeded {
        /// The one that is started instead.
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
    /// Ask one process to end, to make room for its successor. Answered by [`Event::Ended`].
    End {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
        /// By force: its time is over.
        kill: bool,
    },
    /// Run the hooks of a step, those in [`State::hooks`](super::State::hooks). Answered by [`Event::Hooked`].
    Hook {
        /// Whose.
        generation: u64,
        /// The step.
        point: HookPoint,
    },
    /// Kill what is left of the generation, descendants too.
    Kill {
        /// Which.
        generation: u64,
    },
    /// Ask the running process to become the slot's, or to bring it forth. Answered by [`Event::Asked`].
    Ask {
        /// Of which generation, the one that is on its way.
        generation: u64,
        /// In which slot.
        slot: usize,
    },
    /// Ask the running process to go back to what it was, whatever it has done of what it was asked.
    Undo {
        /// Of which generation, the one that failed.
        generation: u64,
        /// In which slot.
        slot: usize,
    },
    /// What the process has become is proven: make it last.
    Confirm {
        /// Of which generation.
        generation: u64,
        /// In which slot.
        slot: usize,
    },
    /// The process of one slot is another slot's from now on.
    Carry {
        /// Generation and slot that had it.
        from: (u64, usize),
        /// Generation and slot that have it.
        to: (u64, usize),
    },
    /// Let the workers finish of a generation that has a successor; its main processes stay to go back to.
    Pause {
        /// Which.
        generation: u64,
    },
    /// Bring paused workers back.
    Resume {
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

impl Effect {
    /// Whether it leaves something behind that is still there after a boot: links, and whatever commands do. Processes,
    /// sockets and signals are not.
    #[must_use]
    pub const fn outlives_a_boot(&self) -> bool {
        matches!(
            self,
            Self::Link { .. }
                | Self::Hook { .. }
                | Self::Ask { .. }
                | Self::Undo { .. }
                | Self::Confirm { .. }
        )
    }
}
