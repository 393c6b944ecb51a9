//! A gap is announced before it begins, where whoever asked for the switch wants to lead users elsewhere first.
//!
//! Only the keeper knows for sure that two generations cannot run at once: that there is no memory for both, or that an
//! upgrade from inside has failed, shows on the way. Nothing is taken from what runs until the word comes, or so much time has
//! passed that whoever should say it is taken for dead. A keeper that dies meanwhile begins the switch, and this wait, anew.

use ship_model::spec::Strategy;

use super::step::Turn;
use super::{Effect, Rising, RisingPhase, State};
use crate::protocol::MAX_NOTICE_MS;

impl Turn {
    /// Announces that the active generation is about to end; false when nobody is to be told, or has no users to lead.
    pub(super) fn announce(&mut self) -> bool {
        let now = self.now;
        let active = self.state.active.as_ref().filter(|active| active.is_living());
        let serves = active.is_some_and(|active| {
            let mut processes = active.intent.processes.iter();
            processes.any(|process| !process.listen.is_empty())
        });
        let Some(rising) = self
            .state
            .rising
            .as_mut()
            .filter(|rising| serves && !rising.may_clear)
        else {
            return false;
        };
        let Some(notice) = rising.notice_ms else {
            return false;
        };
        let linked = rising.phase == RisingPhase::Spawned && rising.generation.links_first();
        rising.phase = RisingPhase::Announced;
        rising.deadline = now.saturating_add(notice.min(MAX_NOTICE_MS));
        if linked {
            // What crashes meanwhile is started again by them.
            self.link_active();
        }
        true
    }

    /// Users were led elsewhere.
    pub(super) fn may_clear(&mut self) {
        let Some(rising) = &mut self.state.rising else {
            return;
        };
        if rising.phase == RisingPhase::Announced {
            rising.may_clear = true;
            self.clear();
        }
    }

    /// The time is over.
    pub(super) fn unheeded(&mut self) {
        let Some(rising) = &self.state.rising else { return };
        let generation = rising.generation.number;
        self.push(Effect::Unheeded { generation });
        self.may_clear();
    }
}

impl State {
    /// The generation whose beginning is announced to be a gap, and why it must be one.
    #[must_use]
    pub fn announced(&self) -> Option<(&Rising, String)> {
        let rising = self.rising.as_ref();
        let rising = rising.filter(|rising| rising.phase == RisingPhase::Announced)?;
        let mut rungs = rising.rungs.iter().rev();
        let found = rungs.find(|rung| rung.strategy == Strategy::StopStart);
        let reason = found.map_or_else(
            || "two generations may not run at once".to_owned(),
            |rung| rung.reason.clone(),
        );
        Some((rising, reason))
    }
}
