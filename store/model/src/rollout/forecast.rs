//! What a plan is expected to take, what going back costs from each step on, and what could not be taken back.

use std::collections::BTreeMap;
use std::fmt;

use crate::name::{AppName, HostName};
use crate::release::{ReleaseNumber, Target};
use crate::rollout::hosts::HostView;
use crate::rollout::plan::{Plan, PlanStep, ReleaseInfo};
use crate::rollout::state::{DeployKind, EnvState};
use crate::rollout::took::Took;

/// What is expected of a plan; by what hosts took the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// One for each step of the plan.
    pub steps: Vec<StepForecast>,
    /// What a revert goes to when all is done; none: nothing.
    pub then: Option<Target>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepForecast {
    /// Its soak included; none: unknown, for a host never did it before, or people are waited for.
    pub takes_ms: Option<u64>,
    /// What it costs to go back when this step is done. None: this is a way back itself.
    pub back: Option<GoingBack>,
    /// What cannot be taken back from this step on.
    pub no_return: Option<NoReturn>,
}

/// Touched hosts going back to what they ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GoingBack {
    /// Empty: nothing was switched, so there is nothing to do.
    pub hosts: Vec<HostName>,
    /// What most of them go to; none: nothing ran there before.
    pub to: Option<Target>,
    /// Those that do not have it any more and must fetch it first.
    pub fetch: Vec<HostName>,
    /// None: unknown.
    pub takes_ms: Option<u64>,
}

/// Why there is no way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoReturn {
    /// Nothing ran here before: it can be stopped, there is nothing to go back to.
    First { app: AppName },
    /// These hosts do not have what they ran, and nobody has its content.
    Gone {
        app: AppName,
        release: ReleaseNumber,
        hosts: Vec<HostName>,
    },
}

impl fmt::Display for NoReturn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First { app } => write!(
                f,
                "nothing of {app} ran here before: there is nothing to go back to"
            ),
            Self::Gone { app, release, hosts } => {
                let hosts: Vec<_> = hosts.iter().map(HostName::as_str).collect();
                let hosts = hosts.join(", ");
                write!(
                    f,
                    "{hosts} cannot go back to {app}@{release}: its content was collected"
                )
            }
        }
    }
}

/// How long each step of a plan takes, its soak included; none: unknown.
pub fn takes(plan: &Plan, took: &BTreeMap<HostName, Took>) -> Vec<Option<u64>> {
    let of = |hosts: &[HostName], time: &dyn Fn(&HostName, Took) -> Option<u64>| {
        slowest(hosts, |name| {
            time(name, took.get(name).copied().unwrap_or_default())
        })
    };
    let step = |step: &PlanStep| match step {
        PlanStep::Check => Some(0),
        PlanStep::Prefetch { hosts } => of(hosts, &|name, took| {
            let new = plan.hosts.get(name).and_then(|host| host.new_bytes);
            new.filter(|new| *new == 0).or(took.prefetch_ms)
        }),
        PlanStep::Assets { hosts } => of(hosts, &|_, took| took.assets_ms),
        PlanStep::Wave { hosts, soak_ms, .. } => {
            let one = of(hosts, &|_, took| match plan.kind {
                DeployKind::Promote => took.switch_ms,
                DeployKind::Revert => took.back_ms.or(took.switch_ms),
            });
            one.map(|one| in_turns(plan, hosts.len(), one).saturating_add(*soak_ms))
        }
        // Nobody knows how long people take.
        PlanStep::Gate { gates, .. } => {
            let mut longest = gates.iter().map(|gate| Some(gate.pace()?.for_ms));
            longest.try_fold(0, |longest: u64, one| Some(longest.max(one?)))
        }
    };
    plan.steps.iter().map(step).collect()
}

fn slowest(hosts: &[HostName], time: impl Fn(&HostName) -> Option<u64>) -> Option<u64> {
    hosts
        .iter()
        .try_fold(0, |slowest: u64, host| Some(slowest.max(time(host)?)))
}

