//! Running a test of this file in a process of its own, which may be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use ship_durable::fault::{FAULT_VARIABLE, TRACE_VARIABLE};

/// From fork to execution a child holds every lock that this process holds, of a store too: whoever opens that store next would
/// find it in use. So nothing is started while a store is open here.
static OPEN: RwLock<()> = RwLock::new(());

/// Scenarios that are killed at a time.
const AT_ONCE: usize = 6;

const DIR_VARIABLE: &str = "SHIP_STORE_TEST_DIR";

/// The folder a scenario works in; none when it was started by hand.
pub fn work_dir() -> Option<PathBuf> {
    std::env::var_os(DIR_VARIABLE).map(Into::into)
}

/// The command that runs the scenario `name` in `dir`.
pub fn scenario(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR_VARIABLE, dir)
        .env_remove(FAULT_VARIABLE)
        .env_remove(TRACE_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Held while a store is open in this process; not twice by one thread.
pub fn inside() -> RwLockReadGuard<'static, ()> {
    OPEN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Starts it while no store is open here.
pub fn start(command: &mut Command) -> io::Result<Child> {
    let _none_open = OPEN.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Runs it to its end, and reads what it says where that is piped.
pub fn ended(command: &mut Command) -> Output {
    start(command).unwrap().wait_with_output().unwrap()
}

/// The points that a scenario passes in `dir`, with how often.
pub fn points_of(name: &str, dir: &Path) -> BTreeMap<String, usize> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let mut command = scenario(name, dir);
    command.stdout(Stdio::null()).env(TRACE_VARIABLE, trace.path());
    assert!(ended(&mut command).status.success());
    let mut points = BTreeMap::new();
    for line in std::fs::read_to_string(trace.path()).unwrap().lines() {
        *points.entry(line.to_owned()).or_insert(0) += 1;
    }
    points
}

/// Kills the scenario `name` at each of `points`: at its first passage, its last one, and those between that `parts` tell (2: half
/// of the way). Each kill is in a folder of its own that `prepared` gives; `check` looks at what was left, and is told the
/// fault and what the scenario had said. Several go at a time, as each mostly waits for a disk.
pub fn kill_everywhere(
    name: &str,
    points: BTreeMap<String, usize>,
    parts: &[usize],
    prepared: impl Fn() -> tempfile::TempDir + Sync,
    check: impl Fn(&Path, &str, &Output) + Sync,
) {
    let mut faults = Vec::new();
    for (point, times) in points {
        let between = parts.iter().map(|part| times.div_ceil(*part));
        let turns: BTreeSet<usize> = between.chain([1, times]).collect();
        faults.extend(turns.into_iter().map(|turn| format!("{point}=kill@{turn}")));
    }
    let faults = Mutex::new(faults);
    let next = || faults.lock().unwrap().pop();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(fault) = next() {
                    let dir = prepared();
                    let killed = ended(scenario(name, dir.path()).env(FAULT_VARIABLE, &fault));
                    assert!(!killed.status.success(), "{fault} did not kill");
                    check(dir.path(), &fault, &killed);
                }
            });
        }
    });
}

/// A line by which a scenario tells what was acknowledged. Written with one call, so a kill cannot tear it.
pub fn acknowledge(what: &str) {
    use std::io::Write;
    let mut out = std::io::stdout();
    // The parent may have closed its end after the last line it wanted.
    let _ = out.write_all(format!("\nacked {what}\n").as_bytes());
    let _ = out.flush();
}

/// What a line of a scenario's output acknowledges.
pub fn acked(line: &str) -> Option<&str> {
    line.strip_prefix("acked ")
}
