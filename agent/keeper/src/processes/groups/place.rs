//! Where hierarchies of control groups are mounted, and where in them groups may be made.

use std::io;
use std::path::{Path, PathBuf};

use super::folder::{Folder, Version};
use super::{Controller, GroupsAt};

/// A hierarchy as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    target: PathBuf,
    /// The part of the hierarchy that is mounted there.
    root: PathBuf,
    version: Version,
    /// Controllers of version 1; none of version 2.
    kinds: Vec<String>,
    /// The group this process is in.
    own: Option<PathBuf>,
}

/// What the kernel tells of this machine's hierarchies.
#[derive(Debug)]
pub(super) struct Machine {
    mounts: Vec<Mount>,
}

impl Machine {
    pub(super) fn look(proc: &Path) -> io::Result<Self> {
        let mounts = std::fs::read_to_string(proc.join("self/mountinfo"))?;
        let own = std::fs::read_to_string(proc.join("self/cgroup"))?;
        let mounts = mounts.lines().filter_map(|line| mount(line, &own)).collect();
        Ok(Self { mounts })
    }

    pub(super) fn unified(&self) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.version == Version::Two)
    }

    pub(super) fn legacy(&self, kind: &str) -> Option<&Mount> {
        let has = |mount: &&Mount| mount.kinds.iter().any(|known| known == kind);
        self.mounts.iter().find(has)
    }

    /// The group whose memory this process uses, where its hierarchy is mounted, and which kind that is.
    pub(super) fn own_memory_group(&self) -> Option<(PathBuf, PathBuf, Version)> {
        let mount = self.legacy("memory").or_else(|| self.unified())?;
        let own = mount.own.as_ref()?.strip_prefix(&mount.root).ok()?;
        Some((mount.target.join(own), mount.target.clone(), mount.version))
    }

    /// The folder of a keeper's groups in a hierarchy; or why there may be none.
    pub(super) fn place(&self, mount: &Mount, at: &GroupsAt, name: &str) -> Result<Folder, String> {
        let place = match at {
            GroupsAt::Below(place) => place.clone(),
            GroupsAt::Auto | GroupsAt::Nowhere => mount.free_place()?,
        };
        let below = place.strip_prefix("/").unwrap_or(&place);
        let folder = mount.target.join(below).join("ship").join(name);
        Ok(Folder::new(mount.target.clone(), folder, mount.version))
    }
}

impl Mount {
    /// The group below which ours may be made.
    fn free_place(&self) -> Result<PathBuf, String> {
        let target = self.target.display();
        let own = self
            .own
            .as_ref()
            .and_then(|own| own.strip_prefix(&self.root).ok())
            .ok_or_else(|| format!("{target} does not show the group that this process is in"))?;
        if own.as_os_str().is_empty() {
            return Ok(PathBuf::from("/"));
        }
        let root = rustix::process::geteuid().is_root();
        let parts: Vec<_> = own
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let unit = |part: &String| {
            [".service", ".scope", ".slice"]
                .iter()
                .any(|kind| part.ends_with(kind))
        };
        // Beside what systemd makes, as others do who run processes for themselves: not inside our own unit.
        if root && parts.first().is_some_and(unit) {
            return Ok(PathBuf::from("/"));
        }
        let ancestors = own.ancestors().filter(|group| !group.as_os_str().is_empty());
        let mut delegated = ancestors.filter(|group| is_delegated(&self.target.join(group)));
        delegated.next().map(|group| Path::new("/").join(group)).ok_or_else(|| {
            format!(
                "the group /{} of {target} was not delegated to this process (systemd: Delegate=yes), or name another by `cgroups` in agent.toml",
                own.display()
            )
        })
    }
}

/// As systemd marks what it leaves to others.
fn is_delegated(group: &Path) -> bool {
    ["trusted.delegate", "user.delegate"].iter().any(|name| {
        let mut value = [0_u8; 8];
        let length = rustix::fs::getxattr(group, *name, &mut value[..]);
        length.is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}

/// A line of `/proc/self/mountinfo` about control groups.
fn mount(line: &str, own: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(3);
    let (root, target) = (head.next()?, head.next()?);
    let mut tail = tail.split(' ');
    let version = match tail.next()? {
        "cgroup2" => Version::Two,
        "cgroup" => Version::One,
        _ => return None,
    };
    let options = tail.nth(1)?;
    let known = Controller::ALL
        .map(Controller::name)
        .into_iter()
        .chain(["freezer"]);
    let kinds: Vec<String> = match version {
        Version::Two => Vec::new(),
        Version::One => known
            .filter(|kind| options.split(',').any(|option| option == *kind))
            .map(str::to_owned)
            .collect(),
    };
    Some(Mount {
        own: own_group(own, version, &kinds),
        target: PathBuf::from(target.replace("\\040", " ")),
        root: root.into(),
        version,
        kinds,
    })
}

/// The group that `/proc/self/cgroup` names for the hierarchy.
fn own_group(text: &str, version: Version, kinds: &[String]) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_it = match version {
            Version::Two => controllers.is_empty(),
            Version::One => controllers
                .split(',')
                .any(|kind| kinds.iter().any(|known| known == kind)),
        };
        is_it.then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::path::Path;

    use super::{Mount, mount};

    const UNIFIED: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    const LEGACY: &str = "31 24 0:27 /docker/77 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct";

    fn free(line: &str, own: &str) -> Result<String, String> {
        let found: Mount = mount(line, own).unwrap();
        found.free_place().map(|place| place.display().to_string())
    }

    #[test]
    fn groups_are_made_where_nobody_else_makes_any() {
        assert_eq!(free(UNIFIED, "0::/\n"), Ok("/".to_owned()));
        // A container sees its own part of a hierarchy.
        assert_eq!(free(LEGACY, "4:cpu,cpuacct:/docker/77\n"), Ok("/".to_owned()));
        for (line, own) in [
            (UNIFIED, "0::/made-by-another/9b\n"),
            (LEGACY, "4:cpu,cpuacct:/docker/77/inner\n"),
            (LEGACY, "4:cpu,cpuacct:/elsewhere\n"),
        ] {
            assert!(free(line, own).is_err(), "{own}");
        }
        if rustix::process::geteuid().is_root() {
            assert_eq!(
                free(UNIFIED, "0::/system.slice/ship-agent.service\n"),
                Ok("/".to_owned())
            );
        }
    }

    #[test]
    fn other_mounts_and_hierarchies_are_none() {
        assert_eq!(mount("25 1 0:5 / /proc rw - proc proc rw", ""), None);
        let found = mount(LEGACY, "4:memory:/x\n").unwrap();
        assert_eq!((found.own, found.kinds), (None, vec!["cpu".to_owned()]));
        assert_eq!(found.target, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    }
}
