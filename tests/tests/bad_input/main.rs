//! What a user sees when the input is bad: each refusal names the thing and the next step, ends with its exit code,
//! and leaves the store and every host as they were.
//!
//! The rules themselves are tested beside the code that has them; `tests/BAD_INPUT.md` says where.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod large;
mod machine;
mod memory;
mod names;
mod people;
mod state;
mod table;
mod trees;
