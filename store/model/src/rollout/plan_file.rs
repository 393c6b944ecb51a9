//! A plan as a file, to be looked at, kept and carried out later: `{"version":1,"plan":{…}}`.

use serde::{Deserialize, Serialize};

use crate::rollout::plan::Plan;

/// The form of the file; another is refused.
const VERSION: u32 = 1;
/// Largest plan that is read, in bytes: ten thousand hosts with names of middling length.
pub const MAX_PLAN_FILE: usize = 2 << 20;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    plan: &'a Plan,
}

#[derive(Deserialize)]
struct Read {
    plan: Plan,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Why a file is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    #[error("it is longer than {} MiB, so it is no plan", MAX_PLAN_FILE >> 20)]
    TooLong,
    #[error("it is no plan: `shipctl plan APP --save FILE` writes one")]
    Parse(#[source] serde_json::Error),
    #[error(
        "it has version {found}; this program knows {VERSION}: plan again, or update the older of the two"
    )]
    Version { found: u32 },
    #[error("it is not as it was made: somebody changed it, or another version of Ship made it; plan again")]
    Changed,
    #[error("the plan cannot be written")]
    Write(#[source] serde_json::Error),
}

/// The bytes of a plan's file; `pretty`: for people too.
pub fn write_plan(plan: &Plan, pretty: bool) -> Result<Vec<u8>, PlanFileError> {
    let written = Written {
        version: VERSION,
        plan,
    };
    let bytes = match pretty {
        true => serde_json::to_vec_pretty(&written),
        false => serde_json::to_vec(&written),
    };
    bytes.map_err(PlanFileError::Write)
}

/// The plan of a file; refused unless it is, to the letter, what was planned.
pub fn read_plan(bytes: &[u8]) -> Result<Plan, PlanFileError> {
    if bytes.len() > MAX_PLAN_FILE {
        return Err(PlanFileError::TooLong);
    }
    let Versioned { version } = serde_json::from_slice(bytes).map_err(PlanFileError::Parse)?;
    if version != VERSION {
        return Err(PlanFileError::Version { found: version });
    }
    let Read { plan } = serde_json::from_slice(bytes).map_err(PlanFileError::Parse)?;
    if plan.identified() != plan.id {
        return Err(PlanFileError::Changed);
    }
    Ok(plan)
}
