//! A keeper has just started over the state of an earlier one: what lives is kept, what users never saw is killed.

use std::path::Path;

use ship_model::spec::HookPoint;

use super::hooks::hooks_time;
use super::standby::standing_by;
use super::step::Turn;
use super::{Cause, Effect, Leaving, Queued, Rising, RisingPhase, SlotState, State};
use crate::protocol::Intent;

/// What the new keeper found alive, and what it holds of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Living {
    /// The generation.
    pub generation: u64,
    /// The slot.
    pub slot: usize,
    /// All its listening sockets were taken back; if not, it must be started anew.
    pub adopted: bool,
}

/// The state and effects with which a new keeper goes on.
///
/// `boot_id` is this boot's, `living` what was found of the state's processes, `current` what the link names.
#[must_use]
pub fn recover(
    state: &State,
    boot_id: &str,
    living: &[Living],
    current: Option<&Path>,
    now: u64,
) -> (State, Vec<Effect>) {
    let mut turn = Turn {
        state: state.clone(),
        now,
        effects: Vec::new(),
    };
    if state.boot_id == boot_id {
        turn.same_boot(living);
    } else {
        boot_id.clone_into(&mut turn.state.boot_id);
        turn.other_boot(current);
    }
    (turn.state, turn.effects)
}

impl Turn {
    fn same_boot(&mut self, living: &[Living]) {
        self.mark_the_dead(living);
        if !self.resume_canary(living) {
            if let Some(rising) = self.state.rising.take() {
                self.end_rising(rising);
            }
            self.link_active();
            self.steer_active();
        }
        self.resume_active(living);
        self.resume_retiring(living);
        self.resume_hooks();
    }

    fn mark_the_dead(&mut self, living: &[Living]) {
        let lives = |generation: u64, slot: usize| {
            living
                .iter()
                .any(|found| found.generation == generation && found.slot == slot)
        };
        let numbers: Vec<_> = self
            .state
            .generations()
            .map(|(generation, _)| generation.number)
            .collect();
        for number in numbers {
            let Some(generation) = self.state.generation_mut(number) else {
                continue;
            };
            for (index, slot) in generation.slots.iter_mut().enumerate() {
                if !lives(number, index) {
                    slot.process = None;
                    slot.ready = false;
                }
            }
        }
    }

    /// Users never saw it, so it is ended; then the switch is begun again.
    fn end_rising(&mut self, rising: Rising) {
        let aborting = rising.phase == RisingPhase::Aborting;
        let again = rising.clone();
        self.state.rising = Some(rising);
        if aborting {
            if let Some(rising) = &mut self.state.rising {
                rising.deadline = self.now;
            }
            self.restore_active();
            return;
        }
        self.abort("the keeper ended in the middle of the switch", false);
        self.begin_again(&again);
    }

    fn resume_active(&mut self, living: &[Living]) {
        let now = self.now;
        let active = self.state.active.as_ref();
        if active.is_some_and(|active| !active.is_whole()) && self.lose_adopted("it has ended") {
            return;
        }
        let kept_back = self.kept_back();
        let Some(active) = &mut self.state.active else {
            return;
        };
        let processes = &active.intent.processes;
        let number = active.number;
        let mut orphans = Vec::new();
        for (index, slot) in active.slots.iter_mut().enumerate() {
            let found = living
                .iter()
                .find(|found| found.generation == number && found.slot == index);
            let whole = found.is_some_and(|found| found.adopted) && slot.state != SlotState::Forked;
            if whole && slot.process.is_some() {
                // READY may have been sent while nobody listened.
                slot.state = SlotState::Up;
                slot.since = now;
                continue;
            }
            if let Some(process) = slot.process.take() {
                orphans.push(Effect::Sweep {
                    generation: number,
                    slot: index,
                    process,
                });
            }
            let waits = processes
                .get(index)
                .is_some_and(|spec| kept_back.contains(&spec.name));
            slot.state = if waits {
                SlotState::Yielded
            } else {
                SlotState::BackingOff { until: now }
            };
        }
        self.effects.extend(orphans);
    }

