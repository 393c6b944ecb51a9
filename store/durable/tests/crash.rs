//! Kills a process at every fault point it passes and looks at what it leaves: old or new, whole, never between.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use ship_durable::fault::{FAULT_VARIABLE, TRACE_VARIABLE};
use ship_durable::{Journal, JournalError, replace_symlink, sweep_leftovers, write_file};

const DIR_VARIABLE: &str = "SHIP_DURABLE_TEST_DIR";

/// Runs the test `name` of this file in a process of its own, with `dir` to work in.
fn run(name: &str, dir: &Path, fault: Option<&str>, trace: Option<&Path>) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--ignored"])
        .env(DIR_VARIABLE, dir);
    if let Some(fault) = fault {
        command.env(FAULT_VARIABLE, fault);
    }
    if let Some(trace) = trace {
        command.env(TRACE_VARIABLE, trace);
    }
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

fn work_dir() -> Option<std::path::PathBuf> {
    std::env::var_os(DIR_VARIABLE).map(Into::into)
}

/// Every point `scenario` passes, with how often.
fn points(scenario: &str, prepare: fn(&Path)) -> BTreeMap<String, usize> {
    let dir = tempfile::tempdir().unwrap();
    let trace = tempfile::NamedTempFile::new().unwrap();
    prepare(dir.path());
    assert!(run(scenario, dir.path(), None, Some(trace.path())));
    let mut points = BTreeMap::new();
    for line in fs::read_to_string(trace.path()).unwrap().lines() {
        *points.entry(line.to_owned()).or_insert(0) += 1;
    }
    assert!(points.len() >= 3, "{points:?}");
    points
}

fn kill_everywhere(scenario: &str, prepare: fn(&Path), check: fn(&Path, &str)) {
    for (point, times) in points(scenario, prepare) {
        for turn in 1..=times {
            let dir = tempfile::tempdir().unwrap();
            prepare(dir.path());
            let fault = format!("{point}=kill@{turn}");
            assert!(
                !run(scenario, dir.path(), Some(&fault), None),
                "{fault} did not kill"
            );
            check(dir.path(), &fault);
        }
    }
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn scenario_files() {
    let Some(dir) = work_dir() else { return };
    write_file(&dir.join("a"), b"new").unwrap();
    replace_symlink(&dir.join("link"), Path::new("new")).unwrap();
}

#[test]
fn files_and_links_are_old_or_new() {
    kill_everywhere(
        "scenario_files",
        |dir| {
            write_file(&dir.join("a"), b"old").unwrap();
            replace_symlink(&dir.join("link"), Path::new("old")).unwrap();
        },
        |dir, fault| {
            let file = fs::read(dir.join("a")).unwrap();
            assert!(file == b"old" || file == b"new", "{fault}");
            let link = fs::read_link(dir.join("link")).unwrap();
            assert!(link == Path::new("old") || link == Path::new("new"), "{fault}");
            sweep_leftovers(dir).unwrap();
            assert_eq!(fs::read_dir(dir).unwrap().count(), 2, "{fault}");
        },
    );
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn scenario_journal() {
    let Some(dir) = work_dir() else { return };
    let (mut journal, _) = Journal::open(&dir.join("j"), 100).unwrap();
    for n in 0..3_u8 {
        journal.append(&[n]).unwrap();
        journal.sync().unwrap();
        write_file(&dir.join("acknowledged"), &[n + 1]).unwrap();
    }
    journal.rewrite([b"sum".as_slice()]).unwrap();
}

#[test]
fn a_journal_keeps_what_was_acknowledged() {
    kill_everywhere(
        "scenario_journal",
        |_| {},
        |dir, fault| {
            let acknowledged = fs::read(dir.join("acknowledged")).map_or(0, |bytes| usize::from(bytes[0]));
            let (mut journal, recovered) = Journal::open(&dir.join("j"), 100).unwrap();
            let read: Vec<_> = recovered
                .records
                .iter()
                .map(|record| record.payload.clone())
                .collect();
            let rewritten = read == [b"sum".to_vec()];
            assert!(rewritten || read.len() >= acknowledged, "{fault}");
            assert!(
                rewritten
                    || read
                        .iter()
                        .enumerate()
                        .all(|(n, payload)| payload[..] == [n as u8]),
                "{fault}"
            );
            journal.append(b"more").unwrap();
        },
    );
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn scenario_failed_sync() {
    let Some(dir) = work_dir() else { return };
    let (mut journal, _) = Journal::open(&dir.join("j"), 100).unwrap();
    journal.append(b"one").unwrap();
    assert!(matches!(journal.sync(), Err(JournalError::Sync { .. })));
    assert!(matches!(journal.sync(), Err(JournalError::Poisoned { .. })));
    assert!(matches!(
        journal.append(b"two"),
        Err(JournalError::Poisoned { .. })
    ));
}

#[test]
fn a_failed_sync_poisons_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(
        "scenario_failed_sync",
        dir.path(),
        Some("durable.journal.sync.before=error"),
        None
    ));
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn scenario_failed_append() {
    let Some(dir) = work_dir() else { return };
    let (mut journal, _) = Journal::open(&dir.join("j"), 100).unwrap();
    journal.append(b"one").unwrap();
    assert!(matches!(journal.append(b"two"), Err(JournalError::Append { .. })));
    journal.append(b"three").unwrap();
    journal.sync().unwrap();
}

#[test]
fn a_failed_append_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(
        "scenario_failed_append",
        dir.path(),
        Some("durable.journal.append.after=error@2"),
        None
    ));
    let (_, recovered) = Journal::open(&dir.path().join("j"), 100).unwrap();
    let read: Vec<_> = recovered
        .records
        .iter()
        .map(|r| (r.seq, r.payload.as_slice()))
        .collect();
    assert_eq!(read, [(1, b"one".as_slice()), (2, b"three".as_slice())]);
    assert_eq!(recovered.cut, None);
}
