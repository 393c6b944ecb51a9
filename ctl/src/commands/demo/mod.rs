//! `shipctl demo`: the whole promise, on this machine, under load, in less than a minute.

mod account;
mod load;
mod shell;
mod story;

use std::path::{Path, PathBuf};

use clap::Args;
use ship_durable::remove_tree;

use super::Outcome;
use crate::args::Global;
use crate::clock::Watch;
use crate::error::{CommandError, Exit};
use crate::fleet::{Binaries, FLEET, FleetPlan, LOAD, OwnFleet, SAMPLE};
use crate::signals::{Stop, interrupted};
use crate::ui::Ui;
use crate::words::duration;

use account::Account;

/// Show that it works: three releases of a web app, one of them broken, promoted and reverted under load
#[derive(Debug, Args)]
#[command(after_help = "\
Starts a store and three hosts on loopback, publishes version 1, sends users to it,
promotes version 2 and then a broken version 3, reverts, and follows every page to its
assets. It types the same commands that you would, and shows them. Exit 0 only if no
request and no asset was lost. Everything it started is stopped, and its folder removed,
unless --keep.")]
pub struct Demo {
    /// Leave the fleet's folder; `shipctl up --dir` starts it again
    #[arg(long)]
    keep: bool,
    /// Folder of the fleet; it must not exist yet [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub async fn run(verb: Demo, _global: &Global, ui: &Ui) -> Outcome {
    let mut stop = Stop::new()?;
    // Building what is missing is no part of what is timed.
    let programs: Vec<_> = FLEET.into_iter().chain([SAMPLE, LOAD]).collect();
    let binaries = Binaries::find(&programs, ui)?;
    let time = Watch::start();
    let dir = folder(verb.dir)?;
    let played = Box::pin(play(&dir, &binaries, &mut stop, ui)).await;
    if verb.keep {
        ui.say(format!("kept: shipctl up --dir {}", dir.display()));
    } else if let Err(error) = remove_tree(&dir) {
        ui.warn(format!("{}: {error}", dir.display()));
    }
    let account = played?;
    account.show(time.elapsed(), ui);
    Ok(match account.is_clean() {
        true => Exit::Done,
        false => Exit::Error,
    })
}

/// A folder of its own, so that removing it later removes nothing else.
fn folder(asked: Option<PathBuf>) -> Result<PathBuf, CommandError> {
    let failed = |source: std::io::Error| CommandError::internal("make a folder for the demo", source);
    let Some(asked) = asked else {
        let made = tempfile::Builder::new()
            .prefix("ship-demo-")
            .tempdir()
            .map_err(failed)?;
        return Ok(made.keep());
    };
    if asked.symlink_metadata().is_ok() {
        return Err(
            CommandError::new(Exit::Refused, format!("{} is there already", asked.display()))
                .hint("the demo makes its own folder and removes it: name one that does not exist"),
        );
    }
    std::fs::create_dir_all(&asked).map_err(failed)?;
    asked.canonicalize().map_err(failed)
}

async fn play(dir: &Path, binaries: &Binaries, stop: &mut Stop, ui: &Ui) -> Result<Account, CommandError> {
    let plan = FleetPlan {
        dir: dir.to_owned(),
        hosts: Some(3),
        heartbeat_ms: 1_000,
        soak_ms: 300,
    };
    ui.say("Ship on this machine: a store, three hosts, a web app, and users.\n");
    let time = Watch::start();
    let fleet = Box::pin(OwnFleet::bring_up(&plan, binaries, stop, ui)).await?;
    ui.say(format!(
        "✓ a store and 3 hosts are up, {}",
        duration(time.elapsed())
    ));
    let told = tokio::select! {
        told = Box::pin(story::tell(dir, binaries, ui)) => told,
        () = stop.asked() => Err(interrupted()),
    };
    fleet.take_down().await;
    told
}
