//! Whether there is memory for a new generation beside the active one.

use ship_model::spec::starts_beside;

use super::Keeper;
use crate::machine::Generation;
use crate::processes::{Table, Tree, amount, resident};
use crate::protocol::ProcessSpec;

impl Keeper {
    /// Why there is no room for `rising` beside the active generation; none where there is, or nothing runs twice.
    ///
    /// The new one is expected to need what the old one has, and a fifth more. What is leaving counts as free: it will be.
    pub(super) fn tight(&self, rising: &Generation) -> Option<String> {
        let active = self.state.active.as_ref().filter(|active| active.is_living())?;
        let tree = Tree::look();
        let far = if tree.is_none() { Some(Table::read()) } else { None };
        let used = |found: &Generation, slot: usize| {
            let Some(spec) = found.intent.processes.get(slot) else {
                return 0;
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
            let family = near.or_else(far).unwrap_or_default();
            family.into_iter().map(resident).sum::<u64>()
        };
        let twice = |spec: &&ProcessSpec| spec.overlap && runs_twice(spec, rising);
        let processes = active.intent.processes.iter().enumerate();
        let old: u64 = processes
            .filter(|(_, spec)| twice(spec))
            .map(|(slot, _)| used(active, slot))
            .sum();
        if old == 0 {
            return None;
        }
        let leaving = self.state.retiring.iter().map(|leaving| &leaving.generation);
        let leaving: u64 = leaving
            .map(|found| (0..found.slots.len()).map(|slot| used(found, slot)).sum::<u64>())
            .sum();
        let (free, whose) = self.groups.available(&self.config.machine)?;
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
