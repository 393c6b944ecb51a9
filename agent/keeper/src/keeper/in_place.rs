//! Asking a running process to become another release, or to bring forth its successor, by signals and commands.

use std::path::PathBuf;

use rustix::process::Signal;
use ship_model::spec::{Reexec, Restart};

use super::jobs::Purpose;
use super::{Keeper, Running};
use crate::clock::now_ms;
use crate::machine::{Event, Generation, Process};
use crate::processes::{self, Table};
use crate::protocol::ProcessSpec;

/// How often a successor is looked for.
const LOOK_MS: u64 = 20;
/// Clock ticks of `/proc/PID/stat` take so long; the kernel has told them at 100 a second for as long as there is Linux.
const TICK_MS: u64 = 10;
/// Longest pidfile that is read.
const MAX_PIDFILE: usize = 32;

/// A main process that was asked for its successor.
#[derive(Debug)]
pub(super) struct Birth {
    pub generation: u64,
    pub slot: usize,
    parent: Process,
    pidfile: Option<PathBuf>,
    next_at: u64,
}

impl Birth {
    pub(super) fn due(&self) -> u64 {
        self.next_at
    }
}

impl Keeper {
    pub(super) fn ask(&mut self, generation: u64, slot: usize) {
        let result = match self.parties(generation, slot) {
            Some((spec, main)) => self.ask_main(generation, slot, &spec, main),
            None => Err("nobody is there to be asked".to_owned()),
        };
        match result {
            Ok(true) => self.events.push_back(Event::Asked {
                generation,
                slot,
                result: Ok(None),
            }),
            Ok(false) => {}
            Err(reason) => self.events.push_back(Event::Asked {
                generation,
                slot,
                result: Err(reason),
            }),
        }
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

    /// True when that was all there is to wait for.
    fn ask_main(
        &mut self,
        generation: u64,
        slot: usize,
        spec: &ProcessSpec,
        main: Process,
    ) -> Result<bool, String> {
        match &spec.restart {
            Some(Restart::Reload(reload)) => {
                self.asked.insert((generation, slot), now_ms() / TICK_MS);
                signal(main, &reload.signal)?;
                Ok(true)
            }
            Some(Restart::Reexec(reexec)) => {
                self.births.push(Birth {
                    generation,
                    slot,
                    parent: main,
                    pidfile: self.pidfile(reexec),
                    next_at: now_ms(),
                });
                signal(main, &reexec.upgrade)?;
                Ok(false)
            }
            Some(Restart::Command(upgrade)) => {
                let purpose = Purpose::Install { generation, slot };
                let words = upgrade.install.clone();
                self.run_upgrade(generation, slot, &words, upgrade.timeout_ms, main, purpose)?;
                Ok(false)
            }
            None => Err("its strategy does not say how".to_owned()),
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
        let new = new.intent.dir.clone();
        let old = self.state.active.as_ref().map(|active| active.intent.dir.clone());
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let extra = [
            ("SHIP_NEW_DIR", text(&new)),
            ("SHIP_OLD_DIR", old.as_deref().map(text).unwrap_or_default()),
            ("SHIP_MAIN_PID", main.pid.to_string()),
        ];
        self.run_job((generation, slot), &new, words, &extra, timeout_ms, purpose)
    }

    fn pidfile(&self, reexec: &Reexec) -> Option<PathBuf> {
        reexec.pidfile.as_ref().map(|name| self.config.run.join(name))
    }

    /// Looks whether successors are there.
    pub(super) fn look_at_births(&mut self) {
        let now = now_ms();
        for mut birth in std::mem::take(&mut self.births) {
            if birth.next_at <= now {
                birth.next_at = now + LOOK_MS;
                if let Some(pid) = self.successor(birth.pidfile.as_ref(), birth.parent) {
                    self.born(birth.generation, birth.slot, pid);
                    continue;
                }
            }
            self.births.push(birth);
        }
    }

    /// A process other than `parent` that its pidfile names. While the old one lives, gunicorn writes beside the file.
    fn successor(&self, pidfile: Option<&PathBuf>, parent: Process) -> Option<u32> {
        let path = pidfile?;
        let mut beside = path.clone().into_os_string();
        beside.push(".2");
        let named = [PathBuf::from(beside), path.clone()];
        named
            .iter()
            .filter_map(read_pid)
            .find(|pid| *pid != parent.pid && self.is_of(*pid, parent))
    }

    /// Whether a process comes from `parent`; one whose parent has ended is known by its birth place.
    fn is_of(&self, pid: u32, parent: Process) -> bool {
        let place = self.running.iter().find(|(_, running)| running.process == parent);
        let marks = place.map(|((generation, slot), _)| {
            let home = self
                .state
                .generation(*generation)
                .map_or((*generation, *slot), |found| found.home(*slot));
            self.marks(home.0, None)
        });
        processes::is_member(pid, &[parent], &marks.unwrap_or_default())
    }

    /// The successor of a slot's process named itself (`MAINPID=`), or was found.
    pub(super) fn born(&mut self, generation: u64, slot: usize, pid: u32) {
        let found = processes::start_ticks(pid).zip(Self::take_pidfd(pid).ok());
        let Some((start, pidfd)) = found else { return };
        let process = Process { pid, start };
        self.mains.entry(generation).or_default().push(process);
        let running = Running {
            process,
            pidfd,
            go: None,
            failure: None,
            own_child: false,
            said: String::new(),
        };
        self.running.insert((generation, slot), running);
        self.events.push_back(Event::Asked {
            generation,
            slot,
            result: Ok(Some(process)),
        });
    }

    /// `MAINPID=` of a process that was asked for its successor.
    pub(super) fn take_main_pid(&mut self, parent: (u64, usize), pid: u32) {
        let Some(parent) = self.running.get(&parent).map(|running| running.process) else {
            return;
        };
        let asked = self
            .births
            .iter()
            .position(|birth| birth.parent == parent && pid != parent.pid);
        if let Some(index) = asked
            && self.is_of(pid, parent)
        {
            let birth = self.births.remove(index);
            self.born(birth.generation, birth.slot, pid);
        }
    }

    /// What was begun is taken back; what did nothing yet is asked once more for what it is, which changes nothing.
    pub(super) fn undo(&mut self, generation: u64, slot: usize) {
        self.births
            .retain(|birth| (birth.generation, birth.slot) != (generation, slot));
        let Some((spec, main)) = self.parties(generation, slot) else {
            return;
        };
        let done = match &spec.restart {
            Some(Restart::Reload(reload)) => signal(main, &reload.signal),
            Some(Restart::Reexec(reexec)) => {
                let known = self.running.contains_key(&(generation, slot));
                let path = self.pidfile(reexec);
                if let Some(pid) = self.successor(path.as_ref(), main).filter(|_| !known)
                    && let Some(start) = processes::start_ticks(pid)
                {
                    self.mains
                        .entry(generation)
                        .or_default()
                        .push(Process { pid, start });
                }
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
            None => Ok(()),
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
    /// that began after the signal; after an upgrade from inside, whoever comes from the running process.
    pub(super) fn owns_in_place(&self, generation: u64, holds: &impl Fn(&u32) -> bool) -> Option<bool> {
        let found = self.state.generation(generation)?;
        let asked = self.asked_slots(found)?;
        let table = Table::read();
        let owner = asked.iter().any(|(main, since)| {
            let family = table.family(&[*main], &[], &[]);
            let new = |pid: &u32| processes::start_ticks(*pid).is_some_and(|start| start >= *since);
            family.iter().any(|pid| holds(pid) && new(pid))
        });
        Some(owner)
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

/// The process id a file holds; never 0 or 1, whatever it says.
fn read_pid(path: &PathBuf) -> Option<u32> {
    let text = std::fs::read(path)
        .ok()
        .filter(|text| text.len() <= MAX_PIDFILE)?;
    let pid: u32 = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
    (pid > 1).then_some(pid)
}
