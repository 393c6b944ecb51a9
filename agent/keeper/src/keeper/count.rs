//! How many are connected to whom: for the status, for a drain, and for a probe on a shared listener.

use std::net::SocketAddr;

use super::Keeper;
use crate::clock::now_ms;
use crate::listen::Group;
use crate::processes::{self, Table};
use crate::sockets::{self, Places};

/// How old the connections told in a status may be.
const COUNT_MS: u64 = 1_000;
/// At most one part in so many of the keeper's time goes into looking again and again.
const SHARE: u64 = 10;

impl Keeper {
    /// Counts for the status, unless that was done a moment ago.
    pub(super) fn refresh_counts(&mut self) {
        let begun = now_ms();
        if begun < self.next_count {
            return;
        }
        let slots: Vec<_> = self.running.keys().copied().collect();
        self.count(&slots);
        self.next_count = pause_after(begun, COUNT_MS);
    }

    /// Established connections of a generation at this moment.
    pub(super) fn count_connections(&mut self, generation: u64) -> u64 {
        let all = self.running.keys().copied();
        let slots: Vec<_> = all.filter(|(number, _)| *number == generation).collect();
        self.count(&slots);
        slots.iter().filter_map(|slot| self.counted.get(slot)).sum()
    }

    fn count(&mut self, slots: &[(u64, usize)]) {
        let places = self.places();
        if slots.is_empty() || (places.tcp.is_empty() && !places.unix) {
            return;
        }
        let counts = sockets::count(&places, || {
            let table = Table::read();
            slots.iter().map(|slot| self.family(&table, *slot)).collect()
        });
        for (index, slot) in slots.iter().enumerate() {
            self.counted
                .insert(*slot, counts.get(index).copied().unwrap_or(0));
        }
    }

    fn places(&self) -> Places {
        let groups = || self.listeners.iter().map(|(_, group)| group);
        Places {
            tcp: groups().filter_map(Group::tcp).collect(),
            unix: groups().any(|group| group.tcp().is_none()),
        }
    }

    /// The process of a slot and all that come from it.
    fn family(&self, table: &Table, (generation, slot): (u64, usize)) -> Vec<u32> {
        let Some(running) = self.running.get(&(generation, slot)) else {
            return Vec::new();
        };
        let found = self.state.generation(generation);
        let spec = found.and_then(|found| found.intent.processes.get(slot));
        let marks = self.marks(self.home(generation, slot).0, spec.map(|spec| spec.name.as_str()));
        let others = self
            .running
            .iter()
            .filter(|(place, _)| **place != (generation, slot));
        let others: Vec<_> = others.map(|(_, running)| running.process).collect();
        table.family(&[running.process], &others, &marks)
    }

    /// Whether one of the generation's processes has the socket that serves this client; none while nobody has accepted it.
    pub(super) fn owns(&self, generation: u64, client: SocketAddr, server: SocketAddr) -> Option<bool> {
        let socket = sockets::serving_socket(client, server)?;
        let holds = |pid: &u32| processes::descriptor_of(*pid, socket).is_some();
        if let Some(owned) = self.owns_in_place(generation, &holds) {
            return Some(owned);
        }
        // Most servers accept in their main process; then no other process is looked at.
        let main = self
            .running
            .iter()
            .find(|(_, running)| holds(&running.process.pid));
        if let Some(((owner, _), _)) = main {
            return Some(*owner == generation);
        }
        let mains = self.mains.get(&generation).map_or(&[][..], Vec::as_slice);
        let family = Table::read().family(mains, &self.others(generation), &self.marks(generation, None));
        Some(family.iter().any(holds))
    }
}

/// When to look again, after a look that began at `begun` and has just ended.
pub(super) fn pause_after(begun: u64, least: u64) -> u64 {
    let now = now_ms();
    now + least.max(now.saturating_sub(begun) * SHARE)
}
