//! A plan in a file: written by `plan --save`, carried out by `promote --plan`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ship_durable::write_file;
use ship_model::rollout::{DeployKind, MAX_PLAN_FILE, Plan, PlanFileError, read_plan, write_plan};

use crate::error::{CommandError, Exit};

/// Why a file is of no use as a plan.
#[derive(Debug, thiserror::Error)]
pub enum ReadPlanError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no plan that can be carried out", path.display())]
    Plan { path: PathBuf, source: PlanFileError },
    #[error("{} is a plan of a revert; a revert needs none: shipctl revert", path.display())]
    Revert { path: PathBuf },
}

/// The plan in a file of ours.
pub fn read(path: &Path) -> Result<Plan, CommandError> {
    let plan = read_bytes(path).and_then(|bytes| {
        read_plan(&bytes).map_err(|source| ReadPlanError::Plan {
            path: path.to_owned(),
            source,
        })
    });
    match plan {
        Ok(plan) if plan.kind == DeployKind::Revert => {
            let path = path.to_owned();
            Err(CommandError::of(Exit::Error, &ReadPlanError::Revert { path }))
        }
        Ok(plan) => Ok(plan),
        Err(error) => {
            Err(CommandError::of(Exit::Error, &error).hint("write one: shipctl plan APP --save FILE"))
        }
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, ReadPlanError> {
    let failed = |source| ReadPlanError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    // One byte more than a plan may have tells that it has more.
    let most = MAX_PLAN_FILE as u64 + 1;
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Writes the plan that the store told, so that people can read it too.
pub fn save(told: &[u8], path: &Path) -> Result<(), CommandError> {
    if told.is_empty() {
        return Err(CommandError::new(
            Exit::Error,
            "the store gave no plan that can be kept: it is older than this shipctl, or the plan is too large",
        )
        .hint("promote without a file: shipctl promote"));
    }
    let plan = read_plan(told).map_err(|error| CommandError::of(Exit::Error, &error))?;
    let pretty = write_plan(&plan, true).map_err(|error| CommandError::of(Exit::Error, &error))?;
    // Where it would be too large to be read again for its spaces, it goes without.
    let bytes = if pretty.len() <= MAX_PLAN_FILE {
        &pretty[..]
    } else {
        told
    };
    write_file(path, bytes).map_err(|error| CommandError::of(Exit::Error, &error))
}

/// As the wire carries it.
pub fn on_the_wire(plan: &Plan) -> Result<Vec<u8>, CommandError> {
    write_plan(plan, false).map_err(|error| CommandError::of(Exit::Error, &error))
}
