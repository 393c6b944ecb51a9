//! What environments are told by their files: every version, by whom and when. The version that stands is a record of its own,
//! so that planning reads no others.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use ship_model::name::EnvName;

use super::{Act, Ledger, LedgerError, put};
use crate::engine::Outcome;

/// Versions that are told at once.
const MOST: usize = 100;

/// A `ship.ENV.toml` as it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentFile {
    pub env: EnvName,
    /// From 1, without gaps.
    pub version: u64,
    pub text: String,
    /// Role and name, `operator/alice`.
    pub who: String,
    /// Milliseconds since 1970, by the store's clock.
    pub at_ms: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

fn standing(env: &EnvName) -> String {
    format!("environment/{env}")
}

fn versions(env: &EnvName) -> String {
    format!("environment-version/{env}/")
}

impl Ledger {
    /// The file that stands; none: the environment goes by the store's own settings.
    pub fn environment_file(&self, env: &EnvName) -> Result<Option<EnvironmentFile>, LedgerError> {
        Ok(self.read(&standing(env))?.map(|found| found.record))
    }

    /// One version.
    pub fn environment_version(
        &self,
        env: &EnvName,
        version: u64,
    ) -> Result<Option<EnvironmentFile>, LedgerError> {
        let found = self.read(&format!("{}{version:020}", versions(env)))?;
        Ok(found.map(|found| found.record))
    }

    /// The newest versions, newest first; at most a hundred.
    pub fn environment_versions(&self, env: &EnvName) -> Result<Vec<EnvironmentFile>, LedgerError> {
        let mut newest = VecDeque::new();
        self.walk::<EnvironmentFile>(&versions(env), |_, found| {
            newest.push_front(found.record);
            newest.truncate(MOST);
            true
        })?;
        Ok(newest.into())
    }

    /// Makes `file` the version that stands, if its number is the next one; false: another was first. Durable when it
    /// returns.
    pub fn put_environment_file(&self, file: &EnvironmentFile, act: &Act) -> Result<bool, LedgerError> {
        let standing = standing(&file.env);
        let before = self.read::<EnvironmentFile>(&standing)?;
        let number = before.as_ref().map_or(0, |before| before.record.version);
        if number.checked_add(1) != Some(file.version) {
            return Ok(false);
        }
        let batch = vec![
            put(&*standing, before.map(|before| before.version), file)?,
            put(format!("{}{:020}", versions(&file.env), file.version), None, file)?,
        ];
        let outcome = self.decide(batch, std::slice::from_ref(act))?;
        Ok(matches!(outcome, Outcome::Committed(_)))
    }
}
