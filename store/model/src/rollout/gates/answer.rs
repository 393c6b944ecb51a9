//! What an operator answers at a gate, and whether it may be.

use super::{Ask, Gate};

/// An operator's answer to what a rollout waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub word: AnswerWord,
    /// The deploy it is about; none: the one under way.
    pub deploy: Option<u64>,
    /// The step of the plan, counted from 0, that it is about; none: the present one.
    pub step: Option<usize>,
    pub note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerWord {
    /// Yes to every approval of the step that this operator may give.
    Approve,
    /// The release shall not go on: touched hosts go back.
    Reject,
    /// What the manual gate of this name asks for is done.
    Acknowledge(String),
}

/// Why an operator's yes does not count at one gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotHis {
    /// He promoted it himself.
    Own,
    /// Others are named.
    Others,
}

impl Gate {
    /// Whether `who` may approve here what `promoter` promoted.
    pub(crate) fn may_approve(&self, who: &str, promoter: &str) -> Result<(), NotHis> {
        match &self.ask {
            Ask::Approval { by, .. } if !by.is_empty() && !by.contains(who) => Err(NotHis::Others),
            Ask::Approval { others: true, .. } if who == promoter => Err(NotHis::Own),
            _ => Ok(()),
        }
    }
}
