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

static STARTING: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Held while a store is open here, and while a process starts: from fork to execution a child holds this process's lock of
/// the store, too, and whoever opens the store next would find it in use.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs it to its end.
fn ended(command: &mut std::process::Command) -> std::process::ExitStatus {
    let starting = alone();
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    drop(starting);
    child.wait().unwrap()
}
