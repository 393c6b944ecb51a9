//! The way up, its beginning: from an intent to processes that run their program.

use ship_model::spec::HookPoint;

use super::step::Turn;
use super::{Effect, Generation, Process, Queued, Rising, RisingPhase, Slot, SlotState};
use crate::protocol::Rung;

/// An effect that is done at once but for a sick disk; without an answer by then the switch fails.
pub(super) const PROMPT_MS: u64 = 30_000;

impl Turn {
    pub(super) fn begin(&mut self, queued: Queued) {
        self.end_soak();
        self.state.standby_lost = None;
        let number = self.state.upcoming();
        self.state.next_generation = number + 1;
        self.state.rising = Some(Rising {
            generation: Generation::new(number, queued.intent),
            phase: RisingPhase::Prepared,
            cause: queued.cause,
            asked_at: queued.asked_at,
            spawned_at: self.now,
            deadline: self.now + PROMPT_MS,
            first_answer_at: None,
            proven_at: None,
            gap_since: None,
            attempt: queued.attempt,
            canary: None,
            rungs: queued.rungs,
            tight: None,
            lock_until: queued.lock_until,
            unlocked: false,
            notice_ms: queued.notice_ms,
            may_clear: false,
        });
        self.push(Effect::Bind { generation: number });
    }

    /// The rising generation, if it is this one and has not failed.
    pub(super) fn rising(&mut self, generation: u64) -> Option<&mut Rising> {
        self.state
            .rising
            .as_mut()
            .filter(|rising| rising.generation.number == generation && rising.phase != RisingPhase::Aborting)
    }

    /// It has its sockets; `tight` tells why there is no room in memory for it beside the active generation.
    pub(super) fn bound(
        &mut self,
        generation: u64,
        sockets: &Result<Vec<Vec<u64>>, String>,
        remarks: &[(usize, String)],
        tight: Option<&String>,
    ) {
        let Some(rising) = self.rising(generation) else {
            return;
        };
        if rising.phase != RisingPhase::Prepared {
            return;
        }
        match sockets {
            Err(reason) => {
                let reason = reason.clone();
                self.fail(&reason);
            }
            Ok(sockets) => {
                for (slot, inodes) in rising.generation.slots.iter_mut().zip(sockets) {
                    slot.sockets.clone_from(inodes);
                }
                let processes = &rising.generation.intent.processes;
                let rungs = remarks.iter().filter_map(|(slot, reason)| {
                    let process = processes.get(*slot)?;
                    Some(Rung {
                        process: process.name.clone(),
                        strategy: process.strategy,
                        reason: reason.clone(),
                    })
                });
                let rungs: Vec<_> = rungs.collect();
                // Begun again, it has them already.
                rising.rungs.retain(|rung| !rungs.contains(rung));
                rising.rungs.extend(rungs);
                if tight.is_some_and(|reason| !self.find_room(reason)) {
                    return;
                }
                if !self.rise_through(HookPoint::BeforeStart) {
                    self.clear_or_spawn();
                }
            }
        }
    }

    pub(super) fn spawn(&mut self) {
        let now = self.now;
        let Some(mut rising) = self.state.rising.take() else {
            return;
        };
        rising.phase = RisingPhase::Spawned;
        rising.spawned_at = now;
        rising.deadline = now + rising.generation.longest(|process| process.ready_timeout_ms);
        let generation = rising.generation.number;
        for slot in 0..rising.generation.slots.len() {
            let predecessor = self.predecessor(&rising.generation, slot);
            let waits = self.waits_for(&rising.generation, slot).is_some();
            let home = predecessor.and_then(|from| Some(self.state.active.as_ref()?.home(from)));
            let Some(found) = rising.generation.slots.get_mut(slot) else {
                continue;
            };
            (found.heir_of, found.home) = (predecessor, home);
            if waits {
                found.state = SlotState::Waiting;
            } else if predecessor.is_some() {
                found.state = SlotState::Asked;
                self.push(Effect::Ask { generation, slot });
            } else {
                found.state = SlotState::Forking;
                self.push(Effect::Fork { generation, slot });
            }
        }
        self.state.rising = Some(rising);
        self.look_for_ready(generation);
    }

    pub(super) fn forked(&mut self, generation: u64, slot: usize, process: Process) {
        let now = self.now;
        let aborting = self.state.rising.as_ref().is_some_and(|rising| {
            rising.generation.number == generation && rising.phase == RisingPhase::Aborting
        });
        let found = self
            .state
            .generation_mut(generation)
            .and_then(|generation| generation.slots.get_mut(slot));
        let Some(found) = found else { return };
        found.process = Some(process);
        found.since = now;
        if found.state == SlotState::Forking && !aborting {
            found.state = SlotState::Forked;
            self.push(Effect::Go { generation, slot });
        } else if found.state == SlotState::Yielding {
            self.push(Effect::End {
                generation,
                slot,
                kill: false,
            });
        } else {
            self.push(Effect::Kill { generation });
        }
    }

    pub(super) fn tick_rising(&mut self) {
        let now = self.now;
        let Some(rising) = &self.state.rising else {
            return;
        };
        if rising.phase == RisingPhase::Spawned {
            self.settle();
        }
        let Some(rising) = self.state.rising.as_ref().filter(|rising| rising.deadline <= now) else {
            return;
        };
        match rising.phase {
            RisingPhase::Announced => self.unheeded(),
            RisingPhase::Clearing(stage) => self.clear_further(stage),
            RisingPhase::Yielding(_) => self.end_by_force(),
            RisingPhase::Locked { .. } => self.locked_for_long(),
            RisingPhase::Hooking(_) => self.fail("its hooks did not end in time"),
            RisingPhase::Aborting => self.kill_again(),
            RisingPhase::Prepared => self.fail("the listeners were not bound in time"),
            RisingPhase::Linking => self.fail("the links were not moved in time"),
            RisingPhase::Spawned => {
                let reason = too_late(rising, "not ready", "it did not say READY=1", |slot| slot.ready);
                self.fail(&reason);
            }
            RisingPhase::Ready => {
                let reason = too_late(rising, "no good answer to its probe", "it gave none", |slot| {
                    slot.probed
                });
                self.fail(&reason);
            }
            RisingPhase::Canary => self.grow(),
            RisingPhase::Probed => self.fail("the links were not moved in time"),
            RisingPhase::Linked => self.fail("new connections could not be steered in time"),
        }
    }
}

/// Names the first process that is not there in time, and what was the matter; `else_wrong` where nothing else is known.
fn too_late(rising: &Rising, what: &str, else_wrong: &str, done: impl Fn(&Slot) -> bool) -> String {
    let generation = &rising.generation;
    let mut both = generation.intent.processes.iter().zip(&generation.slots);
    let Some((spec, slot)) = both.find(|(_, slot)| !done(slot)) else {
        return format!("{what} within its ready_timeout");
    };
    let (time, name) = (spec.ready_timeout_ms, &spec.name);
    let problem = slot.problem.as_deref().unwrap_or(else_wrong);
    format!("{what} within its ready_timeout of {time} ms: process {name}: {problem}")
}
