//! Control groups: one for each process of a generation, so that nothing it starts can leave it, and so that limits hold for
//! all of it together. They are folders of the kernel's, and plain files in them.
//!
//! ```text
//! <where a hierarchy is mounted>/<place>/ship/<keeper>/gen-<generation>/<process>
//! ```
//!
//! Version 2 is used where it is mounted, for what it can; controllers that only version 1 has are used there. Groups are
//! made where nobody else makes any: in the root of a hierarchy, or in what was delegated (systemd: `Delegate=yes`), never
//! inside a unit that is stopped as a whole, and never in a group that somebody else has made for us. Where there is no such
//! place, a generation's processes are found by looking for them, and `memory` limits the address space of each.

mod folder;
mod limit;
mod place;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use folder::{Folder, Version};
pub use limit::amount;
use place::Machine;
pub use room::{mapped, resident};
use serde::{Deserialize, Serialize};

use crate::protocol::Limits;

/// Where groups are to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupsAt {
    /// Where they may be made, if anywhere.
    #[default]
    Auto,
    /// Nowhere.
    Nowhere,
    /// Below this group, as `/proc/self/cgroup` names it, in every hierarchy.
    Below(PathBuf),
}

impl GroupsAt {
    /// Reads `auto`, `off` or a path.
    ///
    /// # Errors
    /// What a good one looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let tame = |path: &Path| {
            let mut parts = path.components().skip(1);
            path.is_absolute() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Nowhere),
            path if tame(Path::new(path)) => Ok(Self::Below(path.into())),
            _ => Err(format!(
                "{text:?} is neither \"auto\" nor \"off\" nor a group like \"/ship.slice\""
            )),
        }
    }

    /// What [`Self::parse`] reads.
    #[must_use]
    pub fn as_arg(&self) -> &std::ffi::OsStr {
        match self {
            Self::Auto => "auto".as_ref(),
            Self::Nowhere => "off".as_ref(),
            Self::Below(group) => group.as_os_str(),
        }
    }
}

/// What only one hierarchy limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
    /// Processor time.
    Cpu,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// As the kernel and `limits` in a ship.toml name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// The groups that a keeper can make.
#[derive(Debug)]
pub struct Groups {
    /// What every process is put into.
    main: Result<Folder, String>,
    /// Where a limit is held.
    limiting: BTreeMap<Controller, Result<Folder, String>>,
}

/// How a process's limits are held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Its group limits its memory.
    pub memory: bool,
    /// Limits that nothing holds, and why.
    pub unheld: Vec<String>,
}

impl Groups {
    /// Looks for places on the machine that `proc` tells of (`/proc`), for a keeper of this `name`.
    #[must_use]
    pub fn find(proc: &Path, at: &GroupsAt, name: &str) -> Self {
        if *at == GroupsAt::Nowhere {
            return Self::none("groups are switched off in this host's settings");
        }
        let machine = match Machine::look(proc) {
            Ok(machine) => machine,
            Err(error) => return Self::none(&format!("{} cannot be read: {error}", proc.display())),
        };
        let place = |mount| machine.place(mount, at, name);
        let v2 = machine.unified().map(place);
        let v1 = |kind: &str| match machine.legacy(kind) {
            Some(mount) => machine.place(mount, at, name),
            None => Err(format!("this kernel has no {kind} controller mounted")),
        };
        let limiting = Controller::ALL.map(|controller| {
            let unified = v2.as_ref().and_then(|folder| folder.as_ref().ok());
            let held = unified.filter(|folder| folder.knows(controller));
            let folder = held.cloned().map_or_else(|| v1(controller.name()), Ok);
            // A hierarchy of version 2 that has it says more of why it cannot be used.
            let folder = match (&v2, folder) {
                (Some(Err(reason)), Err(_)) if machine.legacy(controller.name()).is_none() => {
                    Err(reason.clone())
                }
                (_, folder) => folder,
            };
            (controller, folder)
        });
        let any = ["freezer", "pids", "cpu", "memory"].into_iter().map(v1);
        let first = v2
            .clone()
            .filter(|folder| folder.as_ref().is_ok_and(Folder::is_usable));
        let main = first.or_else(|| {
            any.into_iter()
                .find(|folder| folder.as_ref().is_ok_and(Folder::is_usable))
        });
        let why_not = || match &v2 {
            Some(Err(reason)) => reason.clone(),
            Some(Ok(folder)) => format!("{} cannot be made", folder.path().display()),
            None => "this kernel has no control groups mounted".to_owned(),
        };
        Self {
            main: main.unwrap_or_else(|| Err(why_not())),
            limiting: limiting.into_iter().collect(),
        }
    }

    fn none(reason: &str) -> Self {
        let limiting = Controller::ALL.map(|controller| (controller, Err(reason.to_owned())));
        Self {
            main: Err(reason.to_owned()),
            limiting: limiting.into_iter().collect(),
        }
    }

    /// The folder of all generations; or why there is none.
    ///
    /// # Errors
    /// In words for people.
    pub fn main(&self) -> Result<&Path, &str> {
        self.main.as_ref().map(Folder::path).map_err(String::as_str)
    }

