//! The way up: from an intent to the generation that gets new connections, or to a failure nobody saw.

use super::step::Turn;
use super::{
    Cause, Effect, GOOD_KEPT, Generation, Leaving, Process, Queued, Rising, RisingPhase, Slot, SlotState,
};
use crate::protocol::{ProcessSpec, SwitchResult};

/// A process that tells nothing and is not probed counts as up when it has lived so long.
pub(super) const SETTLE_MS: u64 = 1_000;
/// An effect that is done at once but for a sick disk; without an answer by then the switch fails.
const PROMPT_MS: u64 = 30_000;
/// How often a switch is begun again after the keeper itself died in it.
const ATTEMPTS: u32 = 3;
/// A process may ask for more time, up to this many times its ready timeout.
const EXTENSIONS: u64 = 10;

impl Turn {
    pub(super) fn begin(&mut self, queued: Queued) {
        self.end_soak();
        let number = self.state.next_generation.max(1);
        self.state.next_generation = number + 1;
        self.state.rising = Some(Rising {
            generation: Generation::new(number, queued.intent),
            phase: RisingPhase::Prepared,
            cause: queued.cause,
            asked_at: queued.asked_at,
            spawned_at: self.now,
            deadline: self.now + PROMPT_MS,
            first_answer_at: None,
            proven_at: None,
            attempt: queued.attempt,
        });
        self.push(Effect::Bind { generation: number });
    }

    /// The rising generation, if it is this one and has not failed.
    fn rising(&mut self, generation: u64) -> Option<&mut Rising> {
        self.state
            .rising
            .as_mut()
            .filter(|rising| rising.generation.number == generation && rising.phase != RisingPhase::Aborting)
    }

    pub(super) fn bound(&mut self, generation: u64, sockets: &Result<Vec<Vec<u64>>, String>) {
        let Some(rising) = self.rising(generation) else {
            return;
        };
        if rising.phase != RisingPhase::Prepared {
            return;
        }
        match sockets {
            Err(reason) => {
                let reason = reason.clone();
                self.fail(&reason);
            }
            Ok(sockets) => {
                for (slot, inodes) in rising.generation.slots.iter_mut().zip(sockets) {
                    slot.sockets.clone_from(inodes);
                }
                self.clear_or_spawn();
            }
        }
    }

    fn clear_or_spawn(&mut self) {
        let coexist = self
            .state
            .rising
            .as_ref()
            .is_none_or(|rising| rising.generation.intent.coexist);
        match &self.state.active {
            Some(active) if active.is_living() && !(coexist && active.intent.coexist) => self.clear(),
            _ => self.spawn(),
        }
    }

    /// Ends the active generation first; its listeners queue meanwhile.
    fn clear(&mut self) {
        let Some(active) = &self.state.active else { return };
        let (number, drain) = (active.number, active.longest(|process| process.drain_ms));
        if let Some(rising) = &mut self.state.rising {
            rising.phase = RisingPhase::Clearing(Leaving::Draining);
            rising.deadline = self.now + drain.max(super::retire::LATE_HANDSHAKES_MS);
            rising.spawned_at = self.now;
        }
        self.push(Effect::Hold { generation: number });
        self.push(Effect::Drain { generation: number });
    }

    fn clear_further(&mut self, stage: Leaving) {
        let Some(active) = &self.state.active else { return };
        let (number, stop) = (active.number, active.longest(|process| process.stop_timeout_ms));
        let (next, effect) = match stage {
            Leaving::Warm | Leaving::Draining => (Leaving::Stopping, Effect::Stop { generation: number }),
            Leaving::Stopping | Leaving::Killing => (Leaving::Killing, Effect::Kill { generation: number }),
        };
        if let Some(rising) = &mut self.state.rising {
            rising.phase = RisingPhase::Clearing(next);
            rising.deadline = self.now + stop.max(super::retire::KILL_AGAIN_MS);
        }
        self.push(effect);
    }

    /// What the active generation does while it makes room: true when the event was about that.
    pub(super) fn clearing(&mut self, generation: u64) -> Option<Leaving> {
        let active = self
            .state
            .active
            .as_ref()
            .filter(|active| active.number == generation)?;
        let _ = active;
        match self.state.rising.as_ref()?.phase {
            RisingPhase::Clearing(stage) => Some(stage),
            _ => None,
        }
    }

