//! `shipctl export`.

use std::path::PathBuf;

use clap::Args;
use ship_bundle::{ExportError, export, export_needs};
use ship_model::release::ReleaseRef;

use super::bundles::Remote;
use super::tree::Told;
use super::{Fleet, Outcome, manifest, subject};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::ui::{Bar, Ui};
use crate::words::{bytes, count};

/// Write a release's tree to a new folder, every byte checked
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  shipctl export web@4 /tmp/web-4")]
pub struct Export {
    /// Release
    #[arg(value_name = "APP@N")]
    release: ReleaseRef,
    /// Folder to make; it must not exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub async fn run(verb: Export, global: &Global, ui: &Ui) -> Outcome {
    if verb.dir.symlink_metadata().is_ok() {
        return Err(explain(&ExportError::Exists { path: verb.dir }));
    }
    let fleet = Fleet::reach(global).await?;
    let subject = subject::subject(Some(&verb.release), &fleet.context)?;
    let record = subject.record(&fleet).await?;
    let manifest = manifest::fetch(&record, &fleet).await?;
    let bar = Bar::bytes(ui, "export", 1);
    let remote = Remote::new(&fleet);
    let (told, dir) = (Told(bar.clone()), verb.dir.clone());
    let (files, size) = (manifest.files().count() as u64, manifest.total_bytes());
    let exporting = tokio::task::spawn_blocking(move || {
        let indexes = remote.holding(&export_needs(&manifest))?;
        export(&manifest, &indexes, &remote, &dir, &told).map_err(|error| explain(&error))
    });
    let exported = exporting.await;
    bar.clear();
    let fetched = exported.map_err(|source| CommandError::internal("export the release", source))??;
    let number = record.release.as_ref().map_or(0, |target| target.number);
    if ui.is_json() {
        ui.json(&serde_json::json!({
            "app": subject.app, "release": number, "dir": verb.dir, "files": files, "bytes": size,
            "fetched_bytes": fetched,
        }));
    } else {
        ui.line(format!(
            "{}@{number} lies in {}: {}, {}, fetched as {}",
            subject.app,
            verb.dir.display(),
            count(files, "file"),
            bytes(size),
            bytes(fetched)
        ));
    }
    Ok(Exit::Done)
}

fn explain(error: &ExportError) -> CommandError {
    let exit = match error {
        ExportError::Exists { .. } => Exit::Refused,
        _ => Exit::Error,
    };
    CommandError::of(exit, error)
}
