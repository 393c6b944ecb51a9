//! A folder read as a release: its `ship.toml`, then every file.

use std::io;
use std::path::{Path, PathBuf};

use ship_bundle::walk::{Reading, WalkError, Walked, Warning, walk_with};
use ship_model::assets::{Asset, assets_of};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_model::spec::{ReleaseSpec, read_ship_toml};

use super::{built, program};
use crate::clock::now_ns;
use crate::error::{CommandError, Exit};
use crate::seen::Memory;
use crate::ui::{Bar, Ui};
use crate::words::count;

/// Largest `ship.toml` that is read.
const MAX_SPEC: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ReadSpecError {
    #[error("{} is not a folder", path.display())]
    NoFolder { path: PathBuf },
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than a ship.toml can be", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is not UTF-8", path.display())]
    Text { path: PathBuf },
    #[error("{} has no ship.toml, and no app was named", path.display())]
    Nameless { path: PathBuf },
    #[error("{} is for app {written}, but {asked} was asked for", path.display())]
    OtherApp {
        path: PathBuf,
        written: AppName,
        asked: AppName,
    },
}

/// What `dir/ship.toml` says; without one, static files of the app that was named.
pub fn read_spec(dir: &Path, app: Option<&AppName>) -> Result<ReleaseSpec, CommandError> {
    let Some(text) = read_text(dir).map_err(explain)? else {
        // "." says little in a message.
        let path = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let app = app.ok_or(ReadSpecError::Nameless { path });
        return Ok(ReleaseSpec::static_files(app.map_err(explain)?.clone()));
    };
    let path = dir.join("ship.toml");
    let spec = read_ship_toml(&text, app.cloned()).map_err(|errors| {
        CommandError::new(Exit::Error, errors.to_string()).hint(format!(
            "edit {}; `shipctl init` in an empty folder writes one with every key explained",
            path.display()
        ))
    })?;
    match app {
        Some(asked) if *asked != spec.app => Err(explain(ReadSpecError::OtherApp {
            path,
            written: spec.app,
            asked: asked.clone(),
        })),
        _ => Ok(spec),
    }
}

