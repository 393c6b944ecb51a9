//! A standby: after a cut-over the generation before stays complete beside its successor, without new connections, until its
//! hold is over or the next switch needs its slot.
//!
//! A revert to it starts nothing. What is reverted from is ended, not kept: nobody goes back to it. A standby of which a
//! process ends is no way back any more: the rest of it drains, and a revert starts the release anew.

use super::Leaving;
use super::step::Turn;

/// Why `release` does not stand by any more.
pub(super) fn standing_by(release: u64, reason: &str) -> String {
    format!("release {release} stood by until {reason}")
}

impl Turn {
    /// Whether the active release keeps what was before it.
    pub(super) fn keeps_standby(&self) -> bool {
        let active = self.state.active.as_ref();
        active.is_some_and(|active| active.intent.standby.is_some())
    }

    /// Its soak is over: it stands by, where the active release keeps what was before it. False when it has to go.
    pub(super) fn stand_by(&mut self, index: usize) -> bool {
        let now = self.now;
        let standby = self
            .state
            .active
            .as_ref()
            .and_then(|active| active.intent.standby);
        let (Some(standby), Some(leaving)) = (standby, self.state.retiring.get_mut(index)) else {
            return false;
        };
        if leaving.phase != Leaving::Warm || leaving.generation.links_first() {
            return false;
        }
        let deadline = match standby.hold_ms {
            None => u64::MAX,
            Some(hold) => leaving.steered_away_at.saturating_add(hold),
        };
        if !leaving.generation.is_whole() || deadline <= now {
            return false;
        }
        (leaving.phase, leaving.deadline) = (Leaving::Standby, deadline);
        true
    }

    /// A process of it ended: what is left of it goes.
    pub(super) fn lose_standby(&mut self, index: usize, reason: &str) {
        let Some(leaving) = self.state.retiring.get(index) else {
            return;
        };
        let release = leaving.generation.intent.release;
        self.state.standby_lost = Some(standing_by(release, reason));
        if leaving.generation.is_living() {
            self.advance(index);
        }
    }
}
