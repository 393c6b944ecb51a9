//! What moves a rollout, and what it has done to the world.

use serde::{Deserialize, Serialize};

use crate::desired::{DeployNumber, Epoch};
use crate::name::HostName;
use crate::report::AppReport;
use crate::rollout::gates::{Answer, Verdict};
use crate::rollout::plan::Plan;
use crate::rollout::state::{DeployKind, Outcome};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Begin this plan. A revert may begin while a promote runs: it takes its place.
    Start {
        plan: Box<Plan>,
        who: String,
    },
    /// A host reported; `app` is none when it said nothing of this app.
    Report {
        host: HostName,
        app: Option<Box<AppReport>>,
    },
    /// A host has not reported for so long that it is uncertain.
    HostSilent {
        host: HostName,
    },
    /// A host is new, or its classes changed: it gets what its environment runs. Only for hosts that run
    /// the app ([`ReleaseInfo::runs_on`](crate::rollout::ReleaseInfo::runs_on) of the current release) or
    /// hold its assets ([`ASSET_CLASS`](crate::rollout::ASSET_CLASS)). Safe to repeat.
    HostJoined {
        host: HostName,
        runs_app: bool,
    },
    /// Whether a host is kept out of rotation by an operator's word. Safe to repeat.
    HostDrained {
        host: HostName,
        drained: bool,
    },
    /// A host is being retired: it is to stop what it runs and to hold nothing. Safe to repeat.
    HostRetiring {
        host: HostName,
    },
    /// A host was retired: nothing waits for it any more.
    HostLeft {
        host: HostName,
    },
    /// Time passed.
    Tick,
    /// An operator wants the rollout stopped and touched hosts taken back.
    Abort {
        who: String,
    },
    /// No further host is switched until resumed.
    Pause {
        who: String,
    },
    Resume {
        who: String,
    },
    /// A check of a gate came to this. It counts only while that deploy is at that step, counted from 0.
    GateSaid {
        deploy: DeployNumber,
        step: usize,
        gate: String,
        verdict: Verdict,
        said: String,
    },
    /// An operator answers what the rollout waits for.
    Answer {
        answer: Answer,
        who: String,
    },
}

/// What the caller does after the new state is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// What this host should run changed; it is in the state, this only says whom to tell.
    SetDesired(HostName),
    /// For everyone who watches.
    Announce(RolloutEvent),
    /// For the audit chain.
    Audit {
        who: String,
        what: String,
        why: Option<String>,
    },
    /// The event was refused and changed nothing.
    Refused(StartRefused),
}

/// One thing worth telling, with the rollout it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutEvent {
    pub deploy: DeployNumber,
    pub at_ms: u64,
    #[serde(flatten)]
    pub what: Happening,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Happening {
    Started {
        kind: DeployKind,
    },
    /// Steps by their place in the plan, from 0.
    StepStarted {
        step: usize,
    },
    StepDone {
        step: usize,
    },
    /// The host did what the present step asks of it.
    HostOk {
        host: HostName,
    },
    HostFailed {
        host: HostName,
        step: String,
        reason: String,
        last_lines: Vec<String>,
    },
    /// Nothing waits for the host any longer; it catches up.
    HostExcused {
        host: HostName,
        reason: String,
    },
    HostReturned {
        host: HostName,
    },
    /// Touched hosts are taken back.
    TurnedBack {
        reason: String,
    },
    /// The host runs its earlier release again.
    HostBack {
        host: HostName,
    },
    Paused {
        who: String,
    },
    Resumed {
        who: String,
    },
    /// A check of a gate came to something else than the one before.
    GateSaid {
        step: usize,
        gate: String,
        verdict: Verdict,
        said: String,
    },
    /// An operator said yes at a gate.
    GateAnswered {
        step: usize,
        gate: String,
        who: String,
    },
    Ended {
        outcome: Outcome,
    },
}

/// Why an operator's event changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartRefused {
    #[error("the environment has changed since this was planned (epoch {planned}, now {now}): plan again")]
    Drifted { planned: Epoch, now: Epoch },
    #[error("deploy {deploy} by {who} is under way: wait for it, abort it, or revert")]
    Busy { deploy: DeployNumber, who: String },
    #[error("no rollout is under way")]
    NothingRuns,
    #[error("deploy {deploy} goes back already; nothing is left to abort")]
    GoesBack { deploy: DeployNumber },
    #[error("deploy {deploy} is not paused")]
    NotPaused { deploy: DeployNumber },
    #[error("deploy {deploy} is at no gate: nothing waits for an answer")]
    NoGate { deploy: DeployNumber },
    #[error("deploy {deploy} waits for no approval")]
    NoApproval { deploy: DeployNumber },
    #[error("no manual gate {name:?} is waited for{}", there_is(.known))]
    NoManualGate { name: String, known: Vec<String> },
    #[error("the answer is about deploy {asked}, and deploy {deploy} is under way")]
    OtherDeploy { asked: u64, deploy: DeployNumber },
    #[error("the answer is about step {asked}, and step {waits} waits")]
    OtherStep { asked: usize, waits: usize },
    #[error("gate {gate} asks for {asks}{}", not_his(.who, *.own))]
    NotHis {
        gate: String,
        who: String,
        asks: String,
        /// Whoever promoted may not approve it.
        own: bool,
    },
}

fn there_is(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!("; there is {}", names.join(", ")),
    }
}

fn not_his(who: &str, own: bool) -> String {
    match own {
        true => format!("; {who} promoted it"),
        false => format!("; you are {who}"),
    }
}
