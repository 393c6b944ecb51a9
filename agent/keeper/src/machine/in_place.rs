//! Processes that live on: the running one is asked to become the new release, or to bring its successor forth.
//!
//! Until the new generation is proven, the running process belongs to the active one; a failure asks it to go back. What is
//! handed over keeps the marks, pipes and drain file it was born with, its [`home`](super::Slot::home).

use ship_model::spec::{Restart, Strategy};

use super::rise::PROMPT_MS;
use super::step::Turn;
use super::{Effect, Generation, Leaving, Process, RisingPhase, SlotState};
use crate::protocol::{ProcessSpec, Rung};

impl Generation {
    /// Whether a process of it finds its release by the links, so that these move first.
    pub(super) fn links_first(&self) -> bool {
        self.intent
            .processes
            .iter()
            .any(|process| process.strategy.is_in_place())
    }

    /// Whether it is on its way out.
    #[must_use]
    pub fn is_leaving(&self, state: &super::State) -> bool {
        let failed = state
            .rising
            .iter()
            .filter(|rising| rising.phase == RisingPhase::Aborting);
        let mut failed = failed.map(|rising| rising.generation.number);
        let mut leaving = state.retiring.iter().map(|leaving| leaving.generation.number);
        failed.any(|number| number == self.number) || leaving.any(|number| number == self.number)
    }

    /// Whether a main process of it shares its drain file with its successor: only the stop signal reaches one of them.
    pub(super) fn drains_by_signal(&self) -> bool {
        let reexec = |process: &ProcessSpec| matches!(process.restart, Some(Restart::Reexec(_)));
        self.intent.processes.iter().any(reexec)
    }

    /// Where the slot's process was born.
    #[must_use]
    pub fn home(&self, slot: usize) -> (u64, usize) {
        let home = self.slots.get(slot).and_then(|slot| slot.home);
        home.unwrap_or((self.number, slot))
    }
}

impl Turn {
    /// Begins the way of processes, the links before them where they must be.
    pub(super) fn link_or_spawn(&mut self) {
        let deadline = self.now + PROMPT_MS;
        let Some(rising) = self
            .state
            .rising
            .as_mut()
            .filter(|rising| rising.generation.links_first())
        else {
            return self.spawn();
        };
        rising.phase = RisingPhase::Linking;
        rising.deadline = deadline;
        let (generation, release) = (rising.generation.number, rising.generation.intent.release);
        let current = Some(rising.generation.intent.dir.clone());
        let previous = self.previous_for(release);
        self.push(Effect::Link {
            generation,
            current,
            previous,
        });
    }

    /// The slot of the active generation whose running process is to live on as this one of `rising`.
    pub(super) fn predecessor(&self, rising: &Generation, slot: usize) -> Option<usize> {
        let wanted = rising
            .intent
            .processes
            .get(slot)
            .filter(|wanted| wanted.strategy.is_in_place())?;
        let active = self.state.active.as_ref()?;
        let fits = |known: &ProcessSpec| known.name == wanted.name && known.strategy == wanted.strategy;
        let index = active.intent.processes.iter().position(fits)?;
        let found = active.slots.get(index)?;
        (found.process.is_some() && found.state == SlotState::Up).then_some(index)
    }

    /// The slot of the rising generation that takes over from this one of the active generation.
    pub(super) fn heir(&self, generation: u64, slot: usize) -> Option<(u64, usize)> {
        self.state
            .active
            .as_ref()
            .filter(|active| active.number == generation)?;
        let rising = self
            .state
            .rising
            .as_ref()
            .filter(|rising| rising.phase != RisingPhase::Aborting)?;
        let index = rising
            .generation
            .slots
            .iter()
            .position(|found| found.heir_of == Some(slot))?;
        Some((rising.generation.number, index))
    }

    /// The running process did, or could not do, what it was asked.
    pub(super) fn asked(&mut self, generation: u64, slot: usize, result: &Result<Option<Process>, String>) {
        let now = self.now;
        let Some(rising) = self.rising(generation) else {
            return;
        };
        let Some(spec) = rising.generation.intent.processes.get(slot).cloned() else {
            return;
        };
        let Some(found) = rising.generation.slots.get_mut(slot) else {
            return;
        };
        if found.state != SlotState::Asked {
            return;
        }
        match result {
            Ok(successor) => {
                found.process = *successor;
                found.since = now;
                self.runs(generation, slot);
            }
            Err(reason) if spec.strategy == Strategy::Command => self.restart_instead(&spec, reason),
            Err(reason) => self.fail(&format!("process {}: {reason}", spec.name)),
        }
    }

