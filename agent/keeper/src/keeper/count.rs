//! How many are connected to whom: for the status, for a drain, and for a probe on a shared listener.

use super::Keeper;
use crate::clock::now_ms;
use crate::listen::Group;
use crate::machine::Process;
use crate::processes::{self, Table, Tree};
use crate::sockets::{self, Ends, Places};

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
        self.count();
        self.next_count = pause_after(begun, COUNT_MS);
    }

    /// Established connections of a generation at this moment.
    pub(super) fn count_connections(&mut self, generation: u64) -> u64 {
        self.count();
        let its = self
            .counted
            .iter()
            .filter(|((number, _), _)| *number == generation);
        its.map(|(_, count)| count).sum()
    }

    /// Counts for every process: a connection that none of them has is looked for with more effort.
    fn count(&mut self) {
        let places = self.places();
        let slots: Vec<_> = self.running.keys().copied().collect();
        self.counted.clear();
        if slots.is_empty() || (places.tcp.is_empty() && !places.unix) {
            return;
        }
        let far = || {
            let table = Table::read();
            self.families(&slots, |mains, others, marks| table.family(mains, others, marks))
        };
        let near = || match Tree::look() {
            Some(tree) => self.families(&slots, |mains, others, marks| tree.family(mains, others, marks)),
            None => far(),
        };
        let counts = sockets::count(&places, near, far);
        self.counted = slots.into_iter().zip(counts).collect();
    }

    /// The processes of each slot, as `of` finds them, and in the end the keeper itself, which leads some connections on.
    fn families(
        &self,
        slots: &[(u64, usize)],
        of: impl Fn(&[Process], &[Process], &[String]) -> Vec<u32>,
    ) -> Vec<Vec<u32>> {
        let families = slots.iter().map(|(generation, slot)| {
            let Some(running) = self.running.get(&(*generation, *slot)) else {
                return Vec::new();
            };
            let found = self.state.generation(*generation);
            let spec = found.and_then(|found| found.intent.processes.get(*slot));
            let (home, _) = self.home(*generation, *slot);
            let marks = self.marks(home, spec.map(|spec| spec.name.as_str()));
            let others = self
                .running
                .iter()
                .filter(|(place, _)| **place != (*generation, *slot));
            let others: Vec<_> = others.map(|(_, running)| running.process).collect();
            of(&[running.process], &others, &marks)
        });
        families.chain([vec![std::process::id()]]).collect()
    }

    fn places(&self) -> Places {
        let groups = || self.listeners.iter().map(|(_, group)| group);
        Places {
            tcp: groups().filter_map(Group::tcp).collect(),
            unix: groups().any(Group::is_unix),
        }
    }

    /// Whether one of the generation's processes has the socket that serves this client; none while nobody has accepted it.
    pub(super) fn owns(&self, generation: u64, ends: Ends) -> Option<bool> {
        let socket = ends.serving_socket()?;
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
        let marks = self.marks(generation, None);
        let others = self.others(generation);
        let near = Tree::look().map(|tree| tree.family(mains, &others, &marks));
        let held = |family: &[u32]| family.iter().any(holds);
        let far = || Table::read().family(mains, &others, &marks);
        Some(near.is_some_and(|near| held(&near)) || held(&far()))
    }
}

/// When to look again, after a look that began at `begun` and has just ended.
pub(super) fn pause_after(begun: u64, least: u64) -> u64 {
    let now = now_ms();
    now + least.max(now.saturating_sub(begun) * SHARE)
}
