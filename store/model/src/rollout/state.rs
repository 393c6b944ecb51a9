//! The durable record of one app in one environment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::desired::{DeployNumber, DesiredApp, Epoch};
use crate::name::{AppName, EnvName, HostName};
use crate::release::{ReleaseNumber, Target};
use crate::rollout::gates::GateProgress;
use crate::rollout::plan::{Excuse, Plan, PlanStep};
use crate::rollout::took::Took;

/// The record's form; a reader refuses what it does not know.
pub const VERSION: u8 = 1;
/// Deploys that the record remembers.
pub const HISTORY: usize = 100;
/// Epochs and deploys that [`EnvState::skip_ahead`] leaves out: more than a lost store can have given since any
/// backup worth putting back.
pub const SKIPPED: u64 = 1_000_000;

/// What an environment runs of one app, how it got there, and what is under way.
///
/// One record, changed only by [`step`](crate::rollout::step()) and stored by compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvState {
    pub version: u8,
    pub env: EnvName,
    pub app: AppName,
    /// The newest epoch given to any host.
    pub epoch: Epoch,
    pub last_deploy: DeployNumber,
    /// What the environment runs: changed when a promote is done, and as soon as a revert begins.
    pub current: Option<Target>,
    /// Oldest first, at most [`HISTORY`].
    pub history: Vec<DeployEntry>,
    /// Releases that were reverted from or quarantined: never a revert's target, promoted only by force.
    pub bad: Vec<BadRelease>,
    /// Set by a revert, sticky: nothing automatic goes forward until an operator promotes.
    pub held: Option<Hold>,
    /// The rollout under way, or the last one that ended.
    pub rollout: Option<Rollout>,
    pub hosts: BTreeMap<HostName, HostTarget>,
    /// Releases that hosts keep unpacked: the running one, what a revert goes to, and a few more.
    pub retained: Vec<Target>,
    /// Releases whose fingerprinted assets every host serves.
    pub asset_releases: Vec<Target>,
    /// How long each host took the last time; no step goes by it, plans say how long they may take.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub took: BTreeMap<HostName, Took>,
}

/// Why bytes are not an environment's record.
#[derive(Debug, thiserror::Error)]
pub enum EnvStateError {
    #[error("the environment's record cannot be read")]
    Read(#[source] serde_json::Error),
    #[error("the environment's record has version {found}; this program knows {VERSION}: update it")]
    Version { found: u8 },
    #[error("the environment's record cannot be written")]
    Write(#[source] serde_json::Error),
}

impl EnvState {
    /// An environment that never ran anything.
    pub fn new(env: EnvName, app: AppName) -> Self {
        Self {
            version: VERSION,
            env,
            app,
            epoch: Epoch::default(),
            last_deploy: DeployNumber::default(),
            current: None,
            history: Vec::new(),
            bad: Vec::new(),
            held: None,
            rollout: None,
            hosts: BTreeMap::new(),
            retained: Vec::new(),
            asset_releases: Vec::new(),
            took: BTreeMap::new(),
        }
    }

    pub fn encode(&self) -> Result<Vec<u8>, EnvStateError> {
        serde_json::to_vec(self).map_err(EnvStateError::Write)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, EnvStateError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u8,
        }
        let Versioned { version } = serde_json::from_slice(bytes).map_err(EnvStateError::Read)?;
        if version != VERSION {
            return Err(EnvStateError::Version { found: version });
        }
        serde_json::from_slice(bytes).map_err(EnvStateError::Read)
    }

    /// Steps over every epoch and deploy that may have been given after the backup this record comes from, so that
    /// hosts follow what is decided next. What they should run stays as it is: a host that has seen a newer epoch
    /// keeps what it runs until the next promote or revert.
    pub fn skip_ahead(&mut self) {
        self.epoch = Epoch(self.epoch.0.saturating_add(SKIPPED));
        self.last_deploy = DeployNumber(self.last_deploy.0.saturating_add(SKIPPED));
    }

    /// The rollout that is under way.
    pub fn running(&self) -> Option<&Rollout> {
        self.rollout.as_ref().filter(|rollout| rollout.outcome.is_none())
    }

    /// What `host` should have and run; none for a host that never took part.
    pub fn desired(&self, host: &HostName) -> Option<DesiredApp> {
        let target = self.hosts.get(host)?;
        Some(DesiredApp {
            app: self.app.clone(),
            env: self.env.clone(),
            epoch: target.epoch,
            deploy: target.deploy,
            run: target.run,
            runs_app: target.runs_app,
            stage: target.stage.clone(),
            assets: target.assets.clone(),
        })
    }

    pub fn is_bad(&self, release: ReleaseNumber) -> bool {
        self.bad.iter().any(|bad| bad.release.number == release)
    }

    /// What a revert goes to from `running`: the newest release older than it that ran well here and was
    /// never reverted from or quarantined.
    pub fn last_good_before(&self, running: Target) -> Option<Target> {
        self.last_good_where(running, |_| true)
    }

    /// The same among the releases that `may` says can be gone to.
    pub fn last_good_where(&self, running: Target, may: impl Fn(ReleaseNumber) -> bool) -> Option<Target> {
        self.ran_well()
            .filter(|release| release.number < running.number && !self.is_bad(release.number))
            .filter(|release| may(release.number))
            .max_by_key(|release| release.number)
    }

    /// Since when `release` runs here, well: when the last deploy of it was done.
    pub(crate) fn since_ms(&self, release: Target) -> Option<u64> {
        let mut deploys = self.history.iter().rev();
        let done = deploys.find(|entry| entry.end == End::Done && entry.release == release)?;
        Some(done.when_ms)
    }

    /// Releases whose deploy was done, newest deploy first; one may come more than once.
    pub(crate) fn ran_well(&self) -> impl Iterator<Item = Target> {
        let done = |entry: &&DeployEntry| entry.end == End::Done;
        self.history.iter().rev().filter(done).map(|entry| entry.release)
    }
}

/// What one host should have and run, and since which epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTarget {
    /// The epoch of this content: any change of it takes a newer one.
    pub epoch: Epoch,
    /// The deploy that set `run`.
    pub deploy: DeployNumber,
    pub run: Option<Target>,
    pub runs_app: bool,
    pub stage: Vec<Target>,
    pub assets: Vec<Target>,
}

