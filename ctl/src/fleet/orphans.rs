//! Apps whose keeper has died. What the keeper wrote down before it started them says which processes they are.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use ship_durable::{Journal, LockFile};

use super::process::ProcessId;

/// Largest record of a keeper's journal, as the keeper has it.
const MAX_RECORD: u32 = 4 << 20;

/// The processes that a keeper wrote down in `folder` and that still run; none while a keeper is at work there.
pub fn orphans(folder: &Path) -> Vec<ProcessId> {
    let journal = folder.join("journal");
    if !journal.is_file() {
        return Vec::new();
    }
    let Ok(_lock) = LockFile::acquire(&folder.join("lock")) else {
        return Vec::new();
    };
    let mut last = None;
    if Journal::open_with(&journal, MAX_RECORD, |record| last = Some(record.payload)).is_err() {
        return Vec::new();
    }
    let state: Option<Value> = last.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(state) = state.filter(is_of_this_boot) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    collect(&state, &mut found);
    found.retain(|id| id.is_alive());
    found
}

/// After a reboot the same numbers belong to others.
fn is_of_this_boot(state: &Value) -> bool {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.is_ok_and(|boot| state["boot_id"] == boot.trim())
}

/// Wherever the state names a process, it does so as `{"pid": …, "start": …}`.
fn collect(value: &Value, found: &mut Vec<ProcessId>) {
    match value {
        Value::Object(fields) => {
            let pid = fields.get("pid").and_then(Value::as_u64);
            let start = fields.get("start").and_then(Value::as_u64);
            if let (Some(pid), Some(start_ticks)) = (pid.and_then(|pid| u32::try_from(pid).ok()), start) {
                found.push(ProcessId { pid, start_ticks });
            }
            fields.values().for_each(|field| collect(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

/// Signals the process and its workers: a keeper starts each in a group of its own.
pub fn signal_group(id: ProcessId, signal: Signal) {
    let pid = i32::try_from(id.pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid.filter(|_| id.is_alive()) {
        // It may end in between; that is what is wanted.
        let _ = kill_process_group(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command};

    use super::*;

    /// A process that is its own group, as keepers start them; ended with the test.
    struct App(Child);

    impl App {
        fn start() -> Self {
            let mut sleep = Command::new("sleep");
            Self(sleep.arg("600").process_group(0).spawn().unwrap())
        }

        fn id(&self) -> ProcessId {
            ProcessId::of(self.0.id()).unwrap()
        }
    }

    impl Drop for App {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn journal(folder: &Path, states: &[Value]) {
        let (mut journal, _) = Journal::open(&folder.join("journal"), MAX_RECORD).unwrap();
        for state in states {
            journal.append(state.to_string().as_bytes()).unwrap();
        }
        journal.sync().unwrap();
    }

    fn state(boot: &str, id: ProcessId) -> Value {
        let slot =
            serde_json::json!({ "process": { "pid": id.pid, "start": id.start_ticks }, "state": "up" });
        serde_json::json!({ "boot_id": boot, "active": { "number": 1, "slots": [slot, { "process": null }] } })
    }

    #[test]
    fn what_a_dead_keeper_left_running_is_found_in_its_journal() {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let (mut app, folder) = (App::start(), tempfile::tempdir().unwrap());
        let folder = folder.path();
        assert_eq!(orphans(folder), [], "no journal, no keeper");
        let old = ProcessId {
            start_ticks: 1,
            ..app.id()
        };
        journal(folder, &[state(boot.trim(), old), state(boot.trim(), app.id())]);
        assert_eq!(orphans(folder), [app.id()], "the last state counts");
        let held = LockFile::acquire(&folder.join("lock")).unwrap();
        assert_eq!(orphans(folder), [], "a keeper is at work");
        drop(held);
        signal_group(old, Signal::KILL);
        assert!(app.id().is_alive(), "a number given again is another process");
        signal_group(app.id(), Signal::KILL);
        app.0.wait().unwrap();
        assert_eq!(orphans(folder), [], "it has ended");
    }

    #[test]
    fn another_boot_or_a_number_given_again_is_nobody() {
        let app = App::start();
        let again = ProcessId {
            start_ticks: 1,
            ..app.id()
        };
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        for state in [state("another", app.id()), state(boot.trim(), again)] {
            let folder = tempfile::tempdir().unwrap();
            journal(folder.path(), &[state]);
            assert_eq!(orphans(folder.path()), []);
        }
    }
}
