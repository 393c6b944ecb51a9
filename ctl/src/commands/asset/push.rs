//! `asset push`: what a place lacks is brought there now, by the store where it has that place in its settings, else from here.

mod by_hand;
mod declared;
mod destination;
mod fetched;
mod folder;

use clap::Args;
use serde::Serialize;
use ship_model::name::AppName;
use ship_model::release::ReleaseRef;

use self::destination::{Destination, Reach};
use super::super::{Fleet, Outcome};
use crate::error::CommandError;
use crate::ui::Ui;
use crate::words::{bytes, clean, count};

/// What there is to do for whoever sees a push fail.
const AGAIN: &str = "when that is mended, push again: what is there is not sent again";

/// Bring assets to where a CDN takes them from, as far as they lack there
///
/// Every promote does this for the release it brings, where the store has the place as a push in its store.toml. Use it for
/// a place that is new, or from which somebody else removed something, or that the store does not know: a folder of this machine,
/// or a bucket, to which what lacks goes from here. Each asset is looked for there; nothing there is ever replaced or removed.
/// What was broken off goes on where it was.
#[derive(Debug, Args)]
pub struct Push {
    /// APP@NUMBER; without a number every release that was published, newest first, but for assets that have expired
    #[arg(value_name = "APP[@N]")]
    release: Option<ReleaseRef>,
    /// Name of a push in store.toml, a folder (with a slash, ./cdn), or s3://BUCKET/PREFIX; without it all pushes of the environment
    ///
    /// Keys of a bucket are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where needed, AWS_SESSION_TOKEN of the environment.
    #[arg(long, value_name = "NAME|DIR|S3")]
    to: Option<Destination>,
    /// Only tell what lacks in the folder or bucket
    #[arg(long, requires = "to")]
    dry_run: bool,
    #[command(flatten)]
    reach: Reach,
}

pub async fn run(verb: Push, fleet: &Fleet, ui: &Ui) -> Outcome {
    let typed = verb.release.as_ref();
    match verb.to {
        Some(Destination::Folder(folder)) => {
            by_hand::to_folder(typed, &folder, verb.dry_run, fleet, ui).await
        }
        Some(Destination::Bucket(bucket, prefix)) => {
            let settings = verb.reach.settings(&bucket, &prefix)?;
            by_hand::to_bucket(typed, settings, verb.dry_run, fleet, ui).await
        }
        _ if verb.dry_run => Err(CommandError::usage(
            "--dry-run is for a folder or a bucket: what the store pushes by itself, it looks for when it pushes",
        )),
        Some(Destination::Declared(name)) => declared::push(typed, Some(name), fleet, ui).await,
        None => declared::push(typed, None, fleet, ui).await,
    }
}

/// What came of one place.
#[derive(Debug, Serialize)]
struct Pushed {
    push: String,
    /// All of which is there.
    releases: u64,
    sent: u64,
    sent_bytes: u64,
    there: u64,
    /// Found to lack, and not sent: it was only to be told, or something failed.
    lacking: u64,
    lacking_bytes: u64,
    error: Option<String>,
}

impl Pushed {
    fn new(push: &str) -> Self {
        Self {
            push: push.to_owned(),
            releases: 0,
            sent: 0,
            sent_bytes: 0,
            there: 0,
            lacking: 0,
            lacking_bytes: 0,
            error: None,
        }
    }

    fn words(&self) -> String {
        let lacking = match self.lacking {
            0 => String::new(),
            lacking => format!(
                "{} lacking, {}; ",
                count(lacking, "asset"),
                bytes(self.lacking_bytes)
            ),
        };
        format!(
            "{}: {lacking}{} sent, {}; {} there already",
            clean(&self.push),
            count(self.sent, "asset"),
            bytes(self.sent_bytes),
            self.there
        )
    }
}

fn report(app: &AppName, fleet: &Fleet, places: &[Pushed], ui: &Ui) {
    if ui.is_json() {
        ui.json(&serde_json::json!({ "app": app, "env": fleet.context.env, "pushes": places }));
        return;
    }
    let whole = places.iter().filter(|place| place.error.is_none());
    whole.for_each(|place| ui.say(place.words()));
}
