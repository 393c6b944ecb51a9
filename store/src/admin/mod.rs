//! The store as a whole: checked, repaired, made anew, made smaller, copied, put back, mirrored.

mod accept;
mod backup;
mod mirror;
mod optimize;
mod repair;
mod restore;
mod verify;

pub use accept::{AcceptRestoreError, Accepted, NUMBERS_SKIPPED, accept_restore};
pub use backup::{BackupError, BackupReport, backup};
pub use mirror::{MirrorError, MirrorReport, mirror};
pub use optimize::{OptimizeReport, optimize};
pub use repair::{RepairError, RepairReport, repair};
pub use restore::{RestoreError, restore};
pub use verify::{VerifyReport, VerifyStoreError, verify};

use std::path::Path;

pub use crate::copies::Copies;
use crate::engine::catalog::{Opened, SledCatalog};
use crate::folder::{CATALOG, OpenFolderError, lock};

/// Throws the catalog's index away and makes it anew from the journal.
pub fn rebuild(dir: &Path) -> Result<Opened, OpenFolderError> {
    let _lock = lock(dir)?;
    Ok(SledCatalog::rebuild(&dir.join(CATALOG))?)
}
