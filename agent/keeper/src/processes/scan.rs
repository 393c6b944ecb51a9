//! Looking at processes through /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags, RawDir};

use crate::machine::Process;

/// Ancestors looked at.
const MAX_DEPTH: usize = 64;

/// A process that belongs to a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its id.
    pub pid: u32,
    /// Its start in clock ticks since boot.
    pub start: u64,
}

#[derive(Debug)]
pub(super) struct Stat {
    parent: u32,
    pub(super) group: u32,
    pub(super) start: u64,
    zombie: bool,
}

pub(super) fn stat(pid: u32) -> Option<Stat> {
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

/// Whether the process is a child of this one, born or inherited.
#[must_use]
pub fn is_own_child(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.parent == std::process::id() && !stat.zombie)
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
/// A group alone proves nothing, since its number may be used again; it counts for children of ours. What comes from one of
/// `others`, main processes of other generations, is theirs, also where these come from one of `mains` or share its marks.
#[must_use]
pub fn members(mains: &[Process], others: &[Process], marks: &[String]) -> BTreeSet<Found> {
    Table::read().members(mains, others, marks, 0)
}

/// All processes of the host, as they were at one moment.
#[derive(Debug)]
pub struct Table {
    all: BTreeMap<u32, Stat>,
}

impl Table {
    /// Reads it.
    #[must_use]
    pub fn read() -> Self {
        let all = pids()
            .filter_map(|pid| Some((pid, stat(pid)?)))
            .filter(|(_, stat)| !stat.zombie)
            .collect();
        Self { all }
    }

    /// The processes that [`members`] tells of, without looking at the environment of those that have begun before any of
    /// the main ones: that spares a busy host much, and misses at most what an earlier main process left behind.
    #[must_use]
    pub fn family(&self, mains: &[Process], others: &[Process], marks: &[String]) -> Vec<u32> {
        let since = mains.iter().map(|main| main.start).min().unwrap_or(u64::MAX);
        let members = self.members(mains, others, marks, since);
        members.into_iter().map(|member| member.pid).collect()
    }

    fn members(
        &self,
        mains: &[Process],
        others: &[Process],
        marks: &[String],
        since: u64,
    ) -> BTreeSet<Found> {
        let own = std::process::id();
        let whose = |pid: u32, stat: &Stat| {
            let is_it = |main: &Process| main.pid == pid && main.start == stat.start;
            if mains.iter().any(is_it) {
                Some(true)
            } else {
                others.iter().any(is_it).then_some(false)
            }
        };
        let mut found = BTreeSet::new();
        for (pid, stat) in &self.all {
            if *pid <= 1 || *pid == own {
                continue;
            }
            let group_of_ours = stat.parent == own && mains.iter().any(|main| main.pid == stat.group);
            let is_member = match nearest(*pid, &self.all, &whose) {
                Some(ours) => ours,
                None => group_of_ours || (stat.start >= since && marked(*pid, marks)),
            };
            if is_member {
                found.insert(Found {
                    pid: *pid,
                    start: stat.start,
                });
            }
        }
        found
    }
}

/// Whether the process is one that [`members`] tells of, found by going up from it instead of through all processes.
#[must_use]
pub fn is_member(pid: u32, mains: &[Process], marks: &[String]) -> bool {
    let own = std::process::id();
    if pid <= 1 || pid == own {
        return false;
    }
    let mut at = pid;
    for _ in 0..MAX_DEPTH {
        let Some(stat) = stat(at) else { break };
        let is_main = mains
            .iter()
            .any(|main| main.pid == at && main.start == stat.start);
        let group_of_ours =
            at == pid && stat.parent == own && mains.iter().any(|main| main.pid == stat.group);
        if is_main || group_of_ours {
            return true;
        }
        at = stat.parent;
    }
    marked(pid, marks)
}

/// Whether the nearest main process above, or the process itself, is one of ours; none where there is no main process.
fn nearest(pid: u32, all: &BTreeMap<u32, Stat>, whose: &impl Fn(u32, &Stat) -> Option<bool>) -> Option<bool> {
    let mut at = pid;
    // Bounded: the table was read while processes came and went, so it may hold a circle.
    for _ in 0..MAX_DEPTH {
        let stat = all.get(&at)?;
        if let Some(ours) = whose(at, stat) {
            return Some(ours);
        }
        at = stat.parent;
    }
    None
}

pub(super) fn marked(pid: u32, marks: &[String]) -> bool {
    if marks.is_empty() {
        return false;
    }
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    marks.iter().all(|mark| {
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == mark.as_bytes())
    })
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Tells the inode and descriptor of every socket a process has open, until `visit` says false.
pub fn each_socket(pid: u32, mut visit: impl FnMut(u32, i32) -> bool) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty()) else {
        return;
    };
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut entries = RawDir::new(&folder, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let mut target = [0_u8; 32];
        let Ok(length) = rustix::fs::readlinkat_raw(&folder, entry.file_name(), &mut target) else {
            continue;
        };
        let inode = target
            .get(..length)
            .and_then(|target| target.strip_prefix(b"socket:["))
            .and_then(|rest| number(rest.strip_suffix(b"]")?));
        let descriptor = number(entry.file_name().to_bytes());
        if let (Some(inode), Some(descriptor)) = (inode, descriptor)
            && !visit(inode, descriptor)
        {
            return;
        }
    }
}

/// The descriptor under which a process has the socket with this inode open.
#[must_use]
pub fn descriptor_of(pid: u32, inode: u32) -> Option<i32> {
    let mut found = None;
    each_socket(pid, |open, descriptor| {
        found = (open == inode).then_some(descriptor);
        found.is_none()
    });
    found
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::{Table, descriptor_of, is_alive, is_member, members, start_ticks};
    use std::os::fd::AsRawFd;

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
        assert!(members(&[], &[], &[]).is_empty());
        assert!(!is_member(pid, &[Process { pid, start }], &[]));
        assert!(!is_member(1, &[], &[]));
    }

    #[test]
    fn finds_a_child_and_its_sockets_like_a_search_through_all() {
        let own = std::process::id();
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .env("SCAN_TEST", "mine")
            .spawn()
            .unwrap();
        let pid = child.id();
        let start = start_ticks(pid).unwrap();
        let mains = [Process { pid, start }];
        let marks = ["SCAN_TEST=mine".to_owned()];
        // The environment is there once the program runs.
        while !is_member(pid, &[], &marks) {
            std::thread::yield_now();
        }
        assert!(is_member(pid, &mains, &[]));
        assert!(!is_member(pid, &[], &["SCAN_TEST=other".to_owned()]));
        let found: Vec<_> = members(&[], &[], &marks)
            .into_iter()
            .map(|found| found.pid)
            .collect();
        assert_eq!(found, [pid]);
        assert!(members(&[], &mains, &marks).is_empty());
        assert_eq!(Table::read().family(&mains, &[], &[]), [pid]);
        assert!(Table::read().family(&[], &[], &marks).is_empty());
        child.kill().unwrap();
        child.wait().unwrap();

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = u32::try_from(crate::unix::inode(&listener).unwrap()).unwrap();
        assert_eq!(descriptor_of(own, inode), Some(listener.as_raw_fd()));
        drop(listener);
        assert_eq!(descriptor_of(own, inode), None);
    }
}