/// Which way a deploy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeployKind {
    Promote,
    Revert,
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Every host that is there confirmed; silent ones catch up.
    Done,
    /// Stopped; nothing runs that did not run before.
    Failed,
    /// Stopped, and every touched host that is there confirmed its earlier release.
    Reverted,
    /// Stopped or reverted, and some host has not confirmed what it should run.
    Partly,
}

impl End {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Reverted => "reverted",
            Self::Partly => "partly",
        }
    }
}

/// One line of an environment's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployEntry {
    pub deploy: DeployNumber,
    pub release: Target,
    pub kind: DeployKind,
    pub end: End,
    /// When it ended.
    pub when_ms: u64,
    pub who: String,
    pub message: Option<String>,
    /// Why it ended otherwise than done.
    pub reason: Option<String>,
}

/// A release that must not run here again by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRelease {
    pub release: Target,
    /// The deploy that went back from it.
    pub deploy: DeployNumber,
    pub reason: String,
    pub at_ms: u64,
}

/// Nothing automatic goes forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub who: String,
    pub reason: String,
    pub at_ms: u64,
}

/// A plan and its progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    pub deploy: DeployNumber,
    pub plan: Plan,
    pub who: String,
    pub started_ms: u64,
    /// The epoch of its first change: what hosts report of older ones is not about this rollout.
    pub first_epoch: Epoch,
    pub course: Course,
    /// The furthest step, counted from 0; the number of steps when all are done.
    pub reached: usize,
    /// When each step began and ended, as far as it came; empty in records of older stores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<StepTime>,
    /// When the present step, or its latest progress, began.
    pub since_ms: u64,
    /// When the present step is given up unless it makes progress.
    pub deadline_ms: u64,
    /// Since when every host of the present wave is as it should be; none while one is not.
    pub soak_since_ms: Option<u64>,
    /// Who paused it: no further host is switched, failures still turn it back.
    pub paused: Option<String>,
    /// What failed, where policy leaves it to an operator whether to go back; none: nothing waits for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Stop>,
    /// What is known of gates, those of steps that are done included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateProgress>,
    pub hosts: BTreeMap<HostName, HostProgress>,
    /// Why it turned back or stopped; set once.
    pub stop: Option<Stop>,
    pub outcome: Option<Outcome>,
    pub ended_ms: Option<u64>,
}

impl Rollout {
    /// The step under way while it goes forward.
    pub fn present(&self) -> Option<&PlanStep> {
        match self.course {
            Course::Forward { step } => self.plan.steps.get(step),
            Course::Back | Course::Ended => None,
        }
    }

