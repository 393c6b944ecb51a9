//! What a plan says of each host and process: how it takes over, and the gap where there is one.

use std::sync::Arc;

use ship_model::name::HostName;
use ship_model::release::Target;
use ship_model::report::AppReport;
use ship_model::rollout::{DeployKind, HostView, Plan};
use ship_model::spec::{Gap, ProcessWay, ReleaseSpec, Tight, tight, ways};

use super::controller::Core;

/// One process on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostWay {
    pub host: HostName,
    pub way: ProcessWay,
    /// How long the host's last restart with a gap was away; none: there was none, or it is not known.
    pub gap_ms: Option<u64>,
    /// Balancers that send users elsewhere meanwhile: `haproxy`.
    pub balancers: Vec<String>,
    /// What memory lacks for two generations there.
    pub tight: Option<Tight>,
}

impl Core {
    /// The ways of a plan, by host. A release whose manifest cannot be read is told as one that nothing runs before it: what is
    /// planned was read already.
    pub async fn ways(&self, plan: &Plan) -> Vec<HostWay> {
        let (facts, views) = (Arc::clone(&self.facts), self.fleet.views(&plan.env));
        let plan = plan.clone();
        let found = self.bridge.run(move || {
            let Ok(wanted) = facts.spec(plan.to.id) else {
                return Vec::new();
            };
            let mut known: Vec<(Target, Option<ReleaseSpec>)> = Vec::new();
            let mut all = Vec::new();
            let runs = |view: &&HostView| {
                let host = plan.hosts.get(&view.name);
                host.is_some_and(|host| host.runs_app && host.excused.is_none())
            };
            for view in views.iter().filter(runs) {
                let report = view.last_report.iter().flat_map(|report| &report.apps);
                let report = report.into_iter().find(|report| report.app == plan.app);
                let running = report.map_or(plan.from, |report| report.running);
                if let Some(target) = running.filter(|target| known.iter().all(|(read, _)| read != target)) {
                    known.push((target, facts.spec(target.id).ok()));
                }
                let before = known.iter().find(|(target, _)| Some(*target) == running);
                let before = before.and_then(|(_, spec)| spec.as_ref());
                let memory = report
                    .filter(|report| may_start(&plan, report))
                    .and_then(|report| report.memory.as_ref());
                let tight = tight(before, &wanted, &view.classes, memory);
                all.extend(
                    ways(before, &wanted, &view.classes)
                        .into_iter()
                        .map(|way| HostWay {
                            host: view.name.clone(),
                            tight: tight.clone().filter(|_| way.gap.is_none()),
                            way: with_memory(way, tight.as_ref()),
                            gap_ms: report.and_then(|report| report.update.gap_ms),
                            balancers: report.map(|report| report.balancers.clone()).unwrap_or_default(),
                        }),
                );
            }
            all
        });
        found.await.unwrap_or_default()
    }
}

/// Whether the plan starts processes on that host: a way back to a generation that may still be there does not.
fn may_start(plan: &Plan, report: &AppReport) -> bool {
    plan.kind != DeployKind::Revert || report.generations <= 1
}

/// The way where memory is short: the old generation is stopped first, unless the release wants rather to fail.
fn with_memory(way: ProcessWay, tight: Option<&Tight>) -> ProcessWay {
    let first = tight.filter(|tight| !tight.fails).map(|_| Gap::Memory);
    ProcessWay {
        gap: way.gap.or(first),
        ..way
    }
}
