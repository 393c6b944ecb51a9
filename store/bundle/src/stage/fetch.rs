//! Which ranges of which bundles carry what is missing, and reading several of them at once.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ship_model::digest::{BlobDigest, BundleDigest};

use crate::delta::ApplyError;
use crate::frame::{FrameError, FrameReader};
use crate::index::BundleIndex;

/// Neighbouring frames are read together up to so many compressed bytes; a larger frame is read alone.
const MAX_RANGE: u64 = 16 << 20;
/// Ranges that are read at once. Each takes a zstd window, 8 MiB at most, and small buffers.
const AT_ONCE: usize = 4;
const BUFFER: usize = 256 << 10;

/// Where bundles' bytes come from.
pub trait BlobSource: Sync {
    /// Opens the `len` bytes of the bundle from `offset` on. Called from several threads at once; may block, and the
    /// stream may block and may time out; retries are the source's affair.
    ///
    /// # Errors
    /// Whatever keeps the bytes away; it ends the staging.
    fn frames(&self, bundle: BundleDigest, offset: u64, len: u64) -> io::Result<Box<dyn Read + Send>>;
}

/// One read: frames of one bundle that lie side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRange {
    pub bundle: BundleDigest,
    pub offset: u64,
    /// Compressed bytes.
    pub len: u64,
    /// Which frames of the bundle's index.
    pub frames: Range<usize>,
    /// The missing blobs in them, in the bundle's order.
    pub blobs: Vec<BlobDigest>,
}

/// A missing blob is in none of the bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no known bundle holds blob {digest}")]
pub struct NoBundle {
    pub digest: BlobDigest,
}

/// What must be read to get all of `missing`.
///
/// Bundles that hold more of it are used first; among equals, the earlier one.
///
/// # Errors
/// [`NoBundle`].
pub fn fetch_plan(
    missing: &[BlobDigest],
    bundles: &[(BundleDigest, BundleIndex)],
) -> Result<Vec<FetchRange>, NoBundle> {
    let mut left = Left::new(missing);
    let mut order: Vec<_> = bundles
        .iter()
        .map(|(digest, index)| {
            let held = index.blobs().filter(|blob| left.has(blob.digest)).count();
            (std::cmp::Reverse(held), digest, index)
        })
        .collect();
    order.sort_by_key(|(held, _, _)| *held);
    let mut ranges = Vec::new();
    for (_, digest, index) in order {
        plan_bundle(*digest, index, &mut left, &mut ranges);
    }
    match left.first() {
        None => Ok(ranges),
        Some(digest) => Err(NoBundle { digest }),
    }
}

/// Blobs that nothing gives yet, in 33 bytes each.
struct Left {
    blobs: Vec<BlobDigest>,
    open: Vec<bool>,
}

impl Left {
    fn new(missing: &[BlobDigest]) -> Self {
        let mut blobs = missing.to_vec();
        blobs.sort_unstable();
        blobs.dedup();
        Self {
            open: vec![true; blobs.len()],
            blobs,
        }
    }

    fn has(&self, blob: BlobDigest) -> bool {
        let at = self.blobs.binary_search(&blob).ok();
        at.and_then(|at| self.open.get(at)) == Some(&true)
    }

    /// Whether it was there until now.
    fn take(&mut self, blob: BlobDigest) -> bool {
        let at = self.blobs.binary_search(&blob).ok();
        at.and_then(|at| self.open.get_mut(at))
            .is_some_and(std::mem::take)
    }

    fn first(self) -> Option<BlobDigest> {
        let mut open = self.blobs.into_iter().zip(self.open);
        open.find(|(_, open)| *open).map(|(blob, _)| blob)
    }
}

fn plan_bundle(bundle: BundleDigest, index: &BundleIndex, left: &mut Left, ranges: &mut Vec<FetchRange>) {
    for (number, frame) in index.frames().iter().enumerate() {
        let taken = frame.blobs.iter().filter(|blob| left.take(blob.digest));
        let blobs: Vec<_> = taken.map(|blob| blob.digest).collect();
        if blobs.is_empty() {
            continue;
        }
        match ranges.last_mut() {
            Some(last)
                if last.bundle == bundle
                    && last.frames.end == number
                    && last.offset + last.len == frame.offset
                    && last.len + frame.len <= MAX_RANGE =>
            {
                last.frames.end += 1;
                last.len += frame.len;
                last.blobs.extend(blobs);
            }
            _ => ranges.push(FetchRange {
                bundle,
                offset: frame.offset,
                len: frame.len,
                frames: number..number + 1,
                blobs,
            }),
        }
    }
}

