//! One keeper's groups in one hierarchy.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::Controller;

/// Looks for what was born while the others were killed, in hierarchies that cannot kill all at once.
const ROUNDS: usize = 20;

/// Which kind of hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// One keeper's groups in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    path: PathBuf,
    version: Version,
}

impl Folder {
    pub(super) fn new(mount: PathBuf, path: PathBuf, version: Version) -> Self {
        Self { mount, path, version }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn mount(&self) -> &Path {
        &self.mount
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Whether the hierarchy has the controller.
    pub(super) fn knows(&self, controller: Controller) -> bool {
        let known = std::fs::read_to_string(self.mount.join("cgroup.controllers")).unwrap_or_default();
        known
            .split_ascii_whitespace()
            .any(|name| name == controller.name())
    }

    /// Whether groups can be made here, tried with the keeper's own.
    pub(super) fn is_usable(&self) -> bool {
        let made = std::fs::create_dir_all(&self.path).is_ok();
        made && OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.procs"))
            .is_ok()
    }

    /// The group of a generation, or of one process of it.
    pub(super) fn of(&self, generation: u64, process: Option<&str>) -> PathBuf {
        let folder = self.path.join(format!("gen-{generation}"));
        process.map_or(folder.clone(), |process| folder.join(process))
    }

    pub(super) fn make(&self, generation: u64, process: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.of(generation, Some(process)))
    }

    /// Makes the group and sets a limit there.
    pub(super) fn limit(
        &self,
        generation: u64,
        process: &str,
        controller: Controller,
        limit: u64,
    ) -> io::Result<()> {
        self.make(generation, process)?;
        let group = self.of(generation, Some(process));
        if self.version == Version::Two {
            self.enable(&group, controller)?;
        }
        super::limit::set(&group, self.version, controller, limit)
    }

    /// Lets all groups above this one give the controller to those below.
    fn enable(&self, group: &Path, controller: Controller) -> io::Result<()> {
        let above: Vec<_> = group
            .ancestors()
            .skip(1)
            .take_while(|path| path.starts_with(&self.mount))
            .collect();
        for folder in above.into_iter().rev() {
            let given = std::fs::read_to_string(folder.join("cgroup.subtree_control"))?;
            if !given
                .split_ascii_whitespace()
                .any(|name| name == controller.name())
            {
                write(
                    &folder.join("cgroup.subtree_control"),
                    &format!("+{}", controller.name()),
                )?;
            }
        }
        Ok(())
    }

    /// Where the process has a group here, it is put into it.
    pub(super) fn enter(&self, generation: u64, process: &str, pid: u32) -> io::Result<()> {
        let group = self.of(generation, Some(process));
        if !group.is_dir() {
            return Ok(());
        }
        write(&group.join("cgroup.procs"), &pid.to_string())
    }

    /// The process's group here, to be born in; none where it has none, or nothing can be born in one.
    pub(super) fn door(&self, generation: u64, process: &str) -> Option<OwnedFd> {
        if self.version != Version::Two {
            return None;
        }
        let group = File::open(self.of(generation, Some(process))).ok()?;
        Some(group.into())
    }

    pub(super) fn kill(&self, generation: u64, process: Option<&str>) {
        let group = self.of(generation, process);
        if write(&group.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // Frozen processes bring forth no others; where nothing can be frozen, those are looked for again.
        let frozen = write(&group.join("freezer.state"), "FROZEN").is_ok();
        for _ in 0..ROUNDS {
            let members = members(&group);
            for pid in &members {
                if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            if frozen || members.is_empty() {
                break;
            }
        }
        if frozen {
            let _ = write(&group.join("freezer.state"), "THAWED");
        }
    }

    pub(super) fn members(&self, generation: u64, process: Option<&str>) -> BTreeSet<u32> {
        members(&self.of(generation, process))
    }

    /// Generations that have groups here.
    pub(super) fn generations(&self) -> impl Iterator<Item = u64> + use<> {
        below(&self.path).filter_map(|path| path.file_name()?.to_str()?.strip_prefix("gen-")?.parse().ok())
    }

    /// The kernel refuses while anything is inside.
    pub(super) fn remove(&self, generation: u64) {
        let group = self.of(generation, None);
        for inner in below(&group).chain([group.clone()]) {
            let _ = std::fs::remove_dir(inner);
        }
    }

    pub(super) fn tidy(&self, prefix: &str) {
        let gone = |path: &PathBuf| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix(prefix));
            name.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
        };
        for path in self.path.parent().into_iter().flat_map(below).filter(gone) {
            let left = Self { path, ..self.clone() };
            left.generations().for_each(|generation| left.remove(generation));
            left.leave();
        }
    }

    pub(super) fn leave(&self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn below(group: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir())
}

/// All in the group and in those directly below it, but never this process, nor what a number below 2 would mean.
fn members(group: &Path) -> BTreeSet<u32> {
    let groups = below(group).chain([group.to_owned()]);
    let procs = groups.filter_map(|group| std::fs::read_to_string(group.join("cgroup.procs")).ok());
    let own = std::process::id();
    let pids = procs.flat_map(|text| {
        text.lines()
            .filter_map(|line| line.parse().ok())
            .collect::<Vec<u32>>()
    });
    pids.filter(|pid| *pid > 1 && *pid != own).collect()
}

/// Such a file takes one value in one write.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).open(path).map_err(named)?;
    file.write_all(value.as_bytes()).map_err(named)
}
