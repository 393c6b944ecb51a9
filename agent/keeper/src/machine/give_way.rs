//! Processes that may not run beside their successor: when all others of the new release have proven themselves, the old
//! one is asked to end, and the new one is started when it has.
//!
//! So a release that cannot boot costs such a worker nothing. A failure after that brings the old one back, once the new
//! one is gone.

use super::retire::KILL_AGAIN_MS;
use super::step::Turn;
use super::{Effect, Generation, Leaving, Process, Rising, RisingPhase, SlotState};
use crate::protocol::ProcessSpec;

impl Turn {
    /// The slot of the active generation that must be empty before this one of `rising` is started.
    pub(super) fn waits_for(&self, rising: &Generation, slot: usize) -> Option<usize> {
        let wanted = rising.intent.processes.get(slot)?;
        let active = self.state.active.as_ref()?;
        let mut known = active.intent.processes.iter();
        let index = known.position(|known| known.name == wanted.name)?;
        let apart = !wanted.overlap || !active.intent.processes.get(index)?.overlap;
        let found = active.slots.get(index)?;
        let there = found.process.is_some() || found.state != SlotState::Ended;
        (apart && there && !wanted.strategy.is_in_place()).then_some(index)
    }

    /// All others are proven: those that make room are asked to end.
    pub(super) fn give_way(&mut self) {
        let now = self.now;
        let Some(rising) = self.state.rising.take() else {
            return;
        };
        let waiting: Vec<_> = waiting_slots(&rising)
            .filter_map(|slot| self.waits_for(&rising.generation, slot))
            .collect();
        self.state.rising = Some(rising);
        let mut longest = 0;
        for slot in waiting {
            longest = longest.max(self.ask_to_end(slot));
        }
        if let Some(rising) = &mut self.state.rising {
            rising.phase = RisingPhase::Yielding(Leaving::Stopping);
            rising.deadline = now + longest;
        }
        self.look_for_room();
    }

    /// How long it may take, in milliseconds.
    fn ask_to_end(&mut self, slot: usize) -> u64 {
        let Some(active) = &mut self.state.active else {
            return 0;
        };
        let generation = active.number;
        let (Some(found), Some(spec)) = (active.slots.get_mut(slot), active.intent.processes.get(slot))
        else {
            return 0;
        };
        if found.process.is_none() && found.state != SlotState::Forking {
            found.state = SlotState::Yielded;
            return 0;
        }
        found.state = SlotState::Yielding;
        let time = spec.time_to_stop();
        self.push(Effect::End {
            generation,
            slot,
            kill: false,
        });
        time
    }

    /// Its time is over.
    pub(super) fn end_by_force(&mut self) {
        let deadline = self.now + KILL_AGAIN_MS;
        if let Some(rising) = &mut self.state.rising {
            rising.phase = RisingPhase::Yielding(Leaving::Killing);
            rising.deadline = deadline;
        }
        let Some(active) = &self.state.active else { return };
        let generation = active.number;
        let slots = active.slots.iter().enumerate();
        let late: Vec<_> = slots
            .filter(|(_, found)| found.state == SlotState::Yielding)
            .map(|(slot, _)| Effect::End {
                generation,
                slot,
                kill: true,
            })
            .collect();
        self.effects.extend(late);
    }

    /// A process that was asked to make room has ended; what it started goes with it.
    pub(super) fn yielded(&mut self, generation: u64, slot: usize, process: Option<Process>) {
        if let Some(process) = process {
            self.push(Effect::Sweep {
                generation,
                slot,
                process,
            });
        }
        if let Some(found) = self.state.slot_mut(generation, slot) {
            found.state = SlotState::Yielded;
        }
        let yields = |rising: &Rising| matches!(rising.phase, RisingPhase::Yielding(_));
        if self.state.rising.as_ref().is_some_and(yields) {
            self.look_for_room();
        } else {
            self.restore_active();
        }
    }

    fn look_for_room(&mut self) {
        let now = self.now;
        let active = self.state.active.iter().flat_map(|active| &active.slots);
        if active.into_iter().any(|slot| slot.state == SlotState::Yielding) {
            return;
        }
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        rising.phase = RisingPhase::Spawned;
        rising.deadline = now + rising.generation.longest(|process| process.ready_timeout_ms);
        let generation = rising.generation.number;
        let slots: Vec<_> = waiting_slots(rising).collect();
        for slot in slots {
            if let Some(found) = self.state.slot_mut(generation, slot) {
                found.state = SlotState::Forking;
            }
            self.push(Effect::Fork { generation, slot });
        }
    }

    /// Names of the active generation's processes that may not be there yet, since a failed successor still is.
    pub(super) fn kept_back(&self) -> Vec<String> {
        let rising = self
            .state
            .rising
            .iter()
            .filter(|rising| rising.phase == RisingPhase::Aborting);
        // One that had a share of the users drains first.
        let leaving = self.state.retiring.iter().map(|leaving| &leaving.generation);
        let active = self
            .state
            .active
            .iter()
            .flat_map(|active| &active.intent.processes);
        let apart = |name: &str| {
            let mut known = active.clone();
            known.any(|known| known.name == name && !known.overlap)
        };
        rising
            .flat_map(|rising| &rising.generation.intent.processes)
            .chain(leaving.flat_map(living_processes))
            .filter(|process| {
                // One that binds by itself finds its address taken as long as the other is there.
                !process.overlap || process.strategy.is_outside() || apart(&process.name)
            })
            .map(|process| process.name.clone())
            .collect()
    }

    /// A process that is to make room asks for more time to finish what it does.
    pub(super) fn extend_yielding(&mut self, generation: u64, by: u64) {
        let now = self.now;
        let Some(active) = self
            .state
            .active
            .as_ref()
            .filter(|active| active.number == generation)
        else {
            return;
        };
        let cap = active.longest(ProcessSpec::time_to_stop);
        if let Some(rising) = &mut self.state.rising
            && rising.phase == RisingPhase::Yielding(Leaving::Stopping)
        {
            rising.deadline = rising.deadline.max(now.saturating_add(by.min(cap)));
        }
    }
}

fn living_processes(generation: &Generation) -> impl Iterator<Item = &ProcessSpec> {
    let both = generation.intent.processes.iter().zip(&generation.slots);
    both.filter(|(_, slot)| slot.process.is_some())
        .map(|(process, _)| process)
}

fn waiting_slots(rising: &Rising) -> impl Iterator<Item = usize> {
    let slots = rising.generation.slots.iter().enumerate();
    slots
        .filter(|(_, found)| found.state == SlotState::Waiting)
        .map(|(slot, _)| slot)
}
