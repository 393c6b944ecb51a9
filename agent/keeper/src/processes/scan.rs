//! Looking at processes through /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::machine::Process;

/// A process that belongs to a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its id.
    pub pid: u32,
    /// Its start in clock ticks since boot.
    pub start: u64,
}

struct Stat {
    parent: u32,
    group: u32,
    start: u64,
    zombie: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, a parenthesis too.
    let mut fields = text.get(text.rfind(')')? + 2..)?.split(' ');
    let zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let start = fields.nth(16)?.parse().ok()?;
    Some(Stat {
        parent,
        group,
        start,
        zombie,
    })
}

/// The process's start in clock ticks since boot, if it is there.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    stat(pid).map(|stat| stat.start)
}

/// Whether exactly this process is there and has not ended.
#[must_use]
pub fn is_alive(process: Process) -> bool {
    process.pid > 1 && stat(process.pid).is_some_and(|stat| stat.start == process.start && !stat.zombie)
}

/// This boot's id.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// All living processes of a generation: its main processes, their descendants and groups, and those that carry its marks
/// in their environment. `marks` are whole `KEY=VALUE` entries, all of which must be there.
///
/// A group alone proves nothing, since its number may be used again; it counts for children of ours.
#[must_use]
pub fn members(mains: &[Process], marks: &[String]) -> BTreeSet<Found> {
    let own = std::process::id();
    let all: BTreeMap<u32, Stat> = pids()
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .filter(|(_, stat)| !stat.zombie)
        .collect();
    let is_main = |pid: u32, stat: &Stat| {
        mains
            .iter()
            .any(|main| main.pid == pid && main.start == stat.start)
    };
    let mut found = BTreeSet::new();
    for (pid, stat) in &all {
        if *pid <= 1 || *pid == own {
            continue;
        }
        let group_of_ours = stat.parent == own && mains.iter().any(|main| main.pid == stat.group);
        if is_main(*pid, stat) || group_of_ours || descends(*pid, &all, &is_main) || marked(*pid, marks) {
            found.insert(Found {
                pid: *pid,
                start: stat.start,
            });
        }
    }
    found
}

fn descends(pid: u32, all: &BTreeMap<u32, Stat>, is_main: &impl Fn(u32, &Stat) -> bool) -> bool {
    let mut at = pid;
    // Bounded: the table was read while processes came and went, so it may hold a circle.
    for _ in 0..64 {
        let Some(stat) = all.get(&at) else { return false };
        if is_main(at, stat) {
            return true;
        }
        at = stat.parent;
    }
    false
}

fn marked(pid: u32, marks: &[String]) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    !marks.is_empty()
        && marks.iter().all(|mark| {
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == mark.as_bytes())
        })
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The inodes of all sockets a process has open, with their descriptors.
#[must_use]
pub fn socket_inodes(pid: u32) -> BTreeMap<u64, i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let inode = target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()?;
            Some((inode, entry.file_name().to_str()?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{is_alive, members, start_ticks};
    use crate::machine::Process;

    #[test]
    fn knows_itself_and_no_other_incarnation() {
        let pid = std::process::id();
        let start = start_ticks(pid).unwrap_or(0);
        assert!(start > 0);
        assert!(is_alive(Process { pid, start }));
        assert!(!is_alive(Process {
            pid,
            start: start + 1
        }));
        assert!(!is_alive(Process { pid: 0, start: 0 }));
        assert!(members(&[], &[]).is_empty());
    }
}
