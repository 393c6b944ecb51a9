//! Who takes part in a rollout, in what order, and whether enough of them are there.

use std::collections::{BTreeMap, BTreeSet};

use super::ASSET_CLASS;
use crate::host::HostState;
use crate::name::{ClassName, HostName};
use crate::release::Target;
use crate::rollout::hosts::HostView;
use crate::rollout::plan::{Excuse, PlanRefused, PlanStep, PlannedHost, ReleaseInfo, Request};
use crate::rollout::policy::{Policy, WayStep};
use crate::rollout::state::{DeployKind, EnvState};

/// The hosts a release concerns, by their part in it; each list sorted by name.
pub(super) struct Split<'a> {
    app: Vec<&'a HostView>,
    /// Hold assets and do not run the app.
    assets: Vec<&'a HostView>,
    classes: Vec<ClassName>,
    /// Every host of the environment that is not leaving.
    known: Vec<&'a HostView>,
    without: &'a BTreeSet<HostName>,
}

impl<'a> Split<'a> {
    pub fn new(hosts: &'a [HostView], release: &ReleaseInfo, request: &'a Request) -> Self {
        let mut present: Vec<_> = hosts.iter().filter(|host| !host.state.is_leaving()).collect();
        present.sort_by(|a, b| a.name.cmp(&b.name));
        let known = present.clone();
        let runs = |host: &&HostView| release.runs_on(&host.classes);
        let (app, other): (Vec<_>, Vec<_>) = present.into_iter().partition(runs);
        let holds = |host: &&HostView| host.classes.iter().any(|class| class.as_str() == ASSET_CLASS);
        Self {
            app,
            assets: other.into_iter().filter(holds).collect(),
            classes: release.classes.iter().cloned().collect(),
            known,
            without: &request.without,
        }
    }

    pub fn check(&self, state: &EnvState, release: &ReleaseInfo) -> Result<(), PlanRefused> {
        if self.app.is_empty() {
            return Err(PlanRefused::NoHosts {
                env: state.env.clone(),
                classes: self.classes.clone(),
            });
        }
        let unfit = self.app.iter().find_map(|host| {
            let found = host.platform.as_ref()?;
            let fits = release.platform.is_empty() || release.platform.contains(found);
            (!fits).then_some((host, found))
        });
        match unfit {
            None => Ok(()),
            Some((host, found)) => Err(PlanRefused::Platform {
                app: state.app.clone(),
                release: release.target.number,
                wants: release.platform.clone(),
                host: host.name.clone(),
                found: found.clone(),
            }),
        }
    }

    fn excuse(&self, host: &HostView) -> Option<Excuse> {
        let away = host.state.is_away();
        if self.without.contains(&host.name) {
            Some(Excuse::LeftOut)
        } else if host.drained {
            Some(Excuse::Drained)
        } else {
            (away || host.last_seen_ms.is_none()).then_some(Excuse::Away)
        }
    }

