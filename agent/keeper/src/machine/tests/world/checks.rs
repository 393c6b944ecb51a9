//! What must hold after every step, and before an effect is carried out.

use std::collections::BTreeSet;

use super::super::*;
use super::World;
use crate::machine::GOOD_KEPT;
use crate::protocol::Phase;

impl World {
    /// While the app holds its lock nothing is taken from it.
    pub(super) fn check_lock(&self, effect: &Effect) {
        let (Some(rising), Some(active)) = (&self.state.rising, &self.state.active) else {
            return;
        };
        let locks = active.is_living()
            && active
                .intent
                .processes
                .iter()
                .any(|process| process.lock_wait_ms.is_some());
        if !locks || rising.unlocked || rising.phase == RisingPhase::Aborting || self.state.stopping {
            return;
        }
        let taken = match effect {
            Effect::Hold { generation }
            | Effect::Drain { generation }
            | Effect::Stop { generation }
            | Effect::Kill { generation }
            | Effect::End { generation, .. } => *generation == active.number,
            Effect::Steer { generation } => *generation == rising.generation.number,
            Effect::Link { current, .. } => {
                current.as_ref() == Some(&rising.generation.intent.dir)
                    && rising.generation.intent.dir != active.intent.dir
            }
            Effect::Ask { .. } => true,
            _ => false,
        };
        assert!(
            !taken,
            "{effect:?} though the app holds its lock: {:#?}",
            self.state
        );
    }

    /// While users are being led elsewhere nothing is taken from what runs.
    pub(super) fn check_announced(&self, effect: &Effect) {
        let announced = self
            .state
            .rising
            .as_ref()
            .filter(|rising| rising.phase == RisingPhase::Announced);
        let (Some(_), Some(active)) = (announced, &self.state.active) else {
            return;
        };
        let taken = match effect {
            Effect::Hold { generation }
            | Effect::Drain { generation }
            | Effect::Stop { generation }
            | Effect::Kill { generation }
            | Effect::End { generation, .. } => *generation == active.number,
            Effect::Link { current, .. } => current
                .as_ref()
                .is_some_and(|current| *current != active.intent.dir),
            _ => false,
        };
        assert!(!taken, "{effect:?} while users may be there: {:#?}", self.state);
    }

    pub(in super::super) fn check(&self) {
        let state = &self.state;
        assert!(
            state
                .retiring
                .iter()
                .filter(|leaving| leaving.phase.is_warm())
                .count()
                <= 1
        );
        let keeps = |found: &Generation| found.intent.standby.is_some();
        assert!(
            state.standby().is_none() || state.active.as_ref().is_some_and(keeps),
            "a standby of nobody's: {state:#?}"
        );
        assert!(
            state.phase() != Phase::Idle || state.retiring.len() <= usize::from(state.standby().is_some()),
            "not idle: {state:#?}"
        );
        let numbers: Vec<_> = state
            .generations()
            .map(|(generation, _)| generation.number)
            .collect();
        let distinct: BTreeSet<_> = numbers.iter().collect();
        assert_eq!(numbers.len(), distinct.len(), "a generation in two places");
        assert!(numbers.iter().all(|number| *number < state.next_generation));
        if let Some(active) = &state.active {
            assert!(
                self.proven.contains(&active.number),
                "users see an unproven generation"
            );
        }
        let canary = state.canary().map(|(generation, ..)| generation.number);
        assert!(
            self.shared.is_none() || self.shared == canary,
            "who is no canary keeps its share"
        );
        assert!(state.good.len() <= GOOD_KEPT);
        assert!(numbers.len() <= 5, "{numbers:?}");
    }

    /// One that may not run beside its successor does not run beside it.
    pub(super) fn check_apart(&self, generation: u64, slot: usize) {
        let here = self
            .state
            .active
            .iter()
            .chain(self.state.rising.iter().map(|rising| &rising.generation));
        let mut beside =
            here.filter(|found| found.number != generation && self.alive.contains_key(&(found.number, slot)));
        let own = self.state.generation(generation).unwrap();
        let apart =
            |found: &Generation| !found.intent.processes[slot].overlap || !own.intent.processes[slot].overlap;
        assert!(
            slot == 0 || !beside.any(apart),
            "slot {slot} of {generation} runs beside another: {:#?}",
            self.state
        );
    }

    /// With two slots no third generation is there when a wanted one begins: none is started before a standby has gone.
    pub(super) fn check_slots(&self, generation: u64) {
        let rising = self.state.rising.as_ref();
        let Some(rising) = rising.filter(|rising| rising.generation.number == generation) else {
            return;
        };
        let active = self.state.active.iter().chain([&rising.generation]);
        let two = active.into_iter().any(|found| found.intent.standby.is_some());
        let waits = matches!(rising.cause, Cause::Switch | Cause::Boot);
        // An adopted one that is dead was the active one when this began.
        let dead = |leaving: &Retiring| {
            let found = &leaving.generation;
            leaving.phase == Leaving::Killing && found.intent.is_adopted() && !found.is_living()
        };
        assert!(
            !two || !waits || self.state.retiring.iter().all(dead),
            "a third generation: {:#?}",
            self.state
        );
    }
}
