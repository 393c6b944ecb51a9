//! What a push needs of where it goes.

use std::path::PathBuf;

use ship_assets::UnionError;
use ship_model::release::{ReleaseRecord, Target};

use crate::union::{AddAssetsError, Unions};

/// Where assets are pushed to.
pub(super) trait Place: Send + Sync + std::fmt::Debug {
    /// Releases whose fingerprinted assets are all there, as far as this store has seen to it.
    fn holds(&self) -> Vec<Target>;

    /// Brings what is missing of a release; when it returns, all of it is there for good. Blocks. What came before an error
    /// stays, and is not brought again.
    fn take(&self, unions: &Unions, release: &ReleaseRecord) -> Result<(), PushError>;
}

/// Why a release's assets are not all where they were pushed to.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("{} is not there: mount it or make it", folder.display())]
    NoFolder { folder: PathBuf },
    #[error("cannot use {}", folder.display())]
    Open { folder: PathBuf, source: UnionError },
    #[error("cannot push a release's assets")]
    Add(#[from] AddAssetsError),
}