    fn resume_retiring(&mut self, living: &[Living]) {
        let now = self.now;
        let soak = self
            .state
            .active
            .as_ref()
            .map_or(0, |active| active.intent.soak_ms);
        let mut lost = None;
        for leaving in &mut self.state.retiring {
            let number = leaving.generation.number;
            let mut found = living.iter().filter(|found| found.generation == number);
            let whole = leaving.generation.is_whole() && found.all(|found| found.adopted);
            leaving.deadline = match leaving.phase {
                Leaving::Warm if whole => now + soak,
                Leaving::Standby if whole => leaving.deadline.max(now),
                Leaving::Standby => {
                    let release = leaving.generation.intent.release;
                    lost = Some(standing_by(
                        release,
                        "it ended, or could not be taken over, while no keeper was there",
                    ));
                    now
                }
                Leaving::Warm => now,
                Leaving::Parting => {
                    now.saturating_add(hooks_time(&leaving.generation.intent, HookPoint::BeforeStop))
                }
                Leaving::Draining => now + leaving.generation.longest(|process| process.drain_ms),
                Leaving::Stopping => now + leaving.generation.time_to_stop(),
                Leaving::Killing => now,
            };
            // From a standby, which is counted from its cut-over, nobody was steered away just now.
            if leaving.phase != Leaving::Standby {
                leaving.steered_away_at = now;
            }
        }
        self.state.standby_lost = lost.or(self.state.standby_lost.take());
        let resumed: Vec<_> = self
            .state
            .retiring
            .iter()
            .filter_map(|leaving| {
                let generation = leaving.generation.number;
                match leaving.phase {
                    Leaving::Warm | Leaving::Standby | Leaving::Parting => None,
                    Leaving::Draining => Some(Effect::Drain { generation }),
                    Leaving::Stopping => Some(Effect::Stop { generation }),
                    Leaving::Killing => Some(Effect::Kill { generation }),
                }
            })
            .collect();
        self.effects.extend(resumed);
    }

    /// Nothing of ours lives. The link is the truth of what ran, unless a way back from that had begun.
    fn other_boot(&mut self, current: Option<&Path>) {
        let named = self.to_boot(current);
        self.state.active = None;
        self.state.rising = None;
        self.state.retiring.clear();
        self.state.outcome_of = None;
        self.state.hooks.clear();
        if self.state.stopping {
            self.state.stopping = false;
            self.state.stopped = true;
        }
        if self.state.stopped {
            self.state.queued = None;
            return;
        }
        let Some(intent) = named else { return };
        let (asked_at, not_before) = (self.now, self.now);
        self.state.queued = Some(Queued {
            intent,
            cause: Cause::Boot,
            asked_at,
            not_before,
            attempt: 0,
            rungs: Vec::new(),
            lock_until: None,
            notice_ms: None,
        });
    }

    /// What runs after a boot. An adopted process is not ours to start.
    fn to_boot(&self, current: Option<&Path>) -> Option<Intent> {
        let back = |cause: &Cause| matches!(cause, Cause::Revert(_) | Cause::Fallback(_));
        let rising = self
            .state
            .rising
            .iter()
            .filter(|rising| rising.phase != RisingPhase::Aborting);
        let going_back = rising.filter(|rising| back(&rising.cause));
        let going_back = going_back.map(|rising| &rising.generation.intent);
        let queued = self.state.queued.iter().filter(|queued| back(&queued.cause));
        if let Some(intent) = queued.map(|queued| &queued.intent).chain(going_back).next() {
            return Some(intent.clone());
        }
        let ours = |intent: &&Intent| !intent.is_adopted();
        let active = self.state.active.iter().map(|active| &active.intent);
        let rising = self.state.rising.iter().map(|rising| &rising.generation.intent);
        let known = rising.chain(active.clone()).chain(&self.state.good);
        let named = known
            .filter(ours)
            .find(|intent| current == Some(intent.dir.as_path()));
        // What had failed or was reverted from is not come back to, though the link was not put back any more.
        let left = |intent: &&Intent| {
            let others = |active: &Intent| active.release != intent.release;
            self.state.bad.contains(&intent.release) && active.clone().any(others)
        };
        let named = named.filter(|intent| !left(intent));
        named.or(active.clone().find(ours)).cloned()
    }
}
