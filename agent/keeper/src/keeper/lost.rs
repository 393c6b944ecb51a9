//! Listeners that their app gave up: shut down, or closed while it lives on.
//!
//! A shut-down one leaves the group at once. A closed one stays, since the keeper has it too, and connections wait there for
//! nobody: that is found out when they have waited for a while.

use std::os::fd::AsFd;

use super::Keeper;
use crate::clock::now_ms;
use crate::listen;
use crate::machine::{Event, Generation, RisingPhase};
use crate::processes::{self, Table, Tree};
use crate::protocol::Role;

/// How often it is looked whether connections wait.
const LOOK_MS: u64 = 1_000;

impl Keeper {
    /// Notices listeners that their app has shut down.
    pub(super) fn look_at_listeners(&mut self) {
        let active = self.state.active.as_ref().map_or(0, |active| active.number);
        let before = self.state.layout.clone();
        // What a holder still has would stay in its group where it is closed here only.
        let closed = self.state.holder.is_none();
        let proven = closed && (self.state.rising.is_none() || self.state.canary().is_some());
        let mut lost = Vec::new();
        for (key, group) in self.listeners.iter_mut() {
            let had = group.socket(active).is_some();
            if group.inspect(active, proven) && had {
                lost.push(key.clone());
            }
        }
        self.remember_layout();
        if self.state.layout != before {
            self.revision += 1;
        }
        for key in lost {
            self.note(format!(
                "generation {active} shut its listener {key} down; its process is started again"
            ));
            self.kill_generation(active);
        }
        self.look_at_idle_ones();
        self.look_at_queues();
    }

    /// What is on its way up has failed without its listener, and what is warm cannot be gone back to.
    fn look_at_idle_ones(&mut self) {
        let mut warm = Vec::new();
        for (found, role) in self.state.generations() {
            if !matches!(role, Role::Rising | Role::Warm) {
                continue;
            }
            let Some((slot, listener)) = self.without_listener(found) else {
                continue;
            };
            if role == Role::Warm {
                warm.push(found.number);
                continue;
            }
            self.events.push_back(Event::ProbeFailed {
                generation: found.number,
                slot,
                reason: format!("it has shut its listener {listener} down"),
            });
        }
        for generation in warm {
            self.kill_generation(generation);
        }
    }

    /// A running process of the generation that had a socket and has left its group.
    fn without_listener(&self, found: &Generation) -> Option<(usize, String)> {
        let both = found.intent.processes.iter().zip(&found.slots).enumerate();
        let mut had = both
            .filter(|(_, (spec, slot))| slot.process.is_some() && slot.sockets.len() == spec.listen.len());
        had.find_map(|(at, (spec, _))| {
            let left = spec.listen.iter().find(|listener| {
                let group = self.listeners.get(&listen::key(spec, listener));
                group.is_some_and(|group| !group.has(found.number))
            });
            Some((at, left?.name.clone()))
        })
    }

    /// A generation that cannot serve any more: its processes end, and are started again if users come to it.
    fn kill_generation(&mut self, number: u64) {
        for ((generation, _), running) in &self.running {
            if *generation == number {
                processes::send(
                    running.process.pid,
                    running.process.start,
                    rustix::process::Signal::KILL,
                );
            }
        }
    }

    /// When it is looked next whether somebody waits in vain.
    pub(super) fn queues_due(&self) -> Option<u64> {
        let listens = self.listeners.iter().next().is_some();
        (self.state.active.is_some() && listens).then_some(self.next_queue_look)
    }

    /// Connections that wait at two looks wait for somebody who has closed his listener, or is slow.
    fn look_at_queues(&mut self) {
        let now = now_ms();
        let clearing = matches!(
            self.state.rising.as_ref().map(|rising| rising.phase),
            Some(RisingPhase::Clearing(_))
        );
        let up = self.state.active.as_ref().filter(|active| active.is_whole());
        let Some(active) = up.map(|active| active.number).filter(|_| !clearing) else {
            self.waited_at.clear();
            return;
        };
        if now < self.next_queue_look {
            return;
        }
        self.next_queue_look = now + LOOK_MS;
        let waiting: Vec<_> = self
            .listeners
            .iter()
            .filter(|(_, group)| group.has_queue(active))
            .map(|(key, _)| key.clone())
            .collect();
        let waited = std::mem::replace(&mut self.waited_at, waiting.clone());
        let given_up = waiting
            .into_iter()
            .find(|key| waited.contains(key) && !self.has_open(active, key));
        if let Some(key) = given_up {
            self.note(format!(
                "generation {active} closed its listener {key} and lives on; its process is started again"
            ));
            self.kill_generation(active);
        }
    }

    /// Connections that wait where a leaving generation does not accept any more are led on by the keeper.
    pub(super) fn take_queues_over(&mut self, generation: u64) {
        let keys: Vec<_> = self
            .listeners
            .iter()
            .filter(|(_, group)| group.has_queue(generation))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            if !self.has_open(generation, &key)
                && let Some(group) = self.listeners.get_mut(&key)
            {
                group.abandon(generation);
            }
        }
    }

    /// Whether any process of the generation has its socket there open.
    fn has_open(&self, generation: u64, key: &str) -> bool {
        let group = self.listeners.get(key);
        let socket = group.and_then(|group| group.socket(generation));
        let inode = socket.and_then(|socket| crate::unix::inode(socket.as_fd()).ok());
        let Some(inode) = inode.and_then(|inode| u32::try_from(inode).ok()) else {
            return false;
        };
        let holds = |pid: &u32| processes::descriptor_of(*pid, inode).is_some();
        let mut mains = self
            .running
            .iter()
            .filter(|((number, _), _)| *number == generation);
        if mains.any(|(_, running)| holds(&running.process.pid)) {
            return true;
        }
        let mains = self.mains.get(&generation).map_or(&[][..], Vec::as_slice);
        let (marks, others) = (self.marks(generation, None), self.others(generation));
        let near = Tree::look().map(|tree| tree.family(mains, &others, &marks));
        near.is_some_and(|near| near.iter().any(holds))
            || Table::read().family(mains, &others, &marks).iter().any(holds)
    }
}
