//! Why a release was not staged, and whether another try may help.

use ship_bundle::stage::{FetchError as BlobError, KeptError, StageError};
use ship_model::digest::BundleDigest;
use thiserror::Error;

use crate::fetch::{FetchError, RangeError};
use crate::keeper::IntentError;
use crate::layout::PrepareError;

/// Why a release was not staged; nothing is switched and `current` is as it was.
#[derive(Debug, Error)]
pub enum StagingError {
    #[error("cannot fetch release {release}")]
    Fetch { release: String, source: FetchError },
    #[error("release {release} is of app {is}")]
    OtherApp { release: String, is: String },
    #[error("release {release} cannot run on this host")]
    Unfit { release: String, source: IntentError },
    #[error("cannot stage release {release}")]
    Stage {
        release: String,
        source: Box<StageError>,
    },
    #[error("cannot use what an earlier try of release {release} left")]
    Kept { release: String, source: Box<KeptError> },
    #[error("cannot prepare release {release}")]
    Prepare { release: String, source: PrepareError },
}

impl StagingError {
    /// The step it is told under.
    pub const fn step(&self) -> &'static str {
        match self {
            Self::Fetch { .. } => "fetch",
            _ => "stage",
        }
    }

    /// The bundle that does not hold what it should.
    pub(super) fn wrong_bundle(&self) -> Option<BundleDigest> {
        match self {
            Self::Stage { source, .. } => source.wrong_bundle(),
            Self::Fetch {
                source: FetchError::Index { bundle, .. },
                ..
            } => Some(*bundle),
            _ => None,
        }
    }

    /// A bundle that the store told of is not there: it was let go meanwhile, and what it held lies elsewhere.
    pub(super) fn gone_bundle(&self) -> bool {
        transfer(self).is_some_and(RangeError::is_absent)
    }

    pub(super) fn failed_delta(&self) -> bool {
        matches!(self, Self::Stage { source, .. } if source.failed_delta())
    }

    /// Whether trying again later may help by itself.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => source.is_transient(),
            Self::Stage { source, .. } => broken_transfer(source),
            Self::OtherApp { .. } | Self::Unfit { .. } | Self::Kept { .. } | Self::Prepare { .. } => false,
        }
    }
}

/// A bundle's bytes that stayed away, as opposed to wrong ones or a full disk.
fn broken_transfer(error: &StageError) -> bool {
    transfer(error).is_some_and(RangeError::is_transient)
}

/// What kept a bundle's bytes away, if that was it.
fn transfer<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a RangeError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(BlobError::Content { .. }) = error.downcast_ref() {
            return None;
        }
        let told = error
            .downcast_ref::<std::io::Error>()
            .and_then(RangeError::within);
        if let Some(range) = told.or_else(|| error.downcast_ref()) {
            return Some(range);
        }
        next = error.source();
    }
    None
}
