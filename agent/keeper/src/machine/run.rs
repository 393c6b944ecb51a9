//! The active generation outside a switch: what ended is started again, and a release that keeps failing is left.

use super::step::Turn;
use super::{Cause, Effect, FAILURES_TO_FALL_BACK, Process, SlotState, State};
use crate::protocol::Crash;

/// A process that has run so long starts its count of failures anew.
const STEADY_MS: u64 = 30_000;

/// The pause before the `failures`th start in a row.
pub(super) fn back_off_ms(failures: u32) -> u64 {
    (100_u64 << failures.clamp(1, 10).saturating_sub(1)).min(30_000)
}

impl State {
    /// When a crash is forgotten: all that runs has run for a while then.
    pub(super) fn steady_at(&self) -> Option<u64> {
        self.crash.as_ref()?;
        let mut slots = self.active.iter().flat_map(|active| &active.slots);
        let since = slots.try_fold(0, |latest: u64, slot| {
            (slot.state == SlotState::Up).then(|| latest.max(slot.since))
        })?;
        Some(since + STEADY_MS)
    }
}

impl Turn {
    /// A process ended, or could not be started.
    pub(super) fn ended(&mut self, generation: u64, slot: usize, how: &str) {
        let found = self.state.generation_mut(generation);
        let Some(name) = found.as_ref().and_then(|found| found.intent.processes.get(slot)) else {
            return;
        };
        let reason = format!("process {} {how}", name.name);
        let Some(found) = found.and_then(|found| found.slots.get_mut(slot)) else {
            return;
        };
        let process = found.process.take();
        let yields = found.state == SlotState::Yielding;
        found.ready = false;
        found.state = SlotState::Ended;
        let active = self
            .state
            .active
            .as_ref()
            .is_some_and(|active| active.number == generation);
        let rising = self
            .state
            .rising
            .as_ref()
            .filter(|rising| rising.generation.number == generation);
        let rising = rising.map(|rising| rising.phase);
        match rising {
            Some(super::RisingPhase::Aborting) => {}
            Some(_) => self.fail(&reason),
            None if active && yields => self.yielded(generation, slot, process),
            None if active && self.predecessor_ended(generation, slot, &reason) => {}
            None if active => self.active_ended(generation, slot, process, &reason),
            None => self.retiring_ended(generation, &reason),
        }
    }

    fn active_ended(&mut self, generation: u64, slot: usize, process: Option<Process>, reason: &str) {
        if self.clearing(generation).is_some() {
            return;
        }
        if self.state.soaking().is_some() {
            self.turn_back(reason, true);
            return;
        }
        if self.lose_adopted(reason) {
            return;
        }
        let now = self.now;
        let Some(active) = &mut self.state.active else {
            return;
        };
        let release = active.intent.release;
        let Some(found) = active.slots.get_mut(slot) else {
            return;
        };
        if now >= found.since + STEADY_MS {
            found.failures = 0;
        }
        found.failures += 1;
        let failures = found.failures;
        found.state = SlotState::BackingOff {
            until: now + back_off_ms(failures),
        };
        self.state.crash = Some(Crash {
            release,
            epoch: active.intent.epoch,
            reason: reason.to_owned(),
            failures,
            last_lines: Vec::new(),
            at: String::new(),
        });
        if let Some(process) = process {
            self.push(Effect::Sweep {
                generation,
                slot,
                process,
            });
        }
        self.state.counters.restarts += 1;
        if failures >= FAILURES_TO_FALL_BACK && self.state.rising.is_none() && self.state.queued.is_none() {
            self.fall_back(release, failures, reason);
        }
    }

    /// The active release keeps failing: the one before it is started, and steered to when it answers.
    fn fall_back(&mut self, release: u64, failures: u32, reason: &str) {
        let Some(target) = self.state.revert_target().cloned() else {
            return;
        };
        let reason = format!("release {release} failed {failures} times in a row: {reason}");
        let warm = self.state.warm().map(|warm| warm.generation.intent.release);
        if warm == Some(target.release) {
            self.turn_back(&reason, true);
            self.amend_outcome(|outcome| outcome.failed_step = None);
            return;
        }
        self.hold(release, &reason);
        self.state.good.retain(|intent| intent.release != release);
        self.enqueue(target, Cause::Fallback(reason), None);
    }

    pub(super) fn tick_active(&mut self) {
        let now = self.now;
        let clearing = matches!(
            self.state.rising.as_ref().map(|rising| rising.phase),
            Some(super::RisingPhase::Clearing(_))
        );
        let Some(active) = self.state.active.as_mut().filter(|_| !clearing) else {
            return;
        };
        let generation = active.number;
        let mut due = Vec::new();
        for (slot, found) in active.slots.iter_mut().enumerate() {
            if matches!(found.state, SlotState::BackingOff { until } if until <= now) {
                found.state = SlotState::Forking;
                found.home = None;
                due.push(Effect::Fork { generation, slot });
            }
        }
        self.effects.extend(due);
        if self.state.steady_at().is_some_and(|at| at <= now) {
            self.state.crash = None;
        }
    }
}
