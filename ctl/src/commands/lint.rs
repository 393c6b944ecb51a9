//! `shipctl lint`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, tree};
use crate::args::Global;
use crate::error::Exit;
use crate::ui::Ui;
use crate::words::{bytes, count};

/// Check a folder as publish would, and tell everything that is wrong
#[derive(Debug, Args)]
#[command(after_help = "\
Reads ship.toml and every file; needs no fleet and changes nothing. Exit 0 when it can
be published, 1 when not. Example:
  shipctl lint build -a site")]
pub struct Lint {
    /// Folder that becomes a release
    #[arg(default_value = ".")]
    dir: PathBuf,
}

pub async fn run(verb: Lint, global: &Global, ui: &Ui) -> Outcome {
    let spec = tree::read_spec(&verb.dir, global.app.as_ref())?;
    let walked = tree::read_tree(&verb.dir, &spec, ui).await?;
    let files = walked.manifest.files().count() as u64;
    let size = walked.manifest.total_bytes();
    if ui.is_json() {
        let warnings: Vec<String> = walked.warnings.iter().map(ToString::to_string).collect();
        ui.json(&serde_json::json!({
            "app": spec.app, "files": files, "bytes": size, "static": spec.is_static(), "warnings": warnings,
        }));
        return Ok(Exit::Done);
    }
    tree::warn(&walked, ui);
    let kind = if spec.is_static() {
        "static files".to_owned()
    } else {
        count(spec.processes.len() as u64, "process").replace("processs", "processes")
    };
    ui.line(format!(
        "{}: {}, {}, {kind}: can be published",
        spec.app,
        count(files, "file"),
        bytes(size)
    ));
    Ok(Exit::Done)
}
