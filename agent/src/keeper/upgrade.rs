//! A keeper outlives the agents that ask it, so it may be of an older version: it is asked to become the newer program, in
//! place.
//!
//! An agent asks every older keeper once, when it first hears of it: whoever installs a new version and restarts the agent has
//! upgraded the host. A newer keeper is left alone, and so is one that has refused.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ship_keeper::protocol::{Status, UpgradeStage};
use ship_keeper::{AskError, Client};
use thiserror::Error;

/// Between two looks at the keeper.
const LOOK: Duration = Duration::from_millis(20);

/// Why a keeper was not upgraded. It and its app run on as they are.
#[derive(Debug, Error)]
pub enum UpgradeError {
    #[error(
        "cannot find {} beside this program, in SHIP_BIN_DIR or in PATH",
        super::start::PROGRAM
    )]
    NoProgram,
    #[error("cannot ask the keeper")]
    Ask(#[source] AskError),
    #[error("{} did not take over: {reason}", program.display())]
    Failed { program: PathBuf, reason: String },
    #[error("the upgrade waits for {waits_for}; it is done by itself when that has ended")]
    Waits { waits_for: String },
}

/// Whether `theirs` is an earlier version than `ours`. What is no version is not.
pub fn is_older(theirs: &str, ours: &str) -> bool {
    match (numbers(theirs), numbers(ours)) {
        (Some(theirs), Some(ours)) => theirs < ours,
        _ => false,
    }
}

fn numbers(version: &str) -> Option<[u64; 3]> {
    let plain = version.split(['-', '+']).next()?;
    let mut parts = plain.split('.').map(|part| part.parse().ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

/// Has the keeper become `program` and waits for it; `patience` is for what must end before.
///
/// # Errors
/// [`UpgradeError`].
pub fn upgrade(client: &Client, program: &Path, patience: Duration) -> Result<Status, UpgradeError> {
    let before = client.status().map_err(UpgradeError::Ask)?.counters.upgrades;
    client.upgrade(program).map_err(UpgradeError::Ask)?;
    let deadline = Instant::now() + patience;
    loop {
        let status = client.status().map_err(UpgradeError::Ask)?;
        if status.counters.upgrades > before {
            return Ok(status);
        }
        let stage = status.upgrade.map(|upgrade| upgrade.stage);
        match stage {
            Some(UpgradeStage::Failed(reason)) => {
                let program = program.to_owned();
                return Err(UpgradeError::Failed { program, reason });
            }
            Some(UpgradeStage::Waiting(waits_for)) if Instant::now() >= deadline => {
                return Err(UpgradeError::Waits { waits_for });
            }
            Some(UpgradeStage::Waiting(_) | UpgradeStage::Checking) | None => std::thread::sleep(LOOK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_older;

    #[test]
    fn only_what_is_surely_older_is_upgraded() {
        for (theirs, ours, older) in [
            ("0.1.0", "0.1.1", true),
            ("0.9.0", "0.10.0", true),
            ("1.0.0-rc1", "1.0.1", true),
            ("0.1.1", "0.1.1", false),
            ("0.2.0", "0.1.9", false),
            ("", "0.1.1", false),
            ("0.1", "0.1.1", false),
            ("0.1.0.7", "0.1.1", false),
        ] {
            assert_eq!(is_older(theirs, ours), older, "{theirs} {ours}");
        }
    }
}
