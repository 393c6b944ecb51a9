//! What an environment runs of an app: one record, changed by compare-and-swap only.

use ship_model::name::{AppName, EnvName};
use ship_model::rollout::EnvState;

use super::{Act, Ledger, LedgerError, RequestId, RequestRecord, Stored, Versioned, conflict, put, requests};
use crate::engine::{Outcome, Version};

pub(super) const PREFIX: &str = "env/";

fn key(env: &EnvName, app: &AppName) -> String {
    format!("{PREFIX}{env}/{app}")
}

/// A step of an environment, and what is written with it in the same batch.
#[derive(Debug, Clone, Copy)]
pub struct EnvChange<'a> {
    pub state: &'a EnvState,
    /// The version the step was computed from; none: the environment never ran the app.
    pub expected: Option<Version>,
    pub acts: &'a [Act],
    /// The request that this step answers; if it was answered already, nothing is changed and the
    /// caller finds it by [`Ledger::request`].
    pub request: Option<(RequestId, &'a RequestRecord)>,
}

impl Ledger {
    pub fn env_state(
        &self,
        env: &EnvName,
        app: &AppName,
    ) -> Result<Option<Versioned<EnvState>>, LedgerError> {
        self.read(&key(env, app))
    }

    /// States of one environment, or of all, sorted by environment and app.
    pub fn env_states(&self, env: Option<&EnvName>) -> Result<Vec<Versioned<EnvState>>, LedgerError> {
        let prefix = env.map_or(PREFIX.to_owned(), |env| format!("{PREFIX}{env}/"));
        let mut states = Vec::new();
        self.walk(&prefix, |_, state| {
            states.push(state);
            true
        })?;
        Ok(states)
    }

    /// Stores a step. A conflict, of the state or of the request, gives what the environment's record is
    /// now: read, step again, or find the request's answer.
    pub fn put_env_state(&self, change: EnvChange<'_>) -> Result<Stored<EnvState>, LedgerError> {
        let key = key(&change.state.env, &change.state.app);
        let mut batch = vec![put(&*key, change.expected, change.state)?];
        if let Some((request, record)) = change.request {
            batch.push(put(requests::key(request), None, record)?);
        }
        match self.decide(batch, change.acts)? {
            Outcome::Committed(version) => Ok(Stored::Done(version)),
            Outcome::Conflict { key: lost, current } if lost == key => conflict(&key, current),
            Outcome::Conflict { .. } => Ok(Stored::Conflict(self.read(&key)?)),
        }
    }

    /// Which environment and app a watched key is about.
    pub fn env_of_key(key: &str) -> Option<(EnvName, AppName)> {
        let (env, app) = key.strip_prefix(PREFIX)?.split_once('/')?;
        Some((EnvName::new(env).ok()?, AppName::new(app).ok()?))
    }
}
