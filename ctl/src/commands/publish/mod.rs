//! `shipctl publish`: a folder becomes a release.
//!
//! Walk ([`tree`]), tell the store what the tree consists of, pack only what it has not ([`bundle`]; of large files, [`segments`]), send that and ask
//! for a number ([`mod@send`]). Every step can be repeated; only the last one makes anything that others see.

mod bundle;
mod checkout;
mod segments;
mod send;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use ship_proto::v1::ReleaseRecord;

pub use self::send::begin_chunks;
use self::send::{Parcel, send};
use super::tree::{self, Reread};
use super::{Fleet, Outcome, shape};
use crate::args::Global;
use crate::clock::Watch;
use crate::error::{CommandError, Exit};
use crate::seen::Memory;
use crate::ui::Ui;
use crate::words::{bytes, count, duration, parse_duration};

/// Longest label, in bytes.
const MAX_LABEL: usize = 200;

/// Make a release of a folder; nothing runs it before it is promoted
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl publish                     the folder with the ship.toml you stand in
  shipctl publish build -a site       static files: no ship.toml is needed, only a name
  shipctl publish dist --label \"spring sale\"

Only content that the store has not seen is sent, and only files are read whose size, times
or inode changed since they were hashed (remembered in ~/.cache/ship). The same folder
published twice gets two numbers and one id. A store that is restarted meanwhile is waited
for; what it has is not sent again, and there is one release. With -o json: app, release, id,
files, bytes, new_bytes, stored_bytes and more. Exit 7 when it is not known whether the
release was made. Next: shipctl plan, shipctl promote.")]
pub struct Publish {
    /// Folder that becomes the release
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Free text shown beside the number
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// How long to wait for a store that is away in the middle of it
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    wait_timeout: Duration,
    /// Read every file, also those that look as they did when they were published before
    #[arg(long, env = "SHIP_PARANOID", hide_env_values = true, value_parser = BoolishValueParser::new())]
    paranoid: bool,
}

pub async fn run(verb: Publish, global: &Global, ui: &Ui) -> Outcome {
    if verb.label.as_ref().is_some_and(|label| label.len() > MAX_LABEL) {
        return Err(CommandError::usage(format!(
            "a label has at most {MAX_LABEL} bytes"
        )));
    }
    let time = Watch::start();
    let spec = tree::read_spec(&verb.dir, global.app.as_ref())?;
    // Who cannot reach the store learns it before a large folder is read.
    let fleet = Fleet::reach(global).await?;
    let reread = Reread {
        memory: Memory::of(&verb.dir),
        paranoid: verb.paranoid,
    };
    let walked = tree::read_tree_with(&verb.dir, &spec, Some(reread.clone()), ui).await;
    let walked = walked.inspect_err(|_| reread.forget())?;
    tree::warn(walked.manifest.spec(), &walked.warnings, ui);
    let parcel = Parcel::new(&verb.dir, &spec.app, walked, verb.label, reread);
    let record = Box::pin(send(parcel, verb.wait_timeout, &fleet, ui)).await?;
    if ui.is_json() {
        ui.json(&shape::Release::from(&record));
        return Ok(Exit::Done);
    }
    tell(&record, time, ui);
    Ok(Exit::Done)
}

fn tell(record: &ReleaseRecord, time: Watch, ui: &Ui) {
    let number = record.release.as_ref().map_or(0, |target| target.number);
    ui.line(format!(
        "{}@{number}  {}, {}; {} new, stored as {}; {}",
        record.app,
        count(record.files, "file"),
        bytes(record.bytes),
        bytes(record.new_bytes),
        bytes(record.stored_bytes),
        duration(time.elapsed()),
    ));
    ui.hint(format!(
        "shipctl plan {0}@{number}, then shipctl promote {0}@{number}",
        record.app
    ));
}
