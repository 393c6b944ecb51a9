//! `ship-agent exec`: this process becomes the command, or says why not.

use std::process::ExitCode;

use clap::Args;
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;

use super::{DEFAULT_CONFIG, show};
use crate::config::Config;
use crate::exec::{ExecError, Wanted, exec};
use crate::layout::HostLayout;
use crate::session::chain;

#[derive(Debug, Args)]
#[command(after_help = "\
The command gets what the release's process gets: its user, the environment of the release with
shared/env, its folder, its limits and SHIP_APP, SHIP_RELEASE, SHIP_PROCESS, SHIP_ASSETS_DIR and
so on, but no sockets. It has this terminal, and its exit status is the exit status. The release
is not taken away from this host while it runs. Neither agent nor store is needed.

A program with a slash is the release's own; another one is looked up in its PATH.

Exit codes: the command's own; 127 no such program, 126 it cannot be run, 4 the release is damaged,
1 anything else that kept it from running.

Examples:
  ship-agent exec web -- bin/rails console
  ship-agent exec web --release 454 -- bin/check --all
  ship-agent exec web --process worker -- sh -c 'echo $SHIP_RELEASE'")]
pub(super) struct Exec {
    /// The app.
    app: AppName,
    /// A release that lies here; without it, the one that runs.
    #[arg(long, value_name = "N")]
    release: Option<u64>,
    /// The process whose surroundings it gets; without it, the first one of this host.
    #[arg(long, value_name = "NAME")]
    process: Option<String>,
    /// The host's configuration.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: std::path::PathBuf,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    words: Vec<String>,
}

pub(super) fn run(verb: Exec) -> ExitCode {
    let config = match Config::read(&verb.config) {
        Ok(config) => config,
        Err(error) => return show::failed(&chain(&error), ""),
    };
    let layout = match HostLayout::of(&config) {
        Ok(layout) => layout,
        Err(error) => return show::failed(&format!("cannot tell the current folder: {error}"), ""),
    };
    let wanted = Wanted {
        app: verb.app,
        release: verb.release.map(ReleaseNumber),
        process: verb.process,
        words: verb.words,
    };
    match exec(&config, &layout, &wanted) {
        Ok(never) => match never {},
        Err(error) => {
            show::failed(&chain(&error), hint(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn hint(error: &ExecError) -> &'static str {
    match error {
        ExecError::Program { .. } => {
            "a program with a slash is relative to the release, another is looked up in its PATH"
        }
        ExecError::Damaged { .. } => "ship-agent verify --full",
        ExecError::NoApp { .. } | ExecError::NoRelease { .. } | ExecError::NothingRuns { .. } => {
            "ship-agent status"
        }
        _ => "",
    }
}
