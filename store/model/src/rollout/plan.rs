//! The immutable plan: a pure function of what runs, who is there, what was asked, and policy.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::desired::{DeployNumber, Epoch};
use crate::digest::PlanId;
use crate::name::{AppName, ClassName, EnvName, HostName};
use crate::release::{ReleaseNumber, Target};
use crate::rollout::drift::Drift;
use crate::rollout::gates::Gate;
use crate::rollout::policy::Policy;
use crate::rollout::state::DeployKind;
use crate::spec::ReleaseSpec;

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub wish: Wish,
    /// Promote a release that was reverted from or quarantined all the same.
    pub force: bool,
    pub message: Option<String>,
    /// Hosts that nothing shall wait for, by the operator's word.
    pub without: BTreeSet<HostName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// None: the newest release.
    Promote { release: Option<ReleaseNumber> },
    /// None: the last good release older than the running one.
    Revert { to: Option<ReleaseNumber> },
}

/// What planning must know of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseInfo {
    pub target: Target,
    /// Hosts of any of these classes run it.
    pub classes: BTreeSet<ClassName>,
    /// Empty: any.
    pub platform: Vec<String>,
    /// `[retention] keep`: releases kept on hosts while this one runs; none: as policy says.
    pub keep: Option<u32>,
    /// How long its own words let a switch to it or from it take on one host.
    pub switch_waits_ms: u64,
    pub content: Content,
}

/// Whether the store has a release's content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Content {
    #[default]
    Kept,
    /// Nothing kept it any longer. Nobody can be told to run it.
    Collected {
        /// Some of its fingerprinted assets are promised still: hosts are to have them.
        assets: bool,
        /// The newest release of the same tree whose content is there.
        again: Option<ReleaseNumber>,
    },
}

impl Content {
    pub const fn is_kept(self) -> bool {
        matches!(self, Self::Kept)
    }

    /// Whether hosts are to have assets of the release.
    pub const fn has_assets(self) -> bool {
        matches!(self, Self::Kept | Self::Collected { assets: true, .. })
    }
}

impl ReleaseInfo {
    /// Whether a host of these classes runs it.
    pub fn runs_on(&self, classes: &[ClassName]) -> bool {
        classes.iter().any(|class| self.classes.contains(class))
    }

    /// Static releases run on the hosts of class `web`.
    pub fn of(target: Target, spec: &ReleaseSpec) -> Self {
        let mut classes: BTreeSet<_> = spec
            .processes
            .values()
            .map(|process| process.class.clone())
            .collect();
        if classes.is_empty() {
            classes.extend(ClassName::new("web"));
        }
        Self {
            target,
            classes,
            platform: spec.platform.clone(),
            keep: spec.keep,
            switch_waits_ms: spec.switch_waits_ms(),
            content: Content::Kept,
        }
    }
}

/// What a rollout will do, step by step. Never changed once made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The hash of everything below but the message, which may be given when it begins.
    pub id: PlanId,
    pub env: EnvName,
    pub app: AppName,
    pub kind: DeployKind,
    /// The environment's epoch when this was made; it runs only if that is still so.
    pub parent: Epoch,
    pub from: Option<Target>,
    pub to: Target,
    pub steps: Vec<PlanStep>,
    pub hosts: BTreeMap<HostName, PlannedHost>,
    /// Releases whose assets stand everywhere from now on.
    pub assets: Vec<Target>,
    /// App hosts that may be away at once.
    pub max_unavailable: u32,
    /// App hosts that must go on serving while others are switched.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min_healthy: u32,
    pub policy: Policy,
    pub message: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Plan {
    /// Whether no wave comes after this step.
    pub(super) fn is_last_wave(&self, step: usize) -> bool {
        let later = self.steps.iter().skip(step + 1);
        !later
            .into_iter()
            .any(|step| matches!(step, PlanStep::Wave { .. }))
    }

    /// What its content is known by.
    pub(super) fn identified(&self) -> PlanId {
        let nameless = Self {
            id: PlanId::from_bytes([0; 32]),
            message: None,
            ..self.clone()
        };
        // Every field has a JSON form: names are text, and no map has other keys.
        PlanId::of(&serde_json::to_vec(&nameless).unwrap_or_default())
    }
}

