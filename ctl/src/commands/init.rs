//! `shipctl init`.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use ship_model::name::AppName;
use ship_model::spec::init_template;

use super::Outcome;
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::ui::Ui;

/// Write a commented ship.toml that says how your app runs
#[derive(Debug, Args)]
#[command(after_help = "\
The file is part of each release, so that a revert brings back how it ran as well. Next:
edit it, then `shipctl lint` and `shipctl publish`.")]
pub struct Init {
    /// Folder that becomes a release
    #[arg(default_value = ".")]
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("{path} is there already; nothing was changed")]
    Exists { path: PathBuf },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
}

pub fn run(verb: Init, global: &Global, ui: &Ui) -> Outcome {
    let app = match &global.app {
        Some(app) => app.clone(),
        None => app_of(&verb.dir)?,
    };
    let path = verb.dir.join("ship.toml");
    write(&path, &init_template(&app)).map_err(explain)?;
    if ui.is_json() {
        ui.json(&serde_json::json!({ "app": app, "path": path }));
        return Ok(Exit::Done);
    }
    ui.line(format!("wrote {} for app {app}", path.display()));
    ui.hint(format!(
        "edit it, then: shipctl lint {0} && shipctl publish {0}",
        verb.dir.display()
    ));
    Ok(Exit::Done)
}

/// The folder's own name, made fit to be an app's.
fn app_of(dir: &Path) -> Result<AppName, CommandError> {
    let full = dir
        .canonicalize()
        .map_err(|source| CommandError::internal(&format!("find the folder {}", dir.display()), source))?;
    let name = full
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(fit).collect();
    AppName::new(name.trim_matches('-'))
        .map_err(|error| CommandError::of(Exit::Usage, &error).hint("name the app: shipctl init -a web"))
}

fn write(path: &Path, text: &str) -> Result<(), InitError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists {
            path: path.to_owned(),
        },
        _ => InitError::Write {
            path: path.to_owned(),
            source,
        },
    };
    let mut file = File::create_new(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

fn explain(error: InitError) -> CommandError {
    match &error {
        InitError::Exists { .. } => {
            CommandError::of(Exit::Refused, &error).hint("read it with `shipctl lint`, or remove it first")
        }
        InitError::Write { .. } => CommandError::of(Exit::Error, &error),
    }
}
