//! A gap that is announced: the word that it may begin, and what is told of it.

use super::Keeper;
use super::requests::refused;
use crate::clock::{now_ms, unix_ms};
use crate::machine::{Event, Verdict, judge_may_clear};
use crate::protocol::{Announced, Reply};

impl Keeper {
    pub(super) fn answer_may_clear(&mut self, release: u64) -> Reply {
        match judge_may_clear(&self.state, release) {
            Verdict::Refuse(refusal, message) => refused(refusal, message),
            Verdict::Already | Verdict::Renew => Reply::Already,
            Verdict::Accept => {
                self.apply(&Event::MayClear);
                Reply::Accepted
            }
        }
    }

    /// The active generation is stopped though its users may be there.
    pub(super) fn unheeded(&mut self, generation: u64) {
        self.note(format!(
            "generation {generation} takes the place of what runs, and nobody has said that users were led elsewhere: the time to wait for that is over"
        ));
    }

    /// For the status. The time is of the wall, so that the same moment looks the same each time, to the second.
    pub(super) fn announced(&self) -> Option<Announced> {
        let (rising, reason) = self.state.announced()?;
        let left_ms = rising.deadline.saturating_sub(now_ms());
        Some(Announced {
            release: rising.generation.intent.release,
            reason,
            until: (unix_ms() + left_ms) / 1000,
        })
    }
}