    fn away<'b>(&'b self, hosts: &'b [&'a HostView]) -> impl Iterator<Item = &'b &'a HostView> {
        hosts
            .iter()
            .filter(|host| self.excuse(host) == Some(Excuse::Away))
    }

    /// App hosts that count: all but those left out by name, and those that are drained and serve nobody.
    pub fn counted(&self) -> usize {
        let counts =
            |host: &&&HostView| !matches!(self.excuse(host), Some(Excuse::LeftOut | Excuse::Drained));
        self.app.iter().filter(counts).count()
    }

    pub fn allowed(&self, kind: DeployKind, policy: &Policy) -> Result<u32, PlanRefused> {
        let total = self.counted();
        let drained = self.app.iter().filter(|host| host.drained);
        let drained: Vec<_> = drained.map(|host| host.name.clone()).collect();
        match policy.allowed_away(total) {
            // The way back is open, whoever is drained.
            0 if total == 0 && !drained.is_empty() => match kind {
                DeployKind::Revert => Ok(1),
                DeployKind::Promote => Err(PlanRefused::AllDrained { hosts: drained }),
            },
            0 => Err(PlanRefused::PolicyAllowsNone {
                total,
                min_healthy: policy.must_stay(total),
            }),
            allowed => Ok(allowed),
        }
    }

    /// A step's names are typed by hand: what means nobody is a slip of the pen, and would leave out the careful part.
    pub fn check_steps(&self, state: &EnvState, policy: &Policy) -> Result<(), PlanRefused> {
        let means_none = |step: &&WayStep| !self.known.iter().any(|host| step.names(&host.name));
        match policy.steps.iter().find(means_none) {
            None => Ok(()),
            Some(step) => Err(PlanRefused::StepWithoutHosts {
                env: state.env.clone(),
                step: step.name.clone(),
                names: step.names.clone(),
            }),
        }
    }

    pub fn check_presence(&self, allowed: u32, policy: &Policy) -> Result<(), PlanRefused> {
        let away: Vec<_> = self.away(&self.app).map(|host| host.name.clone()).collect();
        let total = self.counted();
        if away.len() > allowed as usize || away.len() >= total {
            return Err(PlanRefused::TooManyAway { away, total, allowed });
        }
        let min_healthy = policy.must_stay(total);
        if min_healthy > 0 && total - away.len() <= min_healthy as usize {
            return Err(PlanRefused::PolicyAllowsNone {
                total: total - away.len(),
                min_healthy,
            });
        }
        // An asset host that is silent to us may still be asked by users: nothing excuses it but its name.
        let required = |host: &&&HostView| !policy.optional_asset_hosts.contains(&host.name);
        let away = self.away(&self.assets).filter(required);
        let hosts: Vec<_> = away.map(|host| host.name.clone()).collect();
        if hosts.is_empty() {
            Ok(())
        } else {
            Err(PlanRefused::AssetHostsAway { hosts })
        }
    }

    pub fn steps(&self, kind: DeployKind, allowed: u32, policy: &Policy) -> Vec<PlanStep> {
        let awaited = |hosts: &[&HostView]| -> Vec<HostName> {
            let there = hosts.iter().filter(|host| self.excuse(host).is_none());
            there.map(|host| host.name.clone()).collect()
        };
        let app = awaited(&self.app);
        if kind == DeployKind::Revert {
            let hosts = self.app.iter().map(|host| host.name.clone()).collect();
            return vec![
                PlanStep::Check,
                PlanStep::Wave {
                    hosts,
                    soak_ms: 0,
                    name: None,
                },
            ];
        }
        let mut holders = app.clone();
        holders.extend(awaited(&self.assets));
        let mut steps = vec![
            PlanStep::Check,
            PlanStep::Prefetch { hosts: app.clone() },
            PlanStep::Assets { hosts: holders },
        ];
        let excused = self.away(&self.app).count();
        let batch = policy.wave_of((allowed as usize).saturating_sub(excused), self.counted());
        steps.extend(match policy.steps[..] {
            [] => self.waves(app, batch, policy),
            _ => self.way(app, batch, policy),
        });
        steps
    }

    /// One host first, one that is well if there is one; then the rest.
    fn waves(&self, mut app: Vec<HostName>, batch: usize, policy: &Policy) -> Vec<PlanStep> {
        if app.is_empty() {
            return Vec::new();
        }
        let first = app.remove(app.iter().position(|name| self.is_well(name)).unwrap_or(0));
        let rest = app.chunks(batch).map(<[_]>::to_vec);
        let waves = std::iter::once(vec![first]).chain(rest);
        waves
            .map(|hosts| PlanStep::Wave {
                hosts,
                soak_ms: policy.soak_ms,
                name: None,
            })
            .collect()
    }

    fn is_well(&self, name: &HostName) -> bool {
        let host = self.app.iter().find(|host| host.name == *name);
        host.is_some_and(|host| host.state == HostState::Available)
    }

    /// Step by step as the environment says, each in waves of at most `batch`; whoever no step took comes last.
    fn way(&self, mut left: Vec<HostName>, batch: usize, policy: &Policy) -> Vec<PlanStep> {
        // The first to try it are well, as far as there is a choice.
        left.sort_by_key(|name| !self.is_well(name));
        let all = left.clone();
        let mut waves = Vec::new();
        for step in &policy.steps {
            let meant: Vec<&HostName> = all.iter().filter(|name| self.is_meant(step, name)).collect();
            let until = step
                .until
                .at_least(u32::try_from(meant.len()).unwrap_or(u32::MAX)) as usize;
            let (to_come, gone): (Vec<&HostName>, Vec<&HostName>) =
                meant.into_iter().partition(|name| left.contains(name));
            let take = until.saturating_sub(gone.len()).min(to_come.len());
            let taken: Vec<HostName> = to_come.into_iter().take(take).cloned().collect();
            left.retain(|name| !taken.contains(name));
            waves.extend(named_waves(
                &step.name,
                &taken,
                batch,
                policy.soak_ms,
                step.soak_ms,
            ));
            // Whether its hosts were there or not: what must hold must hold.
            if !step.gates.is_empty() {
                waves.push(PlanStep::Gate {
                    name: step.name.clone(),
                    gates: step.gates.clone(),
                });
            }
        }
        waves.extend(named_waves("the rest", &left, batch, policy.soak_ms, None));
        waves
    }

    fn is_meant(&self, step: &WayStep, name: &HostName) -> bool {
        let of_class = |class: &ClassName| {
            let host = self.app.iter().find(|host| host.name == *name);
            host.is_some_and(|host| host.has_class(class))
        };
        step.names(name) && step.class.as_ref().is_none_or(of_class)
    }

    pub fn planned(&self, state: &EnvState) -> BTreeMap<HostName, PlannedHost> {
        let app = self.app.iter().map(|host| (host, true));
        let all = app.chain(self.assets.iter().map(|host| (host, false)));
        all.map(|(host, runs_app)| {
            let bytes = host.bytes.filter(|_| runs_app);
            let planned = PlannedHost {
                runs_app,
                excused: self.excuse(host),
                held_on: held_on(state, host),
                runs: runs(state, host).filter(|_| runs_app),
                new_bytes: bytes.map(|share| share.new),
                shared_bytes: bytes.map(|share| share.shared),
            };
            (host.name.clone(), planned)
        })
        .collect()
    }
}

