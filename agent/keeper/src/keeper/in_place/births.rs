//! Successors that a main process brings forth, and daemons: who is whose, by pidfile, by birth place, by its own word.

use std::path::PathBuf;

use ship_model::spec::{Reexec, Restart};

use super::{Keeper, LOOK_MS};
use crate::clock::now_ms;
use crate::keeper::Running;
use crate::machine::{Event, Process};
use crate::processes;

/// A daemon writes its pidfile within this time after its first process has ended.
const DAEMON_MS: u64 = 5_000;
/// Longest pidfile that is read.
const MAX_PIDFILE: usize = 32;

/// A main process that was asked for its successor.
#[derive(Debug)]
pub(in crate::keeper) struct Birth {
    pub(in crate::keeper) generation: u64,
    slot: usize,
    parent: Process,
    pidfile: Option<PathBuf>,
    next_at: u64,
    /// It has become a daemon: what the pidfile names is the process itself. Until when that is waited for.
    daemon_until: Option<u64>,
}

impl Birth {
    pub(in crate::keeper) fn due(&self) -> u64 {
        self.next_at
    }
}

impl Keeper {
    fn pidfile(&self, reexec: &Reexec) -> Option<PathBuf> {
        reexec.pidfile.as_ref().map(|name| self.config.run.join(name))
    }

    /// Looks from now on for the successor of `parent` that is to be the slot's process.
    pub(super) fn expect_birth(
        &mut self,
        (generation, slot): (u64, usize),
        parent: Process,
        reexec: &Reexec,
    ) {
        self.births.push(Birth {
            generation,
            slot,
            parent,
            pidfile: self.pidfile(reexec),
            next_at: now_ms(),
            daemon_until: None,
        });
    }

    /// Looks for it no more.
    pub(super) fn expect_no_birth(&mut self, place: (u64, usize)) {
        self.births
            .retain(|birth| (birth.generation, birth.slot) != place);
    }

    /// One that came and was not noticed yet belongs to its generation, which is to end.
    pub(super) fn claim_unnoticed(&mut self, place: (u64, usize), parent: Process, reexec: &Reexec) {
        if self.running.contains_key(&place) {
            return;
        }
        let pid = self.successor(self.pidfile(reexec).as_ref(), parent, place);
        let found = pid.and_then(|pid| Some((pid, processes::start_ticks(pid)?)));
        if let Some((pid, start)) = found {
            self.mains
                .entry(place.0)
                .or_default()
                .push(Process { pid, start });
        }
    }

    /// Looks whether successors are there.
    pub(in crate::keeper) fn look_at_births(&mut self) {
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
    pub(in crate::keeper) fn may_be_daemon(&mut self, generation: u64, slot: usize, parent: Process) -> bool {
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
    pub(in crate::keeper) fn take_main_pid(&mut self, parent: (u64, usize), pid: u32) {
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
}

/// The process id a file holds; never 0 or 1, whatever it says.
fn read_pid(path: &PathBuf) -> Option<u32> {
    let text = std::fs::read(path)
        .ok()
        .filter(|text| text.len() <= MAX_PIDFILE)?;
    let pid: u32 = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
    (pid > 1).then_some(pid)
}
