//! What is known of one gate of one step.

use serde::{Deserialize, Serialize};

use super::{Pace, Verdict, shortened};

/// What was said about one gate. Durable in the rollout's record: a store that starts again goes on from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateProgress {
    /// The gate's step of the plan, counted from 0.
    pub step: usize,
    pub gate: String,
    /// Operators who said yes, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<PersonWord>,
    /// What the last check came to; none: it was not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What it said, at most [`MAX_SAID`](super::MAX_SAID) bytes. Of several that passed in a row, the first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub said: String,
    /// When a check was last heard of, not later than that by more than a third of what a word counts for: the same word
    /// again is not stored each time.
    #[serde(default)]
    pub heard_ms: u64,
    /// Since when it passes without a break; none: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing_since_ms: Option<u64>,
    /// Checks in a row that failed.
    #[serde(default)]
    pub fails: u32,
}

/// An operator's yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonWord {
    pub who: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    pub at_ms: u64,
}

impl GateProgress {
    pub(crate) const fn new(step: usize, gate: String) -> Self {
        Self {
            step,
            gate,
            words: Vec::new(),
            verdict: None,
            said: String::new(),
            heard_ms: 0,
            passing_since_ms: None,
            fails: 0,
        }
    }

    pub(super) fn has_passed(&self, pace: Pace, now_ms: u64) -> bool {
        let held = |since: u64| now_ms.saturating_sub(since) >= pace.for_ms;
        self.passing_since_ms.is_some_and(held) && self.is_fresh(pace, now_ms)
    }

    const fn is_fresh(&self, pace: Pace, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.heard_ms) <= pace.valid_ms()
    }

    /// Takes in what a check came to; true when it came to something else than the one before.
    pub(crate) fn hear(&mut self, pace: Pace, verdict: Verdict, said: &str, now_ms: u64) -> bool {
        let since_ms = now_ms.saturating_sub(self.heard_ms);
        let changed = self.verdict != Some(verdict);
        let mut news = changed || since_ms >= pace.valid_ms() / 3;
        match verdict {
            Verdict::Pass => {
                let goes_on = self.is_fresh(pace, now_ms);
                self.passing_since_ms = self.passing_since_ms.filter(|_| goes_on).or(Some(now_ms));
                self.fails = 0;
            }
            Verdict::Fail => {
                self.passing_since_ms = None;
                // Two stores that both ask at the same time count as one.
                let counts = self.fails == 0 || since_ms >= pace.every_ms / 2;
                if counts && self.fails < pace.fails {
                    self.fails += 1;
                    news = true;
                }
            }
            Verdict::Unknown => self.passing_since_ms = None,
        }
        if changed || (verdict != Verdict::Pass && self.said != shortened(said)) {
            self.said = shortened(said).to_owned();
            news = true;
        }
        self.verdict = Some(verdict);
        if news {
            self.heard_ms = now_ms;
        }
        changed
    }

    /// Nothing that passed so far counts; what failed does, and what people said.
    pub(crate) const fn passes_anew(&mut self) {
        self.passing_since_ms = None;
    }

    /// Nothing that passed or failed so far counts; what people said stands.
    pub(crate) const fn begin_anew(&mut self) {
        self.passing_since_ms = None;
        self.fails = 0;
    }

    /// What was measured by a clock that was ahead begins anew at `now_ms`.
    pub(crate) fn clock_went_back(&mut self, now_ms: u64) {
        self.heard_ms = self.heard_ms.min(now_ms);
        self.passing_since_ms = self.passing_since_ms.map(|_| now_ms);
    }
}
