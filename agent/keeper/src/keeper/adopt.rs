//! Taking over what an earlier keeper left: living processes, their sockets, their pipes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use rustix::process::Signal;

use super::holder::Kept;
use super::{Keeper, Running, chain};
use crate::clock::now_ms;
use crate::listen::{self, Address, Adopted, Group};
use crate::machine::{self, Generation, Living, Process};
use crate::processes;

/// How long orphans that could not be taken over may take to die.
const ORPHAN_DEATH_MS: u64 = 2_000;

impl Keeper {
    /// Goes on from the state that the last keeper wrote.
    pub(super) fn recover(&mut self) {
        let boot_id = processes::boot_id();
        let same_boot = self.state.boot_id == boot_id;
        let generations: Vec<_> = if same_boot {
            self.state
                .generations()
                .map(|(generation, _)| generation.clone())
                .collect()
        } else {
            Vec::new()
        };
        let living = self.adopt(&generations);
        let current = self.current();
        let (next, effects) = machine::recover(&self.state, &boot_id, &living, current.as_deref(), now_ms());
        let mut next = next;
        self.complete_outcome(&mut next);
        self.adopt_state(next);
        self.remember_layout();
        self.sweep_groups();
        for effect in effects {
            self.carry_out(&effect);
        }
        self.work_off();
    }

    /// Where the link `current` leads, as a path without links.
    pub(super) fn current(&self) -> Option<std::path::PathBuf> {
        std::fs::canonicalize(self.config.home.join("current")).ok()
    }

    fn adopt(&mut self, generations: &[Generation]) -> Vec<Living> {
        let mut sockets: BTreeMap<String, Vec<Adopted>> = BTreeMap::new();
        let mut living = Vec::new();
        for generation in generations {
            for (slot, found) in generation.slots.iter().enumerate() {
                if let Some(process) = found.process {
                    self.mains.entry(generation.number).or_default().push(process);
                    living.extend(self.adopt_process(generation, slot, process, &mut sockets));
                }
            }
        }
        let spares = self.add_kept(&mut sockets);
        let active = self.state.active.as_ref().map(|active| active.number);
        let lost = living
            .iter()
            .any(|found| Some(found.generation) == active && !found.adopted);
        let grouped = if lost {
            Err("a listener could not be taken back".to_owned())
        } else {
            self.regroup(sockets, spares)
        };
        if let Err(reason) = grouped {
            self.note(format!(
                "the running app could not be taken over ({reason}); it is started anew"
            ));
            self.end_orphans(generations);
            living.clear();
        }
        living
    }

    fn adopt_process(
        &mut self,
        generation: &Generation,
        slot: usize,
        process: Process,
        sockets: &mut BTreeMap<String, Vec<Adopted>>,
    ) -> Option<Living> {
        let pidfd = Self::take_pidfd(process.pid)
            .ok()
            .filter(|_| processes::is_alive(process))?;
        let number = generation.number;
        let home = generation.home(slot);
        for name in ["stdout", "stderr"] {
            if let Err(error) = self.open_stream(home.0, home.1, name) {
                self.note(format!(
                    "cannot read the output of process {}: {error}",
                    process.pid
                ));
            }
        }
        let adopted = match self.take_back(generation, slot, process, sockets) {
            Ok(()) => true,
            Err(reason) => {
                self.note(format!(
                    "process {} keeps its listeners to itself: {reason}",
                    process.pid
                ));
                false
            }
        };
        let watchdog_ms = generation
            .intent
            .processes
            .get(slot)
            .and_then(|spec| spec.watchdog_ms);
        let mut running = Running::found(process, pidfd, watchdog_ms);
        running.memory_kills = self.memory_kills(number, slot);
        self.running.insert((number, slot), running);
        self.adopt_binds(generation, slot, process);
        Some(Living {
            generation: number,
            slot,
            adopted,
        })
    }

