//! The agent's side of a keeper: starting it, asking it, hearing from it.
//!
//! The keeper alone can finish or undo a switch of an app with processes; the agent only asks. Its death between any two
//! lines here changes nothing for the app.

mod intent;
mod start;
mod upgrade;
mod watch;

pub use intent::{IntentError, Order, fits, intent, platform};
pub use start::{PROGRAM, StartError, find, start};
pub use upgrade::{UpgradeError, is_older, upgrade};
pub use watch::{KeeperWatch, Seen};

use ship_keeper::protocol::{Phase, ProcessState, ReleaseRef, Role, Status};
use ship_model::digest::ReleaseId;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::AppPhase;

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
        Phase::Prepared | Phase::Clearing | Phase::Spawned | Phase::Ready | Phase::Probed | Phase::Linked => {
            AppPhase::Switching
        }
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
        Some(Phase::Soak) => "soak",
        _ => "switch",
    }
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
