//! `shipctl show`.

use clap::Args;
use ship_model::assets::private_files;
use ship_model::manifest::{EntryKind, Manifest};
use ship_model::release::ReleaseRef;
use ship_proto::v1::ReleaseRecord;

use super::{Fleet, Outcome, manifest, shape, subject, tree};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::ui::{Table, Ui};
use crate::words::{bytes, clean, count};

/// Show one release: where it came from, how it runs, what it consists of
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl show web              the newest
  shipctl show web@4 --files    with every file, its size and the start of its digest")]
pub struct Show {
    /// APP@NUMBER; without a number the newest
    #[arg(value_name = "APP@N")]
    release: Option<ReleaseRef>,
    /// List every file as well
    #[arg(long)]
    files: bool,
}

pub async fn run(verb: Show, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let subject = subject::subject(verb.release.as_ref(), &fleet.context)?;
    let record = subject.record(&fleet).await?;
    if record.collected_at_ms > 0 {
        return Ok(record_alone(&record, ui));
    }
    let manifest = manifest::fetch(&record, &fleet).await?;
    let assets = tree::assets(&manifest)?.len();
    if ui.is_json() {
        let mut shown = serde_json::to_value(shape::Release::from(&record)).unwrap_or_default();
        shown["spec"] = serde_json::to_value(manifest.spec().as_written()).unwrap_or_default();
        shown["assets_private"] = private_files(&manifest).into();
        shown["assets"] = assets.into();
        if verb.files {
            shown["entries"] = entries(&manifest).into();
        }
        ui.json(&shown);
        return Ok(Exit::Done);
    }
    let assets = count(assets as u64, "asset");
    let holds = match private_files(&manifest) {
        0 => assets,
        private => format!("{assets}, {private} private"),
    };
    facts(&record, Some(holds), ui);
    spec(&manifest, ui)?;
    if verb.files {
        files(&manifest, ui);
    }
    Ok(Exit::Done)
}

/// Of a release whose content was collected its record is all that is left.
fn record_alone(record: &ReleaseRecord, ui: &Ui) -> Exit {
    if ui.is_json() {
        ui.json(&shape::Release::from(record));
    } else {
        facts(record, None, ui);
    }
    Exit::Done
}

fn facts(record: &ReleaseRecord, assets: Option<String>, ui: &Ui) {
    let release = shape::Release::from(record);
    let from = match (&release.commit, release.dirty) {
        (Some(commit), true) => format!("commit {commit}, with changes"),
        (Some(commit), false) => format!("commit {commit}"),
        (None, _) => "-".to_owned(),
    };
    let size = format!("{}, {}", count(release.files, "file"), bytes(release.bytes));
    let mut lines = vec![
        ("release", format!("{}@{}", release.app, release.release)),
        ("id", release.id.clone()),
        ("label", release.label.clone().unwrap_or_else(|| "-".to_owned())),
        ("published", ui.time(record.published_at_ms)),
        ("by", release.publisher.clone()),
        ("from", from),
        (
            "holds",
            match assets {
                Some(assets) => format!("{size}, {assets}"),
                None => size,
            },
        ),
        (
            "brought",
            format!(
                "{} new, stored as {}",
                bytes(release.new_bytes),
                bytes(release.stored_bytes)
            ),
        ),
    ];
    if let Some(pinned) = release.pinned {
        lines.push(("pinned", pinned));
    }
    if record.collected_at_ms > 0 {
        let when = ui.time(record.collected_at_ms);
        lines.push((
            "collected",
            format!("{when}: its content is gone; publish its tree again, as a new release"),
        ));
    }
    for (name, value) in lines {
        ui.line(format!("{name:<10} {}", clean(&value)));
    }
}

fn spec(manifest: &Manifest, ui: &Ui) -> Result<(), CommandError> {
    let spec = toml::to_string(&manifest.spec().as_written())
        .map_err(|error| CommandError::internal("show how it runs", error))?;
    ui.line("");
    for line in spec.lines() {
        ui.line(clean(line));
    }
    Ok(())
}

fn entries(manifest: &Manifest) -> Vec<serde_json::Value> {
    let entry = |entry: ship_model::manifest::EntryRef<'_>| {
        let path = entry.path.to_string();
        match entry.kind {
            EntryKind::File {
                executable,
                size,
                digest,
            } => serde_json::json!({
                "path": path, "kind": "file", "executable": executable, "size": size, "digest": digest,
            }),
            EntryKind::Link { target } => serde_json::json!({
                "path": path, "kind": "link", "target": ship_model::path::escape(target),
            }),
            EntryKind::EmptyFolder => serde_json::json!({ "path": path, "kind": "folder" }),
        }
    };
    manifest.entries().iter().map(entry).collect()
}

fn files(manifest: &Manifest, ui: &Ui) {
    let mut table = Table::new(&["path", "", ">size", "digest"]);
    for entry in manifest.entries().iter() {
        let path = entry.path.to_string();
        match entry.kind {
            EntryKind::File {
                executable,
                size,
                digest,
            } => {
                let kind = if executable { "x" } else { "" };
                table.row([path, kind.to_owned(), bytes(size), digest.short()]);
            }
            EntryKind::Link { target } => {
                let target = format!("→ {}", ship_model::path::escape(target));
                table.row([path, target, String::new(), String::new()]);
            }
            EntryKind::EmptyFolder => {
                table.row([format!("{path}/"), String::new(), String::new(), String::new()]);
            }
        }
    }
    ui.line("");
    table.print(ui);
}
