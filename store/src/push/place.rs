//! What a push needs of where it goes.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use ship_assets::{ForgetError, RecordError, UnionError};
use ship_bucket::{BucketError, Refusal};
use ship_model::assets::Asset;
use ship_model::name::AppName;
use ship_model::release::{ReleaseNumber, Target};

use super::giving::{GivenUp, Giving};
use crate::union::{AddAssetsError, Unions};

/// Where assets are pushed to.
pub(super) trait Place: Send + Sync + std::fmt::Debug {
    /// Releases whose fingerprinted assets are all there, as far as this store has seen to it.
    fn holds(&self) -> Vec<Target>;

    /// Releases of whose assets nothing lacks there but what had expired when they were pushed or [`Self::give_up`] was last
    /// done.
    fn faded(&self) -> Vec<Target>;

    /// Brings what is missing; when it returns, all of it is there until it expires. Blocks. What came before an error stays, and
    /// is not brought again.
    fn take(&self, unions: &Unions, cargo: &Cargo<'_>) -> Result<(), PushError>;

    /// Takes away what has expired, and nothing else; a release of which it takes anything is not held from before it does.
    /// One that lacks what has not expired any more is neither held nor faded when it returns. Blocks; safe to repeat.
    fn give_up(&self, unions: &Unions, giving: &Giving<'_>) -> Result<GivenUp, PushError>;
}

/// The fingerprinted assets of one release.
#[derive(Debug)]
pub(super) struct Cargo<'a> {
    pub app: &'a AppName,
    /// What is to be there.
    pub assets: &'a [Asset],
    /// What has expired, and is not brought.
    pub gone: &'a [Asset],
    /// Remembered when all of it is there.
    pub release: Target,
    pub tally: &'a Tally,
}

/// What a push has done so far.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicU64,
    bytes: AtomicU64,
    there: AtomicU64,
}

impl Tally {
    pub fn sent(&self, assets: u64, bytes: u64) {
        self.sent.fetch_add(assets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn there(&self, assets: u64) {
        self.there.fetch_add(assets, Ordering::Relaxed);
    }

    /// Assets sent, their bytes, and assets that were there already.
    pub fn read(&self) -> (u64, u64, u64) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (read(&self.sent), read(&self.bytes), read(&self.there))
    }
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
    #[error(
        "no keys: set `credentials` in store.toml, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where shipstore starts"
    )]
    NoKeys,
    #[error("{0}; it is asked again by itself")]
    Failed(Refusal),
    #[error(transparent)]
    Bucket(BucketError),
    #[error("cannot take expired assets out of {}", folder.display())]
    Forget { folder: PathBuf, source: ForgetError },
    #[error("the store does not have all assets of release {release} yet")]
    Incomplete { release: ReleaseNumber },
    #[error("cannot read which assets a release has")]
    Record(#[from] RecordError),
    #[error("cannot remember what was pushed")]
    Remember(#[from] ship_durable::FileError),
    #[error("the store is ending; what was pushed stays, and the rest follows when it is back")]
    Ending,
}

impl From<BucketError> for PushError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::NoKeys => Self::NoKeys,
            BucketError::Refused(refusal @ Refusal::Failed { .. }) => Self::Failed(refusal),
            error => Self::Bucket(error),
        }
    }
}