/// Why fetching stopped.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot fetch from bundle {bundle}")]
    Source { bundle: BundleDigest, source: io::Error },
    #[error("bundle {bundle} does not hold what its index says")]
    Frame {
        bundle: BundleDigest,
        source: FrameError,
    },
    #[error("blob {digest} from bundle {bundle} has other bytes than its digest says")]
    Content {
        bundle: BundleDigest,
        digest: BlobDigest,
    },
    #[error("cannot fetch the delta")]
    DeltaSource(#[source] io::Error),
    #[error("the delta from {base} gives nothing")]
    Delta { base: String, source: ApplyError },
    #[error("blob {digest} from the delta from {base} has other bytes than its digest says")]
    DeltaContent { base: String, digest: BlobDigest },
}

impl FetchError {
    pub(super) fn wrong_bundle(&self) -> Option<BundleDigest> {
        match self {
            Self::Content { bundle, .. } => Some(*bundle),
            Self::Frame { bundle, source } => match source {
                // The bytes stayed away; that says nothing about them. A decoder's complaint is about them.
                FrameError::Read(error) if error.kind() != io::ErrorKind::InvalidData => None,
                FrameError::Write(_) => None,
                _ => Some(*bundle),
            },
            Self::Source { .. } | Self::DeltaSource(_) | Self::Delta { .. } | Self::DeltaContent { .. } => {
                None
            }
        }
    }

    /// Whether a delta did not give what it should; bundles may.
    pub(super) const fn is_delta(&self) -> bool {
        matches!(
            self,
            Self::DeltaSource(_) | Self::Delta { .. } | Self::DeltaContent { .. }
        )
    }
}

/// Why a blob's bytes did not come.
pub(crate) enum ContentError {
    /// What took them could not write them.
    Write(io::Error),
    Fetch(FetchError),
}

/// Hands a blob's bytes, piece by piece, to what it is called with.
pub(crate) type Content<'a> =
    dyn FnMut(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), ContentError> + 'a;

/// What takes the blobs; called from several threads, never twice for one blob.
pub(crate) trait Sink: Sync {
    type Error: From<FetchError> + Send;
    /// Must call `content` once to get the blob's bytes, piece by piece; `wrong` says that they are others than the
    /// digest says.
    fn blob(
        &self,
        digest: BlobDigest,
        size: u64,
        content: &mut Content<'_>,
        wrong: &dyn Fn() -> FetchError,
    ) -> Result<(), Self::Error>;
}

