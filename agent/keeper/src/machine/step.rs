//! One step: an event, the next state, the effects.

use ship_model::spec::HookPoint;

use super::{Cause, Effect, Event, Leaving, Queued, RisingPhase, State};
use crate::protocol::{Held, Intent, Outcome, Phase, SwitchResult};

/// A step in the making.
pub(super) struct Turn {
    pub state: State,
    pub now: u64,
    pub effects: Vec<Effect>,
}

/// The state after `event` at time `now`, and what is to be done to the world, in this order.
#[must_use]
pub fn step(state: &State, event: &Event, now: u64) -> (State, Vec<Effect>) {
    let mut turn = Turn {
        state: state.clone(),
        now,
        effects: Vec::new(),
    };
    turn.take(event);
    turn.begin_queued();
    turn.finish_stop();
    (turn.state, turn.effects)
}

impl Turn {
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Tick => self.tick(),
            Event::Switch { intent, notice_ms } => self.switch(intent, *notice_ms),
            Event::Revert {
                to,
                reason,
                epoch,
                notice_ms,
            } => self.revert(*to, reason, *epoch, *notice_ms),
            Event::MayClear => self.may_clear(),
            Event::Stop => self.stop(),
            Event::Adopted {
                intent,
                process,
                sockets,
            } => self.adopt(intent, *process, sockets),
            Event::Renew(intent) => self.renew(intent),
            Event::Missing(release) => self.state.good.retain(|intent| intent.release != *release),
            Event::Bound {
                generation,
                sockets,
                remarks,
                tight,
            } => self.bound(*generation, sockets, remarks, tight.as_ref()),
            Event::Unlocked { generation } => self.unlocked(*generation),
            Event::Forked {
                generation,
                slot,
                process,
            } => self.forked(*generation, *slot, *process),
            Event::Started { generation, slot } => self.started(*generation, *slot),
            Event::Ended {
                generation,
                slot,
                how,
            } => self.ended(*generation, *slot, how),
            Event::Asked {
                generation,
                slot,
                result,
            } => self.asked(*generation, *slot, result),
            Event::Way {
                generation,
                slot,
                way,
            } => self.went(*generation, *slot, way),
            Event::Daemon {
                generation,
                slot,
                process,
            } => {
                if let Some(slot) = self.state.slot_mut(*generation, *slot) {
                    slot.process = Some(*process);
                }
            }
            Event::Ready { generation, slot } => self.ready(*generation, *slot),
            Event::Extend { generation, by } => self.extend(*generation, *by),
            Event::Probed {
                generation,
                slot,
                first_answer_at,
            } => {
                self.probed(*generation, *slot, *first_answer_at);
            }
            Event::ProbeFailed {
                generation,
                slot,
                reason,
            } => self.probe_failed(*generation, *slot, reason),
            Event::ProbeProblem {
                generation,
                slot,
                problem,
            } => {
                if let Some(slot) = self.state.slot_mut(*generation, *slot) {
                    slot.problem = Some(problem.clone());
                }
            }
            Event::Linked { generation, result } => self.linked(*generation, result),
            Event::Steered { generation, result } => self.steered(*generation, result),
            Event::Shared { generation, result } => self.shared(*generation, result),
            Event::Hooked {
                generation,
                point,
                result,
            } => self.hooked(*generation, *point, result),
            Event::Idle { generation } => self.idle(*generation),
            Event::Gone { generation, cut } => self.gone(*generation, *cut),
        }
    }

    fn tick(&mut self) {
        self.tick_rising();
        self.tick_retiring();
        self.tick_active();
    }

    fn switch(&mut self, intent: &Intent, notice_ms: Option<u64>) {
        self.state.epoch = self.state.epoch.max(intent.epoch);
        self.state.held = None;
        self.state.stopped = false;
        let superseded = format!("superseded by release {}", intent.release);
        self.abort(&superseded, false);
        self.enqueue(intent.clone(), Cause::Switch, notice_ms);
    }

    pub(super) fn enqueue(&mut self, intent: Intent, cause: Cause, notice_ms: Option<u64>) {
        self.state.queued = Some(Queued {
            intent,
            cause,
            asked_at: self.now,
            not_before: self.now,
            attempt: 0,
            rungs: Vec::new(),
            lock_until: None,
            notice_ms,
        });
    }

    fn renew(&mut self, intent: &Intent) {
        self.state.epoch = self.state.epoch.max(intent.epoch);
        self.state.held = None;
        if let Some(active) = &mut self.state.active {
            // They are the same but for strategies that were not possible.
            let processes = std::mem::take(&mut active.intent.processes);
            active.intent = Intent {
                processes,
                ..intent.clone()
            };
        }
    }

    fn revert(&mut self, to: Option<u64>, reason: &str, epoch: Option<u64>, notice_ms: Option<u64>) {
        self.state.epoch = self.state.epoch.max(epoch.unwrap_or(0));
        self.state.queued = None;
        let rising = self
            .state
            .rising
            .as_ref()
            .filter(|rising| rising.phase != RisingPhase::Aborting);
        let rising = rising.map(|rising| rising.generation.intent.release);
        let Some(active) = self.state.active.as_ref().map(|active| active.intent.release) else {
            return;
        };
        if let Some(rising) = rising {
            self.hold(rising, reason);
            self.abort(&format!("reverted: {reason}"), true);
            if to.is_none_or(|to| to == active) {
                return;
            }
        }
        if self.state.adopted_is_warm_for(to) {
            self.turn_back(reason, false);
            return;
        }
        let target = match to {
            Some(to) => self.state.good.iter().find(|intent| intent.release == to),
            None => self.state.revert_target(),
        };
        let Some(target) = target.cloned().filter(|target| target.release != active) else {
            return;
        };
        self.hold(active, reason);
        if self
            .state
            .warm()
            .is_some_and(|warm| warm.generation.intent.release == target.release)
        {
            self.turn_back(reason, false);
        } else {
            self.enqueue(target, Cause::Revert(reason.to_owned()), notice_ms);
        }
    }

    /// Remembers that `release` is not to be tried again under the newest epoch, and never gone back to.
    pub(super) fn hold(&mut self, release: u64, reason: &str) {
        self.state.held = Some(Held {
            epoch: self.state.epoch,
            release,
            reason: reason.to_owned(),
        });
        if !self.state.bad.contains(&release) {
            self.state.bad.push(release);
            if self.state.bad.len() > super::BAD_KEPT {
                self.state.bad.remove(0);
            }
        }
    }

    fn begin_queued(&mut self) {
        let due = self
            .state
            .queued
            .as_ref()
            .is_some_and(|queued| queued.not_before <= self.now);
        if !due || self.state.stopping || self.state.rising.is_some() {
            return;
        }
        // A revert does not wait for generations that are leaving; a switch keeps the number of generations small.
        let urgent = matches!(
            &self.state.queued,
            Some(Queued {
                cause: Cause::Revert(_) | Cause::Fallback(_),
                ..
            })
        );
        if !urgent && self.state.has_two_slots() {
            self.end_soak();
        }
        if !urgent && !self.state.is_free() {
            return;
        }
        if let Some(queued) = self.state.queued.take() {
            self.begin(queued);
        }
    }

    fn stop(&mut self) {
        self.state.stopping = true;
        self.state.queued = None;
        self.abort("the app is being stopped", false);
        if let Some(active) = self.state.active.take() {
            self.retire(active, Leaving::Draining, false);
        }
        self.end_soak();
    }

    fn finish_stop(&mut self) {
        let empty =
            self.state.active.is_none() && self.state.rising.is_none() && self.state.retiring.is_empty();
        let empty = empty && self.state.hooks.is_empty();
        if self.state.stopping && empty {
            self.state.stopping = false;
            self.state.stopped = true;
            self.push(Effect::Exit);
        }
    }

    /// Tells how a switch or revert ended. Lines and wall-clock time are filled in at the edge.
    pub(super) fn conclude(
        &mut self,
        release: u64,
        epoch: u64,
        result: SwitchResult,
        reason: Option<String>,
    ) {
        match result {
            SwitchResult::Switched => self.state.counters.switches += 1,
            SwitchResult::Failed => self.state.counters.failures += 1,
            SwitchResult::Reverted => self.state.counters.reverts += 1,
        }
        self.state.outcome = Some(Outcome {
            epoch,
            release,
            running: self.state.active.as_ref().map(|active| active.intent.release),
            result,
            failed_step: None,
            reason,
            rungs: Vec::new(),
            last_lines: Vec::new(),
            switch_ms: 0,
            boot_ms: 0,
            first_answer_ms: None,
            gap_ms: None,
            at: String::new(),
        });
        self.state.outcome_of = None;
    }

    pub(super) fn amend_outcome(&mut self, amend: impl FnOnce(&mut Outcome)) {
        if let Some(outcome) = &mut self.state.outcome {
            amend(outcome);
        }
    }

    pub(super) fn phase_word(phase: RisingPhase) -> Phase {
        match phase {
            RisingPhase::Prepared
            | RisingPhase::Announced
            | RisingPhase::Linking
            | RisingPhase::Locked { proven: false }
            | RisingPhase::Hooking(HookPoint::BeforeStart) => Phase::Prepared,
            RisingPhase::Clearing(_) | RisingPhase::Yielding(_) => Phase::Clearing,
            RisingPhase::Spawned => Phase::Spawned,
            RisingPhase::Ready => Phase::Ready,
            RisingPhase::Probed | RisingPhase::Locked { .. } | RisingPhase::Hooking(_) => Phase::Probed,
            RisingPhase::Canary => Phase::Canary,
            RisingPhase::Linked => Phase::Linked,
            RisingPhase::Aborting => Phase::Aborting,
        }
    }
}
