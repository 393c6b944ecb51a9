//! Whether somebody asked for a file, in one byte: no clock, no lock and no memory for a request.
//!
//! ```text
//!           a request            told to the store        the store has it
//!  resting ───────────▶ asked ──────────────────▶ sent ───────────────────▶ told
//!     ▲                   ▲        the line broke  │                         │
//!     │                   └────────────────────────┘                         │
//!     └──────────────────────────────── a new round ─────────────────────────┘
//! ```
//! No time is noted: whoever hears of a request counts it as one of the moment when it is told, by its own clock. A
//! host's clock may jump as it likes, and a word that comes late only keeps a file longer. A request for a file that was
//! told in this round is not told again, so a round is as exact as this gets.

use std::sync::atomic::{AtomicU8, Ordering};

const RESTING: u8 = 0;
const ASKED: u8 = 1;
const SENT: u8 = 2;
const TOLD: u8 = 3;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Mark(AtomicU8);

impl Mark {
    /// Somebody asks; true when that is news.
    pub fn asked(&self) -> bool {
        // A look first: a file that is asked for often stays in every processor's cache.
        self.0.load(Ordering::Relaxed) == RESTING && self.step(RESTING, ASKED)
    }

    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) == ASKED
    }

    pub fn send(&self) {
        self.step(ASKED, SENT);
    }

    pub fn arrive(&self) {
        self.step(SENT, TOLD);
    }

    /// True when it was on its way.
    pub fn lose(&self) -> bool {
        self.step(SENT, ASKED)
    }

    pub fn rest(&self) {
        self.step(TOLD, RESTING);
    }

    fn step(&self, from: u8, to: u8) -> bool {
        let stepped = self
            .0
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        stepped.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_once_a_round_and_again_when_it_was_lost() {
        let mark = Mark::default();
        assert!(mark.asked());
        assert!(!mark.asked(), "known already");
        mark.send();
        assert!(!mark.asked(), "on its way");
        assert!(mark.lose());
        assert!(mark.is_asked());
        mark.send();
        mark.arrive();
        assert!(!mark.lose(), "it has arrived");
        assert!(!mark.asked(), "told in this round");
        mark.rest();
        assert!(!mark.is_asked());
        assert!(mark.asked());
        // A new round forgets nothing that was not told.
        mark.rest();
        assert!(mark.is_asked());
    }
}
