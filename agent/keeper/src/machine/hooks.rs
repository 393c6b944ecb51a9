//! Commands of a release at the steps of its switch.
//!
//! What is to run stands in the journal until it has: a keeper that dies meanwhile leaves it to the next, which runs it
//! again from its first command. What came before users saw the release begins again with the whole switch.

use ship_model::spec::HookPoint;

use super::rise::PROMPT_MS;
use super::step::Turn;
use super::{Effect, Generation, Leaving, Pending, RisingPhase};
use crate::protocol::Intent;

/// The longest its hooks at this step may take, in milliseconds.
pub(super) fn hooks_time(intent: &Intent, point: HookPoint) -> u64 {
    let hooks = intent.hooks.get(&point).into_iter().flatten();
    let all = hooks.fold(0_u64, |sum, hook| sum.saturating_add(hook.timeout_ms));
    all.saturating_add(PROMPT_MS)
}

impl Turn {
    /// Begins the generation's hooks; false when it has none for this step.
    pub(super) fn begin_hooks(&mut self, generation: &Generation, point: HookPoint) -> bool {
        let number = generation.number;
        let begun = self.note_hooks(generation, point);
        if begun {
            self.push(Effect::Hook {
                generation: number,
                point,
            });
        }
        begun
    }

    /// Writes down what is to be begun.
    pub(super) fn note_hooks(&mut self, generation: &Generation, point: HookPoint) -> bool {
        if generation.intent.hooks.get(&point).is_none_or(Vec::is_empty) {
            return false;
        }
        self.state
            .hooks
            .retain(|pending| !pending.is(generation.number, point));
        self.state.hooks.push(Pending {
            generation: generation.clone(),
            point,
        });
        true
    }

    /// Begins what was written down for a generation that is gone now.
    pub(super) fn begin_noted(&mut self, generation: u64, point: HookPoint) {
        if self
            .state
            .hooks
            .iter()
            .any(|pending| pending.is(generation, point))
        {
            self.push(Effect::Hook { generation, point });
        }
    }

    /// Begins those of the rising generation, which goes on when they have run; false when it has none.
    pub(super) fn rise_through(&mut self, point: HookPoint) -> bool {
        let Some(generation) = self.state.rising.as_ref().map(|rising| rising.generation.clone()) else {
            return false;
        };
        if !self.begin_hooks(&generation, point) {
            return false;
        }
        let deadline = self.now.saturating_add(hooks_time(&generation.intent, point));
        if let Some(rising) = &mut self.state.rising {
            rising.phase = RisingPhase::Hooking(point);
            rising.deadline = deadline;
        }
        true
    }

    /// All commands of a step have run, or one that can refuse has failed.
    pub(super) fn hooked(&mut self, generation: u64, point: HookPoint, result: &Result<(), String>) {
        let known = self.state.hooks.len();
        self.state.hooks.retain(|pending| !pending.is(generation, point));
        if self.state.hooks.len() == known {
            return;
        }
        if point == HookPoint::BeforeStop {
            self.may_leave(generation);
            return;
        }
        let here = |phase| phase == RisingPhase::Hooking(point);
        if self.rising(generation).is_none_or(|rising| !here(rising.phase)) {
            return;
        }
        match (result, point) {
            (Err(reason), _) => self.fail(&reason.clone()),
            (Ok(()), HookPoint::BeforeStart) => self.clear_or_spawn(),
            (Ok(()), _) => self.share_or_link(),
        }
    }

    /// Its stop hooks have run.
    fn may_leave(&mut self, generation: u64) {
        if self.clearing(generation) == Some(Leaving::Parting) {
            self.clear_now();
            return;
        }
        let is_it = |leaving: &super::Retiring| {
            leaving.generation.number == generation && leaving.phase == Leaving::Parting
        };
        if let Some(index) = self.state.retiring.iter().position(is_it) {
            self.advance(index);
        }
    }

    /// What failed before users saw it has no more steps to go through.
    pub(super) fn drop_hooks(&mut self, generation: u64) {
        self.state.hooks.retain(|pending| {
            pending.generation.number != generation || pending.point == HookPoint::AfterFailure
        });
    }

    /// Begins again what an earlier keeper had not finished.
    pub(super) fn resume_hooks(&mut self) {
        let rising = self.state.rising.as_ref().map(|rising| rising.generation.number);
        let again: Vec<_> = self
            .state
            .hooks
            .iter()
            // Those of a failed generation wait until it is gone.
            .filter(|pending| Some(pending.generation.number) != rising)
            .map(|pending| Effect::Hook {
                generation: pending.generation.number,
                point: pending.point,
            })
            .collect();
        self.effects.extend(again);
    }
}

impl Pending {
    /// Whether it is this generation's at this step.
    #[must_use]
    pub fn is(&self, generation: u64, point: HookPoint) -> bool {
        self.generation.number == generation && self.point == point
    }
}
