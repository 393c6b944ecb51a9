//! A share of the users first: what is proven gets a few of the new connections, then twice as many, until it gets all.
//!
//! The links stay where they are meanwhile, so that a boot in between comes up on the old release. What the machine calls
//! a stage is how often the share has been doubled; the edge says to each socket what that means in per cent, and which
//! clients are in depends on their addresses and the release alone, so that a keeper that takes over comes to the same.
//! Who is in stays in until all are, or until the canary ends. Unlike any other failure before the links are moved, users
//! may be on this generation: it is drained, not killed.

use super::step::Turn;
use super::{Cause, Effect, Generation, Leaving, Living, Rising, RisingPhase, State};
use crate::protocol::{ProcessSpec, Rung};

impl Rising {
    /// Processes that users come to little by little.
    fn canaries(&self) -> impl Iterator<Item = &ProcessSpec> {
        let processes = self.generation.intent.processes.iter();
        processes.filter(|process| {
            process.canary.is_some() && !process.listen.is_empty() && !process.strategy.is_outside()
        })
    }

    /// The smallest share of all its canaries after so many doublings; none when all have all.
    fn share(&self, stage: u32) -> Option<u8> {
        let shares = self.canaries().filter_map(|process| process.canary);
        shares
            .map(|canary| canary.share(stage))
            .min()
            .filter(|share| *share < 100)
    }

    /// How long a stage is held.
    fn hold(&self) -> u64 {
        let holds = self.canaries().filter_map(|process| process.canary);
        holds.map(|canary| canary.hold_ms).max().unwrap_or(0)
    }
}

impl State {
    /// The generation that has a share of the users, how often that was doubled, and when it is doubled again.
    #[must_use]
    pub fn canary(&self) -> Option<(&Generation, u32, u64)> {
        let rising = self.rising.as_ref()?;
        Some((&rising.generation, rising.canary?, rising.deadline))
    }

    /// The share in per cent that the canary has now, and when it grows.
    #[must_use]
    pub fn canary_share(&self) -> Option<(u8, u64)> {
        let rising = self
            .rising
            .as_ref()
            .filter(|rising| rising.phase == RisingPhase::Canary)?;
        Some((rising.share(rising.canary?)?, rising.deadline))
    }
}

impl Turn {
    /// What is proven gets a share of the users, where that is wanted and there is somebody to share with; else all.
    ///
    /// A revert has no canary, and neither has what takes the place of something that does not work.
    pub(super) fn share_or_link(&mut self) {
        let whole = self.state.active.as_ref().is_some_and(Generation::is_whole);
        let wanted = self.state.rising.as_ref().is_some_and(|rising| {
            rising.cause == Cause::Switch && rising.share(0).is_some() && rising.canary.is_none()
        });
        if !(whole && wanted) {
            self.link_proven();
            return;
        }
        if let Some(rising) = &mut self.state.rising {
            rising.canary = Some(0);
        }
        self.enter_stage();
        self.watch();
    }

    /// Begins the stage that the state names, or begins it again.
    fn enter_stage(&mut self) {
        let now = self.now;
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        let Some(stage) = rising.canary else { return };
        rising.phase = RisingPhase::Canary;
        rising.deadline = now.saturating_add(rising.hold());
        let generation = rising.generation.number;
        self.push(Effect::Share { generation, stage });
    }

    /// While users are on it, it must go on answering.
    fn watch(&mut self) {
        let Some(rising) = &self.state.rising else { return };
        let generation = rising.generation.number;
        let probed = rising.generation.intent.processes.iter().enumerate();
        let probed = probed.filter(|(_, process)| process.probe.is_some());
        let watches: Vec<_> = probed
            .map(|(slot, _)| Effect::Watch { generation, slot })
            .collect();
        self.effects.extend(watches);
    }

    /// Its share is led to it, or cannot be: then for a reason in `result`, or, with false, since its listeners know no
    /// shares.
    pub(super) fn shared(&mut self, generation: u64, result: &Result<bool, String>) {
        let Some(rising) = self
            .rising(generation)
            .filter(|rising| rising.phase == RisingPhase::Canary)
        else {
            return;
        };
        match result {
            Ok(true) => {}
            Ok(false) => {
                rising.canary = None;
                let rungs = rising.canaries().map(|process| Rung {
                    process: process.name.clone(),
                    strategy: process.strategy,
                    reason: "without its canary: its listeners can be led to a generation only as a whole"
                        .to_owned(),
                });
                let rungs: Vec<_> = rungs.collect();
                rising.rungs.extend(rungs);
                self.end_canary();
            }
            Err(reason) => self.fail(&reason.clone()),
        }
    }

    /// A stage was held for long enough.
    pub(super) fn grow(&mut self) {
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        let Some(stage) = rising.canary else { return };
        if rising.share(stage + 1).is_none() {
            self.end_canary();
            return;
        }
        rising.canary = Some(stage + 1);
        self.enter_stage();
    }

    /// It has done well: all users come to it.
    pub(super) fn end_canary(&mut self) {
        if let Some(rising) = &self.state.rising {
            let generation = rising.generation.number;
            self.push(Effect::EndProbes { generation });
        }
        self.link_proven();
    }

    /// Users may be on what has failed, or is not wanted any more: they get the time to leave that a retired one has. False
    /// where nobody can be.
    pub(super) fn leave_canary(&mut self, failed: bool) -> bool {
        let lives_on = |rising: &Rising| rising.generation.slots.iter().any(|slot| slot.heir_of.is_some());
        let Some(rising) = self
            .state
            .rising
            .take_if(|rising| rising.canary.is_some() && !lives_on(rising))
        else {
            return false;
        };
        match self.state.active {
            Some(_) => self.steer_active(),
            // The adopted process beside it is gone: users wait for what comes next.
            None => {
                let generation = rising.generation.number;
                self.push(Effect::Hold { generation });
            }
        }
        let leaving = if rising.generation.is_living() {
            Leaving::Draining
        } else {
            Leaving::Killing
        };
        self.retire(rising.generation, leaving, failed);
        true
    }

    /// A new keeper finds a canary: if both generations are whole, it goes on where it was. What was proven and was to get
    /// all users gets them now.
    pub(super) fn resume_canary(&mut self, living: &[Living]) -> bool {
        let whole = |generation: &Generation| {
            let adopted = |slot: usize| {
                let mut living = living.iter();
                living
                    .any(|found| (found.generation, found.slot) == (generation.number, slot) && found.adopted)
            };
            generation.is_whole() && (0..generation.slots.len()).all(adopted)
        };
        let Some(rising) = self.state.rising.as_ref().filter(|rising| {
            let goes_on = matches!(
                rising.phase,
                RisingPhase::Canary | RisingPhase::Probed | RisingPhase::Linked
            );
            rising.canary.is_some() && goes_on && whole(&rising.generation)
        }) else {
            return false;
        };
        if !self.state.active.as_ref().is_some_and(whole) {
            return false;
        }
        if rising.phase == RisingPhase::Canary {
            // Nothing is steered anew: that would send all back to the old one for a moment.
            self.enter_stage();
            self.watch();
        } else {
            self.link_proven();
        }
        true
    }
}