    /// Why a limit of this kind cannot be held; none where it can.
    #[must_use]
    pub fn missing(&self, controller: Controller) -> Option<&str> {
        self.limiting.get(&controller)?.as_ref().err().map(String::as_str)
    }

    /// What cannot be done for processes, and what is done instead, in words for people.
    #[must_use]
    pub fn falls_back(&self) -> Vec<String> {
        let main = self.main.as_ref().err().map(|reason| {
            format!("no control groups: what a process starts is found by its parents and environment, and may escape that: {reason}")
        });
        let limits = Controller::ALL
            .into_iter()
            .filter_map(|controller| Some(limit::unheld(controller, self.missing(controller)?)));
        main.into_iter().chain(limits).collect()
    }

    /// Makes the process's groups and sets its limits there.
    #[must_use]
    pub fn prepare(&self, generation: u64, process: &str, limits: &Limits) -> Held {
        let mut held = Held::default();
        if let Ok(main) = &self.main
            && let Err(error) = main.make(generation, process)
        {
            held.unheld
                .push(format!("process {process} gets no control group: {error}"));
        }
        let wanted = [
            (Controller::Memory, limits.memory),
            (Controller::Pids, limits.pids),
            (Controller::Cpu, limits.cpu),
        ];
        for (controller, limit) in wanted {
            let Some(limit) = limit else { continue };
            let limited = match self.limiting.get(&controller) {
                Some(Ok(folder)) => folder
                    .limit(generation, process, controller, limit)
                    .map_err(|error| error.to_string()),
                Some(Err(reason)) => Err(reason.clone()),
                None => Err("unknown".to_owned()),
            };
            match limited {
                Ok(()) => held.memory |= controller == Controller::Memory,
                Err(reason) => held.unheld.push(format!(
                    "process {process}: {}",
                    limit::unheld(controller, &reason)
                )),
            }
        }
        held
    }

    /// The group that a process can be born in, rather than be put into later.
    #[must_use]
    pub fn door(&self, generation: u64, process: &str) -> Option<OwnedFd> {
        let mut folders = self.folders().into_iter();
        folders.find_map(|folder| folder.door(generation, process))
    }

    /// Puts a process, which must not have any children yet, into its groups; `born` in the one that [`Groups::door`] gave, it
    /// is there already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self, generation: u64, process: &str, pid: u32, born: bool) -> io::Result<()> {
        let others = self.folders().into_iter();
        for folder in others.filter(|folder| !born || folder.version() != Version::Two) {
            folder.enter(generation, process, pid)?;
        }
        Ok(())
    }

    /// Each hierarchy once.
    fn folders(&self) -> Vec<&Folder> {
        let all = self
            .limiting
            .values()
            .chain([&self.main])
            .filter_map(|folder| folder.as_ref().ok());
        let mut folders: Vec<&Folder> = Vec::new();
        for folder in all {
            if !folders.iter().any(|known| known.path() == folder.path()) {
                folders.push(folder);
            }
        }
        folders
    }

    /// Kills all that is in the generation's groups, or in those of one process of it.
    pub fn kill(&self, generation: u64, process: Option<&str>) {
        if let Ok(main) = &self.main {
            main.kill(generation, process);
        }
    }

    /// Ids of all that is in the generation's groups, or in those of one process of it.
    #[must_use]
    pub fn members(&self, generation: u64, process: Option<&str>) -> BTreeSet<u32> {
        let members = self.main.as_ref().map(|main| main.members(generation, process));
        members.unwrap_or_default()
    }

    /// How many of the process's group have been killed for want of memory; none where that is not told.
    #[must_use]
    pub fn memory_kills(&self, generation: u64, process: &str) -> Option<u64> {
        let folder = self.limiting.get(&Controller::Memory)?.as_ref().ok()?;
        limit::memory_kills(&folder.of(generation, Some(process)), folder.version())
    }

    /// Takes the generation's groups away, if nothing is in them.
    pub fn remove(&self, generation: u64) {
        self.folders()
            .into_iter()
            .for_each(|folder| folder.remove(generation));
    }

    /// Ends what is in groups of generations that are not `known`, and takes away those that are empty: an earlier keeper
    /// left them.
    pub fn sweep(&self, known: &[u64]) {
        for folder in self.folders() {
            for generation in folder.generations().filter(|number| !known.contains(number)) {
                folder.kill(generation, None);
                folder.remove(generation);
            }
        }
    }

    /// Takes folders beside ours away that are named so, with the id of a process that is gone, if nothing is in them.
    pub fn tidy(&self, prefix: &str) {
        for folder in self.folders() {
            folder.tidy(prefix);
        }
    }

    /// Takes the keeper's own folders away; nothing runs any more.
    pub fn leave(&self) {
        self.sweep(&[]);
        self.folders().into_iter().for_each(Folder::leave);
    }
}

/// The name of a keeper's folder: many keepers of one app can be on one machine, each with a `state` folder of its own.
#[must_use]
pub fn keeper_name(app: &str, state: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    // FNV-1a: the same in every version of this program, since the next keeper must find what this one leaves.
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = state
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, fold);
    format!("{app}-{:08x}", hash >> 32)
}
