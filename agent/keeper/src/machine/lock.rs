//! The app's own lock: while a process of the active generation holds it, nothing is taken from it.
//!
//! A switch is prepared as far as that touches nothing that runs: where two generations can run at once the new one is proven,
//! else it is not started. Then it waits, for as long as the running release has said, and goes on or fails as that has said.
//! A keeper that dies meanwhile leaves the rest of the time to the next. A way back waits for a moment only: whoever wants
//! one wants it now.

use super::step::Turn;
use super::{Cause, Effect, Rising, RisingPhase};

/// The longest that a revert, or the return to a release that works, waits.
const BACK_MS: u64 = 5_000;

impl Turn {
    /// Begins to wait for the lock; false when there is nothing to wait for.
    pub(super) fn wait_for_lock(&mut self, proven: bool) -> bool {
        let now = self.now;
        let active = self.state.active.as_ref().filter(|active| active.is_living());
        let waits = active.into_iter().flat_map(|active| &active.intent.processes);
        let longest = waits.filter_map(|process| process.lock_wait_ms).max();
        let Some(rising) = self.state.rising.as_mut().filter(|rising| !rising.unlocked) else {
            return false;
        };
        let Some(longest) = longest else {
            // What is started again from now on is not asked any more: it has just been settled that it is replaced.
            rising.unlocked = proven || rising.generation.links_first();
            return false;
        };
        let longest = if rising.cause == Cause::Switch {
            longest
        } else {
            longest.min(BACK_MS)
        };
        let until = *rising.lock_until.get_or_insert(now.saturating_add(longest));
        rising.phase = RisingPhase::Locked { proven };
        rising.deadline = until;
        true
    }

    /// Nobody holds it any more.
    pub(super) fn unlocked(&mut self, generation: u64) {
        let Some(rising) = self.rising(generation) else {
            return;
        };
        let RisingPhase::Locked { proven } = rising.phase else {
            return;
        };
        rising.unlocked = true;
        if proven {
            rising.phase = RisingPhase::Ready;
            self.look_for_probed(generation);
        } else {
            self.clear_or_spawn();
        }
    }

    /// The time is over.
    pub(super) fn locked_for_long(&mut self) {
        let active = self.state.active.as_ref();
        let processes = || active.into_iter().flat_map(|active| &active.intent.processes);
        let locks = || processes().filter(|process| process.lock_wait_ms.is_some());
        let back = |rising: &Rising| rising.cause != Cause::Switch;
        let overrules =
            self.state.rising.as_ref().is_some_and(back) || locks().all(|process| process.lock_overrule);
        if !overrules {
            let longest = locks()
                .filter_map(|process| process.lock_wait_ms)
                .max()
                .unwrap_or(0);
            let names: Vec<_> = locks().map(|process| process.name.as_str()).collect();
            let reason = format!(
                "the running release held its own lock for {longest} ms (process {}), so it was not replaced; try again later, or let lock_deadline = \"go\" overrule it",
                names.join(", ")
            );
            self.fail(&reason);
            return;
        }
        let active = active.map(|active| active.number);
        let rising = self.state.rising.as_ref().map(|rising| rising.generation.number);
        if let Some((generation, rising)) = active.zip(rising) {
            self.push(Effect::Overrule { generation });
            self.unlocked(rising);
        }
    }
}
