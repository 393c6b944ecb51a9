//! What to expect of a plan: how long it may take, what going back costs, and what could not be taken back.

use std::sync::Arc;

use ship_model::rollout::{Forecast, Plan, forecast};

use super::controller::Core;
use super::steer::SteerError;

impl Core {
    pub async fn forecast(&self, plan: &Plan) -> Result<Forecast, SteerError> {
        let (facts, views) = (Arc::clone(&self.facts), self.fleet.views(&plan.env));
        let (state, plan) = (self.state_of(&plan.env, &plan.app), plan.clone());
        let expected = self.bridge.run(move || {
            let releases = facts.of(&plan.app)?;
            Ok(forecast(&plan, &state, &views, &releases.infos))
        });
        expected.await?
    }
}
