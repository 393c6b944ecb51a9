//! A folder: a union of its own, so each file is verified and whole before it has its name.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ship_assets::Union;
use ship_model::name::AppName;
use ship_model::release::Target;
use ship_model::retention::UrlHash;

use super::giving::{GivenUp, Giving};
use super::place::{Cargo, Place, PushError};
use crate::union::{AddAssetsError, Unions};

/// Beside the assets, since files are renamed from it into their places: the name cannot be an asset's.
const RECORDS: &str = ".ship-records";

#[derive(Debug)]
pub(super) struct Folder {
    folder: PathBuf,
    /// None while the folder is not there, as before it is mounted.
    open: Mutex<Option<Arc<Union>>>,
    /// Faded releases of each app that lack what has not expired any more.
    lacking: Mutex<BTreeMap<AppName, Vec<Target>>>,
}

impl Folder {
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            open: Mutex::default(),
            lacking: Mutex::default(),
        }
    }

    fn lacking(&self) -> MutexGuard<'_, BTreeMap<AppName, Vec<Target>>> {
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never made here: below a mount that is missing it would be the wrong one.
    fn union(&self) -> Result<Arc<Union>, PushError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.folder.is_dir() {
            *open = None;
            return Err(PushError::NoFolder {
                folder: self.folder.clone(),
            });
        }
        if let Some(union) = &*open {
            return Ok(Arc::clone(union));
        }
        let opened = Union::open(&self.folder, &self.folder.join(RECORDS));
        let union = Arc::new(opened.map_err(|source| PushError::Open {
            folder: self.folder.clone(),
            source,
        })?);
        *open = Some(Arc::clone(&union));
        Ok(union)
    }
}

impl Place for Folder {
    fn holds(&self) -> Vec<Target> {
        self.union().map(|union| union.holds()).unwrap_or_default()
    }

    fn faded(&self) -> Vec<Target> {
        let mut faded = self.union().map(|union| union.faded()).unwrap_or_default();
        let lacking = self.lacking();
        faded.retain(|release| !lacking.values().flatten().any(|lacking| lacking == release));
        faded
    }

    fn take(&self, unions: &Unions, cargo: &Cargo<'_>) -> Result<(), PushError> {
        let union = self.union()?;
        let missing = union.missing(cargo.assets);
        let (sent, bytes) = (missing.len(), missing.iter().map(|asset| asset.size).sum());
        cargo.tally.there((cargo.assets.len() - sent) as u64);
        unions.fill(&union, missing)?;
        let gone: HashSet<&str> = cargo.gone.iter().map(|asset| &*asset.url_path).collect();
        let all = [cargo.assets, cargo.gone].concat();
        let recorded = union.record_kept(cargo.release, &all, &|url| gone.contains(url));
        recorded.map_err(AddAssetsError::from)?;
        cargo.tally.sent(sent as u64, bytes);
        let mut lacking = self.lacking();
        lacking
            .values_mut()
            .for_each(|lacking| lacking.retain(|release| *release != cargo.release));
        Ok(())
    }

    fn give_up(&self, _: &Unions, giving: &Giving<'_>) -> Result<GivenUp, PushError> {
        let union = self.union()?;
        let mut spared: HashSet<UrlHash> = HashSet::new();
        union.walk_records(|release, url, _, _| {
            if !giving.knows(&release) {
                spared.insert(UrlHash::of(url));
            }
        })?;
        let is_gone = |url: &str| !spared.contains(&UrlHash::of(url)) && giving.is_gone(url);
        let forgotten = union.forget(union.word(), &is_gone);
        let forgotten = forgotten.map_err(|source| PushError::Forget {
            folder: self.folder.clone(),
            source,
        })?;
        let mut lacking: Vec<Target> = Vec::new();
        union.walk_forgotten(|release, url, _, _| {
            if giving.owns(&release) && !giving.list.contains(url) && lacking.last() != Some(&release) {
                lacking.push(release);
            }
        })?;
        self.lacking().insert(giving.app.clone(), lacking);
        Ok(GivenUp {
            assets: forgotten.files,
            bytes: forgotten.bytes,
        })
    }
}
