//! What a push needs of where it goes.

use std::io;
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
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} does not say access_key_id and secret_access_key", path.display())]
    Credentials { path: PathBuf, source: toml::de::Error },
    #[error("cannot use bucket {bucket}")]
    Bucket {
        bucket: String,
        source: object_store::Error,
    },
    #[error("cannot push {url} to bucket {bucket}")]
    Put {
        bucket: String,
        url: String,
        source: object_store::Error,
    },
    #[error(
        "{url} has other bytes in bucket {bucket}: it was written there by somebody else, and is never replaced"
    )]
    Other { bucket: String, url: String },
    #[error("cannot remember what was pushed")]
    Remember(#[from] ship_durable::FileError),
}
