//! The way up, its end: the links, new connections, and what becomes of the generation that had them.

use ship_model::spec::HookPoint;

use super::rise::PROMPT_MS;
use super::step::Turn;
use super::{Cause, Effect, GOOD_KEPT, Leaving, Rising, RisingPhase};
use crate::protocol::SwitchResult;

impl Turn {
    /// The folder that `previous` names while `release` is active: where a revert would go.
    pub(super) fn previous_for(&self, release: u64) -> Option<std::path::PathBuf> {
        let active = self.state.active.iter().map(|active| &active.intent);
        let candidates = self.state.good.iter().chain(active);
        candidates
            .filter(|intent| !intent.is_adopted())
            .filter(|intent| intent.release < release && !self.state.bad.contains(&intent.release))
            .max_by_key(|intent| intent.release)
            .map(|intent| intent.dir.clone())
    }

    pub(super) fn linked(&mut self, generation: u64, result: &Result<(), String>) {
        let deadline = self.now + PROMPT_MS;
        let early_or_late = |phase| matches!(phase, RisingPhase::Linking | RisingPhase::Probed);
        let Some(rising) = self
            .rising(generation)
            .filter(|rising| early_or_late(rising.phase))
        else {
            return;
        };
        match result {
            Ok(()) if rising.phase == RisingPhase::Linking => self.spawn(),
            Ok(()) => {
                rising.phase = RisingPhase::Linked;
                rising.deadline = deadline;
                self.push(Effect::Steer { generation });
            }
            Err(reason) => self.fail(&reason.clone()),
        }
    }

    pub(super) fn steered(&mut self, generation: u64, result: &Result<(), String>) {
        if self
            .rising(generation)
            .is_none_or(|rising| rising.phase != RisingPhase::Linked)
        {
            return;
        }
        if let Err(reason) = result {
            self.fail(&reason.clone());
            return;
        }
        let Some(mut rising) = self.state.rising.take() else {
            return;
        };
        let mut old = self.state.active.take();
        if let Some(old) = &mut old {
            self.inherit(&mut rising.generation, old);
        }
        if !matches!(rising.cause, Cause::Fallback(_)) {
            self.state.crash = None;
        }
        self.state.active = Some(rising.generation.clone());
        self.remember(&rising);
        self.conclude_rise(&rising);
        self.begin_hooks(&rising.generation, HookPoint::AfterSwitch);
        if let Some(old) = old {
            let leaving = self.way_out(&old);
            let failed = leaving == Leaving::Killing && old.is_living();
            self.retire(old, leaving, failed);
        }
        if self.state.stopping {
            self.retire_active_for_stop();
        }
    }

    fn remember(&mut self, rising: &Rising) {
        let intent = &rising.generation.intent;
        self.state.bad.retain(|release| *release != intent.release);
        self.state.good.retain(|known| known.release != intent.release);
        self.state.good.push(intent.clone());
        if self.state.good.len() > GOOD_KEPT {
            self.state.good.remove(0);
        }
    }

    fn conclude_rise(&mut self, rising: &Rising) {
        let intent = &rising.generation.intent;
        let (result, reason) = match &rising.cause {
            Cause::Switch | Cause::Boot => (SwitchResult::Switched, None),
            Cause::Revert(reason) | Cause::Fallback(reason) => (SwitchResult::Reverted, Some(reason.clone())),
        };
        self.conclude(intent.release, intent.epoch.max(self.state.epoch), result, reason);
        let (now, spawned, asked) = (self.now, rising.spawned_at, rising.asked_at);
        let (first, proven) = (rising.first_answer_at, rising.proven_at);
        let gap = rising.gap_since;
        self.amend_outcome(|outcome| {
            outcome.switch_ms = now.saturating_sub(asked);
            outcome.boot_ms = proven.unwrap_or(now).saturating_sub(spawned);
            outcome.first_answer_ms = first.map(|first| first.saturating_sub(asked));
            outcome.gap_ms = gap.map(|since| now.saturating_sub(since));
            outcome.rungs.clone_from(&rising.rungs);
        });
    }

    /// Puts the links back to the active generation's release.
    pub(super) fn link_active(&mut self) {
        // An adopted process has no release that a link could name.
        let active = self.state.active.as_ref();
        let Some(active) = active.filter(|active| !active.intent.is_adopted()) else {
            return;
        };
        let (generation, release) = (active.number, active.intent.release);
        let current = Some(active.intent.dir.clone());
        let previous = self.previous_for(release);
        self.push(Effect::Link {
            generation,
            current,
            previous,
        });
    }

    pub(super) fn steer_active(&mut self) {
        if let Some(active) = &self.state.active {
            let generation = active.number;
            self.push(Effect::Steer { generation });
        }
    }

    fn retire_active_for_stop(&mut self) {
        if let Some(active) = self.state.active.take() {
            self.retire(active, Leaving::Draining, false);
        }
    }
}