/// Only so many hosts are away at once.
fn in_turns(plan: &Plan, hosts: usize, one_ms: u64) -> u64 {
    let turns = hosts.div_ceil(plan.max_unavailable.max(1) as usize);
    one_ms.saturating_mul(turns as u64)
}

/// What to expect of `plan`, made from the same facts.
pub fn forecast(
    plan: &Plan,
    state: &EnvState,
    hosts: &[HostView],
    releases: &BTreeMap<ReleaseNumber, ReleaseInfo>,
) -> Forecast {
    let is_kept = |number: ReleaseNumber| {
        let info = releases.get(&number);
        info.is_none_or(|info| info.content.is_kept())
    };
    let before = Before::of(state, hosts);
    let mut touched: Vec<HostName> = Vec::new();
    let steps = plan.steps.iter().zip(takes(plan, &state.took));
    let steps = steps.map(|(step, takes_ms)| {
        if plan.kind == DeployKind::Revert {
            return StepForecast {
                takes_ms,
                ..StepForecast::default()
            };
        }
        let wave: &[HostName] = match step {
            PlanStep::Wave { hosts, .. } => hosts,
            PlanStep::Check | PlanStep::Prefetch { .. } | PlanStep::Assets { .. } | PlanStep::Gate { .. } => {
                &[]
            }
        };
        let is_first = touched.is_empty() && !wave.is_empty();
        touched.extend(wave.iter().cloned());
        let no_return = match plan.from {
            None if is_first => Some(NoReturn::First {
                app: plan.app.clone(),
            }),
            _ => before.gone(plan, wave, is_kept),
        };
        StepForecast {
            takes_ms,
            back: Some(before.going_back(plan, state, &touched)),
            no_return,
        }
    });
    Forecast {
        steps: steps.collect(),
        then: state.last_good_where(plan.to, is_kept),
    }
}

/// What hosts run before a plan begins, and whether they could go back to it by themselves.
struct Before {
    hosts: BTreeMap<HostName, (Target, bool)>,
}

impl Before {
    fn of(state: &EnvState, hosts: &[HostView]) -> Self {
        let run = |host: &HostView| {
            let run = state.hosts.get(&host.name).and_then(|target| target.run)?;
            let mut apps = host.last_report.iter().flat_map(|report| &report.apps);
            let said = apps.find(|said| said.app == state.app);
            // What runs lies there.
            let has = said.is_some_and(|said| said.running == Some(run) || said.staged.contains(&run));
            Some((host.name.clone(), (run, has)))
        };
        Self {
            hosts: hosts.iter().filter_map(run).collect(),
        }
    }

    fn lacks(&self, host: &HostName) -> Option<Target> {
        self.hosts.get(host).filter(|(_, has)| !has).map(|(run, _)| *run)
    }

    fn going_back(&self, plan: &Plan, state: &EnvState, touched: &[HostName]) -> GoingBack {
        let back = |host: &HostName| {
            let took = state.took.get(host).copied().unwrap_or_default();
            took.back_ms.or(took.switch_ms)
        };
        GoingBack {
            hosts: touched.to_vec(),
            to: plan.from.filter(|_| !touched.is_empty()),
            fetch: touched
                .iter()
                .filter(|host| self.lacks(host).is_some())
                .cloned()
                .collect(),
            takes_ms: slowest(touched, back).map(|one| in_turns(plan, touched.len(), one)),
        }
    }

    fn gone(
        &self,
        plan: &Plan,
        wave: &[HostName],
        is_kept: impl Fn(ReleaseNumber) -> bool,
    ) -> Option<NoReturn> {
        let lost = |host: &HostName| {
            self.lacks(host)
                .filter(|run| !is_kept(run.number) && *run != plan.to)
        };
        let release = wave.iter().find_map(lost)?.number;
        Some(NoReturn::Gone {
            app: plan.app.clone(),
            release,
            hosts: wave.iter().filter(|host| lost(host).is_some()).cloned().collect(),
        })
    }
}
