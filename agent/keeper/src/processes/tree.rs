//! The processes that come from a main one, found by going down from it: what that costs depends on the app, not on the host.
//!
//! The kernel tells every thread's children where it is built with CONFIG_PROC_CHILDREN. It may miss one while another ends,
//! and a process whose parent has ended is the child of whoever adopts orphans: of this keeper, or of nobody we know when the
//! main process was started by an earlier one. So what is found is right and may not be all.

use std::collections::BTreeSet;
use std::fs;

use super::scan::{marked, stat};
use crate::machine::Process;

/// Processes in one family; a fork bomb is not followed further.
const MOST: usize = 10_000;

/// This process's own children: main processes, and orphans of theirs.
#[derive(Debug)]
pub struct Tree {
    children: Vec<u32>,
}

impl Tree {
    /// Looks at the own children; none where the kernel does not tell.
    #[must_use]
    pub fn look() -> Option<Self> {
        let mut children = Vec::new();
        each_child(std::process::id(), |child| children.push(child)).then_some(Self { children })
    }

    /// The main processes that live, orphans of theirs that came to us, and all that descend from both. `others` and `marks`
    /// are as in [`super::members`].
    #[must_use]
    pub fn family(&self, mains: &[Process], others: &[Process], marks: &[String]) -> Vec<u32> {
        let is_other = |pid: u32| others.iter().any(|other| other.pid == pid);
        let roots = mains
            .iter()
            .filter(|main| main.pid > 1 && stat(main.pid).is_some_and(|stat| stat.start == main.start))
            .map(|main| main.pid);
        let orphans = self.children.iter().copied().filter(|pid| {
            if is_other(*pid) {
                return false;
            }
            let group_of_ours = || {
                let group = stat(*pid).map(|stat| stat.group);
                mains.iter().any(|main| Some(main.pid) == group)
            };
            group_of_ours() || marked(*pid, marks)
        });
        let mut found: BTreeSet<u32> = roots.chain(orphans).collect();
        let mut left: Vec<u32> = found.iter().copied().collect();
        while let Some(pid) = left.pop() {
            each_child(pid, |child| {
                if found.len() < MOST && !is_other(child) && found.insert(child) {
                    left.push(child);
                }
            });
        }
        found.into_iter().collect()
    }
}

/// Tells the children of all threads of a process; false when the kernel does not know them.
fn each_child(pid: u32, mut visit: impl FnMut(u32)) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let mut told = false;
    for thread in threads.flatten() {
        let Ok(children) = fs::read_to_string(thread.path().join("children")) else {
            continue;
        };
        told = true;
        children
            .split_ascii_whitespace()
            .filter_map(|child| child.parse().ok())
            .for_each(&mut visit);
    }
    told
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::io::BufRead;
    use std::process::{Command, Stdio};

    use super::Tree;
    use crate::machine::Process;
    use crate::processes::start_ticks;

    #[test]
    fn finds_grandchildren_and_no_strangers() {
        let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let grandchild: u32 = line.trim().parse().unwrap();
        let pid = child.id();
        let main = Process {
            pid,
            start: start_ticks(pid).unwrap(),
        };
        let family = Tree::look().map(|tree| tree.family(&[main], &[], &[]));
        let other = Process {
            start: main.start + 1,
            ..main
        };
        let nobody = Tree::look().map(|tree| tree.family(&[other], &[], &["X=Y".to_owned()]));
        let killed = rustix::process::Pid::from_raw(grandchild.cast_signed()).unwrap();
        rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
        child.wait().unwrap();
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        // A kernel that does not tell is no failure.
        let Some((family, nobody)) = family.zip(nobody) else {
            return;
        };
        let mut expected = vec![pid, grandchild];
        expected.sort_unstable();
        assert_eq!(family, expected);
        assert!(nobody.is_empty(), "{nobody:?}");
    }
}
