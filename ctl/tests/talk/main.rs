//! What shipctl says to a store, and what it makes of the answers: exit codes above all.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod by_delta;
mod fake;
mod looking;
mod moving;
mod publishing;
