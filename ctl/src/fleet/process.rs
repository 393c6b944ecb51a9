//! One process, for sure: its number together with when it started.

use serde::{Deserialize, Serialize};

/// Numbers are given again; the pair is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// In clock ticks since the machine started: field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            pid,
            start_ticks: start_ticks(&stat)?,
        })
    }

    /// Whether it still runs; one that has ended and only waits to be collected does not.
    pub fn is_alive(self) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        let ended = matches!(state(&stat), Some('Z' | 'X'));
        !ended && start_ticks(&stat) == Some(self.start_ticks)
    }

    /// Sends a signal, if it still is the same process.
    pub fn signal(self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.is_alive()) {
            // It may end in between; that is what is wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// What follows the name, which stands in brackets and may hold anything.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest)
}

fn state(stat: &str) -> Option<char> {
    after_name(stat)?.trim_start().chars().next()
}

fn start_ticks(stat: &str) -> Option<u64> {
    after_name(stat)?.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn a_number_given_again_is_another_process() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let other = ProcessId {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        assert!(!other.is_alive());
    }

    #[test]
    fn names_with_brackets() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
        assert_eq!(start_ticks(stat), Some(12_345));
        assert_eq!(state(stat), Some('S'));
    }
}