    /// Copies of the process's listening sockets, wherever it and its descendants keep them.
    fn take_back(
        &self,
        generation: &Generation,
        slot: usize,
        process: Process,
        sockets: &mut BTreeMap<String, Vec<Adopted>>,
    ) -> Result<(), String> {
        let spec = generation
            .intent
            .processes
            .get(slot)
            .ok_or("its process is not in the release")?;
        let wanted = &generation.slots[slot].sockets;
        if wanted.is_empty() {
            return Ok(());
        }
        let marks = self.marks(generation.home(slot).0, Some(&spec.name));
        let members: BTreeSet<u32> = processes::members(&[process], &[], &marks)
            .into_iter()
            .map(|member| member.pid)
            .collect();
        for (listener, inode) in spec.listen.iter().zip(wanted) {
            let key = listen::key(spec, listener);
            let socket = members
                .iter()
                .find_map(|pid| copy_socket(*pid, *inode).transpose())
                .ok_or_else(|| format!("it has closed {key}"))?
                .map_err(|error| format!("{key}: {error}"))?;
            let found = Adopted {
                generation: generation.number,
                socket,
                inode: *inode,
            };
            sockets.entry(key).or_default().push(found);
        }
        Ok(())
    }

    /// Adds what the last keeper's holder has kept: the active generation's sockets, should it have ended itself, and those
    /// that no generation has, which are given back by their keys.
    fn add_kept(&self, sockets: &mut BTreeMap<String, Vec<Adopted>>) -> BTreeMap<String, Vec<Kept>> {
        let active = self.state.active.as_ref();
        let mut spares: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
        for (key, kept) in self.take_from_holder() {
            for (socket, inode) in kept {
                let found = sockets.entry(key.clone()).or_default();
                if found.iter().any(|found| found.inode == inode) {
                    continue;
                }
                let of_active = active.filter(|active| {
                    let mut slots = active.slots.iter();
                    slots.any(|slot| slot.sockets.contains(&inode))
                });
                match of_active {
                    Some(active) => found.push(Adopted {
                        generation: active.number,
                        socket,
                        inode,
                    }),
                    None => spares.entry(key.clone()).or_default().push((socket, inode)),
                }
            }
        }
        sockets.retain(|key, found| !found.is_empty() || spares.contains_key(key));
        spares
    }

    fn regroup(
        &mut self,
        sockets: BTreeMap<String, Vec<Adopted>>,
        mut spares: BTreeMap<String, Vec<Kept>>,
    ) -> Result<(), String> {
        for (key, found) in sockets {
            let kept = spares.remove(&key).unwrap_or_default();
            let bound = self.state.bound.get(&key).cloned().unwrap_or_else(|| key.clone());
            let address = Address::parse(&bound).map_err(|error| error.to_string())?;
            let layout = self.state.layout.get(&key).cloned().unwrap_or_default();
            let active = self.state.active.as_ref().map(|active| active.number);
            let canary = self.canary_at(&key);
            let group = Group::adopt(&address, found, kept, &layout, active, canary)
                .map_err(|error| chain(&error))?;
            self.listeners.insert(key, group);
        }
        Ok(())
    }

    /// Kills what cannot be taken over: it holds the addresses that its successor needs.
    fn end_orphans(&mut self, generations: &[Generation]) {
        self.listeners = listen::Listeners::default();
        self.running.clear();
        let until = now_ms() + ORPHAN_DEATH_MS;
        for generation in generations {
            let mains = self.mains.get(&generation.number).cloned().unwrap_or_default();
            let marks = self.marks(generation.number, None);
            self.groups.kill(generation.number, None);
            loop {
                let members = processes::members(&mains, &[], &marks);
                if members.is_empty() || now_ms() > until {
                    break;
                }
                for member in members {
                    processes::send(member.pid, member.start, Signal::KILL);
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

/// A copy of the socket with this inode from the process, if it has it.
pub(super) fn copy_socket(pid: u32, inode: u64) -> std::io::Result<Option<OwnedFd>> {
    let number = u32::try_from(inode)
        .ok()
        .and_then(|inode| processes::descriptor_of(pid, inode));
    let Some(number) = number else {
        return Ok(None);
    };
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or(std::io::ErrorKind::NotFound)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let socket = rustix::process::pidfd_getfd(&pidfd, number, rustix::process::PidfdGetfdFlags::empty())?;
    // The number may have come to mean another file in between.
    Ok((rustix::fs::fstat(&socket)?.st_ino == inode).then_some(socket))
}