    pub(super) fn cleared_idle(&mut self, stage: Leaving) {
        let since = self.state.rising.as_ref().map_or(0, |rising| rising.spawned_at);
        if stage == Leaving::Draining && self.now >= since + super::retire::LATE_HANDSHAKES_MS {
            self.clear_further(stage);
        }
    }

    pub(super) fn cleared(&mut self) {
        if let Some(active) = &mut self.state.active {
            for slot in &mut active.slots {
                slot.process = None;
                slot.state = SlotState::Ended;
            }
        }
        self.spawn();
    }

    fn spawn(&mut self) {
        let now = self.now;
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        rising.phase = RisingPhase::Spawned;
        rising.spawned_at = now;
        rising.deadline = now + rising.generation.longest(|process| process.ready_timeout_ms);
        let number = rising.generation.number;
        for slot in &mut rising.generation.slots {
            slot.state = SlotState::Forking;
        }
        let slots = rising.generation.slots.len();
        for slot in 0..slots {
            self.push(Effect::Fork {
                generation: number,
                slot,
            });
        }
    }

    pub(super) fn forked(&mut self, generation: u64, slot: usize, process: Process) {
        let now = self.now;
        let aborting = self.state.rising.as_ref().is_some_and(|rising| {
            rising.generation.number == generation && rising.phase == RisingPhase::Aborting
        });
        let found = self
            .state
            .generation_mut(generation)
            .and_then(|generation| generation.slots.get_mut(slot));
        let Some(found) = found else { return };
        found.process = Some(process);
        found.since = now;
        if found.state == SlotState::Forking && !aborting {
            found.state = SlotState::Forked;
            self.push(Effect::Go { generation, slot });
        } else {
            self.push(Effect::Kill { generation });
        }
    }

    pub(super) fn started(&mut self, generation: u64, slot: usize) {
        let now = self.now;
        let Some(found) = self.state.generation_mut(generation) else {
            return;
        };
        let Some(spec) = found.intent.processes.get(slot) else {
            return;
        };
        let (notify, told_otherwise) = (spec.notify, tells_nothing(spec));
        let Some(found) = found.slots.get_mut(slot) else {
            return;
        };
        found.state = if notify {
            SlotState::Starting
        } else {
            SlotState::Up
        };
        found.since = now;
        // READY may have come before the news of the exec.
        found.ready = found.ready || !(notify || told_otherwise);
        if found.ready {
            found.state = SlotState::Up;
        }
        self.look_for_ready(generation);
    }

    pub(super) fn ready(&mut self, generation: u64, slot: usize) {
        let now = self.now;
        let found = self
            .state
            .generation_mut(generation)
            .and_then(|generation| generation.slots.get_mut(slot));
        let Some(found) = found else { return };
        if !found.ready || found.state == SlotState::Starting {
            found.ready = true;
            found.since = now;
            if found.process.is_some() {
                found.state = SlotState::Up;
            }
            self.look_for_ready(generation);
        }
    }

    fn look_for_ready(&mut self, generation: u64) {
        let Some(rising) = self.rising(generation) else {
            return;
        };
        let all = rising
            .generation
            .slots
            .iter()
            .all(|slot| slot.ready && slot.state == SlotState::Up);
        if rising.phase != RisingPhase::Spawned || !all {
            return;
        }
        rising.phase = RisingPhase::Ready;
        let processes = &rising.generation.intent.processes;
        let probes: Vec<_> = processes.iter().map(|process| process.probe.is_some()).collect();
        for (slot, probe) in probes.into_iter().enumerate() {
            if probe {
                self.push(Effect::Probe { generation, slot });
            } else if let Some(found) = self.slot_of_rising(slot) {
                found.probed = true;
            }
        }
        self.look_for_probed(generation);
    }

    fn slot_of_rising(&mut self, slot: usize) -> Option<&mut Slot> {
        self.state.rising.as_mut()?.generation.slots.get_mut(slot)
    }

    pub(super) fn probed(&mut self, generation: u64, slot: usize, first_answer_at: u64) {
        let Some(rising) = self.rising(generation) else {
            return;
        };
        let first = rising.first_answer_at.unwrap_or(first_answer_at);
        rising.first_answer_at = Some(first.min(first_answer_at));
        if let Some(found) = rising.generation.slots.get_mut(slot) {
            found.probed = true;
        }
        self.look_for_probed(generation);
    }

