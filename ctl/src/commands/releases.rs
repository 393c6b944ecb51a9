//! `shipctl releases`.

use clap::Args;
use ship_model::name::AppName;
use ship_proto::v1::{ListReleasesRequest, ReleaseLine};

use super::{Fleet, Outcome, shape};
use crate::args::Global;
use crate::error::Exit;
use crate::ui::{Table, Ui};
use crate::words::{bytes, clean, short_id};

/// List releases, newest first: number, label, size, who published it, where it runs
#[derive(Debug, Args)]
#[command(after_help = "\
NEW is what the release brought that the store had not. LIVE IN names the environments
that run it; FLAGS those that were taken back from it, and whether its content is pinned
or was collected (`shipctl gc`). Times are local; with -o json UTC.
Examples:
  shipctl releases web -n 5
  shipctl releases -o json | jq '.releases[0].release'")]
pub struct Releases {
    /// App; without one (and without a context's): every app
    app: Option<AppName>,
    /// How many
    #[arg(short, long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    number: u32,
}

pub async fn run(verb: Releases, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let app = verb.app.or_else(|| fleet.context.app.clone());
    let request = ListReleasesRequest {
        app: app.map(|app| app.to_string()).unwrap_or_default(),
        limit: verb.number,
    };
    let lines = fleet.client.releases().list(request).await?.into_inner().releases;
    if ui.is_json() {
        let releases: Vec<_> = lines.iter().map(shape::Listed::from).collect();
        ui.json(&serde_json::json!({ "releases": releases }));
        return Ok(Exit::Done);
    }
    if lines.is_empty() {
        ui.say("no release yet: shipctl publish DIR");
        return Ok(Exit::Done);
    }
    table(&lines, ui).print(ui);
    Ok(Exit::Done)
}

fn table(lines: &[ReleaseLine], ui: &Ui) -> Table {
    let mut table = Table::new(&[
        "release",
        "id",
        ">files",
        ">size",
        ">new",
        "published",
        "by",
        "label",
        "live in",
        "flags",
    ]);
    for line in lines {
        let record = line.record.clone().unwrap_or_default();
        let target = record.release.unwrap_or_default();
        table.row([
            format!("{}@{}", clean(&record.app), target.number),
            short_id(&target.id),
            record.files.to_string(),
            bytes(record.bytes),
            bytes(record.new_bytes),
            ui.time(record.published_at_ms),
            clean(&record.publisher),
            clean(&record.label.unwrap_or_default()),
            clean(&line.live_in.join(", ")),
            clean(&line.flags.join(", ")),
        ]);
    }
    table
}
