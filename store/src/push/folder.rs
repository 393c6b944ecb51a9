//! A folder: a union of its own, so each file is verified and whole before it has its name.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ship_assets::Union;
use ship_model::release::Target;

use super::place::{Cargo, Place, PushError};
use crate::union::{AddAssetsError, Unions};

/// Beside the assets, since files are renamed from it into their places: the name cannot be an asset's.
const RECORDS: &str = ".ship-records";

#[derive(Debug)]
pub(super) struct Folder {
    folder: PathBuf,
    /// None while the folder is not there, as before it is mounted.
    open: Mutex<Option<Arc<Union>>>,
}

impl Folder {
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            open: Mutex::default(),
        }
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

    fn take(&self, unions: &Unions, cargo: &Cargo<'_>) -> Result<(), PushError> {
        let union = self.union()?;
        let missing = union.missing(cargo.assets);
        let (sent, bytes) = (missing.len(), missing.iter().map(|asset| asset.size).sum());
        cargo.tally.there((cargo.assets.len() - sent) as u64);
        unions.fill(&union, missing)?;
        let recorded = union.record(cargo.release, cargo.assets);
        recorded.map_err(AddAssetsError::from)?;
        cargo.tally.sent(sent as u64, bytes);
        Ok(())
    }
}
