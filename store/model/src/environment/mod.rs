//! The checked meaning of a `ship.ENV.toml`: how a promote goes through an environment.
//!
//! ```toml
//! version = 1
//! env = "production"
//! [after]                    # refuse what has not run well elsewhere for so long
//! env = "staging"
//! soak = "30m"
//! [labels]                   # hosts by name, `*` for any letters
//! canary = ["web-1", "eu-*"]
//! [[step]]                   # in this order; the rest of the hosts come last
//! name = "one"
//! hosts = 1                  # done when so many of the meant hosts run the release: a count, or "25%"
//! label = "canary"           # and, or, class = "web": the meant hosts; without both all that run the app
//! soak = "10m"
//! gates = ["smoke", "go"]    # then all of these must hold before the next step begins; with hosts = 0 before the first host
//! [gate.smoke]               # a program that the store's settings offer: exit 0 passes, 1 fails, else it is unknown
//! command = ["smoke", "--fast"]
//! every = "10s"
//! for = "1m"                 # it must pass for so long without a break
//! timeout = "10s"
//! fails = 2                  # so many failed checks in a row turn the rollout back
//! [gate.errors]              # a server that the store's settings offer
//! http = "http://prometheus:9090/api/v1/query?query=…"
//! json = "/data/result/0/value/1"
//! at_most = 0.01
//! [gate.go]                  # so many operators
//! approval = 2
//! others = true              # not the one who promoted
//! [gate.dns]                 # done by hand, and acknowledged by name
//! manual = "Move half of the DNS weight"
//! [policy]                   # what is not said is as store.toml says
//! max_unavailable = "25%"
//! min_healthy = 2
//! wave = "10%"
//! soak = "1m"
//! progress_deadline = "10m"
//! auto_revert = true
//! [profile.careful]          # the same keys, for `promote --profile careful`
//! soak = "1h"
//! [profile.emergency]
//! gates = false              # goes without gates; the audit says who did
//! ```

mod difference;
mod gates;
mod read;

pub use difference::{Difference, difference};
pub use read::{EnvironmentErrors, MAX_TEXT, read_environment};

use std::collections::{BTreeMap, BTreeSet};

use crate::name::{EnvName, HostName};
use crate::release::Target;
use crate::rollout::{Amount, EnvState, Policy, Profile, WayStep};

/// What an environment's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    pub env: EnvName,
    pub after: Option<After>,
    pub steps: Vec<WayStep>,
    pub policy: PolicyWords,
    pub profiles: BTreeMap<Profile, PolicyWords>,
}

/// Where a release must have run well before it comes here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    pub env: EnvName,
    /// For so long, from the end of its promote on.
    pub soak_ms: u64,
}

/// What is said of a policy; none: nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyWords {
    pub max_unavailable: Option<Amount>,
    pub min_healthy: Option<Amount>,
    pub wave: Option<Amount>,
    pub soak_ms: Option<u64>,
    pub progress_deadline_ms: Option<u64>,
    pub prefetch_deadline_ms: Option<u64>,
    pub barrier_deadline_ms: Option<u64>,
    pub switch_deadline_ms: Option<u64>,
    pub auto_revert: Option<bool>,
    pub keep: Option<u32>,
    pub optional_asset_hosts: Option<BTreeSet<HostName>>,
    /// Only of a profile: whether it goes by the environment's steps.
    pub steps: Option<bool>,
    /// Only of a profile: whether the environment's gates hold it.
    pub gates: Option<bool>,
}

/// Why a release may not come here yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    #[error("{env} takes only what ran well in {wanted}, and release {} did not", .release.number)]
    Never {
        env: EnvName,
        wanted: EnvName,
        release: Target,
    },
    #[error(
        "{env} takes only what ran well in {wanted} for {} s; release {} has for {} s", .wanted_ms / 1000, .release.number,
        .found_ms / 1000
    )]
    TooShort {
        env: EnvName,
        wanted: EnvName,
        release: Target,
        wanted_ms: u64,
        found_ms: u64,
    },
}

impl Environment {
    /// The policy of a promote by `profile`, where `store` is what holds everywhere.
    pub fn policy(&self, store: &Policy, profile: Profile) -> Policy {
        let own = Policy {
            steps: self.steps.clone(),
            ..self.policy.said_of(store.clone())
        };
        let words = self.profiles.get(&profile);
        let skips = words.is_some_and(|words| words.gates == Some(false));
        let own = if skips { own.without_gates() } else { own };
        let chosen = profile.applied(own);
        let Some(words) = words else {
            return chosen;
        };
        let steps = match words.steps {
            None => chosen.steps.clone(),
            Some(true) if skips => bare(&self.steps),
            Some(true) => self.steps.clone(),
            Some(false) => Vec::new(),
        };
        Policy {
            steps,
            ..words.said_of(chosen)
        }
    }

    /// Whether `release` may come here; `elsewhere` is what the environment before this one runs of the app.
    pub fn check_after(
        &self,
        elsewhere: Option<&EnvState>,
        release: Target,
        now_ms: u64,
    ) -> Result<(), NotProven> {
        let Some(after) = &self.after else {
            return Ok(());
        };
        let never = || NotProven::Never {
            env: self.env.clone(),
            wanted: after.env.clone(),
            release,
        };
        let since_ms = elsewhere
            .filter(|state| state.current == Some(release) && !state.is_bad(release.number))
            .and_then(|state| state.since_ms(release))
            .ok_or_else(never)?;
        let found_ms = now_ms.saturating_sub(since_ms);
        if found_ms >= after.soak_ms {
            return Ok(());
        }
        Err(NotProven::TooShort {
            env: self.env.clone(),
            wanted: after.env.clone(),
            release,
            wanted_ms: after.soak_ms,
            found_ms,
        })
    }
}

/// Steps without what ends them.
fn bare(steps: &[WayStep]) -> Vec<WayStep> {
    let bare = |step: &WayStep| WayStep {
        gates: Vec::new(),
        ..step.clone()
    };
    steps.iter().map(bare).collect()
}

impl PolicyWords {
    fn said_of(&self, policy: Policy) -> Policy {
        Policy {
            max_unavailable: self.max_unavailable.or(policy.max_unavailable),
            min_healthy: self.min_healthy.or(policy.min_healthy),
            wave: self.wave.or(policy.wave),
            soak_ms: self.soak_ms.unwrap_or(policy.soak_ms),
            progress_deadline_ms: self.progress_deadline_ms.or(policy.progress_deadline_ms),
            prefetch_deadline_ms: self.prefetch_deadline_ms.unwrap_or(policy.prefetch_deadline_ms),
            barrier_deadline_ms: self.barrier_deadline_ms.unwrap_or(policy.barrier_deadline_ms),
            switch_deadline_ms: self.switch_deadline_ms.unwrap_or(policy.switch_deadline_ms),
            auto_revert: self.auto_revert.unwrap_or(policy.auto_revert),
            keep: self.keep.unwrap_or(policy.keep),
            optional_asset_hosts: match &self.optional_asset_hosts {
                Some(hosts) => hosts.clone(),
                None => policy.optional_asset_hosts,
            },
            steps: policy.steps,
            profile: policy.profile,
            skipped_gates: policy.skipped_gates,
        }
    }
}

#[cfg(test)]
mod tests;
