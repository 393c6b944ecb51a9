//! The end of a generation: drained, stopped, killed, forgotten.

use rustix::process::Signal;

use super::Keeper;
use super::count::pause_after;
use crate::clock::now_ms;
use crate::machine::{self, Event, Generation, Leaving, Process, RisingPhase};
use crate::processes;

/// How often leaving generations are looked at.
const LOOK_MS: u64 = 50;
/// For a generation to take what waits in its queues before it is told to drain.
const QUEUES_MS: u64 = 2_000;

impl Keeper {
    /// Tells it to drain, as soon as it has taken what waits in its queues: an application that shuts its listener down at
    /// that word would reset those users.
    pub(super) fn drain(&mut self, generation: u64) {
        self.undrained.insert(generation, now_ms() + QUEUES_MS);
        self.next_look = 0;
        self.tell_drain(generation);
    }

    /// The program that takes over knows nothing of those that wait for it.
    pub(super) fn tell_drains(&mut self) {
        for (generation, _) in std::mem::take(&mut self.undrained) {
            self.undrained.insert(generation, 0);
            self.tell_drain(generation);
        }
    }

    fn tell_drain(&mut self, generation: u64) {
        let Some(until) = self.undrained.get(&generation) else {
            return;
        };
        let queued = self
            .listeners
            .iter()
            .any(|(_, group)| group.has_queue(generation));
        if queued && now_ms() < *until {
            return;
        }
        self.undrained.remove(&generation);
        for home in self.homes(generation) {
            let path = self.drain_file(home);
            if let Err(error) = std::fs::File::create(&path) {
                self.note(format!("cannot write the drain file {}: {error}", path.display()));
            }
        }
        self.tell(Some(generation), &format!("generation {generation} drains"));
    }

    pub(super) fn stop(&mut self, generation: u64) {
        let open = self.count_connections(generation);
        self.cut.entry(generation).or_insert(open);
        let Some(found) = self.state.generation(generation).cloned() else {
            return;
        };
        self.tell(
            Some(generation),
            &format!("generation {generation} is asked to stop, {open} connections open"),
        );
        for (process, slot) in found.intent.processes.iter().zip(0..) {
            let signal = processes::signal(&process.stop_signal).unwrap_or(Signal::TERM);
            match self
                .running
                .get(&(generation, slot))
                .map(|running| running.process)
            {
                Some(main) => processes::send(main.pid, main.start, signal),
                None => self.send_to_members(generation, Some(&process.name), signal),
            }
        }
    }

    /// Asks one process to make room, or makes it.
    pub(super) fn end_one(&mut self, generation: u64, slot: usize, kill: bool) {
        let found = self.state.generation(generation);
        let Some(spec) = found.and_then(|found| found.intent.processes.get(slot)).cloned() else {
            return;
        };
        let Some(running) = self.running.get_mut(&(generation, slot)) else {
            return;
        };
        let main = running.process;
        // One that waits to be let go ends when its pipe is closed.
        running.go = None;
        let word = if kill { "killed" } else { "asked to end" };
        self.tell(
            Some(generation),
            &format!("process {} is {word}, to make room for its successor", spec.name),
        );
        if kill {
            let release = self
                .state
                .generation(generation)
                .map_or(0, |found| found.intent.release);
            self.note(format!(
                "process {} of release {release} was killed after {} ms, with the job it had: its time to finish (drain and stop_timeout) was over",
                spec.name,
                spec.time_to_stop()
            ));
        } else {
            let signal = processes::signal(&spec.stop_signal).unwrap_or(Signal::TERM);
            processes::send(main.pid, main.start, signal);
            return;
        }
        let (home, _) = self.home(generation, slot);
        let mut others: Vec<_> = self.running.values().map(|running| running.process).collect();
        others.retain(|other| *other != main);
        for member in processes::members(&[main], &others, &self.marks(home, Some(&spec.name))) {
            processes::send(member.pid, member.start, Signal::KILL);
        }
        self.kill_group_of(generation, slot);
    }

