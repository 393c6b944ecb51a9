//! The app's own lock: a file of each process that may say "not now" by `flock` on it.
//!
//! While a switch waits for it, the keeper tries to take the locks of all of them. When it has them all, it keeps them until
//! the running generation is either not replaced after all or gone: so none of them begins what must not be cut short. A
//! process that dies lets go of its lock by that.

use std::fs::{File, OpenOptions};
use std::os::fd::RawFd;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use super::Keeper;
use crate::clock::{now_ms, unix_ms};
use crate::handed::{ClaimError, Claims, Given};
use crate::machine::{Event, Generation, RisingPhase};
use crate::protocol::{ProcessSpec, Waits};

/// Between two tries to take the locks.
const LOOK_MS: u64 = 100;

/// What the keeper knows of locks.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Taken, of this generation.
    held: Option<(u64, Vec<File>)>,
    /// Who had one at the last look.
    holders: Vec<String>,
    next_look: u64,
}

impl Locks {
    /// Those that are held stay so in the program that the keeper becomes: they are of the open file, not of the process.
    pub(super) fn hand_over(&self, given: &mut Given) -> Option<(u64, Vec<RawFd>)> {
        let (generation, files) = self.held.as_ref()?;
        Some((*generation, files.iter().map(|file| given.give(file)).collect()))
    }

    pub(super) fn take_over(
        held: Option<(u64, Vec<RawFd>)>,
        claims: &mut Claims,
    ) -> Result<Self, ClaimError> {
        let mut locks = Self::default();
        if let Some((generation, numbers)) = held {
            let files = numbers
                .into_iter()
                .map(|number| claims.take(number).map(File::from));
            locks.held = Some((generation, files.collect::<Result<_, _>>()?));
        }
        Ok(locks)
    }
}

impl Keeper {
    /// The lock file of a process that was born in this generation.
    pub(super) fn lock_file(&self, home: u64, process: &str) -> PathBuf {
        self.config.run.join("lock").join(format!("{home}.{process}"))
    }

    /// Makes the lock file of a process that is about to be started, for its user alone.
    pub(super) fn make_lock_file(&mut self, home: u64, spec: &ProcessSpec, owner: Option<(u32, u32)>) {
        if spec.lock_wait_ms.is_none() {
            return;
        }
        let path = self.lock_file(home, &spec.name);
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let made = made.and_then(|_| match owner {
            Some((uid, gid)) => chown(&path, Some(uid), Some(gid)),
            None => Ok(()),
        });
        if let Err(error) = made {
            self.note(format!(
                "process {} has no lock to hold: cannot make {}: {error}",
                spec.name,
                path.display()
            ));
        }
    }

    /// Whether a switch waits for the lock now.
    fn waits_for_lock(&self) -> bool {
        let phase = self.state.rising.as_ref().map(|rising| rising.phase);
        matches!(phase, Some(RisingPhase::Locked { .. }))
    }

    /// When the lock is to be tried again, if it is waited for.
    pub(super) fn lock_due(&self) -> Option<u64> {
        self.waits_for_lock().then_some(self.locks.next_look)
    }

    /// Tries to take the locks that a switch waits for.
    pub(super) fn look_at_locks(&mut self) {
        let now = now_ms();
        if !self.waits_for_lock() || now < self.locks.next_look {
            return;
        }
        self.locks.next_look = now + LOOK_MS;
        let rising = self.state.rising.as_ref().map(|rising| rising.generation.number);
        let (Some(active), Some(rising)) = (self.state.active.clone(), rising) else {
            return;
        };
        let (taken, holders) = self.try_locks(&active);
        if holders != self.locks.holders {
            self.tell(
                Some(active.number),
                &format!("its own lock is held by: {}", holders.join(", ")),
            );
            self.locks.holders.clone_from(&holders);
            self.revision += 1;
        }
        if holders.is_empty() {
            self.locks.held = Some((active.number, taken));
            self.events.push_back(Event::Unlocked { generation: rising });
        }
    }

    /// Locks that could be taken, and names of processes whose lock could not. A file that is gone cannot be held.
    fn try_locks(&self, active: &Generation) -> (Vec<File>, Vec<String>) {
        let mut taken = Vec::new();
        let mut holders = Vec::new();
        for (slot, spec) in active.intent.processes.iter().enumerate() {
            if spec.lock_wait_ms.is_none() {
                continue;
            }
            let (home, _) = active.home(slot);
            let Ok(file) = File::open(self.lock_file(home, &spec.name)) else {
                continue;
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => taken.push(file),
                Err(_) => holders.push(spec.name.clone()),
            }
        }
        (taken, holders)
    }

    /// The active generation is replaced in spite of its lock.
    pub(super) fn overrule(&mut self, generation: u64) {
        let holders = self.locks.holders.join(", ");
        self.note(format!(
            "generation {generation} is replaced though it holds its own lock (process {holders}): the time to wait for it is over"
        ));
    }

    /// Lets go of the locks of a generation that is not replaced after all, or is gone.
    pub(super) fn release_locks(&mut self) {
        if !self.waits_for_lock() {
            self.locks.holders.clear();
        }
        let Some((held, _)) = self.locks.held else { return };
        let active = self.state.active.as_ref().map(|active| active.number);
        let rises = self
            .state
            .rising
            .as_ref()
            .is_some_and(|rising| rising.phase != RisingPhase::Aborting);
        let stays = active == Some(held) && !rises;
        if stays || self.state.generation(held).is_none() {
            self.locks.held = None;
        }
    }

    /// What the switch waits for, for the status.
    pub(super) fn waits(&self) -> Option<Waits> {
        let rising = self.state.rising.as_ref().filter(|_| self.waits_for_lock())?;
        let active = self.state.active.as_ref()?;
        let mut locks = active
            .intent
            .processes
            .iter()
            .filter(|spec| spec.lock_wait_ms.is_some());
        let left_ms = rising.deadline.saturating_sub(now_ms());
        Some(Waits {
            processes: self.locks.holders.clone(),
            left_ms,
            until: (unix_ms() + left_ms) / 1000,
            overrules: rising.cause != crate::machine::Cause::Switch || locks.all(|spec| spec.lock_overrule),
        })
    }
}
