//! A store's folder as a whole: who holds it, and what is found in it.
//!
//! ```text
//! lock            one process
//! catalog/        records; see `engine::catalog`
//! objects/        bundles, manifests and deltas; see `engine::blobs`
//! restored.json   put there by `restore`, taken into the ledger when the folder is opened
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ship_durable::{LockError, LockFile};

use crate::engine::blobs::FsBlobs;
use crate::engine::catalog::{CatalogOpenError, Opened, SledCatalog};
use crate::engine::{Blobs, BlobsError, Catalog};
use crate::keeping;
use crate::ledger::{Act, Ledger, LedgerError, Restored};
use crate::locate::{LoadReport, Places};
use crate::publish::{Limits, Publisher};

pub(crate) const CATALOG: &str = "catalog";
pub(crate) const OBJECTS: &str = "objects";
pub(crate) const LOCK: &str = "lock";
pub(crate) const RESTORED: &str = "restored.json";

/// An open store. Dropped, it lets the folder go.
#[derive(Debug)]
pub struct StoreFolder {
    // The lock goes last.
    pub publisher: Publisher,
    pub places: Arc<Places>,
    pub ledger: Ledger,
    pub blobs: Arc<dyn Blobs>,
    _lock: LockFile,
}

/// What was found when a store was opened, to be told to whoever watches.
#[derive(Debug)]
pub struct FolderReport {
    pub catalog: Opened,
    pub places: LoadReport,
    /// Set when the store was put back from a backup and nobody has accepted that yet.
    pub restored: Option<Restored>,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenFolderError {
    #[error("{} is in use by another store process; stop it first", path.display())]
    Locked { path: PathBuf, source: LockError },
    #[error("cannot open the store's records")]
    Catalog(#[from] CatalogOpenError),
    #[error("cannot open the store's objects")]
    Blobs(#[from] BlobsError),
    #[error("cannot read the store's ledger")]
    Ledger(#[from] LedgerError),
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl StoreFolder {
    /// Opens the folder, healing what a crash or a damaged index left.
    pub fn open(dir: &Path, limits: Limits) -> Result<(Self, FolderReport), OpenFolderError> {
        let lock = lock(dir)?;
        let (catalog, opened) = SledCatalog::open(&dir.join(CATALOG))?;
        let catalog: Arc<dyn Catalog> = Arc::new(catalog);
        let ledger = Ledger::new(catalog);
        let blobs: Arc<dyn Blobs> = Arc::new(FsBlobs::open(&dir.join(OBJECTS))?);
        let (places, loaded) = Places::load(&*blobs)?;
        let places = Arc::new(places);
        keeping::load(&*blobs, &places, &ledger)?;
        take_in_restored(dir, &ledger)?;
        let report = FolderReport {
            catalog: opened,
            places: loaded,
            restored: ledger.restored()?,
        };
        let store = Self {
            publisher: Publisher::new(blobs.clone(), ledger.clone(), places.clone(), limits),
            places,
            ledger,
            blobs,
            _lock: lock,
        };
        Ok((store, report))
    }
}

/// Takes the folder's lock, which `open` holds too.
pub(crate) fn lock(dir: &Path) -> Result<LockFile, OpenFolderError> {
    std::fs::create_dir_all(dir).map_err(|source| OpenFolderError::Io {
        action: "create",
        path: dir.to_owned(),
        source,
    })?;
    LockFile::acquire(&dir.join(LOCK)).map_err(|source| OpenFolderError::Locked {
        path: dir.to_owned(),
        source,
    })
}

/// Turns the file that `restore` left into a record. A crash in between does it again: the record is the
/// same.
fn take_in_restored(dir: &Path, ledger: &Ledger) -> Result<(), OpenFolderError> {
    let path = dir.join(RESTORED);
    let failed = |action| {
        let path = path.clone();
        move |source| OpenFolderError::Io { action, path, source }
    };
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read")(error)),
    };
    let mark: Restored =
        serde_json::from_slice(&bytes).map_err(|error| failed("read")(io::Error::other(error)))?;
    if ledger.restored()?.as_ref() != Some(&mark) {
        let act = Act {
            at_ms: mark.at_ms,
            who: "store".to_owned(),
            what: "restore".to_owned(),
            subject: "store".to_owned(),
            detail: format!("from {}", mark.from),
        };
        // A conflict would be another writer, and the lock keeps those away.
        let _stored = ledger.mark_restored(&mark, &act)?;
    }
    std::fs::remove_file(&path).map_err(failed("remove"))
}
