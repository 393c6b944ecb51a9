//! Gates: what must hold between two steps of an environment's way before a promote goes on.
//!
//! A gate is asked of people (`approval`, `manual`) or of the world (`command`, `http`). The latter is a level, not an edge:
//! it is asked again and again while its step is under way, it must pass without a break for as long as it says, and a word
//! that is too old counts for nothing. Unknown holds: it neither passes nor turns back. Only a promote has gates; a revert
//! waits for none.

mod answer;
mod expect;
mod progress;
mod read_out;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub(crate) use answer::NotHis;
pub use answer::{Answer, AnswerWord};
pub use expect::{Expect, Figure, JsonTest};
pub use progress::{GateProgress, PersonWord};
pub use read_out::{GateLine, GateState};

/// Most bytes of what a check said that are kept.
pub const MAX_SAID: usize = 2000;

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Unique in its environment.
    pub name: String,
    pub ask: Ask,
}

/// Of whom a gate is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Ask {
    /// Operators approve.
    Approval {
        /// So many of them, one at least.
        count: u32,
        /// The one who promoted is none of them.
        #[serde(default, skip_serializing_if = "is_false")]
        others: bool,
        /// Only these, `operator/ann`; empty: any operator.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        by: BTreeSet<String>,
    },
    /// An operator does by hand what `text` says, and acknowledges that by the gate's name.
    Manual { text: String },
    /// A program of the store's machine: exit 0 passes, 1 fails, anything else is unknown.
    Command { argv: Vec<String>, pace: Pace },
    /// An answer over HTTP, as `expect` judges it.
    Http { url: String, expect: Expect, pace: Pace },
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// How often a check is made, and what it takes to pass or to fail; in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    pub every_ms: u64,
    /// It must pass for so long without a break; 0: once is enough.
    pub for_ms: u64,
    /// One check that takes longer is unknown.
    pub timeout_ms: u64,
    /// It fails when so many checks in a row did, unknown ones not counted.
    pub fails: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            every_ms: 10_000,
            for_ms: 0,
            timeout_ms: 10_000,
            fails: 2,
        }
    }
}

impl Pace {
    /// How long one word counts: a store that was away, or a check that hangs, says nothing of the present.
    pub const fn valid_ms(self) -> u64 {
        let rounds = self.every_ms.saturating_add(self.timeout_ms).saturating_mul(3);
        if rounds > 60_000 { rounds } else { 60_000 }
    }
}

/// What one check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Fail,
    /// It could not be made, or its answer says neither.
    Unknown,
}

impl Gate {
    /// None: people are asked.
    pub const fn pace(&self) -> Option<Pace> {
        match self.ask {
            Ask::Approval { .. } | Ask::Manual { .. } => None,
            Ask::Command { pace, .. } | Ask::Http { pace, .. } => Some(pace),
        }
    }

    pub const fn kind(&self) -> &'static str {
        match self.ask {
            Ask::Approval { .. } => "approval",
            Ask::Manual { .. } => "manual",
            Ask::Command { .. } => "command",
            Ask::Http { .. } => "http",
        }
    }

    /// Whether it lets the rollout go on, by what is known at `now_ms`; a gate of which nothing is known does not.
    pub fn is_open(&self, known: Option<&GateProgress>, now_ms: u64) -> bool {
        let Some(known) = known else { return false };
        match &self.ask {
            Ask::Approval { count, .. } => known.words.len() >= *count as usize,
            Ask::Manual { .. } => !known.words.is_empty(),
            Ask::Command { pace, .. } | Ask::Http { pace, .. } => known.has_passed(*pace, now_ms),
        }
    }
}

/// As much of `text` as is kept.
pub(crate) fn shortened(text: &str) -> &str {
    let mut end = text.len().min(MAX_SAID);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
