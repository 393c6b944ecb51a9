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
/// A daemon writes its pidfile within this time after its first process has ended.
const DAEMON_MS: u64 = 5_000;
/// Longest pidfile that is read.
const MAX_PIDFILE: usize = 32;

/// A reload that nothing shows for so long is asked for again: a server that is busy with one may lose the next signal.
const RESEND_MS: u64 = 3_000;
/// So often, before it is taken for one that changed nothing, as after a mistake in a configuration.
const SENDS: u8 = 2;
/// A server that has started new workers takes a moment before it hears the next signal.
const SETTLE_MS: u64 = 300;

/// A reload that waits until the one before it shows: servers fold signals into one, and what a late one starts would be
/// taken for what an earlier one was to start.
#[derive(Debug)]
pub(super) struct Reloading {
    main: Process,
    signal: String,
    /// Whose it is, if it is not an earlier release's again.
    asked_for: Option<(u64, usize)>,
}

/// The last reload of a main process.
#[derive(Debug)]
pub(super) struct Reloaded {
    main: Process,
    signal: String,
    /// What starts from this clock tick on, it started.
    since: u64,
    sent_at: u64,
    sends: u8,
    shown_at: Option<u64>,
}

impl Reloaded {
    pub(super) fn is_over(&self, now: u64) -> bool {
        match self.shown_at {
            Some(at) => now >= at + SETTLE_MS,
            None => self.sends >= SENDS && now >= self.sent_at + RESEND_MS,
        }
    }
}

/// A main process that was asked for its successor.
#[derive(Debug)]
pub(super) struct Birth {
    pub generation: u64,
    pub slot: usize,
    parent: Process,
    pidfile: Option<PathBuf>,
    next_at: u64,
    /// It has become a daemon: what the pidfile names is the process itself. Until when that is waited for.
    daemon_until: Option<u64>,
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

    /// Looks what became of reloads, and sends the signals whose turn has come.
    pub(super) fn look_at_reloads(&mut self) {
        self.look_at_reloaded();
        let now = now_ms();
        for reloading in std::mem::take(&mut self.reloads) {
            let main = reloading.main;
            let behind = self.reloads.iter().any(|waiting| waiting.main == main);
            let busy = self
                .reloaded
                .iter()
                .any(|last| last.main == main && !last.is_over(now));
            if behind || busy {
                self.reloads.push(reloading);
                continue;
            }
            let since = now / TICK_MS;
            self.expect_reload(main);
            let sent = signal(main, &reloading.signal);
            self.reloaded.retain(|known| known.main != main);
            self.reloaded.push(Reloaded {
                main,
                signal: reloading.signal,
                since,
                sent_at: now,
                sends: 1,
                shown_at: None,
            });
            match (reloading.asked_for, sent) {
                (Some(place), Ok(())) => {
                    self.asked.insert(place, since);
                    self.answer_asked(place, Ok(None));
                }
                (Some(place), Err(reason)) => self.answer_asked(place, Err(reason)),
                (None, Ok(())) => {}
                (None, Err(reason)) => self.note(format!("a reload could not be taken back: {reason}")),
            }
        }
    }

    fn look_at_reloaded(&mut self) {
        let now = now_ms();
        self.reloaded.retain(|last| processes::is_alive(last.main));
        let watched = self
            .reloaded
            .iter_mut()
            .filter(|last| last.shown_at.is_none() && !last.is_over(now));
        for last in watched {
            let new = |pid: &u32| {
                *pid != last.main.pid && processes::start_ticks(*pid).is_some_and(|start| start >= last.since)
            };
            if Table::read().family(&[last.main], &[], &[]).iter().any(new) {
                last.shown_at = Some(now);
            } else if now >= last.sent_at + RESEND_MS {
                last.sent_at = now;
                last.sends += 1;
                let _ = signal(last.main, &last.signal);
            }
        }
    }

