//! Whether there is memory for a new generation beside the active one.

use ship_model::spec::starts_beside;

use super::Keeper;
use crate::machine::Generation;
use crate::processes::{Table, Tree, amount, mapped, resident};
use crate::protocol::ProcessSpec;

impl Keeper {
    /// Why there is no room for `rising` beside the active generation; none where there is, or nothing runs twice.
    ///
    /// The new one is expected to need what the old one has, and a fifth more. What is leaving counts as free: it will be.
    pub(super) fn tight(&self, rising: &Generation) -> Option<String> {
        let active = self.state.active.as_ref().filter(|active| active.is_living())?;
        let tree = Tree::look();
        let far = if tree.is_none() { Some(Table::read()) } else { None };
        let family = |found: &Generation, slot: usize| {
            let Some(spec) = found.intent.processes.get(slot) else {
                return Vec::new();
            };
            let (home, _) = found.home(slot);
            let mains: Vec<_> = found
                .slots
                .get(slot)
                .and_then(|slot| slot.process)
                .into_iter()
                .collect();
            let others: Vec<_> = self.running.values().map(|running| running.process).collect();
            let others: Vec<_> = others
                .into_iter()
                .filter(|other| !mains.contains(other))
                .collect();
            let marks = self.marks(home, Some(&spec.name));
            let near = tree.as_ref().map(|tree| tree.family(&mains, &others, &marks));
            let far = || far.as_ref().map(|table| table.family(&mains, &others, &marks));
            near.or_else(far).unwrap_or_default()
        };
        let sum = |pids: &[u32], of: fn(u32) -> u64| pids.iter().copied().map(of).sum::<u64>();
        let twice = |spec: &&ProcessSpec| spec.overlap && runs_twice(spec, rising);
        let processes = active.intent.processes.iter().enumerate();
        let old: Vec<_> = processes
            .filter(|(_, spec)| twice(spec))
            .flat_map(|(slot, _)| family(active, slot))
            .collect();
        if old.is_empty() {
            return None;
        }
        let (free, whose) = self.groups.available(&self.config.machine)?;
        // Too much, and known at once: most hosts have even that. The kernel walks through all of a process to tell its share
        // of what it shares, and holds it up meanwhile.
        if free >= ship_model::spec::wanted(sum(&old, mapped)) {
            return None;
        }
        let old = sum(&old, resident);
        let leaving = self.state.retiring.iter().map(|leaving| &leaving.generation);
        let leaving = leaving.flat_map(|found| (0..found.slots.len()).flat_map(|slot| family(found, slot)));
        let leaving = sum(&leaving.collect::<Vec<_>>(), resident);
        (free.saturating_add(leaving) < ship_model::spec::wanted(old)).then(|| {
            format!(
                "{} available {whose}, and release {} uses {}, of which a fifth more is wanted",
                amount(free),
                active.intent.release,
                amount(old)
            )
        })
    }
}

/// Whether a process of this name is started beside the running one.
fn runs_twice(spec: &ProcessSpec, rising: &Generation) -> bool {
    let mut wanted = rising.intent.processes.iter();
    let next = wanted.find(|wanted| wanted.name == spec.name);
    next.is_some_and(|next| next.overlap && starts_beside(next.strategy, next.restart.as_ref()))
}