    /// The upgrade from inside did not work: the old one is stopped and the new one started.
    fn restart_instead(&mut self, spec: &ProcessSpec, reason: &str) {
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        rising.rungs.push(Rung {
            process: spec.name.clone(),
            strategy: Strategy::StopStart,
            reason: format!("its upgrade command failed: {reason}"),
        });
        for found in &mut rising.generation.slots {
            found.heir_of = None;
            found.home = None;
            found.state = SlotState::Waiting;
        }
        self.clear();
    }

    /// An active process ended while its heir is on its way. True when nothing more is to be done about it. One that ended
    /// of an upgrade from inside is not there to be stopped, and its successor is started all the same.
    pub(super) fn predecessor_ended(&mut self, generation: u64, slot: usize, reason: &str) -> bool {
        let Some((rising, heir)) = self.heir(generation, slot) else {
            return false;
        };
        let found = self.state.slot_mut(rising, heir);
        // A successor that lives needs it no more; without one, the way ends here and what ran is started again.
        if found.is_some_and(|found| found.process.is_some()) {
            return true;
        }
        let spec = self.rising(rising).and_then(|rising| {
            let asked = rising.generation.slots.get(heir)?.state == SlotState::Asked;
            let spec = rising.generation.intent.processes.get(heir)?;
            (asked && spec.strategy == Strategy::Command).then(|| spec.clone())
        });
        if let Some(spec) = spec {
            self.restart_instead(&spec, reason);
            return true;
        }
        self.fail(reason);
        false
    }

    /// What lived on becomes the new generation's.
    pub(super) fn inherit(&mut self, rising: &mut Generation, old: &mut Generation) {
        let number = rising.number;
        for (index, (found, spec)) in rising.slots.iter_mut().zip(&rising.intent.processes).enumerate() {
            let Some(from) = found.heir_of.take() else {
                continue;
            };
            if let Some(Restart::Command(_)) = spec.restart {
                self.effects.push(Effect::Confirm {
                    generation: number,
                    slot: index,
                });
            }
            let Some(before) = old.slots.get_mut(from) else {
                continue;
            };
            if found.process.is_none() {
                found.process = before.process.take();
                before.state = SlotState::Ended;
                self.effects.push(Effect::Carry {
                    from: (old.number, from),
                    to: (number, index),
                });
            }
        }
    }

    /// How a generation that was succeeded leaves.
    pub(super) fn way_out(&mut self, old: &Generation) -> Leaving {
        let reexec = |process: &ProcessSpec| match &process.restart {
            Some(Restart::Reexec(reexec)) => Some(reexec.pause.is_some()),
            _ => None,
        };
        let mut ways = old.intent.processes.iter().filter_map(reexec).peekable();
        let carried = old
            .slots
            .iter()
            .any(|slot| slot.state == SlotState::Ended && slot.process.is_none());
        let left_behind = carried && old.links_first();
        let yielded = old.slots.iter().any(|slot| slot.state == SlotState::Yielded);
        if yielded && old.is_living() {
            // What made room is not there to go back to.
            Leaving::Draining
        } else if !(old.is_whole() || left_behind && old.is_living()) {
            Leaving::Killing
        } else if !old.is_whole() {
            Leaving::Draining
        } else if ways.peek().is_none() {
            Leaving::Warm
        } else if ways.all(|pauses| pauses) {
            self.push(Effect::Pause {
                generation: old.number,
            });
            Leaving::Warm
        } else {
            // Both serve the same socket: only the stop signal keeps users from the old one.
            Leaving::Stopping
        }
    }

    /// Asks what was asked to go back again. Its links have been put back before.
    pub(super) fn undo(&mut self) {
        let Some(rising) = &self.state.rising else { return };
        let generation = rising.generation.number;
        let asked: Vec<_> = rising
            .generation
            .slots
            .iter()
            .enumerate()
            .filter_map(|(slot, found)| found.heir_of.map(|_| slot))
            .collect();
        for slot in asked {
            self.push(Effect::Undo { generation, slot });
        }
    }
}
