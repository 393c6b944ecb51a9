//! A process that no keeper has started: it is looked after, replaced by the first switch, and never started again.

use super::step::Turn;
use super::{Effect, Generation, Leaving, Process, SlotState, State};
use crate::protocol::{Crash, Intent, Phase};

impl State {
    /// The number that the next generation gets.
    #[must_use]
    pub fn upcoming(&self) -> u64 {
        self.next_generation.max(1)
    }

    /// An adopted process that a revert without a target goes back to.
    #[must_use]
    pub fn adopted_to_revert_to(&self) -> Option<&Intent> {
        let warm = self.adopted_is_warm_for(None).then(|| self.warm())?;
        warm.map(|warm| &warm.generation.intent)
    }

    /// Whether a revert `to` goes back to an adopted process that still runs: there is no release to go to instead.
    pub(super) fn adopted_is_warm_for(&self, to: Option<u64>) -> bool {
        let adopted = |intent: &Intent| intent.is_adopted();
        let warm = self.warm().is_some_and(|warm| adopted(&warm.generation.intent));
        let runs = self
            .active
            .as_ref()
            .is_some_and(|active| !adopted(&active.intent));
        let wanted = match to {
            None => self.revert_target().is_none(),
            Some(to) => to == 0,
        };
        warm && runs && wanted && self.rising.is_none()
    }
}

impl Turn {
    /// It gets all new connections, as it did before.
    pub(super) fn adopt(&mut self, intent: &Intent, process: Process, sockets: &[u64]) {
        if self.state.active.is_some() || self.state.rising.is_some() {
            return;
        }
        let number = self.state.upcoming();
        self.state.next_generation = number + 1;
        let mut generation = Generation::new(number, intent.clone());
        for slot in &mut generation.slots {
            slot.process = Some(process);
            slot.state = SlotState::Up;
            slot.since = self.now;
            slot.ready = true;
            slot.probed = true;
            slot.sockets = sockets.to_vec();
        }
        self.state.active = Some(generation);
        self.state.stopped = false;
        self.state.crash = None;
        self.push(Effect::Steer { generation: number });
    }

    /// The active generation is not whole any more. If it was adopted, nobody here knows how it was started, so it goes, and
    /// its listeners with it: users are refused at once instead of waiting for nobody. True when that was so.
    pub(super) fn lose_adopted(&mut self, reason: &str) -> bool {
        let adopted = |active: &mut Generation| active.intent.is_adopted();
        let Some(active) = self.state.active.take_if(adopted) else {
            return false;
        };
        self.state.crash = Some(Crash {
            release: 0,
            epoch: active.intent.epoch,
            reason: format!(
                "the adopted process is gone: {reason}; it is not started again, promote a release"
            ),
            failures: 1,
            last_lines: Vec::new(),
            at: String::new(),
        });
        self.retire(active, Leaving::Killing, true);
        // Nobody else is left to share users with.
        if self.state.phase() == Phase::Canary {
            self.end_canary();
        }
        true
    }
}
