//! Hosts, registered when their agent first says hello. Heartbeats never come here.

use serde::{Deserialize, Serialize};
use ship_model::host::standing::Standing;
use ship_model::name::{ClassName, EnvName, HostName};

use super::{Act, Ledger, LedgerError, Stored, Versioned, conflict, put};
use crate::engine::{Outcome, Version};

const PREFIX: &str = "host/";

/// What is remembered of a host while its agent is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    pub env: EnvName,
    pub host: HostName,
    /// As the host reported them last.
    pub classes: Vec<ClassName>,
    /// Where it serves assets, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset_url: Option<String>,
    /// It ran what it should once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub served: bool,
    pub agent_version: String,
    /// Milliseconds since 1970, by the store's clock.
    pub first_seen_ms: u64,
    /// What operators said of it; none: it simply serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
}

fn key(env: &EnvName, host: &HostName) -> String {
    format!("{PREFIX}{env}/{host}")
}

impl Ledger {
    pub fn host(&self, env: &EnvName, host: &HostName) -> Result<Option<Versioned<HostRecord>>, LedgerError> {
        self.read(&key(env, host))
    }

    /// Hosts of one environment, or of all, sorted by environment and name.
    pub fn hosts(&self, env: Option<&EnvName>) -> Result<Vec<Versioned<HostRecord>>, LedgerError> {
        let prefix = env.map_or(PREFIX.to_owned(), |env| format!("{PREFIX}{env}/"));
        let mut hosts = Vec::new();
        self.walk(&prefix, |_, host| {
            hosts.push(host);
            true
        })?;
        Ok(hosts)
    }

    /// Writes a host's record if it still has the version `expected` (none: is still unknown).
    pub fn put_host(
        &self,
        host: &HostRecord,
        expected: Option<Version>,
        acts: &[Act],
    ) -> Result<Stored<HostRecord>, LedgerError> {
        let key = key(&host.env, &host.host);
        match self.decide(vec![put(&*key, expected, host)?], acts)? {
            Outcome::Committed(version) => Ok(Stored::Done(version)),
            Outcome::Conflict { current, .. } => conflict(&key, current),
        }
    }
}
