//! The switch machine: what runs, what is on its way, what is leaving, and what to do next.
//!
//! It is pure. [`step()`] takes a state, an event and the time, and gives the next state and the effects that bring the
//! world there; [`recover()`] does the same for a keeper that has just started over an older state. The edge writes the
//! state to the journal *before* it carries an effect out, so a state tells what may have been done, and every effect can be
//! done again.
//!
//! ```text
//! rising:   PREPARED → (LOCKED) → (ANNOUNCED) → (CLEARING) → (LINKING) → SPAWNED → READY → (YIELDING → SPAWNED → READY) → (CANARY) → (LOCKED) → PROBED → LINKED → steered: becomes active
//!               └──────────┴────────────┴──────────┴────────┴────────┴────────│────────┴──▶ ABORTING → gone
//!                                                                             └──▶ retiring
//! retiring: WARM (soak) → (STANDBY) → (PARTING) → DRAINING → STOPPING → KILLING → gone
//!               └──────────┴──▶ steered back: becomes active, what was active retires
//! ```
//!
//! Until new connections are steered, users see the active generation and nothing else; a rising one can only fail. (With
//! a canary, a share of them sees the rising one before; see `canary`.) A
//! warm generation is complete and idle: going back to it starts nothing. Times are milliseconds since boot.

mod adopted;
mod alone;
mod announce;
mod canary;
mod clear;
mod fail;
mod give_way;
mod hooks;
mod in_place;
mod judge;
mod lock;
mod message;
mod prove;
mod recover;
mod retire;
mod rise;
mod room;
mod run;
mod standby;
mod state;
mod step;
mod take_over;
#[cfg(test)]
mod tests;
mod view;
mod way;

pub use judge::{Verdict, judge_adopt, judge_may_clear, judge_revert, judge_switch};
pub use message::{Effect, Event};
pub use recover::{Living, recover};
pub use state::{
    Cause, Generation, Leaving, Pending, Process, Queued, Retiring, Rising, RisingPhase, Slot, SlotState,
    State, Way,
};
pub use step::step;

/// Good releases remembered, so that a revert needs nobody.
const GOOD_KEPT: usize = 8;
/// Failed releases remembered.
const BAD_KEPT: usize = 64;
/// Failures in a row after which an earlier release is started instead.
const FAILURES_TO_FALL_BACK: u32 = 3;