    /// When reloads are looked at again.
    pub(super) fn reloads_due(&self) -> Option<u64> {
        let now = now_ms();
        let busy = self.reloaded.iter().any(|last| !last.is_over(now));
        (busy || !self.reloads.is_empty()).then_some(now + LOOK_MS)
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
                self.reloads.push(Reloading {
                    main,
                    signal: reload.signal.clone(),
                    asked_for: Some((generation, slot)),
                });
                self.look_at_reloads();
                Ok(())
            }
            Some(Restart::Reexec(reexec)) => {
                self.births.push(Birth {
                    generation,
                    slot,
                    parent: main,
                    pidfile: self.pidfile(reexec),
                    next_at: now_ms(),
                    daemon_until: None,
                });
                signal(main, &reexec.upgrade)?;
                Ok(())
            }
            Some(Restart::Command(upgrade)) => {
                let purpose = Purpose::Install { generation, slot };
                let words = upgrade.install.clone();
                self.run_upgrade(generation, slot, &words, upgrade.timeout_ms, main, purpose)?;
                Ok(())
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
                if let Some(pid) = self.successor(
                    birth.pidfile.as_ref(),
                    birth.parent,
                    (birth.generation, birth.slot),
                ) {
                    self.born(birth.generation, birth.slot, pid, birth.daemon_until.is_some());
                    continue;
                }
                if birth.daemon_until.is_some_and(|until| until <= now) {
                    self.events.push_back(Event::Ended {
                        generation: birth.generation,
                        slot: birth.slot,
                        how: "ended with status 0, and its pidfile names nobody".to_owned(),
                    });
                    continue;
                }
            }
            self.births.push(birth);
        }
    }

    /// A process other than `parent` that its pidfile names. While the old one lives, gunicorn writes beside the file.
    fn successor(&self, pidfile: Option<&PathBuf>, parent: Process, place: (u64, usize)) -> Option<u32> {
        let path = pidfile?;
        let mut beside = path.clone().into_os_string();
        beside.push(".2");
        let named = [PathBuf::from(beside), path.clone()];
        named
            .iter()
            .filter_map(read_pid)
            .find(|pid| *pid != parent.pid && self.is_of(*pid, parent, place))
    }

    /// Whether a process comes from `parent`, the process of a slot; one whose parent has ended is known by its birth place.
    fn is_of(&self, pid: u32, parent: Process, (generation, slot): (u64, usize)) -> bool {
        let (home, _) = self.home(generation, slot);
        // A daemon's first process has ended, and nginx writes over its environment; but what is ours by inheritance came from
        // one of ours.
        let inherited =
            processes::is_own_child(pid) && self.running.values().all(|known| known.process.pid != pid);
        inherited || processes::is_member(pid, &[parent], &self.marks(home, None))
    }

    /// The successor of a slot's process named itself (`MAINPID=`), or was found.
    fn born(&mut self, generation: u64, slot: usize, pid: u32, daemon: bool) {
        let found = processes::start_ticks(pid).zip(Self::take_pidfd(pid).ok());
        let Some((start, pidfd)) = found else { return };
        let process = Process { pid, start };
        self.mains.entry(generation).or_default().push(process);
        let running = Running::found(process, pidfd, self.watchdog_ms(generation, slot));
        self.running.insert((generation, slot), running);
        if daemon {
            self.events.push_back(Event::Daemon {
                generation,
                slot,
                process,
            });
        } else {
            self.answer_asked((generation, slot), Ok(Some(process)));
        }
    }

    /// A main process ended well that may have left a daemon behind, as its pidfile will tell. True when that is waited for.
    pub(super) fn may_be_daemon(&mut self, generation: u64, slot: usize, parent: Process) -> bool {
        let Some(found) = self.state.generation(generation) else {
            return false;
        };
        let restart = found
            .intent
            .processes
            .get(slot)
            .and_then(|spec| spec.restart.as_ref());
        let Some(Restart::Reexec(reexec)) = restart else {
            return false;
        };
        let Some(pidfile) = self.pidfile(reexec) else {
            return false;
        };
        // One that was up has not just become a daemon.
        let fresh = found
            .slots
            .get(slot)
            .is_some_and(|slot| slot.process == Some(parent));
        if !fresh || found.is_leaving(&self.state) {
            return false;
        }
        let now = now_ms();
        self.births.push(Birth {
            generation,
            slot,
            parent,
            pidfile: Some(pidfile),
            next_at: now,
            daemon_until: Some(now + DAEMON_MS),
        });
        true
    }

    fn watchdog_ms(&self, generation: u64, slot: usize) -> Option<u64> {
        let found = self.state.generation(generation)?;
        found.intent.processes.get(slot)?.watchdog_ms
    }

    /// A wrapper named the process that it has started as the one to look after.
    fn move_to(&mut self, place: (u64, usize), parent: Process, pid: u32) {
        if pid == parent.pid || !self.is_of(pid, parent, place) {
            return;
        }
        let found = processes::start_ticks(pid).zip(Self::take_pidfd(pid).ok());
        let Some((start, pidfd)) = found else { return };
        let process = Process { pid, start };
        let (generation, slot) = place;
        let Some(running) = self.running.get_mut(&place) else {
            return;
        };
        running.process = process;
        running.pidfd = pidfd;
        // When it ends, a wrapper that lives takes its status.
        running.own_child = false;
        // The wrapper stays one of its: what comes from it is found by it.
        self.mains.entry(generation).or_default().push(process);
        self.tell(
            Some(generation),
            &format!("process {} is {pid} from now on, as it says", parent.pid),
        );
        self.events.push_back(Event::Daemon {
            generation,
            slot,
            process,
        });
    }

    /// `MAINPID=` of a process: of one that was asked for its successor, that is meant; of any other, itself.
    pub(super) fn take_main_pid(&mut self, parent: (u64, usize), pid: u32) {
        let Some(running) = self.running.get(&parent).map(|running| running.process) else {
            return;
        };
        let asked = self
            .births
            .iter()
            .position(|birth| birth.parent == running && pid != running.pid);
        if let Some(index) = asked
            && self.is_of(pid, running, parent)
        {
            let birth = self.births.remove(index);
            self.born(birth.generation, birth.slot, pid, birth.daemon_until.is_some());
        } else if asked.is_none() {
            self.move_to(parent, running, pid);
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
            Some(Restart::Reload(reload)) => {
                let before = self.reloads.len();
                self.reloads
                    .retain(|waiting| waiting.asked_for != Some((generation, slot)));
                if self.reloads.len() == before {
                    self.reloads.push(Reloading {
                        main,
                        signal: reload.signal.clone(),
                        asked_for: None,
                    });
                    self.look_at_reloads();
                }
                Ok(())
            }
            Some(Restart::Reexec(reexec)) => {
                let known = self.running.contains_key(&(generation, slot));
                let path = self.pidfile(reexec);
                if let Some(pid) = self
                    .successor(path.as_ref(), main, (generation, slot))
                    .filter(|_| !known)
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
