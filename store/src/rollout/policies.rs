//! Which policy holds for a promote: the store's own, what the environment's file says, and the profile that was chosen.

use ship_model::environment::{Environment, read_environment};
use ship_model::name::{AppName, EnvName};
use ship_model::rollout::{DeployKind, Plan, Policy, Profile};

use super::steer::SteerError;
use crate::ledger::Ledger;

/// What an environment is told; blocks.
pub(super) struct Policies<'a> {
    pub ledger: &'a Ledger,
    /// What holds where no file says otherwise.
    pub store: &'a Policy,
    environment: Option<Environment>,
}

impl<'a> Policies<'a> {
    pub fn read(ledger: &'a Ledger, store: &'a Policy, env: &EnvName) -> Result<Self, SteerError> {
        let file = ledger.environment_file(env)?;
        let environment = file.map(|file| {
            read_environment(&file.text).map_err(|source| SteerError::Environment {
                env: file.env,
                version: file.version,
                source,
            })
        });
        Ok(Self {
            ledger,
            store,
            environment: environment.transpose()?,
        })
    }

    /// As if no file had ever been applied.
    pub fn of_the_store(ledger: &'a Ledger, store: &'a Policy) -> Self {
        Self {
            ledger,
            store,
            environment: None,
        }
    }

    pub fn of(&self, profile: Profile) -> Policy {
        match &self.environment {
            None => profile.applied(self.store.clone()),
            Some(environment) => environment.policy(self.store, profile),
        }
    }

    /// Refuses a release that has not run well where the environment wants it to have run. In an emergency nobody asks.
    pub fn check_after(&self, app: &AppName, plan: &Plan, now_ms: u64) -> Result<(), SteerError> {
        let asks = plan.kind == DeployKind::Promote && plan.policy.profile != Profile::Emergency;
        let Some(environment) = self.environment.as_ref().filter(|_| asks) else {
            return Ok(());
        };
        let Some(after) = &environment.after else {
            return Ok(());
        };
        let elsewhere = self.ledger.env_state(&after.env, app)?;
        let elsewhere = elsewhere.map(|state| state.record);
        environment
            .check_after(elsewhere.as_ref(), plan.to, now_ms)
            .map_err(|source| SteerError::NotProven {
                app: app.clone(),
                wanted: after.env.clone(),
                release: plan.to.number,
                source: Box::new(source),
            })
    }
}
