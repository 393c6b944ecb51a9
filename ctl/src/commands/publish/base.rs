//! Which earlier release a delta can be made against: one that the store has, and whose bytes lie here.

use std::path::{Path, PathBuf};

use ship_bundle::delta::{BlobBytes, TreeBlobs};
use ship_model::digest::ReleaseId;
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_proto::v1::ListReleasesRequest;
use tonic::Status;

use super::super::tree::{self, Reread};
use super::way::NoDelta;
use crate::client::Client;
use crate::error::{CommandError, is_passing};
use crate::last::Last;
use crate::seen::Memory;
use crate::ui::Ui;
use crate::words::clean;

/// An older release is not looked for: a delta against it would not be small.
const NEWEST: u32 = 200;

/// Where an earlier release may lie.
#[derive(Debug)]
pub struct Bases {
    /// A folder that was named.
    pub folder: Option<PathBuf>,
    /// What was kept when the app was published last.
    pub last: Option<Last>,
    pub paranoid: bool,
}

/// An earlier release that the store has, with its bytes.
#[derive(Debug)]
pub struct Base {
    pub number: u64,
    pub manifest: Manifest,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    Last(Last),
}

/// Why there is none.
#[derive(Debug)]
pub enum NoBase {
    No(NoDelta),
    /// The store is away.
    Away(Status),
}

impl From<NoDelta> for NoBase {
    fn from(no: NoDelta) -> Self {
        Self::No(no)
    }
}

impl Bases {
    /// The release that lies where was said, else the one that was published last; the store must have it.
    pub async fn find(&self, app: &AppName, client: &Client, ui: &Ui) -> Result<Base, NoBase> {
        let (manifest, place, name) = match (&self.folder, &self.last) {
            (Some(folder), _) => {
                let manifest = self.read(folder, app, ui).await?;
                let name = folder.display().to_string();
                (manifest, Place::Folder(folder.clone()), name)
            }
            (None, Some(last)) => match recalled(last).await {
                Some(manifest) => {
                    let name = "the release that was published last from here".to_owned();
                    (manifest, Place::Last(last.clone()), name)
                }
                None => return Err(nothing().into()),
            },
            (None, None) => return Err(nothing().into()),
        };
        let number = number_of(manifest.id(), &name, app, client).await?;
        Ok(Base {
            number,
            manifest,
            place,
        })
    }

    async fn read(&self, folder: &Path, app: &AppName, ui: &Ui) -> Result<Manifest, NoDelta> {
        let unread = |error: CommandError| {
            let why = error.causes().last().map_or(error.message(), String::as_str);
            NoDelta::told(format!("{} is no earlier release: {why}", folder.display()))
        };
        let spec = tree::read_spec(folder, Some(app)).map_err(unread)?;
        let reading = Reread {
            memory: Memory::of(folder),
            paranoid: self.paranoid,
        };
        tree::read_again(folder, &spec, reading, ui).await.map_err(unread)
    }
}

impl Base {
    /// Hands over who reads its bytes, which are as they lie there now.
    pub fn with_bytes<T>(&self, read: impl FnOnce(&dyn BlobBytes) -> T) -> std::io::Result<T> {
        match &self.place {
            Place::Folder(folder) => Ok(read(&TreeBlobs::open(folder, &self.manifest)?)),
            Place::Last(last) => Ok(read(last)),
        }
    }
}

fn nothing() -> NoDelta {
    NoDelta::quiet("no earlier release of it lies here (--base names a folder with one)")
}

async fn recalled(last: &Last) -> Option<Manifest> {
    let last = last.clone();
    tokio::task::spawn_blocking(move || last.recall()).await.ok()?
}

/// Under which number the store has this release, content and all.
async fn number_of(id: ReleaseId, name: &str, app: &AppName, client: &Client) -> Result<u64, NoBase> {
    let request = ListReleasesRequest {
        app: app.to_string(),
        limit: NEWEST,
    };
    let listed = match client.releases().list(request).await {
        Ok(listed) => listed.into_inner(),
        Err(status) if is_passing(&status) => return Err(NoBase::Away(status)),
        Err(status) => return Err(NoDelta::told(clean(status.message())).into()),
    };
    let lines = listed.releases.into_iter();
    let targets = lines.filter_map(|line| {
        let is_gone = line.flags.iter().any(|flag| flag == "collected");
        let target = line.record?.release?;
        (target.id == id.as_bytes()).then_some((target.number, is_gone))
    });
    let found: Vec<_> = targets.collect();
    match found.iter().find(|(_, is_gone)| !is_gone).or(found.first()) {
        Some((number, false)) => Ok(*number),
        Some((number, true)) => {
            let reason = format!("{name} is {app}@{number}, whose content was collected");
            Err(NoDelta::told(reason).into())
        }
        None => {
            let reason = format!("the store has not {name} among the newest {NEWEST} releases of {app}");
            Err(NoDelta::told(reason).into())
        }
    }
}
