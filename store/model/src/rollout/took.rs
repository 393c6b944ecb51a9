//! How long each host took for its part of a rollout, so that the next plan can say how long it may take.
//!
//! Nothing decides by these times. They are read off two states in a row: when something began stands in the first one,
//! that it is done in the second. So whoever stores the second one can note them in it, also after a restart in between.

use serde::{Deserialize, Serialize};

use crate::name::HostName;
use crate::rollout::plan::PlanStep;
use crate::rollout::state::{DeployKind, EnvState, HostProgress, Rollout, Switch};

/// Milliseconds that a host took the last time; none: it never did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Took {
    /// From being told of a release that it had to fetch to having it, verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch_ms: Option<u64>,
    /// From the beginning of the asset barrier to serving the release's assets; 0: it did before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assets_ms: Option<u64>,
    /// From being asked to run a release to running it, healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch_ms: Option<u64>,
    /// The same on the way back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_ms: Option<u64>,
}

/// Notes in `after`, the state that follows `before` at `now_ms`, how long hosts took for what they have done in between.
pub fn record_times(before: &EnvState, after: &mut EnvState, now_ms: u64) {
    let (Some(was), Some(is)) = (&before.rollout, &after.rollout) else {
        return;
    };
    if was.deploy != is.deploy {
        return;
    }
    let mut news = Vec::new();
    for (name, host) in &is.hosts {
        let Some(earlier) = was.hosts.get(name) else {
            continue;
        };
        let known = after.took.get(name).copied().unwrap_or_default();
        let took = noted(known, is, name, (earlier, host), now_ms);
        if took != known {
            news.push((name.clone(), took));
        }
    }
    after.took.extend(news);
    let EnvState { took, hosts, .. } = after;
    took.retain(|name, _| hosts.contains_key(name));
}

fn noted(
    mut took: Took,
    rollout: &Rollout,
    name: &HostName,
    (was, is): (&HostProgress, &HostProgress),
    now_ms: u64,
) -> Took {
    let since = |began_ms: u64| Some(now_ms.saturating_sub(began_ms));
    let promotes = rollout.plan.kind == DeployKind::Promote;
    match (was.switch, is.switch) {
        (Switch::Asked { at_ms, .. }, Switch::Running { .. }) if promotes => took.switch_ms = since(at_ms),
        (Switch::Asked { at_ms, .. }, Switch::Running { .. })
        | (Switch::BackAsked { at_ms, .. }, Switch::Back) => took.back_ms = since(at_ms),
        _ => {}
    }
    // What lay there already says nothing about fetching.
    let fetched = rollout.plan.hosts.get(name).and_then(|host| host.new_bytes) != Some(0);
    if promotes && fetched && !was.staged && is.staged {
        let began = began_ms(rollout, |step| matches!(step, PlanStep::Prefetch { .. }));
        took.prefetch_ms = began.and_then(since).or(took.prefetch_ms);
    }
    if promotes && !was.assets && is.assets {
        let began = began_ms(rollout, |step| matches!(step, PlanStep::Assets { .. }));
        took.assets_ms = Some(began.map_or(0, |began| now_ms.saturating_sub(began)));
    }
    took
}

/// When the step that `is` tells began; none: it has not.
fn began_ms(rollout: &Rollout, is: impl Fn(&PlanStep) -> bool) -> Option<u64> {
    let at = rollout.plan.steps.iter().position(is)?;
    rollout.times.get(at).map(|time| time.started_ms)
}