/// The waves of one step; the last one soaks as long as the step says.
fn named_waves(
    name: &str,
    hosts: &[HostName],
    batch: usize,
    soak_ms: u64,
    last_soak_ms: Option<u64>,
) -> Vec<PlanStep> {
    let count = hosts.chunks(batch).len();
    let waves = (1..).zip(hosts.chunks(batch));
    waves
        .map(|(nth, hosts)| PlanStep::Wave {
            hosts: hosts.to_vec(),
            soak_ms: last_soak_ms.filter(|_| nth == count).unwrap_or(soak_ms),
            name: Some(match count {
                1 => name.to_owned(),
                _ => format!("{name} {nth}/{count}"),
            }),
        })
        .collect()
}

fn runs(state: &EnvState, host: &HostView) -> Option<Target> {
    let report = host.last_report.as_ref()?;
    report.apps.iter().find(|report| report.app == state.app)?.running
}

/// What somebody reverted `host` to, on the host, while it is told to run something else.
fn held_on(state: &EnvState, host: &HostView) -> Option<Target> {
    let report = host.last_report.as_ref()?;
    let app = report.apps.iter().find(|report| report.app == state.app)?;
    let held = app.held.as_ref()?;
    let told = state.hosts.get(&host.name).and_then(|target| target.run);
    (told != Some(held.to)).then_some(held.to)
}
