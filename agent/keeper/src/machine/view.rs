//! What can be asked of a state; nothing changes here.

use super::{Generation, Leaving, Retiring, RisingPhase, Slot, SlotState, State, prove};
use crate::protocol::{Intent, Phase, ProcessSpec, ProcessState, ReleaseRef, Role};

impl Generation {
    pub(super) fn new(number: u64, intent: Intent) -> Self {
        let slots = vec![Slot::default(); intent.processes.len()];
        Self {
            number,
            intent,
            slots,
        }
    }

    /// Whether any process of it is there, as far as is known.
    #[must_use]
    pub fn is_living(&self) -> bool {
        self.slots.iter().any(|slot| slot.process.is_some())
    }

    /// Whether every process of it runs.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.slots.iter().all(|slot| slot.process.is_some())
    }

    /// From the stop signal to the kill; where that signal is also what drains, both times.
    pub(super) fn time_to_stop(&self) -> u64 {
        let by_signal = self.drains_by_signal();
        self.longest(|process| match by_signal {
            true => process.stop_timeout_ms.saturating_add(process.drain_ms),
            false => process.time_to_stop(),
        })
    }

    pub(super) fn longest(&self, of: impl Fn(&ProcessSpec) -> u64) -> u64 {
        self.intent.processes.iter().map(of).max().unwrap_or(0)
    }
}

impl ProcessSpec {
    /// From the stop signal to the kill. Who has no listener finishes its jobs in that time: nothing else tells when it
    /// has none any more.
    pub(crate) fn time_to_stop(&self) -> u64 {
        if self.listen.is_empty() {
            self.stop_timeout_ms.saturating_add(self.drain_ms)
        } else {
            self.stop_timeout_ms
        }
    }
}

impl Slot {
    /// What the status tells of it.
    #[must_use]
    pub fn told(&self) -> ProcessState {
        match self.state {
            SlotState::Waiting => ProcessState::Waiting,
            SlotState::Forking | SlotState::Forked | SlotState::Asked | SlotState::Starting => {
                ProcessState::Starting
            }
            SlotState::Up | SlotState::Yielding => ProcessState::Up,
            SlotState::BackingOff { .. } => ProcessState::BackingOff,
            SlotState::Yielded | SlotState::Ended => ProcessState::Ended,
        }
    }
}

impl State {
    /// All living generations with their parts, oldest first.
    pub fn generations(&self) -> impl Iterator<Item = (&Generation, Role)> {
        let retiring = self.retiring.iter().map(|leaving| {
            let role = match leaving.phase {
                phase if phase.is_warm() => Role::Warm,
                Leaving::Killing if leaving.failed => Role::Failed,
                _ => Role::Retiring,
            };
            (&leaving.generation, role)
        });
        let active = self.active.iter().map(|generation| (generation, Role::Active));
        let rising = self.rising.iter().map(|rising| {
            let role = if rising.phase == RisingPhase::Aborting {
                Role::Failed
            } else {
                Role::Rising
            };
            (&rising.generation, role)
        });
        retiring.chain(active).chain(rising)
    }

    /// The generation with this number.
    #[must_use]
    pub fn generation(&self, number: u64) -> Option<&Generation> {
        self.generations()
            .map(|(generation, _)| generation)
            .find(|generation| generation.number == number)
    }

    /// The slot whose process was born in `home`: that of the latest generation that has it.
    #[must_use]
    pub fn holder(&self, home: (u64, usize)) -> (u64, usize) {
        let held = |(found, _): (&Generation, Role)| {
            let slot = (0..found.slots.len()).find(|slot| found.home(*slot) == home)?;
            // Until it has taken over, the process is still its predecessor's.
            let waits = found.slots.get(slot).is_some_and(|slot| slot.heir_of.is_some());
            (!waits).then_some((found.number, slot))
        };
        self.generations().filter_map(held).max().unwrap_or(home)
    }

    /// A slot of the generation with this number.
    pub fn slot_mut(&mut self, generation: u64, slot: usize) -> Option<&mut Slot> {
        self.generation_mut(generation)?.slots.get_mut(slot)
    }

