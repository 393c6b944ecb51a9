//! The control groups of generations: what a process is put into, what is told of it, and the end of what is inside.
//!
//! A group is named after the generation a process was born in, since a process that lives on through releases stays where
//! it is. So a generation's group is ended only when no other generation has a process from there.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use super::{Keeper, Running};
use crate::machine::Generation;
use crate::processes;

impl Keeper {
    /// Makes the groups of a process that is about to be forked; true when its memory is limited there.
    pub(super) fn prepare_groups(&mut self, generation: &Generation, slot: usize) -> bool {
        let Some(spec) = generation.intent.processes.get(slot) else {
            return false;
        };
        let (home, _) = generation.home(slot);
        let held = self.groups.prepare(home, &spec.name, &spec.limits);
        held.unheld.into_iter().for_each(|words| self.note(words));
        held.memory
    }

    /// The group that a process which is about to be forked can be born in.
    pub(super) fn group_to_be_born_in(&self, generation: &Generation, slot: usize) -> Option<OwnedFd> {
        let spec = generation.intent.processes.get(slot)?;
        self.groups.door(generation.home(slot).0, &spec.name)
    }

    /// Puts a forked process, which waits to be let go, into its groups, as far as it was not born there.
    pub(super) fn enter_groups(&mut self, generation: &Generation, slot: usize, child: &processes::Child) {
        let Some(spec) = generation.intent.processes.get(slot) else {
            return;
        };
        let (home, _) = generation.home(slot);
        if let Err(error) = self.groups.enter(home, &spec.name, child.pid, child.grouped) {
            // Users come first: it runs without.
            let name = &spec.name;
            self.note(format!(
                "process {name} runs outside of its control group, without its limits: {error}"
            ));
        }
    }

    fn process_name(&self, generation: u64, slot: usize) -> Option<&str> {
        let found = self.state.generation(generation)?;
        Some(&found.intent.processes.get(slot)?.name)
    }

    /// How many of the slot's group were killed for want of memory so far.
    pub(super) fn memory_kills(&self, generation: u64, slot: usize) -> u64 {
        let (home, _) = self.home(generation, slot);
        let name = self.process_name(generation, slot);
        name.and_then(|name| self.groups.memory_kills(home, name))
            .unwrap_or(0)
    }

    /// Words for the end of a process in whose group something was killed for want of memory.
    pub(super) fn want_of_memory(&self, generation: u64, slot: usize, running: &Running) -> String {
        if self.memory_kills(generation, slot) <= running.memory_kills {
            return String::new();
        }
        let found = self.state.generation(generation);
        let spec = found.and_then(|found| found.intent.processes.get(slot));
        match spec.and_then(|spec| spec.limits.memory) {
            Some(limit) => format!(", killed for memory: its limit is {}", processes::amount(limit)),
            None => ", killed for memory: the host has none left".to_owned(),
        }
    }

    /// What is in the generation's groups, whatever it has done to look like a stranger.
    pub(super) fn escaped(&self, generation: u64, process: Option<&str>) -> BTreeSet<u32> {
        let homes = self.homes(generation).into_iter();
        homes
            .flat_map(|home| self.groups.members(home, process))
            .collect()
    }

    /// Ends what is left in the group of one process, unless another process lives there.
    pub(super) fn kill_group_of(&self, generation: u64, slot: usize) {
        let (home, _) = self.home(generation, slot);
        let Some(name) = self.process_name(generation, slot) else {
            return;
        };
        let shares = |place: &(u64, usize)| {
            *place != (generation, slot)
                && self.home(place.0, place.1).0 == home
                && self.process_name(place.0, place.1) == Some(name)
        };
        if !self.running.keys().any(shares) {
            self.groups.kill(home, Some(name));
        }
    }

    /// Ends what is in groups of generations that nobody knows any more, and takes these away.
    pub(super) fn sweep_groups(&self) {
        let generations = self.state.generations();
        let known: Vec<u64> = generations
            .flat_map(|(found, _)| {
                (0..found.slots.len())
                    .map(|slot| found.home(slot).0)
                    .chain([found.number])
            })
            .collect();
        self.groups.sweep(&known);
    }

    /// What this host cannot do for an app's processes, and what is done instead; for the status.
    pub(super) fn falls_back(&self) -> Vec<String> {
        self.groups.falls_back()
    }
}
