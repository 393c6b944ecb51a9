//! A rising generation that fails is ended unseen; what ran before runs on.

use ship_model::spec::HookPoint;

use super::step::Turn;
use super::{Cause, Effect, FAILURES_TO_FALL_BACK, Queued, Rising, RisingPhase};
use crate::protocol::{Intent, SwitchResult};

/// How often a switch is begun again after the keeper itself died in it.
const ATTEMPTS: u32 = 3;

impl Turn {
    /// The rising generation failed by itself.
    pub(super) fn fail(&mut self, reason: &str) {
        let reason = &self.with_ways(reason);
        let Some(rising) = &self.state.rising else { return };
        let failed = rising.generation.clone();
        let (intent, cause, attempt) = (failed.intent.clone(), rising.cause.clone(), rising.attempt);
        if cause != Cause::Boot {
            self.hold(intent.release, reason);
        }
        self.note_hooks(&failed, HookPoint::AfterFailure);
        self.abort(reason, false);
        if cause == Cause::Boot && !self.state.stopping {
            self.try_boot_again(intent, attempt, reason);
        }
    }

    /// After a boot something must run: the same again after a pause, and after some failures the release before it.
    fn try_boot_again(&mut self, intent: Intent, attempt: u32, reason: &str) {
        let (mut intent, mut attempt) = (intent, attempt + 1);
        let pause = super::run::back_off_ms(attempt);
        if attempt >= FAILURES_TO_FALL_BACK {
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
            rungs: Vec::new(),
            lock_until: None,
            notice_ms: None,
        });
    }

    /// Ends the rising generation. Users never saw it, or steer clear of it from now on where it had a share of them; `asked`
    /// when somebody wanted this end.
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
        let result = if asked || before.canary.is_some() {
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
            outcome.rungs.clone_from(&before.rungs);
        });
        self.state.outcome_of = Some(generation);
        self.drop_hooks(generation);
        self.push(Effect::EndProbes { generation });
        let linked = match before.phase {
            RisingPhase::Probed | RisingPhase::Linked | RisingPhase::Linking => true,
            RisingPhase::Prepared => false,
            _ => before.generation.links_first(),
        };
        if linked {
            self.link_active();
        }
        self.undo();
        if matches!(before.phase, RisingPhase::Linked | RisingPhase::Clearing(_)) {
            self.steer_active();
        }
        if !self.leave_canary(!asked) {
            self.end_unseen(generation, &before);
        }
        if matches!(before.phase, RisingPhase::Clearing(_)) || self.state.active.is_some() {
            self.restore_active();
        }
    }

    /// Users cannot be on it, so it is killed; a successor in place shares its predecessor's socket, so it is asked first.
    fn end_unseen(&mut self, generation: u64, before: &Rising) {
        let shares = |slot: &super::Slot| slot.heir_of.is_some() && slot.process.is_some();
        if !before.generation.slots.iter().any(shares) {
            self.push(Effect::Kill { generation });
            return;
        }
        let stop = before.generation.longest(|process| process.stop_timeout_ms);
        if let Some(rising) = &mut self.state.rising {
            rising.deadline = self.now + stop;
        }
        self.push(Effect::Stop { generation });
    }

    pub(super) fn kill_again(&mut self) {
        let deadline = self.now + super::retire::KILL_AGAIN_MS;
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        rising.deadline = deadline;
        let generation = rising.generation.number;
        self.push(Effect::Kill { generation });
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
            rungs: rising.rungs.clone(),
            lock_until: rising.lock_until,
            notice_ms: rising.notice_ms,
        });
    }
}
