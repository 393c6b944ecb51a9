//! Where two generations may not run at once: the active one ends first, its listeners queue meanwhile.

use ship_model::spec::{HookPoint, Strategy};

use super::hooks::hooks_time;
use super::step::Turn;
use super::{Effect, Generation, Leaving, RisingPhase, SlotState};

impl Turn {
    pub(super) fn clear_or_spawn(&mut self) {
        let rising = self.state.rising.as_ref();
        let coexist = rising.is_none_or(|rising| {
            let processes = &rising.generation.intent.processes;
            // One that gives way and listens must not leave its users to an address where nobody is.
            let apart = processes.iter().any(|process| {
                process.strategy == Strategy::StopStart || !process.overlap && !process.listen.is_empty()
            });
            rising.generation.intent.coexist
                && rising.tight.is_none()
                && !apart
                && !self.changes_hands(&rising.generation)
        });
        let clears = self
            .state
            .active
            .as_ref()
            .is_some_and(|active| active.is_living() && !(coexist && active.intent.coexist));
        let replaces = |rising: &super::Rising| rising.generation.links_first();
        if (clears || self.state.rising.as_ref().is_some_and(replaces)) && self.wait_for_lock(false) {
            return;
        }
        if clears {
            self.clear();
        } else {
            self.link_or_spawn();
        }
    }

    /// Whether an address that the keeper holds is to be bound by the app itself, or the other way round.
    fn changes_hands(&self, rising: &Generation) -> bool {
        let listens = |found: &Generation, address: &str, itself: bool| {
            let mut processes = found.intent.processes.iter();
            processes.any(|process| {
                process.strategy.is_outside() == itself
                    && process.listen.iter().any(|listener| listener.addr == address)
            })
        };
        let mut processes = rising.intent.processes.iter();
        processes.any(|process| {
            let other = !process.strategy.is_outside();
            let mut addresses = process.listen.iter().map(|listener| listener.addr.as_str());
            let active = self.state.active.as_ref();
            active.is_some_and(|active| addresses.any(|address| listens(active, address, other)))
        })
    }

    /// Ends the active generation first, once users are led elsewhere, and after its stop hooks.
    pub(super) fn clear(&mut self) {
        if self.announce() {
            return;
        }
        let Some(active) = self.state.active.clone() else {
            return;
        };
        if !self.begin_hooks(&active, HookPoint::BeforeStop) {
            self.clear_now();
            return;
        }
        let time = hooks_time(&active.intent, HookPoint::BeforeStop);
        if let Some(rising) = &mut self.state.rising {
            rising.phase = RisingPhase::Clearing(Leaving::Parting);
            rising.deadline = self.now.saturating_add(time);
        }
    }

    /// Its listeners queue from now on.
    pub(super) fn clear_now(&mut self) {
        let Some(active) = &self.state.active else { return };
        let (number, drain) = (active.number, active.longest(|process| process.drain_ms));
        let mut listening = active
            .intent
            .processes
            .iter()
            .filter(|process| !process.listen.is_empty());
        let held = listening.any(|process| !process.strategy.is_outside()) || !active.is_living();
        if let Some(rising) = &mut self.state.rising {
            rising.gap_since = held.then_some(self.now);
            rising.phase = RisingPhase::Clearing(Leaving::Draining);
            rising.deadline = self.now + drain.max(super::retire::LATE_HANDSHAKES_MS);
            rising.spawned_at = self.now;
        }
        self.push(Effect::Hold { generation: number });
        self.push(Effect::Drain { generation: number });
    }

    pub(super) fn clear_further(&mut self, stage: Leaving) {
        if stage == Leaving::Parting {
            self.clear_now();
            return;
        }
        let Some(active) = &self.state.active else { return };
        let (number, stop) = (active.number, active.time_to_stop());
        let (next, effect) = match stage {
            Leaving::Warm | Leaving::Standby | Leaving::Parting | Leaving::Draining => {
                (Leaving::Stopping, Effect::Stop { generation: number })
            }
            Leaving::Stopping | Leaving::Killing => (Leaving::Killing, Effect::Kill { generation: number }),
        };
        let now = self.now;
        if let Some(rising) = &mut self.state.rising {
            // One that listens by itself serves to its stop.
            rising.gap_since.get_or_insert(now);
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
        if let Some(active) = self.state.active.clone() {
            self.begin_hooks(&active, HookPoint::AfterStop);
        }
        self.link_or_spawn();
    }
}
