//! The agent's side of a keeper: starting it, asking it, hearing from it.
//!
//! The keeper alone can finish or undo a switch of an app with processes; the agent only asks. Its death between any two
//! lines here changes nothing for the app.

mod intent;
mod memory;
mod start;
mod upgrade;
mod watch;

pub use intent::{IntentError, Order, fits, intent, platform};
pub use memory::memory;
pub use start::{PROGRAM, StartError, start};
pub use upgrade::{UpgradeError, is_older, upgrade};
pub use watch::{KeeperWatch, Seen};

use ship_keeper::protocol::{Phase, ProcessState, ProcessStatus, ReleaseRef, Role, Status};
use ship_model::digest::ReleaseId;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::{AppPhase, CanaryReport, ProcessReport};

/// The model's word for a keeper's release; none when its id is not one.
pub fn target(release: &ReleaseRef) -> Option<Target> {
    Some(Target {
        number: ReleaseNumber(release.release),
        id: release.id.parse::<ReleaseId>().ok()?,
    })
}

/// What gets new connections.
pub fn running(status: &Status) -> Option<Target> {
    status.running.as_ref().and_then(target)
}

/// Whether the running generation is whole and nothing is coming up in its place after a crash.
pub fn is_healthy(status: &Status) -> bool {
    let mut active = status
        .generations
        .iter()
        .filter(|generation| generation.role == Role::Active)
        .peekable();
    status.running.is_some()
        && active.peek().is_some()
        && active.all(|generation| {
            let mut processes = generation.processes.iter();
            processes.all(|process| process.state == ProcessState::Up)
        })
}

/// Where the keeper is, in the model's words.
pub fn phase(status: &Status) -> AppPhase {
    match status.phase {
        Phase::Empty | Phase::Idle => AppPhase::Idle,
        Phase::Prepared
        | Phase::Clearing
        | Phase::Spawned
        | Phase::Ready
        | Phase::Canary
        | Phase::Probed
        | Phase::Linked => AppPhase::Switching,
        Phase::Soak => AppPhase::Soaking,
        Phase::Draining | Phase::Stopping | Phase::ShuttingDown => AppPhase::Draining,
        Phase::Aborting => AppPhase::Reverting,
    }
}

/// The step a failure is told under.
pub fn step(failed: Option<Phase>) -> &'static str {
    match failed {
        Some(Phase::Prepared | Phase::Clearing) => "spawn",
        Some(Phase::Spawned) => "ready",
        Some(Phase::Ready) => "probe",
        Some(Phase::Canary) => "canary",
        Some(Phase::Soak) => "soak",
        _ => "switch",
    }
}

/// The share of the users that a release on its way has.
pub fn canary(status: &Status) -> Option<CanaryReport> {
    let canary = status.canary.as_ref()?;
    let release = status.switching_to.as_ref().and_then(target)?;
    (release.number.0 == canary.release).then_some(CanaryReport {
        release,
        percent: canary.percent,
        until_ms: canary.until.saturating_mul(1000),
    })
}

/// Connections of all generations.
pub fn connections(status: &Status) -> u64 {
    status
        .generations
        .iter()
        .flat_map(|generation| &generation.processes)
        .map(|process| u64::from(process.connections))
        .sum()
}

/// Of [`connections`], those of generations that get no new ones.
pub fn older_connections(status: &Status) -> u64 {
    let older = status
        .generations
        .iter()
        .filter(|generation| matches!(generation.role, Role::Warm | Role::Retiring | Role::Failed));
    older
        .flat_map(|generation| &generation.processes)
        .map(|process| u64::from(process.connections))
        .sum()
}

/// Notes told of an app; the latest ones.
const MAX_REMARKS: usize = 8;

/// What each process is doing and says of itself.
pub fn processes(status: &Status) -> Vec<ProcessReport> {
    let generations = status.generations.iter();
    let processes =
        generations.flat_map(|found| found.processes.iter().map(|process| (found.release, process)));
    processes
        .map(|(release, process)| ProcessReport {
            name: process.name.clone(),
            release,
            pid: process.pid.unwrap_or(0),
            state: word(process).to_owned(),
            said: process.said.clone(),
        })
        .collect()
}

fn word(process: &ProcessStatus) -> &'static str {
    match process.state {
        ProcessState::Up | ProcessState::Starting if process.stopping => "stopping",
        ProcessState::Up if process.reloading => "reloading",
        ProcessState::Up => "up",
        ProcessState::Starting => "starting",
        ProcessState::Waiting => "waiting",
        ProcessState::BackingOff => "backing off",
        ProcessState::Ended => "ended",
    }
}

/// What an operator should know: strategies that were left for another in the last switch, and the keeper's own notes.
pub fn remarks(status: &Status) -> Vec<String> {
    let outcome = status
        .outcome
        .iter()
        .filter(|outcome| outcome.running == Some(outcome.release));
    let rungs = outcome.flat_map(|outcome| &outcome.rungs);
    let rungs = rungs.map(|rung| {
        format!(
            "process {} was replaced by {}: {}",
            rung.process,
            rung.strategy.name(),
            rung.reason
        )
    });
    let skipped = status.notes.len().saturating_sub(MAX_REMARKS);
    rungs.chain(status.notes.iter().skip(skipped).cloned()).collect()
}

/// Releases that the keeper runs or may go back to, by number.
pub fn releases(status: &Status) -> std::collections::HashSet<u64> {
    let named = [
        &status.running,
        &status.switching_to,
        &status.queued,
        &status.revert.to,
    ];
    let named = named.into_iter().flatten().map(|release| release.release);
    named
        .chain(status.generations.iter().map(|generation| generation.release))
        .collect()
}
