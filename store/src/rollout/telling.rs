//! What a step of a rollout is to others: links of the audit chain, and lines in the log.

use ship_model::rollout::{Effect, EnvState, Happening, RolloutEvent};

use crate::ledger::Act;

/// The links of the audit chain for what a step did: what operators asked, and how rollouts ended.
pub fn acts(state: &EnvState, effects: &[Effect], at_ms: u64) -> Vec<Act> {
    let subject = format!("{}/{}", state.env, state.app);
    let act = |who: &str, what: &str, detail: String| Act {
        at_ms,
        who: who.to_owned(),
        what: what.to_owned(),
        subject: subject.clone(),
        detail,
    };
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Audit { who, what, why } => Some(act(who, what, why.clone().unwrap_or_default())),
        Effect::Announce(event) => {
            let detail = trouble(event)?;
            Some(act("store", &format!("deploy {}", event.deploy), detail))
        }
        _ => None,
    });
    told.collect()
}

/// What happened on the way; how it ended is audited by the rollout itself.
fn trouble(event: &RolloutEvent) -> Option<String> {
    match &event.what {
        Happening::HostFailed {
            host, step, reason, ..
        } => Some(format!("{host} failed in {step}: {reason}")),
        Happening::TurnedBack { reason } => Some(format!("turned back: {reason}")),
        _ => None,
    }
}

/// Says in the log what a step announced.
pub fn tell(state: &EnvState, effects: &[Effect]) {
    for effect in effects {
        let Effect::Announce(event) = effect else { continue };
        let release = state
            .rollout
            .as_ref()
            .map_or(0, |rollout| rollout.plan.to.number.0);
        tracing::info!(
            app = %state.app, env = %state.env, release, deploy = event.deploy.0,
            happening = ?event.what, "rollout"
        );
    }
}
