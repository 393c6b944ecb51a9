//! Bundles as the unpacking threads see them: indexes, and frames read by ranges.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use ship_bundle::segments::{Held, gather};
use ship_bundle::{BundleIndex, IndexError};
use ship_model::digest::{BlobDigest, BundleDigest};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::checked::Reader;
use super::lines::Object;
use super::ranges::{RangeError, Span};
use super::{FetchError, Fetcher};

/// Bundles and what lies in each.
pub type Indexed = Vec<(BundleDigest, BundleIndex)>;

/// Reads bundles for threads that block. Ends with an error soon after it is called off.
#[derive(Debug, Clone)]
pub struct BundleSource {
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) runtime: Handle,
    cancel: CancellationToken,
}

impl BundleSource {
    pub const fn new(fetcher: Arc<Fetcher>, runtime: Handle, cancel: CancellationToken) -> Self {
        Self {
            fetcher,
            runtime,
            cancel,
        }
    }

    /// The bundles that hold `blobs`, or list them and hold their segments, each with its index; others than those in `avoid`, which were found to be wrong.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn holding(&self, blobs: &[BlobDigest], avoid: &[BundleDigest]) -> Result<Indexed, FetchError> {
        let locate = |blobs: &[BlobDigest]| {
            let located = self.runtime.block_on(self.fetcher.locate(blobs, avoid))?;
            let held = located.into_iter().map(|(bundle, place)| Held {
                bundle,
                bytes: place.bundle_bytes,
                blobs: place.blobs,
            });
            Ok(held.collect())
        };
        gather(blobs, locate, |bundle, bytes| self.index(bundle, bytes))
    }

    fn index(&self, bundle: BundleDigest, bytes: u64) -> Result<BundleIndex, FetchError> {
        let read = BundleIndex::read(bytes, |offset, len| {
            let mut piece = Vec::new();
            self.range(bundle, offset, len).read_to_end(&mut piece)?;
            Ok(piece)
        });
        read.map_err(|error| index_error(bundle, error))
    }

    /// Bytes `offset..offset + len` of a bundle.
    pub fn range(&self, bundle: BundleDigest, offset: u64, len: u64) -> impl Read + Send + use<> {
        self.bytes(Object::Bundle(bundle), offset..offset.saturating_add(len))
    }

    pub(super) fn bytes(&self, object: Object, range: Range<u64>) -> impl Read + Send + use<> {
        let span = Span {
            object,
            from: range.start,
            to: range.end,
        };
        Reader::new(
            Arc::clone(&self.fetcher),
            self.runtime.clone(),
            self.cancel.clone(),
            span,
        )
    }
}

fn index_error(bundle: BundleDigest, error: io::Error) -> FetchError {
    match error.downcast::<IndexError>() {
        Ok(source) => FetchError::Index { bundle, source },
        Err(error) => match error.downcast::<RangeError>() {
            Ok(source) => FetchError::Bundle { bundle, source },
            Err(other) => FetchError::Bundle {
                bundle,
                source: RangeError::Connect(other),
            },
        },
    }
}
