//! `shipctl lint`: a folder looked at as publish would, and as a browser with an old page open would.
//!
//! [`assets`] looks at names, [`pages`] at what pages, style sheets and modules name, [`against`] at what was published.

mod against;
mod assets;
mod finding;
mod pages;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ship_model::assets::{Asset, private_files};
use ship_model::manifest::Manifest;
use ship_model::name::EnvName;

use self::finding::Findings;
use super::{Outcome, tree};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::ui::Ui;
use crate::words::{bytes, count};

/// Check a folder as publish would, and tell everything that is wrong
#[derive(Debug, Args)]
#[command(after_help = "\
Reads ship.toml and every file; without --against it needs no fleet, and it changes
nothing in any case. Besides what publish refuses, it tells of assets
  without a fingerprint      an open page gets other bytes for them after a release
  that are named and absent  by a page, a style sheet or a module of the release
  that clash                 with what any release ever had (--against)
  that change in place       under the name that the running release has (--against)
and of source maps that everybody can fetch. Exit 0 when it can be published, 1 when not,
or with --strict when there is anything to tell. With -o json: findings[] with kind,
path, line, url and text. Examples:
  shipctl lint build -a site
  shipctl lint --against production --strict")]
pub struct Lint {
    /// Folder that becomes a release
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Compare with what was published, and with what this environment runs
    #[arg(long, value_name = "ENV")]
    against: Option<EnvName>,
    /// Fail on anything that is told
    #[arg(long)]
    strict: bool,
}

pub async fn run(verb: Lint, global: &Global, ui: &Ui) -> Outcome {
    let spec = tree::read_spec(&verb.dir, global.app.as_ref())?;
    let walked = tree::read_tree(&verb.dir, &spec, ui).await?;
    let folder = Arc::new(Folder {
        assets: tree::assets(&walked.manifest)?,
        dir: verb.dir,
        manifest: Arc::new(walked.manifest),
    });
    let mut findings = folder.look().await?;
    let refused = match &verb.against {
        Some(env) => against::look(&folder.manifest, &folder.assets, env, global, &mut findings).await?,
        None => false,
    };
    let told = findings.any() || !walked.warnings.is_empty();
    if ui.is_json() {
        let warnings: Vec<String> = walked.warnings.iter().map(ToString::to_string).collect();
        ui.json(&folder.as_json(&warnings, &findings));
    } else {
        tree::warn(&spec, &walked.warnings, ui);
        findings.show(ui);
        let end = if refused {
            "cannot be published"
        } else {
            "can be published"
        };
        ui.line(format!("{}: {end}", folder.in_short()));
    }
    Ok(if refused || (verb.strict && told) {
        Exit::Error
    } else {
        Exit::Done
    })
}

/// A folder that was read.
#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    manifest: Arc<Manifest>,
    assets: Vec<Asset>,
}

impl Folder {
    /// Looks at names, then into the texts, off the runtime's own thread.
    async fn look(self: &Arc<Self>) -> Result<Findings, CommandError> {
        let folder = Arc::clone(self);
        let looking = tokio::task::spawn_blocking(move || {
            let mut findings = Findings::default();
            assets::look(&folder.manifest, &folder.assets, &mut findings);
            pages::look(&folder.dir, &folder.manifest, &folder.assets, &mut findings);
            findings
        });
        looking
            .await
            .map_err(|source| CommandError::internal("look at the pages", source))
    }

    fn fingerprinted(&self) -> usize {
        self.assets.iter().filter(|asset| asset.fingerprinted).count()
    }

    fn as_json(&self, warnings: &[String], findings: &Findings) -> serde_json::Value {
        let spec = self.manifest.spec();
        serde_json::json!({
            "app": spec.app, "files": self.manifest.files().count(), "bytes": self.manifest.total_bytes(),
            "static": spec.is_static(), "warnings": warnings, "assets": self.assets.len(),
            "assets_fingerprinted": self.fingerprinted(), "assets_private": private_files(&self.manifest),
            "findings": findings.all(), "findings_left_out": findings.left_out(),
        })
    }

    /// `site: 12 files, 3.1 MB, static files, 8 assets (6 with a fingerprint)`
    fn in_short(&self) -> String {
        let spec = self.manifest.spec();
        let kind = if spec.is_static() {
            "static files".to_owned()
        } else {
            count(spec.processes.len() as u64, "process").replace("processs", "processes")
        };
        let files = count(self.manifest.files().count() as u64, "file");
        let mut text = format!(
            "{}: {files}, {}, {kind}",
            spec.app,
            bytes(self.manifest.total_bytes())
        );
        if !self.assets.is_empty() {
            let assets = count(self.assets.len() as u64, "asset");
            text.push_str(&format!(
                ", {assets} ({} with a fingerprint)",
                self.fingerprinted()
            ));
        }
        match private_files(&self.manifest) {
            0 => text,
            private => format!("{text}, {} kept private", count(private as u64, "file")),
        }
    }
}
