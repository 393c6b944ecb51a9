//! `shipctl pin` and `unpin`.

use clap::Args;
use ship_model::release::ReleaseRef;
use ship_proto::v1::PinRequest;

use super::{Fleet, Outcome, shape, subject};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::ui::Ui;
use crate::words::clean;

/// Keep a release's content, whatever becomes of it
#[derive(Debug, Args)]
#[command(after_help = "\
A pinned release can be promoted, shown and exported until it is unpinned. `shipctl releases`
flags it, `shipctl show` tells who pinned it and why. Only an operator may.
Example:
  shipctl pin web@450 -m \"what the audit of May looked at\"")]
pub struct Pin {
    /// APP@NUMBER
    #[arg(value_name = "APP@N")]
    release: ReleaseRef,
    /// Why, for whoever finds the pin in a year
    #[arg(short, long, value_name = "TEXT")]
    message: String,
}

/// Take a pin away: the release keeps its content for other reasons, or loses it
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is removed at once; `shipctl gc --dry-run` tells what still keeps it.
Example:
  shipctl unpin web@450")]
pub struct Unpin {
    /// APP@NUMBER
    #[arg(value_name = "APP@N")]
    release: ReleaseRef,
    /// Why, for whoever asks later
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

pub async fn pin(verb: Pin, global: &Global, ui: &Ui) -> Outcome {
    said(&verb.release, verb.message, false, global, ui).await
}

pub async fn unpin(verb: Unpin, global: &Global, ui: &Ui) -> Outcome {
    said(&verb.release, verb.message.unwrap_or_default(), true, global, ui).await
}

async fn said(typed: &ReleaseRef, because: String, unpin: bool, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let subject = subject::subject(Some(typed), &fleet.context)?;
    let Some(number) = subject.number else {
        return Err(CommandError::usage("which release? Write APP@NUMBER"));
    };
    let request = PinRequest {
        app: subject.app.to_string(),
        number: number.0,
        because,
        unpin,
    };
    let record = fleet.client.releases().pin(request).await?.into_inner();
    if ui.is_json() {
        ui.json(&shape::Release::from(&record));
        return Ok(Exit::Done);
    }
    let (app, verb) = (subject.app, if unpin { "unpinned" } else { "pinned" });
    ui.say(format!("{}@{number} is {verb}", clean(app.as_str())));
    Ok(Exit::Done)
}