/// One step; the same list is the plan and the progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "lowercase")]
pub enum PlanStep {
    /// Planning itself was the check: it is done when the rollout starts.
    Check,
    /// These hosts unpack and verify the release; nothing is switched.
    Prefetch { hosts: Vec<HostName> },
    /// These hosts must serve the release's assets before any app host is switched.
    Assets { hosts: Vec<HostName> },
    /// These hosts are switched, as many at once as policy allows, and must stay healthy for `soak_ms`.
    Wave {
        hosts: Vec<HostName>,
        soak_ms: u64,
        /// What the environment calls it; none: it has no steps of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// All of these must hold before the next step begins; `name` is that of the environment's step which they end.
    Gate { name: String, gates: Vec<Gate> },
}

impl PlanStep {
    /// The hosts it is about.
    pub fn hosts(&self) -> &[HostName] {
        match self {
            Self::Check | Self::Gate { .. } => &[],
            Self::Prefetch { hosts } | Self::Assets { hosts } | Self::Wave { hosts, .. } => hosts,
        }
    }
}

/// Why nothing waits for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Excuse {
    /// It does not report: unknown, neither healthy nor dead. It goes with the last wave if it returns.
    Away,
    /// An operator left it out by name.
    LeftOut,
    /// An operator keeps it out of rotation: it serves nobody, and is never first to run a release.
    Drained,
}

impl std::fmt::Display for Excuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Away => "does not report",
            Self::LeftOut => "left out by name",
            Self::Drained => "drained",
        })
    }
}

/// What a plan says of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedHost {
    pub runs_app: bool,
    /// Why nothing waits for it.
    pub excused: Option<Excuse>,
    /// Set where somebody reverted on the host itself: it keeps running this until its wave.
    pub held_on: Option<Target>,
    /// What it runs, by its last report; none: nothing, or it was not heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<Target>,
    /// Bytes it will fetch, where that is known.
    pub new_bytes: Option<u64>,
    /// Bytes it has already, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_bytes: Option<u64>,
}

impl PlannedHost {
    pub fn bytes(&self) -> Option<ByteShare> {
        let (new, shared) = (self.new_bytes?, self.shared_bytes?);
        Some(ByteShare { new, shared })
    }
}

/// How much of a release a host has already, in bytes of content: what is transferred is smaller by compression.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteShare {
    /// Fetched.
    pub new: u64,
    /// Linked or copied from releases that lie on the host.
    pub shared: u64,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefused {
    #[error("{app} has no release {release}: `shipctl releases {app}` lists them")]
    UnknownRelease { app: AppName, release: ReleaseNumber },
    #[error("the content of {app}@{release} was collected: {}", next(*.again))]
    Collected {
        app: AppName,
        release: ReleaseNumber,
        again: Option<ReleaseNumber>,
    },
    #[error("{app} has no release yet: publish one first")]
    NothingPublished { app: AppName },
    #[error("{env} runs {app}@{release} already")]
    AlreadyRuns {
        env: EnvName,
        app: AppName,
        release: ReleaseNumber,
    },
    #[error(
        "another rollout is under way in {env}: deploy {deploy}, {app}@{release} by {who}; wait for it, abort it, or revert"
    )]
    Busy {
        env: EnvName,
        app: AppName,
        release: ReleaseNumber,
        deploy: DeployNumber,
        who: String,
        since_ms: u64,
    },
    #[error("{env} has no host of class {}", list(.classes))]
    NoHosts { env: EnvName, classes: Vec<ClassName> },
    #[error(
        "{} of {total} app hosts are away, {allowed} may be: {}; see `shipctl hosts`, or leave them out by name",
        .away.len(), list(.away)
    )]
    TooManyAway {
        away: Vec<HostName>,
        total: usize,
        allowed: u32,
    },
    #[error(
        "asset hosts are away and may still be asked for assets: {}; bring them back, leave them out by name, or say in optional_asset_hosts that nothing waits for them",
        list(.hosts)
    )]
    AssetHostsAway { hosts: Vec<HostName> },
    #[error("every host that would run it is drained: {}; take one back first", list(.hosts))]
    AllDrained { hosts: Vec<HostName> },
    #[error("{app}@{release} was taken back in deploy {deploy}: {reason}; force it if you are sure")]
    Bad {
        app: AppName,
        release: ReleaseNumber,
        deploy: DeployNumber,
        reason: String,
    },
    #[error("{env} has nothing to revert to: no older release of {app} ran well there")]
    NothingToRevertTo { env: EnvName, app: AppName },
    #[error("{app}@{release} is for {}; {} is {found}", list(.wants), .host)]
    Platform {
        app: AppName,
        release: ReleaseNumber,
        wants: Vec<String>,
        host: HostName,
        found: String,
    },
    #[error(
        "policy lets no host be away ({total} app hosts, {min_healthy} must stay healthy): no switch is possible"
    )]
    PolicyAllowsNone { total: usize, min_healthy: u32 },
    #[error("step {step:?} of {env} is about {}, and no host there has such a name", .names.join(", "))]
    StepWithoutHosts {
        env: EnvName,
        step: String,
        names: Vec<String>,
    },
    #[error("{}", crate::rollout::drift::words(.drifts))]
    Drifted { drifts: Vec<Drift> },
}

fn next(again: Option<ReleaseNumber>) -> String {
    match again {
        Some(number) => format!("the same tree is release {number}"),
        None => "publish its tree again, as a new release".to_owned(),
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
