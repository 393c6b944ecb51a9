//! Processes of a whole fleet die where it hurts most, and hosts fail: afterwards every host is wholly on the old
//! or the new release, nothing acknowledged is lost, rollouts end by themselves, and users noticed nothing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod away;
mod barrier;
mod look;
mod many;
mod owner;
mod random;
mod sick;
mod table;
mod users;