    fn look_for_probed(&mut self, generation: u64) {
        let (now, deadline) = (self.now, self.now + PROMPT_MS);
        let Some(rising) = self.rising(generation) else {
            return;
        };
        if rising.phase != RisingPhase::Ready || !rising.generation.slots.iter().all(|slot| slot.probed) {
            return;
        }
        rising.phase = RisingPhase::Probed;
        rising.proven_at = Some(now);
        rising.deadline = deadline;
        let current = Some(rising.generation.intent.dir.clone());
        let release = rising.generation.intent.release;
        let previous = self.previous_for(release);
        self.push(Effect::EndProbes { generation });
        self.push(Effect::Link {
            generation,
            current,
            previous,
        });
    }

    /// The folder that `previous` names while `release` is active: where a revert would go.
    pub(super) fn previous_for(&self, release: u64) -> Option<std::path::PathBuf> {
        let active = self.state.active.iter().map(|active| &active.intent);
        let candidates = self.state.good.iter().chain(active);
        candidates
            .filter(|intent| intent.release < release && !self.state.bad.contains(&intent.release))
            .max_by_key(|intent| intent.release)
            .map(|intent| intent.dir.clone())
    }

    pub(super) fn linked(&mut self, generation: u64, result: &Result<(), String>) {
        let deadline = self.now + PROMPT_MS;
        let Some(rising) = self
            .rising(generation)
            .filter(|rising| rising.phase == RisingPhase::Probed)
        else {
            return;
        };
        match result {
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
        let Some(rising) = self.state.rising.take() else {
            return;
        };
        let old = self.state.active.replace(rising.generation.clone());
        self.remember(&rising);
        self.conclude_rise(&rising);
        if let Some(old) = old {
            let leaving = if old.is_whole() {
                Leaving::Warm
            } else {
                Leaving::Killing
            };
            self.retire(old, leaving, leaving == Leaving::Killing);
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
        self.amend_outcome(|outcome| {
            outcome.switch_ms = now.saturating_sub(asked);
            outcome.boot_ms = proven.unwrap_or(now).saturating_sub(spawned);
            outcome.first_answer_ms = first.map(|first| first.saturating_sub(asked));
        });
    }

    pub(super) fn tick_rising(&mut self) {
        let now = self.now;
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        if rising.phase == RisingPhase::Spawned {
            let number = rising.generation.number;
            for (slot, spec) in rising
                .generation
                .slots
                .iter_mut()
                .zip(&rising.generation.intent.processes)
            {
                let settled = slot.state == SlotState::Up && now >= slot.since + SETTLE_MS;
                slot.ready = slot.ready || (tells_nothing(spec) && settled);
            }
            self.look_for_ready(number);
        }
        let Some(rising) = self.state.rising.as_ref().filter(|rising| rising.deadline <= now) else {
            return;
        };
        match rising.phase {
            RisingPhase::Clearing(stage) => self.clear_further(stage),
            RisingPhase::Aborting => self.kill_again(),
            RisingPhase::Prepared => self.fail("the listeners were not bound in time"),
            RisingPhase::Spawned => self.fail("not ready within its ready_timeout"),
            RisingPhase::Ready => self.fail("no good answer to its probe within its ready_timeout"),
            RisingPhase::Probed => self.fail("the links were not moved in time"),
            RisingPhase::Linked => self.fail("new connections could not be steered in time"),
        }
    }

    fn kill_again(&mut self) {
        let deadline = self.now + super::retire::KILL_AGAIN_MS;
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        rising.deadline = deadline;
        let generation = rising.generation.number;
        self.push(Effect::Kill { generation });
    }

    pub(super) fn extend(&mut self, generation: u64, by: u64) {
        let now = self.now;
        if let Some(rising) = self.rising(generation) {
            let cap = rising
                .generation
                .longest(|process| process.ready_timeout_ms)
                .saturating_mul(EXTENSIONS);
            let latest = rising.spawned_at.saturating_add(cap);
            if matches!(rising.phase, RisingPhase::Spawned | RisingPhase::Ready) {
                rising.deadline = rising.deadline.max(now.saturating_add(by).min(latest));
            }
        }
        self.extend_retiring(generation, by);
    }

    pub(super) fn probe_failed(&mut self, generation: u64, slot: usize, reason: &str) {
        if let Some(rising) = self.rising(generation) {
            let name = rising
                .generation
                .intent
                .processes
                .get(slot)
                .map(|process| process.name.clone());
            self.fail(&format!("process {}: {reason}", name.unwrap_or_default()));
        }
    }

    /// The rising generation failed by itself.
    pub(super) fn fail(&mut self, reason: &str) {
        let Some(rising) = &self.state.rising else { return };
        let (intent, cause, attempt) = (
            rising.generation.intent.clone(),
            rising.cause.clone(),
            rising.attempt,
        );
        if cause != Cause::Boot {
            self.hold(intent.release, reason);
        }
        self.abort(reason, false);
        if cause == Cause::Boot && !self.state.stopping {
            self.try_boot_again(intent, attempt, reason);
        }
    }

    /// After a boot something must run: the same again after a pause, and after some failures the release before it.
    fn try_boot_again(&mut self, intent: super::Intent, attempt: u32, reason: &str) {
        let (mut intent, mut attempt) = (intent, attempt + 1);
        let pause = super::run::back_off_ms(attempt);
        if attempt >= super::FAILURES_TO_FALL_BACK {
            let older = self
                .state
                .good
                .iter()
                .filter(|known| known.release < intent.release);
            if let Some(older) = older.max_by_key(|known| known.release).cloned() {
                self.hold(intent.release, reason);
                (intent, attempt) = (older, 0);
            }
        }
        let (asked_at, not_before) = (self.now, self.now + pause);
        self.state.queued = Some(Queued {
            intent,
            cause: Cause::Boot,
            asked_at,
            not_before,
            attempt,
        });
    }

    /// Ends the rising generation. Users never saw it; `asked` when somebody wanted this end.
    pub(super) fn abort(&mut self, reason: &str, asked: bool) {
        let now = self.now;
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        if rising.phase == RisingPhase::Aborting {
            return;
        }
        let before = rising.clone();
        rising.phase = RisingPhase::Aborting;
        rising.deadline = now + super::retire::KILL_AGAIN_MS;
        let generation = rising.generation.number;
        let result = if asked {
            SwitchResult::Reverted
        } else {
            SwitchResult::Failed
        };
        let intent = &before.generation.intent;
        self.conclude(intent.release, intent.epoch, result, Some(reason.to_owned()));
        self.amend_outcome(|outcome| {
            outcome.failed_step = Some(Self::phase_word(before.phase));
            outcome.switch_ms = now.saturating_sub(before.asked_at);
            outcome.boot_ms = now.saturating_sub(before.spawned_at);
        });
        self.state.outcome_of = Some(generation);
        self.push(Effect::EndProbes { generation });
        if matches!(before.phase, RisingPhase::Probed | RisingPhase::Linked) {
            self.link_active();
        }
        if matches!(before.phase, RisingPhase::Linked | RisingPhase::Clearing(_)) {
            self.steer_active();
        }
        self.push(Effect::Kill { generation });
        if matches!(before.phase, RisingPhase::Clearing(_)) || self.state.active.is_some() {
            self.restore_active();
        }
    }

    /// Puts the links back to the active generation's release.
    pub(super) fn link_active(&mut self) {
        let Some(active) = &self.state.active else { return };
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

    /// Begins the rising generation's switch once more, after the keeper itself died in it.
    pub(super) fn begin_again(&mut self, rising: &Rising) {
        let attempt = rising.attempt + 1;
        if attempt >= ATTEMPTS || self.state.stopping || self.state.queued.is_some() {
            return;
        }
        self.state.queued = Some(Queued {
            intent: rising.generation.intent.clone(),
            cause: rising.cause.clone(),
            asked_at: self.now,
            not_before: self.now,
            attempt,
        });
    }

    fn retire_active_for_stop(&mut self) {
        if let Some(active) = self.state.active.take() {
            self.retire(active, Leaving::Draining, false);
        }
    }
}

fn tells_nothing(spec: &ProcessSpec) -> bool {
    !spec.notify && spec.probe.is_none()
}
