//! Asking a running process to become another release, or to bring forth its successor, by signals and commands.

mod births;
mod reloads;
mod workers;

use rustix::process::Signal;
use ship_model::spec::{Reexec, Restart};

use super::Keeper;
use super::jobs::Purpose;
use crate::machine::{Event, Generation, Process};
use crate::processes::{self, Table};
use crate::protocol::ProcessSpec;

pub(super) use births::Birth;
pub(super) use reloads::{Reloaded, Reloading};

/// How often successors and reloads are looked at.
const LOOK_MS: u64 = 20;

impl Keeper {
    pub(super) fn ask(&mut self, generation: u64, slot: usize) {
        let result = match self.parties(generation, slot) {
            Some((spec, main)) => self.ask_main(generation, slot, &spec, main),
            None => Err("nobody is there to be asked".to_owned()),
        };
        if let Err(reason) = result {
            self.answer_asked((generation, slot), Err(reason));
        }
    }

    fn answer_asked(&mut self, (generation, slot): (u64, usize), result: Result<Option<Process>, String>) {
        self.events.push_back(Event::Asked {
            generation,
            slot,
            result,
        });
    }

    /// The process of a slot that takes over in place, and the running main process it takes over from.
    fn parties(&self, generation: u64, slot: usize) -> Option<(ProcessSpec, Process)> {
        let found = self.state.generation(generation)?;
        let spec = found.intent.processes.get(slot)?.clone();
        let from = found.slots.get(slot)?.heir_of?;
        let active = self.state.active.as_ref()?.number;
        let main = self.running.get(&(active, from))?.process;
        Some((spec, main))
    }

    fn ask_main(
        &mut self,
        generation: u64,
        slot: usize,
        spec: &ProcessSpec,
        main: Process,
    ) -> Result<(), String> {
        match &spec.restart {
            Some(Restart::Reload(reload)) => {
                self.reload(main, &reload.signal, (generation, slot));
                Ok(())
            }
            Some(Restart::Reexec(reexec)) => {
                self.expect_birth((generation, slot), main, reexec);
                signal(main, &reexec.upgrade)
            }
            Some(Restart::Command(upgrade)) => {
                let purpose = Purpose::Install { generation, slot };
                let words = upgrade.install.clone();
                self.run_upgrade(generation, slot, &words, upgrade.timeout_ms, main, purpose)
            }
            Some(Restart::Standby(_)) | None => Err("its strategy does not say how".to_owned()),
        }
    }

    fn run_upgrade(
        &mut self,
        generation: u64,
        slot: usize,
        words: &[String],
        timeout_ms: u64,
        main: Process,
        purpose: Purpose,
    ) -> Result<(), String> {
        let new = self
            .state
            .generation(generation)
            .ok_or("its generation is gone")?;
        let from = new.slots.get(slot).and_then(|slot| slot.heir_of);
        let new = new.intent.dir.clone();
        let old = self.state.active.as_ref().map(|active| active.intent.dir.clone());
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let extra = [
            ("SHIP_NEW_DIR", text(&new)),
            ("SHIP_OLD_DIR", old.as_deref().map(text).unwrap_or_default()),
            ("SHIP_MAIN_PID", main.pid.to_string()),
        ];
        // What brings the old one back must outlive the new generation, which is killed with all that bears its marks.
        let active = self.state.active.as_ref().map(|active| active.number);
        let place = match purpose {
            Purpose::Back { .. } => active.zip(from).ok_or("nobody is there to go back to")?,
            _ => (generation, slot),
        };
        self.run_job(place, &new, words, &extra, timeout_ms, purpose)
    }

    /// What was begun is taken back; what did nothing yet is asked once more for what it is, which changes nothing.
    pub(super) fn undo(&mut self, generation: u64, slot: usize) {
        self.expect_no_birth((generation, slot));
        let Some((spec, main)) = self.parties(generation, slot) else {
            return;
        };
        let done = match &spec.restart {
            Some(Restart::Reload(reload)) => {
                self.take_back_reload(main, &reload.signal, (generation, slot));
                Ok(())
            }
            Some(Restart::Reexec(reexec)) => {
                self.claim_unnoticed((generation, slot), main, reexec);
                Ok(())
            }
            Some(Restart::Command(upgrade)) if upgrade.back.is_empty() => {
                processes::send(main.pid, main.start, Signal::KILL);
                Ok(())
            }
            Some(Restart::Command(upgrade)) => {
                let purpose = Purpose::Back { process: main };
                let words = upgrade.back.clone();
                self.run_upgrade(generation, slot, &words, upgrade.timeout_ms, main, purpose)
            }
            Some(Restart::Standby(_)) | None => Ok(()),
        };
        if let Err(reason) = done {
            self.note(format!(
                "process {} was not asked to go back: {reason}",
                spec.name
            ));
        }
    }

