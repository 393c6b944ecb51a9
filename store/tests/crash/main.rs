//! Processes killed at any point, and power cut under them: what was acknowledged stands, what was not
//! stands whole or not at all.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests stop at the first surprise; a scenario tells its parent what it acknowledged"
)]

mod by_delta;
mod child;
mod collecting;
mod commits;
mod optimizing;
mod power;
mod publishing;
#[path = "../publishing/scene.rs"]
#[allow(dead_code, reason = "each user has a use for a part of it")]
mod scene;
mod scrubbing;
mod sweeping;
#[path = "../publishing/tree.rs"]
mod tree;
