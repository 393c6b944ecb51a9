//! The way up, its proof: what runs must say that it is ready, and answer.

use ship_model::spec::HookPoint;

use super::rise::PROMPT_MS;
use super::step::Turn;
use super::{Effect, RisingPhase, Slot, SlotState};
use crate::protocol::ProcessSpec;

/// A process that tells nothing and is not probed counts as up when it has lived so long.
pub(super) const SETTLE_MS: u64 = 1_000;
/// A process may ask for more time, up to this many times its ready timeout.
const EXTENSIONS: u64 = 10;

impl Turn {
    pub(super) fn started(&mut self, generation: u64, slot: usize) {
        self.runs(generation, slot);
    }

    /// The slot's process runs its program, or has done what it was asked.
    pub(super) fn runs(&mut self, generation: u64, slot: usize) {
        let now = self.now;
        let Some(found) = self.state.generation_mut(generation) else {
            return;
        };
        let Some(spec) = found.intent.processes.get(slot) else {
            return;
        };
        let (notify, told_otherwise) = (spec.notify, tells_nothing(spec));
        let Some(found) = found
            .slots
            .get_mut(slot)
            .filter(|found| found.state != SlotState::Yielding)
        else {
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
        // A process that lives on speaks for the release it is becoming.
        let (generation, slot) = self.heir(generation, slot).unwrap_or((generation, slot));
        let found = self
            .state
            .generation_mut(generation)
            .and_then(|generation| generation.slots.get_mut(slot));
        let Some(found) = found else { return };
        if !found.ready || found.state == SlotState::Starting {
            found.ready = true;
            found.since = now;
            let lives_on = found.heir_of.is_some() && found.state == SlotState::Starting;
            if (found.process.is_some() || lives_on) && found.state != SlotState::Yielding {
                found.state = SlotState::Up;
            }
            self.look_for_ready(generation);
        }
    }

    /// Those that tell nothing count as ready once they have lived for a while.
    pub(super) fn settle(&mut self) {
        let now = self.now;
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        let generation = &mut rising.generation;
        for (slot, spec) in generation.slots.iter_mut().zip(&generation.intent.processes) {
            let settled = slot.state == SlotState::Up && now >= slot.since + SETTLE_MS;
            slot.ready = slot.ready || (tells_nothing(spec) && settled);
        }
        let number = generation.number;
        self.look_for_ready(number);
    }

    pub(super) fn look_for_ready(&mut self, generation: u64) {
        let Some(rising) = self.rising(generation) else {
            return;
        };
        let all = rising
            .generation
            .slots
            .iter()
            .filter(|slot| slot.state != SlotState::Waiting)
            .all(|slot| slot.ready && slot.state == SlotState::Up);
        if rising.phase != RisingPhase::Spawned || !all {
            return;
        }
        rising.phase = RisingPhase::Ready;
        let processes = &rising.generation.intent.processes;
        let unproven = |slot: &Slot| slot.state != SlotState::Waiting && !slot.probed;
        let probes: Vec<_> = rising
            .generation
            .slots
            .iter()
            .zip(processes)
            .enumerate()
            .filter(|(_, (slot, _))| unproven(slot))
            .map(|(index, (_, process))| (index, process.probe.is_some()))
            .collect();
        for (slot, probe) in probes {
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
        self.answered(generation, slot);
        self.look_for_probed(generation);
    }

    pub(super) fn look_for_probed(&mut self, generation: u64) {
        let now = self.now;
        let Some(rising) = self.rising(generation) else {
            return;
        };
        let slots = &rising.generation.slots;
        let waits = |slot: &Slot| slot.state == SlotState::Waiting;
        if rising.phase != RisingPhase::Ready || !slots.iter().all(|slot| slot.probed || waits(slot)) {
            return;
        }
        let waiting = slots.iter().any(waits);
        if self.wait_for_lock(true) {
            return;
        }
        if waiting {
            self.give_way();
            return;
        }
        let Some(rising) = self.rising(generation) else {
            return;
        };
        rising.proven_at = Some(now);
        self.push(Effect::EndProbes { generation });
        if !self.rise_through(HookPoint::BeforeSwitch) {
            self.share_or_link();
        }
    }

    /// The links are moved to what is proven.
    pub(super) fn link_proven(&mut self) {
        let deadline = self.now + PROMPT_MS;
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        let generation = rising.generation.number;
        rising.phase = RisingPhase::Probed;
        rising.deadline = deadline;
        let current = Some(rising.generation.intent.dir.clone());
        let release = rising.generation.intent.release;
        let previous = self.previous_for(release);
        self.push(Effect::Link {
            generation,
            current,
            previous,
        });
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
        self.extend_yielding(generation, by);
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
}

pub(super) fn tells_nothing(spec: &ProcessSpec) -> bool {
    !spec.notify && spec.probe.is_none()
}
