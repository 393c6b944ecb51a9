//! No room in memory for two generations: one rung down the ladder, or not at all.

use ship_model::spec::Strategy;

use super::Cause;
use super::step::Turn;
use crate::protocol::Rung;

impl Turn {
    /// There is no room for the rising generation beside the active one, for this reason: the active one is stopped first,
    /// unless the release wants rather to fail. False when it has failed by that.
    pub(super) fn find_room(&mut self, reason: &str) -> bool {
        let active = self
            .state
            .active
            .as_ref()
            .is_some_and(|active| active.is_living());
        let Some(rising) = self.state.rising.as_mut().filter(|_| active) else {
            return true;
        };
        let intent = &rising.generation.intent;
        // A way back is taken with a gap rather than not at all.
        if intent.must_coexist && rising.cause == Cause::Switch {
            let reason = format!(
                "no memory for two generations, and coexist = \"always\" wants both: {reason}; free some, or say coexist = true, which stops the old one first"
            );
            self.fail(&reason);
            return false;
        }
        if !intent.coexist {
            return true;
        }
        let rung = |process: &crate::protocol::ProcessSpec| Rung {
            process: process.name.clone(),
            strategy: Strategy::StopStart,
            reason: format!("no memory for two generations: {reason}"),
        };
        let rungs: Vec<_> = intent.processes.iter().map(rung).collect();
        // Begun again, it has them already.
        rising.rungs.retain(|rung| !rungs.contains(rung));
        rising.rungs.extend(rungs);
        rising.tight = Some(reason.to_owned());
        true
    }
}
