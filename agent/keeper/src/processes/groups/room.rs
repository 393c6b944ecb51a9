//! How much memory there is: of the host, and of the groups that limit what we start.

use std::path::Path;

use super::folder::Version;
use super::place::Machine;
use super::{Controller, Groups};

impl Groups {
    /// Bytes that can still be had, and of whom; none where the kernel does not tell. `proc` is where it does.
    #[must_use]
    pub fn available(&self, proc: &Path) -> Option<(u64, &'static str)> {
        let host = host(proc).map(|bytes| (bytes, "on the host"));
        let group = self
            .group_room(proc)
            .map(|bytes| (bytes, "in the control group that limits it"));
        host.into_iter().chain(group).min_by_key(|(bytes, _)| *bytes)
    }

    /// What the narrowest group above our processes leaves.
    fn group_room(&self, proc: &Path) -> Option<u64> {
        let ours = self.limiting.get(&Controller::Memory)?.as_ref().ok();
        let (group, mount, version) = match ours {
            Some(folder) => (
                folder.path().to_owned(),
                folder.mount().to_owned(),
                folder.version(),
            ),
            None => Machine::look(proc).ok()?.own_memory_group()?,
        };
        let groups = group.ancestors().take_while(|group| group.starts_with(&mount));
        groups.filter_map(|group| left(group, version)).min()
    }
}

/// What a group's limit leaves; none where it has no limit.
fn left(group: &Path, version: Version) -> Option<u64> {
    let (limit, used) = match version {
        Version::Two => ("memory.max", "memory.current"),
        Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    };
    let limit = number(group, limit)?;
    // Pages of files that nobody used lately are given back when they are needed.
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let names = ["total_inactive_file ", "inactive_file "];
    let idle = names
        .iter()
        .find_map(|name| stat.lines().find_map(|line| line.strip_prefix(name)));
    let idle: u64 = idle.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let used = number(group, used)?.saturating_sub(idle);
    Some(limit.saturating_sub(used))
}

/// A file of one number; `max` is none.
fn number(group: &Path, file: &str) -> Option<u64> {
    std::fs::read_to_string(group.join(file))
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn host(proc: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(proc.join("meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Bytes of memory that a process has: its share of what it shares, where the kernel tells.
#[must_use]
pub fn resident(pid: u32) -> u64 {
    let share = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let share = share.lines().find_map(|line| line.strip_prefix("Pss:"));
    let share = share.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    share.map_or_else(|| mapped(pid), |kib| kib.saturating_mul(1024))
}

/// Bytes of memory that a process has, all that it shares with others included.
#[must_use]
pub fn mapped(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: Option<u64> = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages
        .unwrap_or(0)
        .saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "tests stop at the first surprise"
    )]
    use super::{host, left, mapped, resident};
    use crate::processes::groups::folder::Version;

    #[test]
    fn memory_is_what_the_narrowest_leaves() {
        let own = std::process::id();
        assert!(resident(own) > 1 << 20 && mapped(own) > 1 << 20);
        assert_eq!((resident(u32::MAX), mapped(u32::MAX)), (0, 0));
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        write("meminfo", "MemTotal: 9 kB\nMemAvailable:     2048 kB\n");
        assert_eq!(host(folder.path()), Some(2 << 20));
        write("memory.max", "1000\n");
        write("memory.current", "700\n");
        assert_eq!(left(folder.path(), Version::Two), Some(300));
        write("memory.stat", "anon 1\ninactive_file 200\n");
        assert_eq!(left(folder.path(), Version::Two), Some(500));
        write("memory.max", "max\n");
        assert_eq!(left(folder.path(), Version::Two), None);
    }
}
