//! What an app's processes have of this host's memory, for those who plan: its keeper looks again when it switches.

use std::path::Path;

use ship_keeper::machine::Process;
use ship_keeper::processes::{Groups, GroupsAt, Table, Tree, resident};
use ship_keeper::protocol::{GenerationStatus, Role, Status};
use ship_model::report::AppMemory;

/// Looks at the machine that `proc` (`/proc`) tells of; none where nothing runs, or the kernel does not tell.
///
/// The free memory is that of this process's own control group where that is narrower than the host: keepers live beside it.
/// What has left its parents' family is not found.
pub fn memory(proc: &Path, status: &Status) -> Option<AppMemory> {
    let active = status
        .generations
        .iter()
        .find(|found| found.role == Role::Active)?;
    let all: Vec<_> = status.generations.iter().flat_map(mains).collect();
    let near = Tree::look();
    let far = near.is_none().then(Table::read);
    let family = |main: Process| {
        let others: Vec<_> = all.iter().copied().filter(|other| *other != main).collect();
        let near = near.as_ref().map(|tree| tree.family(&[main], &others, &[]));
        let far = || far.as_ref().map(|table| table.family(&[main], &others, &[]));
        near.or_else(far).unwrap_or_default()
    };
    let used = |main: Process| family(main).into_iter().map(resident).sum::<u64>();
    let older = status
        .generations
        .iter()
        .filter(|found| matches!(found.role, Role::Warm | Role::Retiring | Role::Failed));
    let leaving: u64 = older.flat_map(mains).map(used).sum();
    let (free, whose) = Groups::find(proc, &GroupsAt::Nowhere, "").available(proc)?;
    let used: std::collections::BTreeMap<_, _> = active
        .processes
        .iter()
        .zip(active.processes.iter().map(main))
        .filter_map(|(process, main)| Some((process.name.clone(), used(main?))))
        .collect();
    (!used.is_empty()).then(|| AppMemory {
        used,
        free: free.saturating_add(leaving),
        whose: whose.to_owned(),
    })
}

fn mains(generation: &GenerationStatus) -> impl Iterator<Item = Process> {
    generation.processes.iter().filter_map(main)
}

fn main(process: &ship_keeper::protocol::ProcessStatus) -> Option<Process> {
    Some(Process {
        pid: process.pid?,
        start: process.start_ticks,
    })
}
