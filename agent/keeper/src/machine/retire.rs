//! The way out: warm, draining, stopping, killed, gone; and the way back from warm.

use ship_model::spec::HookPoint;

use super::hooks::hooks_time;
use super::step::Turn;
use super::{Effect, Generation, Leaving, Retiring, SlotState};
use crate::protocol::SwitchResult;

/// A kill is repeated so often until the last process is gone (it may fork while it is killed).
pub(super) const KILL_AGAIN_MS: u64 = 500;
/// A generation is not told to stop sooner than this after new connections were steered away from it: handshakes that
/// began before still end in its queue.
pub(super) const LATE_HANDSHAKES_MS: u64 = 300;

impl Turn {
    /// Sends a generation on its way out.
    pub(super) fn retire(&mut self, generation: Generation, phase: Leaving, failed: bool) {
        let number = generation.number;
        let phase = match phase {
            Leaving::Draining | Leaving::Stopping if self.begin_hooks(&generation, HookPoint::BeforeStop) => {
                Leaving::Parting
            }
            Leaving::Draining if generation.drains_by_signal() => Leaving::Stopping,
            phase => phase,
        };
        let deadline = match phase {
            Leaving::Warm => self
                .state
                .active
                .as_ref()
                .map_or(0, |active| active.intent.soak_ms),
            Leaving::Standby => 0,
            Leaving::Parting => hooks_time(&generation.intent, HookPoint::BeforeStop),
            Leaving::Draining => generation.longest(|process| process.drain_ms),
            Leaving::Stopping => generation.time_to_stop(),
            Leaving::Killing => KILL_AGAIN_MS,
        };
        let (deadline, steered_away_at) = (self.now.saturating_add(deadline), self.now);
        self.state.retiring.push(Retiring {
            generation,
            phase,
            deadline,
            steered_away_at,
            failed,
        });
        match phase {
            Leaving::Warm | Leaving::Standby | Leaving::Parting => {}
            Leaving::Draining => self.push(Effect::Drain { generation: number }),
            Leaving::Stopping => self.push(Effect::Stop { generation: number }),
            Leaving::Killing => self.push(Effect::Kill { generation: number }),
        }
    }

    pub(super) fn advance(&mut self, index: usize) {
        let now = self.now;
        let warm = self
            .state
            .retiring
            .get(index)
            .filter(|leaving| leaving.phase.is_warm());
        if let Some(generation) = warm.map(|leaving| leaving.generation.clone())
            && self.begin_hooks(&generation, HookPoint::BeforeStop)
        {
            let time = hooks_time(&generation.intent, HookPoint::BeforeStop);
            if let Some(leaving) = self.state.retiring.get_mut(index) {
                leaving.phase = Leaving::Parting;
                leaving.deadline = now.saturating_add(time);
            }
            return;
        }
        let Some(leaving) = self.state.retiring.get_mut(index) else {
            return;
        };
        let generation = leaving.generation.number;
        let (phase, time, effect) = match leaving.phase {
            Leaving::Warm | Leaving::Standby | Leaving::Parting if leaving.generation.drains_by_signal() => {
                let stop = leaving.generation.time_to_stop();
                (Leaving::Stopping, stop, Effect::Stop { generation })
            }
            Leaving::Warm | Leaving::Standby | Leaving::Parting => {
                let drain = leaving.generation.longest(|process| process.drain_ms);
                (Leaving::Draining, drain, Effect::Drain { generation })
            }
            Leaving::Draining => {
                let stop = leaving.generation.time_to_stop();
                (Leaving::Stopping, stop, Effect::Stop { generation })
            }
            Leaving::Stopping | Leaving::Killing => {
                (Leaving::Killing, KILL_AGAIN_MS, Effect::Kill { generation })
            }
        };
        leaving.phase = phase;
        leaving.deadline = now + time;
        if phase == Leaving::Draining {
            leaving.deadline = leaving.deadline.max(leaving.steered_away_at + LATE_HANDSHAKES_MS);
        }
        self.push(effect);
    }

    pub(super) fn tick_retiring(&mut self) {
        for index in 0..self.state.retiring.len() {
            if self.state.retiring[index].deadline <= self.now && !self.stand_by(index) {
                self.advance(index);
            }
        }
    }

    /// Nobody is warm any more: what is, drains.
    pub(super) fn end_soak(&mut self) {
        for index in 0..self.state.retiring.len() {
            if self.state.retiring[index].phase.is_warm() {
                self.advance(index);
            }
        }
    }

    pub(super) fn idle(&mut self, generation: u64) {
        if let Some(stage) = self.clearing(generation) {
            self.cleared_idle(stage);
            return;
        }
        let found = self
            .state
            .retiring
            .iter()
            .position(|leaving| leaving.generation.number == generation);
        let Some(index) = found else { return };
        let leaving = &self.state.retiring[index];
        let late = self.now >= leaving.steered_away_at + LATE_HANDSHAKES_MS;
        if leaving.phase == Leaving::Draining && late {
            self.advance(index);
        }
    }

