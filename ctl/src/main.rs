//! `shipctl`: the operator's door.
//!
//! The rooms: [`args`] says what can be typed, [`context`] which fleet is meant, [`client`] speaks to its
//! store, [`patience`] waits for one that is being restarted, [`commands`] holds one file for each verb, [`fleet`] starts a real fleet on this machine, [`ui`]
//! is the only place that prints, and [`error`] turns every failure into words, a next step and an exit code.

#![forbid(unsafe_code)]

mod args;
mod client;
mod clock;
mod commands;
mod context;
mod dial;
mod error;
mod fleet;
mod last;
mod patience;
mod request;
mod seen;
mod signals;
mod ui;
mod words;

use std::process::ExitCode;

use clap::Parser as _;
use error::CommandError;

/// What a release with many names needed goes back to the system when it is done: glibc's allocator keeps it.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(stop) => return ui::usage(&stop),
    };
    let ui = ui::Ui::new(&args.global);
    match run(args, &ui) {
        Ok(exit) => exit.into(),
        Err(error) => {
            ui.error(&error);
            error.exit().into()
        }
    }
}

fn run(args: args::Args, ui: &ui::Ui) -> Result<error::Exit, CommandError> {
    // A second call fails and changes nothing; there is only this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CommandError::internal("start the runtime", source))?;
    let done = runtime.block_on(commands::run(args, ui));
    // A thread that still packs or walks must not hold up the end.
    runtime.shutdown_background();
    done
}