    pub(super) fn generation_mut(&mut self, number: u64) -> Option<&mut Generation> {
        let retiring = self.retiring.iter_mut().map(|leaving| &mut leaving.generation);
        let rising = self.rising.iter_mut().map(|rising| &mut rising.generation);
        retiring
            .chain(self.active.iter_mut())
            .chain(rising)
            .find(|generation| generation.number == number)
    }

    /// The release that a revert without a target goes to: the latest good one older than the active.
    #[must_use]
    pub fn revert_target(&self) -> Option<&Intent> {
        let running = self.active.as_ref()?.intent.release;
        self.good
            .iter()
            .filter(|intent| intent.release < running && !self.bad.contains(&intent.release))
            .max_by_key(|intent| intent.release)
    }

    /// The generation that can be steered back to, if there is one.
    #[must_use]
    pub fn warm(&self) -> Option<&Retiring> {
        let mut retiring = self.retiring.iter();
        retiring.find(|leaving| leaving.phase.is_warm() && leaving.generation.is_whole())
    }

    /// As [`Self::warm`], while its successor soaks.
    pub(super) fn soaking(&self) -> Option<&Retiring> {
        self.warm().filter(|warm| warm.phase == Leaving::Warm)
    }

    /// The generation that stands by, if there is one.
    #[must_use]
    pub fn standby(&self) -> Option<&Retiring> {
        self.warm().filter(|warm| warm.phase == Leaving::Standby)
    }

    /// Where the machine stands, in one word.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.stopping {
            return Phase::ShuttingDown;
        }
        if let Some(rising) = &self.rising {
            return super::step::Turn::phase_word(rising.phase);
        }
        // Who stands by changes nothing any more.
        let mut leaving = self.retiring.iter().map(|leaving| leaving.phase);
        match leaving.rfind(|phase| *phase != Leaving::Standby) {
            Some(Leaving::Warm | Leaving::Standby) => Phase::Soak,
            Some(Leaving::Parting | Leaving::Draining) => Phase::Draining,
            Some(Leaving::Stopping | Leaving::Killing) => Phase::Stopping,
            None if self.active.is_some() => Phase::Idle,
            None => Phase::Empty,
        }
    }

    /// What a new status must tell of the queue.
    #[must_use]
    pub fn queued_reference(&self) -> Option<ReleaseRef> {
        self.queued.as_ref().map(|queued| queued.intent.reference())
    }

    /// The next time something is due, if anything is.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let backing_off = self
            .active
            .iter()
            .flat_map(|generation| &generation.slots)
            .filter_map(|slot| {
                if let SlotState::BackingOff { until } = slot.state {
                    Some(until)
                } else {
                    None
                }
            });
        let retiring = self.retiring.iter().map(|leaving| leaving.deadline);
        let retiring = retiring.filter(|deadline| *deadline < u64::MAX);
        let rising = self.rising.iter().flat_map(|rising| {
            let settling = (rising.phase == RisingPhase::Spawned)
                .then(|| {
                    let processes = &rising.generation.intent.processes;
                    let slots = rising.generation.slots.iter().zip(processes);
                    let unsettled = slots.filter(|(slot, spec)| {
                        !slot.ready && slot.state == SlotState::Up && prove::tells_nothing(spec)
                    });
                    unsettled.map(|(slot, _)| slot.since + prove::SETTLE_MS).min()
                })
                .flatten();
            [Some(rising.deadline), settling].into_iter().flatten()
        });
        let queued = self
            .queued
            .iter()
            .filter(|_| self.is_free() || self.rising.is_none() && self.warm().is_some())
            .map(|queued| queued.not_before);
        let steady = self.steady_at();
        backing_off
            .chain(steady)
            .chain(retiring)
            .chain(rising)
            .chain(queued)
            .min()
    }

    /// Whether a new generation may rise now.
    pub(super) fn is_free(&self) -> bool {
        let most = if self.has_two_slots() { 1 } else { 2 };
        self.rising.is_none() && self.retiring.len() < most
    }

    /// Whether no more than two generations may be there: one of them may be kept for long.
    pub(super) fn has_two_slots(&self) -> bool {
        let queued = self.queued.iter().map(|queued| &queued.intent);
        let active = self.active.iter().map(|active| &active.intent);
        queued.chain(active).any(|intent| intent.standby.is_some())
    }
}
