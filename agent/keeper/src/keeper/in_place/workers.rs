//! Workers that their main process replaces one after the other, and that say whose they are: Puma's, in a phased restart.
//!
//! Puma calls its main process `puma VERSION (ADDRESSES) [FOLDER]` and each worker `puma: cluster worker NUMBER: MAIN [TAG]`.
//! A worker has the working directory that its main process had when it forked it: that of the release it serves, where
//! `directory` names the link.

use std::fs;
use std::path::{Path, PathBuf};

use crate::machine::Process;
use crate::processes::{self, Table, Tree};

const MAIN: &[u8] = b"puma ";
const WORKER: &[u8] = b"puma: cluster worker ";

/// A process that a reload may have started.
#[derive(Debug)]
pub(super) struct Worker {
    start: u64,
    /// The release's folder that it is in, if it is in any.
    dir: Option<PathBuf>,
}

/// What a main process has of such workers.
#[derive(Debug)]
pub(super) struct Phased {
    workers: Vec<Worker>,
    /// One was forked that does not bear its name yet.
    unnamed: bool,
}

impl Worker {
    fn look(pid: u32, releases: &Path) -> Option<Self> {
        let start = processes::start_ticks(pid)?;
        let dir = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let dir = dir.filter(|dir| dir.starts_with(releases));
        Some(Self { start, dir })
    }

    /// Whether it began at this clock tick or later, and is of one of these releases as far as its folder tells.
    fn is_new(&self, since: u64, dirs: &[PathBuf]) -> bool {
        let is_of = |dir: &PathBuf| dirs.iter().any(|wanted| dir.starts_with(wanted));
        self.start >= since && self.dir.as_ref().is_none_or(is_of)
    }
}

impl Phased {
    /// Those of `main`; none when it is not known to work so. `releases` is the folder that has those of all releases.
    pub(super) fn look(main: Process, releases: &Path) -> Option<Self> {
        let own = command_line(main.pid);
        if !own.starts_with(MAIN) {
            return None;
        }
        let mut found = Self {
            workers: Vec::new(),
            unnamed: false,
        };
        for pid in family(main).into_iter().filter(|pid| *pid != main.pid) {
            let words = command_line(pid);
            found.unnamed |= words == own;
            if is_worker(&words, main.pid) {
                found.workers.extend(Worker::look(pid, releases));
            }
        }
        Some(found)
    }

    pub(super) fn count(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn count_new(&self, since: u64, dirs: &[PathBuf]) -> usize {
        let new = self.workers.iter().filter(|worker| worker.is_new(since, dirs));
        new.count()
    }

    /// Whether none is left to be replaced: at least so many there are, all new, and all of one release.
    pub(super) fn all_new(&self, since: u64, dirs: &[PathBuf], at_least: usize) -> bool {
        let agree = self.workers.windows(2).all(|two| two[0].dir == two[1].dir);
        let all = self.count_new(since, dirs) == self.count();
        all && agree && !self.unnamed && self.count() >= at_least.max(1)
    }
}

/// Whether a process that a reload may have started is of another release than this, as far as it tells.
pub(super) fn is_of_another(pid: u32, main: Process, releases: &Path, dir: &Path) -> bool {
    let phased = command_line(main.pid).starts_with(MAIN);
    let worker = phased.then(|| Worker::look(pid, releases)).flatten();
    worker.is_some_and(|worker| !worker.is_new(0, &[dir.to_owned()]))
}

/// A main process and what comes from it.
pub(super) fn family(main: Process) -> Vec<u32> {
    match Tree::look() {
        Some(tree) => tree.family(&[main], &[], &[]),
        None => Table::read().family(&[main], &[], &[]),
    }
}

fn command_line(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn is_worker(words: &[u8], main: u32) -> bool {
    let text = String::from_utf8_lossy(words.strip_prefix(WORKER).unwrap_or_default());
    let whose = text.split_once(": ").map(|(_, rest)| rest);
    let digits = whose.and_then(|rest| rest.split(|letter: char| !letter.is_ascii_digit()).next());
    digits.is_some_and(|digits| digits.parse() == Ok(main))
}

#[cfg(test)]
mod tests {
    use super::{Phased, Worker, is_worker};

    #[test]
    fn a_worker_says_whose_it_is() {
        assert!(is_worker(b"puma: cluster worker 0: 4711 [web]\0\0", 4711));
        assert!(is_worker(b"puma: cluster worker 13: 4711", 4711));
        assert!(!is_worker(b"puma: cluster worker 0: 47110 [web]\0", 4711));
        assert!(!is_worker(b"puma 5.6.5 (tcp://127.0.0.1:80) [web]\0", 4711));
        assert!(!is_worker(b"", 4711));
    }

    fn of(workers: &[(u64, Option<&str>)]) -> Phased {
        let worker = |(start, dir): &(u64, Option<&str>)| Worker {
            start: *start,
            dir: dir.map(Into::into),
        };
        Phased {
            workers: workers.iter().map(worker).collect(),
            unnamed: false,
        }
    }

    #[test]
    fn a_phased_restart_is_over_when_every_worker_is_new_and_of_one_release() {
        let dirs = ["/r/1".into(), "/r/5".into()];
        let over = |workers: &[_]| of(workers).all_new(100, &dirs, 2);
        assert!(over(&[(100, Some("/r/1")), (120, Some("/r/1"))]));
        assert!(over(&[(100, None), (120, None)]));
        assert!(over(&[(100, Some("/r/5/app")), (120, Some("/r/5/app"))]));
        // One was there before, one is of a release that was left, one is missing, and they are of two releases.
        assert!(!over(&[(99, Some("/r/1")), (120, Some("/r/1"))]));
        assert!(!over(&[(101, Some("/r/4")), (120, Some("/r/1"))]));
        assert!(!over(&[(120, Some("/r/1"))]));
        assert!(!over(&[(110, Some("/r/1")), (120, Some("/r/5"))]));
        assert!(!of(&[]).all_new(100, &dirs, 0));
        let unnamed = Phased {
            unnamed: true,
            ..of(&[(100, None), (120, None)])
        };
        assert!(!unnamed.all_new(100, &dirs, 2));
    }
}
