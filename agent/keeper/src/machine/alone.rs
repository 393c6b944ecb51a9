//! One rung down: a process that binds by itself and cannot be joined runs alone, so the old one is stopped before it starts.
//!
//! It has done nothing wrong: what was started of it is ended unseen, and the switch begins again with `stop-start` for that
//! process. Only what is known to bind by itself comes here; something that merely does not work would cost an outage.

use ship_model::spec::Strategy;

use super::step::Turn;
use super::{Effect, Queued, RisingPhase};
use crate::protocol::Rung;

impl Turn {
    /// Begins the switch again, for the reason why the process cannot be joined; false where it is too late for that.
    pub(super) fn begin_alone(&mut self, generation: u64, slot: usize, reason: &str) -> bool {
        let now = self.now;
        if self.state.stopping || self.state.queued.is_some() {
            return false;
        }
        let Some(rising) = self.rising(generation) else {
            return false;
        };
        let mut intent = rising.generation.intent.clone();
        let Some(spec) = intent
            .processes
            .get_mut(slot)
            .filter(|spec| spec.strategy.joins() && rising.phase == RisingPhase::Spawned)
        else {
            return false;
        };
        spec.asked_for = Some(spec.strategy);
        spec.strategy = Strategy::StopStart;
        let mut rungs = rising.rungs.clone();
        rungs.push(Rung {
            process: spec.name.clone(),
            strategy: spec.strategy,
            reason: reason.to_owned(),
        });
        let (cause, attempt, asked_at) = (rising.cause.clone(), rising.attempt, rising.asked_at);
        let (lock_until, notice_ms) = (rising.lock_until, rising.notice_ms);
        rising.phase = RisingPhase::Aborting;
        rising.deadline = now + super::retire::KILL_AGAIN_MS;
        self.state.queued = Some(Queued {
            intent,
            cause,
            asked_at,
            not_before: now,
            attempt,
            rungs,
            lock_until,
            notice_ms,
        });
        self.drop_hooks(generation);
        self.push(Effect::EndProbes { generation });
        self.push(Effect::Kill { generation });
        true
    }

    /// Whether the switch that begins next goes on with one that was begun: what has made room for that stays ended.
    pub(super) fn goes_on(&self) -> bool {
        let queued = self.state.queued.as_ref();
        queued.is_some_and(|queued| !queued.rungs.is_empty() && queued.not_before <= self.now)
    }
}
