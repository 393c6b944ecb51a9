//! `shipctl publish`: a folder becomes a release.
//!
//! Walk ([`tree`]), tell the store what the tree consists of, pack only what it has not ([`bundle`]; of large files, [`segments`]), send that and ask
//! for a number ([`mod@send`]). Every step can be repeated; only the last one makes anything that others see.
//!
//! Where an earlier release lies here that the store has ([`base`]), what is new since then is sent as a [`delta`], if the store takes
//! it ([`way`]). Then the release is kept here ([`Last`]), for the next one.

mod base;
mod bundle;
mod checkout;
mod content;
mod delta;
mod segments;
mod send;
mod way;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use self::base::Bases;
use self::send::{Parcel, send};
pub use self::send::{Sent, begin_chunks};
use super::tree::{self, Reread};
use super::{Fleet, Outcome, shape};
use crate::args::Global;
use crate::clock::Watch;
use crate::error::{CommandError, Exit};
use crate::last::Last;
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
  shipctl publish dist --base old     a delta against the build in old, where nothing is kept

Only content that the store has not seen is sent, and only files are read whose size, times
or inode changed since they were hashed (remembered in ~/.cache/ship). What is new is sent as
a delta against the release that was published last from here (its files are kept there, too,
up to 3 GiB) or that --base names; `shipctl export` fetches one. Where the store does not take
it, files are sent whole, and a line says why. The same folder
published twice gets two numbers and one id. A store that is restarted meanwhile is waited
for; what it has is not sent again, and there is one release. With -o json: app, release, id,
files, bytes, new_bytes, stored_bytes, uploaded_bytes, delta_from (a release, or null and
no_delta says why) and more. Exit 7 when it is not known whether the
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
    /// Folder with an earlier release of the app, to be sent a delta against
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
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
    let manifest = parcel.manifest();
    let last = Last::of(&fleet.context.ca, &spec.app);
    let bases = Bases {
        folder: verb.base,
        last: last.clone(),
        paranoid: verb.paranoid,
    };
    let sent = Box::pin(send(parcel, bases, verb.wait_timeout, &fleet, ui)).await?;
    if ui.is_json() {
        ui.json(&shape::Published::from(&sent));
    } else {
        tell(&sent, time, ui);
    }
    if let Some(last) = last {
        // Whether it can be kept or not, the release is made.
        let _ = tokio::task::spawn_blocking(move || last.keep(&verb.dir, &manifest)).await;
    }
    Ok(Exit::Done)
}

fn tell(sent: &Sent, time: Watch, ui: &Ui) {
    let record = &sent.record;
    let number = record.release.as_ref().map_or(0, |target| target.number);
    let from = sent.delta_from.map_or_else(String::new, |from| {
        let uploaded = bytes(sent.uploaded_bytes);
        format!(", sent as {uploaded} against {}@{from}", record.app)
    });
    ui.line(format!(
        "{}@{number}  {}, {}; {} new{from}, stored as {}; {}",
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
