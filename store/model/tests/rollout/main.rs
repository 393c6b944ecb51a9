//! The rollout machine under stories that an operator can read, and under random histories.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod fleet;
mod gates;
mod histories;
mod invariants;
mod plans;
mod stories;
mod waits;
mod words;