    /// Tells of workers that are killed since their time to finish what they do is over.
    fn tell_cut(&mut self, generation: u64) {
        let over = |leaving: &machine::Retiring| leaving.generation.number == generation && !leaving.failed;
        let cut = self.state.retiring.iter().find(|leaving| over(leaving));
        let clearing = matches!(
            self.state.rising.as_ref().map(|rising| rising.phase),
            Some(RisingPhase::Clearing(Leaving::Killing))
        );
        let active = self
            .state
            .active
            .as_ref()
            .filter(|active| clearing && active.number == generation);
        let Some(found) = cut.map(|leaving| &leaving.generation).or(active).cloned() else {
            return;
        };
        for (spec, slot) in found.intent.processes.iter().zip(0..) {
            if spec.listen.is_empty() && self.running.contains_key(&(generation, slot)) {
                self.note(format!(
                    "process {} of release {} was killed after {} ms, with the job it had: its time to finish (drain and stop_timeout) was over",
                    spec.name,
                    found.intent.release,
                    spec.time_to_stop()
                ));
            }
        }
    }

    pub(super) fn kill(&mut self, generation: u64) {
        self.tell_cut(generation);
        let open = self.count_connections(generation);
        self.cut.entry(generation).or_insert(open);
        self.send_to_members(generation, None, Signal::KILL);
        for home in self.homes(generation) {
            self.groups.kill(home, None);
        }
        // One that waits to be let go ends when the pipe is closed, even if the signal could not reach it.
        for ((number, _), running) in &mut self.running {
            if *number == generation {
                running.go = None;
            }
        }
    }

    /// Main processes of all other generations: what comes from them is not this one's.
    pub(super) fn others(&self, generation: u64) -> Vec<Process> {
        let others = self
            .running
            .iter()
            .filter(|((number, _), _)| *number != generation);
        others.map(|(_, running)| running.process).collect()
    }

    fn send_to_members(&self, generation: u64, process: Option<&str>, signal: Signal) {
        let mains = self.mains.get(&generation).cloned().unwrap_or_default();
        let others = self.others(generation);
        let members = processes::members(&mains, &others, &self.marks(generation, process));
        for member in &members {
            processes::send(member.pid, member.start, signal);
        }
        let mut escaped = self.escaped(generation, process);
        escaped.retain(|pid| members.iter().all(|member| member.pid != *pid));
        for pid in escaped {
            if let Some(start) = processes::start_ticks(pid) {
                processes::send(pid, start, signal);
            }
        }
    }

    pub(super) fn sweep(&mut self, generation: u64, slot: usize, process: Process) {
        let name = self
            .state
            .generation(generation)
            .and_then(|found| found.intent.processes.get(slot))
            .map(|spec| spec.name.clone());
        let (home, _) = self.home(generation, slot);
        let others: Vec<_> = self.running.values().map(|running| running.process).collect();
        for member in processes::members(&[process], &others, &self.marks(home, name.as_deref())) {
            processes::send(member.pid, member.start, Signal::KILL);
        }
        self.kill_group_of(generation, slot);
    }

    pub(super) fn forget(&mut self, generation: u64) {
        self.tell(Some(generation), &format!("generation {generation} is gone"));
        for (_, group) in self.listeners.iter_mut() {
            group.release(generation);
        }
        self.listeners.close_unused();
        self.remember_layout();
        // A process that binds by itself may start next, and finds an address taken that a holder has.
        if self.state.holder.is_some() {
            self.mind_holder();
        }
        self.close_streams(generation);
        self.running.retain(|(number, _), _| *number != generation);
        self.mains.remove(&generation);
        self.tails.remove(&generation);
        self.forget_stores();
        self.cut.remove(&generation);
        self.undrained.remove(&generation);
        self.counted.retain(|(number, _), _| *number != generation);
        self.births.retain(|birth| birth.generation != generation);
        self.joins.retain(|join| join.generation != generation);
        self.asked.retain(|(number, _), _| *number != generation);
        self.remove_drain_files();
        self.sweep_groups();
    }