    /// Ends the step that is under way, if one is.
    pub(crate) fn end_step(&mut self, now_ms: u64) {
        if let Some(open) = self.times.last_mut().filter(|time| time.ended_ms.is_none()) {
            open.ended_ms = Some(now_ms);
        }
    }

    /// Whether any host was asked to run the new release.
    pub fn touched_any(&self) -> bool {
        self.hosts.values().any(|host| host.switch != Switch::Untouched)
    }
}

/// When a step was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    pub started_ms: u64,
    pub ended_ms: Option<u64>,
}

impl StepTime {
    pub(crate) const fn from(started_ms: u64) -> Self {
        Self {
            started_ms,
            ended_ms: None,
        }
    }
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Course {
    /// At this step of the plan, counted from 0.
    Forward {
        step: usize,
    },
    /// Touched hosts go back to what they ran.
    Back,
    Ended,
}

/// What a rollout knows of one host: what decides, not the whole report, so that it changes rarely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostProgress {
    pub runs_app: bool,
    /// Joined or returned after the plan was made: takes no part in counting, goes with the last wave.
    pub late: bool,
    /// Why nothing waits for it; it catches up.
    pub excused: Option<Excuse>,
    /// Has not reported for a while: unknown.
    pub silent: bool,
    /// Runs some release, healthy, by its last report; none: not heard of since the rollout began.
    pub serving: Option<bool>,
    /// Has the new release unpacked and verified.
    pub staged: bool,
    /// Serves the new release's assets.
    pub assets: bool,
    pub switch: Switch,
    /// What it was to run before this rollout touched it, and the deploy that had set it.
    pub previous: Option<Target>,
    pub previous_deploy: DeployNumber,
    /// What somebody reverted it to on the host itself, while this rollout ran.
    pub held_on: Option<Target>,
    pub failure: Option<Stop>,
    /// It could not even go back: given up, for an operator to look at.
    #[serde(default)]
    pub stuck: bool,
    /// Requests for assets of the new release that it could not serve.
    #[serde(default, skip_serializing_if = "Incidents::is_quiet")]
    pub incidents: Incidents,
}

/// Requests that a host could not serve; none while it never said any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incidents {
    /// By its last report, since its agent's start.
    pub told: u64,
    /// As many of them the present soak knows.
    pub known: u64,
}

impl Incidents {
    /// Never any: not worth a line in the record.
    pub fn is_quiet(&self) -> bool {
        *self == Self::default()
    }

    /// A report says `count`. What the `first` one says was before this rollout; fewer than before come from another
    /// life of the agent.
    pub(crate) fn hear(&mut self, count: u64, first: bool) {
        self.known = if first { count } else { self.known.min(count) };
        self.told = count;
    }

    /// Whether there are new ones since this was last asked.
    pub(crate) fn take_news(&mut self) -> bool {
        let news = self.told > self.known;
        self.known = self.told;
        news
    }
}

/// One host's way through the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    Untouched,
    /// Asked to run the new release under this epoch; counted as away until it confirms.
    Asked {
        epoch: Epoch,
        at_ms: u64,
    },
    /// Confirmed: runs the new release, healthy.
    Running {
        epoch: Epoch,
    },
    /// Refused or could not; remembered under the epoch.
    Failed {
        epoch: Epoch,
    },
    /// Asked to run its earlier release again.
    /// `counted`: it served when it was asked, so that it is one fewer meanwhile.
    BackAsked {
        epoch: Epoch,
        at_ms: u64,
        counted: bool,
    },
    /// Confirmed that it does.
    Back,
}

impl Switch {
    /// Whether the host was asked to run the new release at some time and is not confirmed back.
    pub const fn touched(self) -> bool {
        !matches!(self, Self::Untouched | Self::Back)
    }

    /// Whether the host is between two releases.
    pub const fn in_flight(self) -> bool {
        matches!(self, Self::Asked { .. } | Self::BackAsked { .. })
    }
}

/// Why something stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The host it happened on, if one.
    pub host: Option<HostName>,
    /// `prefetch`, `assets`, `switch`, `gate`, or the host's own: `probe`, `ready`, `spawn`, …
    pub step: String,
    pub reason: String,
    /// The app's last lines, at most 50.
    pub last_lines: Vec<String>,
    /// The operator who wanted it; none when it stopped by itself.
    pub by: Option<String>,
}

/// How a rollout ended, and what is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub end: End,
    pub stop: Option<Stop>,
    /// Hosts that have not confirmed what they should run: silent ones catch up when they return.
    pub unconfirmed: Vec<HostName>,
}
