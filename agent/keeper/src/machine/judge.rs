//! Whether a request is taken. Nothing changes here.

use super::{Cause, RisingPhase, State};
use crate::protocol::{Intent, Refusal};

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Begin.
    Accept,
    /// It is so, or on its way.
    Already,
    /// It runs already, under an older epoch or deploy: only these are renewed.
    Renew,
    /// No, and why, for programs and for people.
    Refuse(Refusal, String),
}

fn refuse(refusal: Refusal, message: impl Into<String>) -> Verdict {
    Verdict::Refuse(refusal, message.into())
}

/// Judges a switch by fence and state.
#[must_use]
pub fn judge_switch(state: &State, intent: &Intent) -> Verdict {
    if state.stopping {
        return refuse(
            Refusal::Stopping,
            "the app is being stopped; start the keeper again afterwards",
        );
    }
    let newest = state.epoch;
    if intent.epoch < newest {
        let message = format!("epoch {} is older than {newest}, the newest taken", intent.epoch);
        return refuse(Refusal::StaleEpoch { newest }, message);
    }
    let held = state
        .held
        .as_ref()
        .filter(|held| held.epoch >= intent.epoch && held.release == intent.release);
    if let Some(held) = held {
        let message = format!(
            "release {} is held ({}); a newer epoch than {} is needed",
            held.release, held.reason, held.epoch
        );
        return refuse(
            Refusal::Held {
                epoch: held.epoch,
                release: held.release,
            },
            message,
        );
    }
    if on_its_way(state).is_some_and(|other| same(other, intent)) {
        return Verdict::Already;
    }
    let running = state.active.as_ref().map(|generation| &generation.intent);
    if on_its_way(state).is_none() && running.is_some_and(|running| same(running, intent)) {
        let renewed =
            running.is_some_and(|running| running.epoch != intent.epoch || running.deploy != intent.deploy);
        return if renewed { Verdict::Renew } else { Verdict::Already };
    }
    let taken = running.is_some_and(|running| !running.is_adopted()) || on_its_way(state).is_some();
    if intent.epoch == newest && taken {
        let message = format!("epoch {newest} was taken for another release; a newer epoch is needed");
        return refuse(Refusal::StaleEpoch { newest }, message);
    }
    Verdict::Accept
}

/// Judges whether a process may be looked after that no keeper has started: only where nothing else is.
#[must_use]
pub fn judge_adopt(state: &State, pid: u32) -> Verdict {
    if state.stopping {
        return refuse(
            Refusal::Stopping,
            "the app is being stopped; start the keeper again afterwards",
        );
    }
    if let Some(active) = &state.active {
        let its = |slot: &super::Slot| slot.process.is_some_and(|process| process.pid == pid);
        if active.slots.iter().any(its) {
            return Verdict::Already;
        }
        let runs = match active.intent.is_adopted() {
            true => "another adopted process".to_owned(),
            false => format!("release {}", active.intent.release),
        };
        let message = format!("{runs} runs here already; an app has one main process at a time");
        return refuse(Refusal::BadIntent, message);
    }
    if on_its_way(state).is_some() || state.rising.is_some() || !state.retiring.is_empty() {
        let message = "something starts or ends here at this moment; try again when that is over";
        return refuse(Refusal::BadIntent, message);
    }
    Verdict::Accept
}

/// Judges a revert by fence and state. `to` is the wanted release.
#[must_use]
pub fn judge_revert(state: &State, to: Option<u64>, epoch: Option<u64>) -> Verdict {
    if state.stopping {
        return refuse(
            Refusal::Stopping,
            "the app is being stopped; start the keeper again afterwards",
        );
    }
    let newest = state.epoch;
    if let Some(epoch) = epoch.filter(|epoch| *epoch < newest) {
        let message = format!("epoch {epoch} is older than {newest}, the newest taken");
        return refuse(Refusal::StaleEpoch { newest }, message);
    }
    let Some(active) = &state.active else {
        return refuse(
            Refusal::NothingToRevertTo,
            "nothing runs, so there is nothing to revert from",
        );
    };
    let rising = on_its_way(state).is_some();
    if active.intent.is_adopted() && !rising {
        return refuse(
            Refusal::NothingToRevertTo,
            "an adopted process runs, and no release was there before it; nothing to revert to",
        );
    }
    match to {
        to if state.adopted_is_warm_for(to) => Verdict::Accept,
        None if rising || state.revert_target().is_some() => Verdict::Accept,
        None => refuse(
            Refusal::NothingToRevertTo,
            format!(
                "release {} is the oldest good one known here; nothing to revert to",
                active.intent.release
            ),
        ),
        Some(to) if to == active.intent.release => {
            if rising {
                Verdict::Accept
            } else {
                Verdict::Already
            }
        }
        Some(to) if reverts_to(state) == Some(to) => Verdict::Already,
        Some(to) if state.good.iter().any(|intent| intent.release == to) => Verdict::Accept,
        Some(to) => refuse(
            Refusal::NothingToRevertTo,
            format!("release {to} never ran here, or its folder is gone; promote it instead"),
        ),
    }
}

/// Judges the word that users were led elsewhere on the way to `release`.
#[must_use]
pub fn judge_may_clear(state: &State, release: u64) -> Verdict {
    let rising = state.rising.as_ref();
    let rising = rising.filter(|rising| rising.generation.intent.release == release);
    match rising {
        Some(rising) if rising.phase == RisingPhase::Announced => Verdict::Accept,
        Some(rising) if rising.may_clear && rising.phase != RisingPhase::Aborting => Verdict::Already,
        _ => refuse(
            Refusal::NothingAnnounced,
            format!("no gap is announced on the way to release {release}, or its time is over"),
        ),
    }
}

/// What shall run next, if anything is on its way.
fn on_its_way(state: &State) -> Option<&Intent> {
    let queued = state.queued.as_ref().map(|queued| &queued.intent);
    let rising = || {
        let rising = state.rising.as_ref()?;
        (rising.phase != RisingPhase::Aborting).then_some(&rising.generation.intent)
    };
    queued.or_else(rising)
}

/// Where a revert that is under way goes.
fn reverts_to(state: &State) -> Option<u64> {
    let queued = state
        .queued
        .as_ref()
        .map(|queued| (&queued.cause, &queued.intent));
    let rising = || {
        let rising = state.rising.as_ref()?;
        (rising.phase != RisingPhase::Aborting).then_some((&rising.cause, &rising.generation.intent))
    };
    let (cause, intent) = queued.or_else(rising)?;
    matches!(cause, Cause::Revert(_)).then_some(intent.release)
}

/// Whether two intents would run the same thing in the same way.
fn same(one: &Intent, other: &Intent) -> bool {
    one.release == other.release
        && one.id == other.id
        && one.dir == other.dir
        && one.environment == other.environment
        && one.processes.len() == other.processes.len()
        && one
            .processes
            .iter()
            .zip(&other.processes)
            .all(|(one, other)| one.as_asked() == other.as_asked())
}