    /// What was stored by processes that no release here has any more is closed.
    fn forget_stores(&mut self) {
        let living = self.state.generations().map(|(found, _)| &found.intent);
        let named = living.flat_map(|intent| &intent.processes);
        let named = named.map(|process| process.name.clone()).collect();
        self.store.keep_only(&named);
    }

    /// The generations whose drain file tells this one's processes to drain. One that another generation looks at as well is
    /// left out: there only the stop signal can tell.
    pub(super) fn homes(&self, generation: u64) -> Vec<u64> {
        let homes_of = |found: &Generation| -> Vec<u64> {
            (0..found.slots.len()).map(|slot| found.home(slot).0).collect()
        };
        let Some(found) = self.state.generation(generation) else {
            return vec![generation];
        };
        let others: Vec<u64> = self
            .state
            .generations()
            .filter(|(other, _)| other.number != generation)
            .flat_map(|(other, _)| homes_of(other))
            .collect();
        let mut homes = homes_of(found);
        homes.sort_unstable();
        homes.dedup();
        homes.retain(|home| !others.contains(home));
        homes
    }

    /// Takes away drain and lock files that no living process looks at.
    fn remove_drain_files(&self) {
        let mut used = Vec::new();
        for (found, _) in self.state.generations() {
            used.push(found.number.to_string());
            used.extend((0..found.slots.len()).map(|slot| found.home(slot).0.to_string()));
        }
        let folders = ["drain", "lock"].map(|name| std::fs::read_dir(self.config.run.join(name)));
        for entry in folders.into_iter().flatten().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.split('.').next());
            if number.is_none_or(|number| !used.iter().any(|known| known == number)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Whether something is to be looked at that wakes nobody.
    pub(super) fn must_look(&self) -> bool {
        let clearing = matches!(
            self.state.rising.as_ref().map(|rising| rising.phase),
            Some(RisingPhase::Aborting | RisingPhase::Clearing(_))
        );
        clearing || self.state.retiring.iter().any(|leaving| !leaving.phase.is_warm())
    }

    /// Tells the machine which leaving generations are idle or gone.
    pub(super) fn look_at_leaving(&mut self) {
        let now = now_ms();
        if !self.must_look() || now < self.next_look {
            return;
        }
        for (generation, stage) in self.leaving() {
            if stage == Leaving::Draining {
                self.tell_drain(generation);
                if !self
                    .state
                    .rising
                    .as_ref()
                    .is_some_and(|rising| rising.phase == RisingPhase::Clearing(stage))
                {
                    self.take_queues_over(generation);
                }
                let queued = self
                    .listeners
                    .iter()
                    .any(|(_, group)| group.has_queue(generation));
                if !queued && self.count_connections(generation) == 0 {
                    self.events.push_back(Event::Idle { generation });
                }
            }
            self.look_whether_gone(generation);
        }
        self.next_look = pause_after(now, LOOK_MS);
    }

    /// Generations on their way out, with how far they are.
    fn leaving(&self) -> Vec<(u64, Leaving)> {
        let retiring = self
            .state
            .retiring
            .iter()
            .filter(|leaving| !leaving.phase.is_warm());
        let mut all: Vec<_> = retiring
            .map(|leaving| (leaving.generation.number, leaving.phase))
            .collect();
        if let Some(rising) = &self.state.rising {
            match (rising.phase, &self.state.active) {
                (RisingPhase::Aborting, _) => all.push((rising.generation.number, Leaving::Killing)),
                (RisingPhase::Clearing(stage), Some(active)) => all.push((active.number, stage)),
                _ => {}
            }
        }
        all
    }

    fn look_whether_gone(&mut self, generation: u64) {
        if self.running.keys().any(|(number, _)| *number == generation) {
            return;
        }
        let mains = self.mains.get(&generation).cloned().unwrap_or_default();
        let others = self.others(generation);
        let members = processes::members(&mains, &others, &self.marks(generation, None));
        if members.is_empty() && self.escaped(generation, None).is_empty() {
            let cut = self.cut.get(&generation).copied().unwrap_or(0);
            self.events.push_back(Event::Gone { generation, cut });
        }
    }
}