fn read_text(dir: &Path) -> Result<Option<String>, ReadSpecError> {
    if !dir.is_dir() {
        return Err(ReadSpecError::NoFolder { path: dir.to_owned() });
    }
    let path = dir.join("ship.toml");
    let failed = |source| ReadSpecError::Read {
        path: path.clone(),
        source,
    };
    match std::fs::symlink_metadata(&path) {
        Ok(found) if !found.is_file() => Err(failed(io::Error::other("it is not a plain file"))),
        Ok(found) if found.len() > MAX_SPEC => Err(ReadSpecError::TooLarge { path }),
        Ok(_) => {
            let bytes = std::fs::read(&path).map_err(failed)?;
            let text = String::from_utf8(bytes).map_err(|_| ReadSpecError::Text { path: path.clone() })?;
            Ok(Some(text))
        }
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

fn explain(error: ReadSpecError) -> CommandError {
    let fault = CommandError::of(Exit::Error, &error);
    match error {
        ReadSpecError::Nameless { .. } => fault.with_exit(Exit::Usage).hint(
            "static files need only a name: shipctl publish DIR -a APP; anything that runs: shipctl init DIR",
        ),
        ReadSpecError::OtherApp { .. } => fault.with_exit(Exit::Usage).hint("leave -a (and SHIP_APP) away"),
        _ => fault,
    }
}

/// Tells a bar from the threads that read.
#[derive(Debug)]
pub struct Told(pub Bar);

impl ship_bundle::Progress for Told {
    fn total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    fn done(&self, bytes: u64) {
        self.0.add(bytes);
    }
}

/// Hashes every file of `dir`, off the runtime's own thread.
pub async fn read_tree(dir: &Path, spec: &ReleaseSpec, ui: &Ui) -> Result<Walked, CommandError> {
    read_tree_with(dir, spec, None, ui).await
}

/// As [`read_tree`]; with a memory, only files that look different than before, large ones being cut on the way.
pub async fn read_tree_with(
    dir: &Path,
    spec: &ReleaseSpec,
    reading: Option<Reread>,
    ui: &Ui,
) -> Result<Walked, CommandError> {
    let (walked, unread) = walked(dir, spec, reading, ui).await?;
    unread.iter().for_each(|warning| ui.warn(warning));
    // The store would refuse these after everything was sent.
    assets(&walked.manifest)?;
    for warning in program::check(dir, &walked.manifest)? {
        ui.warn(warning);
    }
    Ok(walked)
}

/// The release that a folder of an earlier build is: whatever there was to say of it was said then.
pub async fn read_again(
    dir: &Path,
    spec: &ReleaseSpec,
    reading: Reread,
    ui: &Ui,
) -> Result<Manifest, CommandError> {
    let (walked, _) = walked(dir, spec, Some(reading), ui).await?;
    Ok(walked.manifest)
}

/// The tree, and what could not be understood of the build tools' manifests.
async fn walked(
    dir: &Path,
    spec: &ReleaseSpec,
    reading: Option<Reread>,
    ui: &Ui,
) -> Result<(Walked, Vec<String>), CommandError> {
    let bar = Bar::bytes(ui, "read", 1);
    let (folder, spec, told) = (dir.to_owned(), spec.clone(), Told(bar.clone()));
    let walked = tokio::task::spawn_blocking(move || {
        let walked = match &reading {
            Some(reading) => reading.walk(&folder, &spec, &told),
            None => walk_with(&folder, &spec, &Reading::default(), &told),
        };
        let mut walked = walked.map_err(|error: WalkError| CommandError::of(Exit::Error, &error))?;
        let unread = built::recognise_in(&folder, &mut walked.manifest)
            .map_err(|error| CommandError::of(Exit::Error, &error))?;
        Ok::<_, CommandError>((walked, unread))
    });
    let walked = walked.await;
    bar.clear();
    walked.map_err(|source| CommandError::internal("read the folder", source))?
}

/// How a folder is read that was read before.
#[derive(Debug, Clone)]
pub struct Reread {
    /// None where nothing can be kept.
    pub memory: Option<Memory>,
    /// Reads every file all the same.
    pub paranoid: bool,
}

impl Reread {
    fn walk(&self, dir: &Path, spec: &ReleaseSpec, told: &Told) -> Result<Walked, WalkError> {
        let memory = self.memory.as_ref();
        let seen = memory.filter(|_| !self.paranoid).and_then(Memory::recall);
        let reading = Reading {
            seen: seen.as_ref(),
            clock: memory.is_some().then_some(&now_ns),
            // What is not remembered of a folder that is, is most likely new to the store as well. Elsewhere, as in a fresh checkout, most
            // of it is not, and to cut a file takes several times as long as to hash it.
            cut: seen.is_some(),
        };
        let walked = walk_with(dir, spec, &reading, told)?;
        if let Some(memory) = memory.filter(|_| seen.as_ref() != Some(&walked.seen)) {
            memory.keep(&walked.seen);
        }
        Ok(walked)
    }

    /// The next time every file is read.
    pub fn forget(&self) {
        if let Some(memory) = &self.memory {
            memory.forget();
        }
    }
}

/// What browsers fetch of a release.
pub fn assets(manifest: &Manifest) -> Result<Vec<Asset>, CommandError> {
    assets_of(manifest)
        .map_err(|error| CommandError::of(Exit::Error, &error).hint("see [[assets]] in ship.toml"))
}

/// Says what a person should look at before publishing.
pub fn warn(spec: &ReleaseSpec, warnings: &[Warning], ui: &Ui) {
    if spec.is_static() && spec.assets.is_empty() {
        ui.hint(format!(
            "static files without [[assets]]: Ship lays them on every host, below apps/{}/current, and serves none of them; \
             to have them served too: shipctl init",
            spec.app
        ));
    }
    const SHOWN: usize = 20;
    for warning in warnings.iter().take(SHOWN) {
        ui.warn(warning.to_string());
    }
    let more = warnings.len().saturating_sub(SHOWN);
    if more > 0 {
        ui.warn(format!("and {}", count(more as u64, "more warning")));
    }
}