/// Reads all ranges, several at once; the first failure stops the others after their current blob.
pub(crate) fn fetch<S: Sink>(
    ranges: &[FetchRange],
    bundles: &[(BundleDigest, BundleIndex)],
    source: &dyn BlobSource,
    sink: &S,
) -> Result<(), S::Error> {
    let indexes: HashMap<BundleDigest, &BundleIndex> = bundles.iter().map(|(d, i)| (*d, i)).collect();
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(ranges.len()) {
            scope.spawn(|| {
                while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(index) = indexes.get(&range.bundle) else {
                        continue;
                    };
                    if let Err(error) = read_range(range, index, source, sink) {
                        next.store(ranges.len(), Ordering::Relaxed);
                        if let Ok(mut first) = failure.lock() {
                            first.get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(poisoned) => poisoned.into_inner().map_or(Ok(()), Err),
    }
}

fn read_range<S: Sink>(
    range: &FetchRange,
    index: &BundleIndex,
    source: &dyn BlobSource,
    sink: &S,
) -> Result<(), S::Error> {
    let bundle = range.bundle;
    let opened = source.frames(bundle, range.offset, range.len);
    let opened = opened.map_err(|source| FetchError::Source { bundle, source })?;
    let mut input = BufReader::with_capacity(BUFFER, opened.take(range.len));
    let mut wanted = range.blobs.iter().peekable();
    let damaged = |source| FetchError::Frame { bundle, source };
    for frame in index.frames().get(range.frames.clone()).unwrap_or_default() {
        let mut reader = FrameReader::new(&mut input, frame).map_err(damaged)?;
        for blob in &frame.blobs {
            // Both are in the bundle's order.
            if wanted.next_if(|next| **next == blob.digest).is_none() {
                continue;
            }
            let digest = blob.digest;
            let mut content = |piece: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
                reader.blob(blob, piece).map_err(|error| match error {
                    FrameError::Write(error) => ContentError::Write(error),
                    source => ContentError::Fetch(FetchError::Frame { bundle, source }),
                })
            };
            let wrong = || FetchError::Content { bundle, digest };
            sink.blob(digest, blob.size, &mut content, &wrong)?;
        }
        reader.finish().map_err(damaged)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use crate::index::{BlobPlace, Frame};

    fn blob(name: u8) -> BlobDigest {
        BlobDigest::of(&[name])
    }

    /// A bundle of frames of `len` compressed bytes, each with these blobs.
    fn bundle(name: u8, len: u64, frames: &[&[u8]]) -> (BundleDigest, BundleIndex) {
        let frames = frames.iter().enumerate().map(|(number, blobs)| Frame {
            offset: number as u64 * len,
            len,
            raw_len: 4096,
            blobs: blobs
                .iter()
                .map(|name| BlobPlace {
                    digest: blob(*name),
                    offset: 512,
                    size: 1,
                })
                .collect(),
        });
        (
            BundleDigest::of(&[name]),
            BundleIndex::new(frames.collect(), Vec::new()),
        )
    }

    fn plan(missing: &[u8], bundles: &[(BundleDigest, BundleIndex)]) -> Vec<(u64, u64, usize)> {
        let missing: Vec<_> = missing.iter().copied().map(blob).collect();
        let ranges = fetch_plan(&missing, bundles).unwrap();
        let short = |range: &FetchRange| (range.offset, range.len, range.blobs.len());
        ranges.iter().map(short).collect()
    }

    #[test]
    fn neighbouring_frames_are_read_together_and_others_not_at_all() {
        let bundles = [bundle(1, 100, &[&[1, 2], &[3], &[4], &[5], &[]])];
        assert_eq!(plan(&[], &bundles), []);
        assert_eq!(plan(&[2], &bundles), [(0, 100, 1)]);
        assert_eq!(plan(&[5, 1, 3], &bundles), [(0, 200, 2), (300, 100, 1)]);
        assert_eq!(plan(&[1, 2, 3, 4, 5], &bundles), [(0, 400, 5)]);
    }

    #[test]
    fn an_index_that_was_thinned_out_plans_the_same() {
        let (name, whole) = bundle(1, 100, &[&[1, 2], &[3], &[4], &[5], &[]]);
        for wanted in [&[2][..], &[5, 1, 3], &[1, 4], &[1, 2, 3, 4, 5]] {
            let mut digests: Vec<_> = wanted.iter().copied().map(blob).collect();
            digests.sort_unstable();
            let kept = whole.clone().keep(&digests);
            assert_eq!(kept.blobs().count(), wanted.len());
            assert_eq!(
                plan(wanted, &[(name, kept)]),
                plan(wanted, &[(name, whole.clone())])
            );
        }
    }

    #[test]
    fn a_range_is_bounded() {
        let bundles = [bundle(1, 7 << 20, &[&[1], &[2], &[3], &[]])];
        assert_eq!(
            plan(&[1, 2, 3], &bundles),
            [(0, 14 << 20, 2), (14 << 20, 7 << 20, 1)]
        );
        let bundles = [bundle(1, 100 << 20, &[&[1], &[2], &[]])];
        assert_eq!(plan(&[1, 2], &bundles).len(), 2);
    }

    #[test]
    fn the_bundle_that_has_most_is_used_first_and_each_blob_is_read_once() {
        let bundles = [
            bundle(1, 100, &[&[1], &[2], &[]]),
            bundle(2, 200, &[&[1, 2, 3], &[]]),
            bundle(3, 300, &[&[3, 4], &[]]),
        ];
        assert_eq!(plan(&[1, 2, 3, 4], &bundles), [(0, 200, 3), (0, 300, 1)]);
        let absent = fetch_plan(&[blob(9), blob(1)], &bundles);
        assert_eq!(absent, Err(NoBundle { digest: blob(9) }));
    }
}