    pub(super) fn confirm(&mut self, generation: u64, slot: usize) {
        let Some(found) = self.state.generation(generation) else {
            return;
        };
        let Some(Restart::Command(upgrade)) = found
            .intent
            .processes
            .get(slot)
            .and_then(|spec| spec.restart.clone())
        else {
            return;
        };
        if upgrade.permanent.is_empty() {
            return;
        }
        let Some(main) = self
            .running
            .get(&(generation, slot))
            .map(|running| running.process)
        else {
            return;
        };
        let words = &upgrade.permanent;
        if let Err(reason) = self.run_upgrade(
            generation,
            slot,
            words,
            upgrade.timeout_ms,
            main,
            Purpose::Confirm,
        ) {
            self.note(format!("what runs was not made permanent: {reason}"));
        }
    }

    pub(super) fn carry(&mut self, from: (u64, usize), to: (u64, usize)) {
        self.asked.remove(&to);
        if let Some(running) = self.running.remove(&from) {
            let process = running.process;
            for main in self.mains.values_mut() {
                main.retain(|known| *known != process);
            }
            self.mains.entry(to.0).or_default().push(process);
            self.running.insert(to, running);
        }
    }

    pub(super) fn pause(&mut self, generation: u64) {
        self.signal_mains(generation, |reexec| reexec.pause.as_deref());
    }

    pub(super) fn resume(&mut self, generation: u64) {
        self.signal_mains(generation, |reexec| reexec.resume.as_deref());
    }

    fn signal_mains(&mut self, generation: u64, which: impl Fn(&Reexec) -> Option<&str>) {
        let Some(found) = self.state.generation(generation).cloned() else {
            return;
        };
        for (slot, spec) in found.intent.processes.iter().enumerate() {
            let Some(Restart::Reexec(reexec)) = &spec.restart else {
                continue;
            };
            let Some(name) = which(reexec) else { continue };
            let main = self
                .running
                .get(&(generation, slot))
                .map(|running| running.process);
            if let Some(Err(reason)) = main.map(|main| signal(main, name)) {
                self.note(format!("process {} was not sent {name}: {reason}", spec.name));
            }
        }
    }

    /// Whether the process that holds `socket` is one that a slot taking over in place calls its own: after a reload, a worker
    /// that began after the signal, and that is not in another release's folder where it tells that; after an upgrade from inside, whoever comes from the running process.
    pub(super) fn owns_in_place(&self, generation: u64, holds: &impl Fn(&u32) -> bool) -> Option<bool> {
        let found = self.state.generation(generation)?;
        let asked = self.asked_slots(found)?;
        let (releases, dir) = (self.releases(), &found.intent.dir);
        let held = |main: Process, since: u64, family: Vec<u32>| {
            let new = |pid: u32| {
                processes::start_ticks(pid).is_some_and(|start| start >= since)
                    && !workers::is_of_another(pid, main, &releases, dir)
            };
            family.into_iter().any(|pid| holds(&pid) && new(pid))
        };
        let near = |(main, since): &(Process, u64)| held(*main, *since, workers::family(*main));
        let far =
            |(main, since): &(Process, u64)| held(*main, *since, Table::read().family(&[*main], &[], &[]));
        Some(asked.iter().any(near) || asked.iter().any(far))
    }

    /// Main processes that live on as the generation's, with the tick since which what they start counts as new.
    fn asked_slots(&self, found: &Generation) -> Option<Vec<(Process, u64)>> {
        let active = self.state.active.as_ref()?.number;
        let mut asked = Vec::new();
        for (slot, place) in found.slots.iter().enumerate() {
            let Some(from) = place.heir_of.filter(|_| place.process.is_none()) else {
                continue;
            };
            let Some(running) = self.running.get(&(active, from)) else {
                continue;
            };
            let since = self.asked.get(&(found.number, slot)).copied().unwrap_or(0);
            asked.push((running.process, since));
        }
        (!asked.is_empty()).then_some(asked)
    }
}

fn signal(process: Process, name: &str) -> Result<(), String> {
    let signal = processes::signal(name).ok_or_else(|| format!("{name} is no signal"))?;
    if !processes::is_alive(process) {
        return Err(format!("process {} is gone", process.pid));
    }
    processes::send(process.pid, process.start, signal);
    Ok(())
}
