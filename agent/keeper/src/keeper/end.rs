//! The end of a generation: drained, stopped, killed, forgotten.

use rustix::process::Signal;

use super::Keeper;
use super::count::pause_after;
use crate::clock::now_ms;
use crate::machine::{Event, Leaving, Process, RisingPhase};
use crate::processes;

/// How often leaving generations are looked at.
const LOOK_MS: u64 = 50;

impl Keeper {
    pub(super) fn drain(&mut self, generation: u64) {
        let path = self.drain_file(generation);
        if let Err(error) = std::fs::File::create(&path) {
            self.note(format!("cannot write the drain file {}: {error}", path.display()));
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

    pub(super) fn kill(&mut self, generation: u64) {
        let open = self.count_connections(generation);
        self.cut.entry(generation).or_insert(open);
        self.send_to_members(generation, None, Signal::KILL);
        // One that waits to be let go ends when the pipe is closed, even if the signal could not reach it.
        for ((number, _), running) in &mut self.running {
            if *number == generation {
                running.go = None;
            }
        }
    }

    fn send_to_members(&self, generation: u64, process: Option<&str>, signal: Signal) {
        let mains = self.mains.get(&generation).cloned().unwrap_or_default();
        for member in processes::members(&mains, &self.marks(generation, process)) {
            processes::send(member.pid, member.start, signal);
        }
    }

    pub(super) fn sweep(&mut self, generation: u64, slot: usize, process: Process) {
        let name = self
            .state
            .generation(generation)
            .and_then(|found| found.intent.processes.get(slot))
            .map(|spec| spec.name.clone());
        for member in processes::members(&[process], &self.marks(generation, name.as_deref())) {
            processes::send(member.pid, member.start, Signal::KILL);
        }
    }

    pub(super) fn forget(&mut self, generation: u64) {
        self.tell(Some(generation), &format!("generation {generation} is gone"));
        for (_, group) in self.listeners.iter_mut() {
            group.release(generation);
        }
        self.listeners.close_unused();
        self.remember_layout();
        self.close_streams(generation);
        self.running.retain(|(number, _), _| *number != generation);
        self.mains.remove(&generation);
        self.tails.remove(&generation);
        self.cut.remove(&generation);
        self.counted.retain(|(number, _), _| *number != generation);
        let _ = std::fs::remove_file(self.drain_file(generation));
    }

    /// Whether something is to be looked at that wakes nobody.
    pub(super) fn must_look(&self) -> bool {
        let clearing = matches!(
            self.state.rising.as_ref().map(|rising| rising.phase),
            Some(RisingPhase::Aborting | RisingPhase::Clearing(_))
        );
        clearing
            || self
                .state
                .retiring
                .iter()
                .any(|leaving| leaving.phase != Leaving::Warm)
    }

    /// Tells the machine which leaving generations are idle or gone.
    pub(super) fn look_at_leaving(&mut self) {
        let now = now_ms();
        if !self.must_look() || now < self.next_look {
            return;
        }
        for (generation, stage) in self.leaving() {
            if stage == Leaving::Draining {
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
            .filter(|leaving| leaving.phase != Leaving::Warm);
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
        if processes::members(&mains, &self.marks(generation, None)).is_empty() {
            let cut = self.cut.get(&generation).copied().unwrap_or(0);
            self.events.push_back(Event::Gone { generation, cut });
        }
    }
}
