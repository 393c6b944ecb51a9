//! Each new state, kept for the next keeper, and what a pure machine cannot know filled in.

use ship_durable::fault;

use super::{Keeper, QUIET_MS, chain};
use crate::clock::{now_ms, rfc3339_now};
use crate::log::Tail;
use crate::machine::{Effect, State};

impl Keeper {
    pub(super) fn adopt_state(&mut self, next: State) {
        let before = self.state.phase();
        if next == self.state && !self.unsaved {
            return;
        }
        self.state = next;
        self.remember_labels();
        self.revision += 1;
        self.quiet_at = Some(now_ms() + QUIET_MS);
        let phase = self.state.phase();
        let word = format!("{phase:?}").to_lowercase();
        if phase != before {
            self.tell(None, &format!("phase {word}"));
        }
        let before = fault::point(&format!("keeper.{word}.before"));
        self.save(before.map_err(|error| error.to_string()));
        let _ = fault::point(&format!("keeper.{word}.after"));
        self.release_locks();
    }

    /// Makes the state the one the next keeper finds, unless something has gone wrong `before`.
    pub(super) fn save(&mut self, before: Result<(), String>) {
        let saved = before.and_then(|()| self.memory.save(&self.state).map_err(|error| chain(&error)));
        match saved {
            Ok(()) => self.unsaved = false,
            Err(reason) => self.could_not_save(reason),
        }
    }

    /// Makes what was saved, and links that were moved, outlive the machine.
    pub(super) fn make_durable(&mut self) {
        self.sync_links();
        if self.unsaved {
            return;
        }
        match self.memory.sync(&self.state) {
            Ok(()) => self.durable_below = self.state.next_generation,
            Err(error) => self.could_not_save(chain(&error)),
        }
    }

    /// Whether the journal must be on the disk before this is done. Links name a release, and after a boot it is enough to
    /// know that one: of a generation that is on the disk they move at once.
    pub(super) fn waits_for_the_disk(&self, effect: &Effect) -> bool {
        let known = |generation: u64| generation < self.durable_below;
        match effect {
            Effect::Link { generation, .. } => !known(*generation),
            effect => effect.outlives_a_boot(),
        }
    }

    fn could_not_save(&mut self, reason: String) {
        if !self.unsaved {
            self.note(reason);
        }
        self.unsaved = true;
    }

    /// Fills in what a pure machine cannot know: the time of day and the last lines.
    pub(super) fn complete_outcome(&mut self, next: &mut State) {
        if next.outcome == self.state.outcome {
            return;
        }
        let of = next.outcome_of.take();
        if let Some(generation) = of {
            self.read_streams_of(generation);
        }
        let lines = of
            .and_then(|generation| self.tails.get(&generation))
            .map(Tail::lines);
        if let Some(outcome) = &mut next.outcome {
            outcome.at = rfc3339_now();
            outcome.last_lines = lines.unwrap_or_default();
            let reason = outcome
                .reason
                .as_deref()
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default();
            let words = format!("release {} {:?}", outcome.release, outcome.result).to_lowercase();
            let words = format!("{words}{reason}");
            self.tell(of, &words);
        }
    }

    /// As [`Self::complete_outcome`], for a crash.
    pub(super) fn complete_crash(&mut self, next: &mut State) {
        let active = self.state.active.as_ref().map(|active| active.number);
        let Some(crash) = next.crash.as_mut().filter(|crash| crash.at.is_empty()) else {
            return;
        };
        crash.at = rfc3339_now();
        if let Some(active) = active {
            self.read_streams_of(active);
            crash.last_lines = self.tails.get(&active).map(Tail::lines).unwrap_or_default();
        }
    }
}