    pub(super) fn extend_retiring(&mut self, generation: u64, by: u64) {
        let now = self.now;
        let found = self
            .state
            .retiring
            .iter_mut()
            .find(|leaving| leaving.generation.number == generation);
        let Some(leaving) = found.filter(|leaving| leaving.phase == Leaving::Stopping) else {
            return;
        };
        // Never further than its whole time from now: one that falls silent must not hold the host.
        let cap = leaving.generation.time_to_stop();
        leaving.deadline = leaving.deadline.max(now.saturating_add(by.min(cap)));
    }

    /// A process of a leaving generation ended.
    pub(super) fn retiring_ended(&mut self, generation: u64, reason: &str) {
        let found = self
            .state
            .retiring
            .iter()
            .position(|leaving| leaving.generation.number == generation);
        let Some(index) = found else { return };
        let leaving = &self.state.retiring[index];
        if leaving.phase.is_warm() && self.keeps_standby() {
            self.lose_standby(index, reason);
        }
        let leaving = &self.state.retiring[index];
        if leaving.generation.is_living() {
            return;
        }
        match leaving.phase {
            // Its orphans get the stop signal too and the rest of the time.
            Leaving::Stopping => self.push(Effect::Stop { generation }),
            Leaving::Warm | Leaving::Standby | Leaving::Draining => self.advance_to_killing(index),
            Leaving::Parting | Leaving::Killing => {}
        }
    }

    fn advance_to_killing(&mut self, index: usize) {
        if let Some(leaving) = self.state.retiring.get_mut(index) {
            leaving.phase = Leaving::Stopping;
            self.advance(index);
        }
    }

    pub(super) fn gone(&mut self, generation: u64, cut: u64) {
        if self.clearing(generation).is_some() {
            self.state.counters.connections_cut += cut;
            self.cleared();
            return;
        }
        let aborted = self.state.rising.as_ref().is_some_and(|rising| {
            rising.generation.number == generation && rising.phase == super::RisingPhase::Aborting
        });
        if aborted {
            self.state.rising = None;
            self.push(Effect::Forget { generation });
            self.begin_noted(generation, HookPoint::AfterFailure);
            if !self.goes_on() {
                self.restore_active();
            }
            return;
        }
        let found = self
            .state
            .retiring
            .iter()
            .position(|leaving| leaving.generation.number == generation);
        if let Some(index) = found {
            let gone = self.state.retiring.remove(index);
            self.state.counters.connections_cut += cut;
            self.push(Effect::Forget { generation });
            let point = if gone.failed {
                HookPoint::AfterFailure
            } else {
                HookPoint::AfterStop
            };
            self.begin_hooks(&gone.generation, point);
            // What is rising may be in the place of what is missing; if it fails, that comes back then.
            if self.state.rising.is_none() {
                self.restore_active();
            }
        }
    }

    /// Steers back to the warm generation; what was active leaves, at once when it `failed`.
    pub(super) fn turn_back(&mut self, reason: &str, failed: bool) {
        let is_warm = |leaving: &Retiring| leaving.phase.is_warm() && leaving.generation.is_whole();
        let Some(index) = self.state.retiring.iter().position(is_warm) else {
            return;
        };
        let warm = self.state.retiring.remove(index).generation;
        let back = warm.intent.release;
        let Some(left) = self.state.active.replace(warm) else {
            return;
        };
        self.hold(left.intent.release, reason);
        self.state
            .good
            .retain(|intent| intent.release != left.intent.release);
        if let Some(back) = self.state.active.as_ref().filter(|back| back.links_first()) {
            let generation = back.number;
            self.push(Effect::Resume { generation });
        }
        self.steer_active();
        self.link_active();
        if let Some(back) = self.state.active.clone() {
            self.begin_hooks(&back, HookPoint::AfterSwitch);
        }
        let (release, epoch) = if failed {
            (left.intent.release, left.intent.epoch)
        } else {
            (back, self.state.epoch)
        };
        self.conclude(release, epoch, SwitchResult::Reverted, Some(reason.to_owned()));
        self.state.outcome_of = failed.then_some(left.number);
        if failed {
            self.amend_outcome(|outcome| outcome.failed_step = Some(crate::protocol::Phase::Soak));
        }
        let leaving = if failed {
            Leaving::Killing
        } else {
            Leaving::Draining
        };
        self.retire(left, leaving, failed);
    }

    /// Starts again what is missing of the active generation.
    pub(super) fn restore_active(&mut self) {
        let now = self.now;
        let mut rising = self.state.rising.iter();
        // It has made room on purpose.
        if rising.any(|rising| rising.phase != super::RisingPhase::Aborting) {
            return;
        }
        let active = self.state.active.as_ref();
        if active.is_some_and(|active| !active.is_whole()) && self.lose_adopted("it has ended") {
            return;
        }
        let kept_back = self.kept_back();
        let Some(active) = &mut self.state.active else {
            return;
        };
        for (slot, spec) in active.slots.iter_mut().zip(&active.intent.processes) {
            let missing = matches!(
                slot.state,
                SlotState::Ended | SlotState::Waiting | SlotState::Yielded
            );
            if slot.process.is_none() && missing && !kept_back.contains(&spec.name) {
                slot.state = SlotState::BackingOff { until: now };
            }
        }
    }
}
