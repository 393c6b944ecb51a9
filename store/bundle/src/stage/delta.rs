//! Blobs out of a delta, against a release that lies on this host.

use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ship_model::digest::BlobDigest;

use super::fetch::{ContentError, FetchError, Sink};
use super::staged::StagedRelease;
use super::supply::{Groups, Supply};
use crate::delta::{ApplyError, BlobBytes, DeltaBlobs, DeltaIndex, Part};

/// Parts that are read at once, as long as both together stay within [`AT_ONCE_BYTES`].
const AT_ONCE: usize = 2;
/// Bytes that the frames being decoded, and what lies before them, may take.
const AT_ONCE_BYTES: u64 = 96 << 20;
const BUFFER: usize = 256 << 10;

/// Where a delta's bytes come from.
pub trait DeltaSource: Sync {
    /// Opens these bytes of the delta. Called from several threads at once; may block, and the stream may.
    ///
    /// # Errors
    /// Whatever keeps the bytes away: then bundles are read.
    fn bytes(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>>;
}

/// A delta that leads to the release that is staged.
#[derive(Clone, Copy)]
pub struct DeltaTask<'a> {
    /// Parsed against the manifests of `base` and of the release that is staged.
    pub index: &'a DeltaIndex,
    /// The release that it is made against; one of the donors or not.
    pub base: &'a StagedRelease,
    pub source: &'a dyn DeltaSource,
}

impl std::fmt::Debug for DeltaTask<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaTask")
            .field("base", &self.base.folder())
            .finish_non_exhaustive()
    }
}

impl DeltaTask<'_> {
    /// Takes out of `missing` what the delta gives.
    pub fn spare(&self, missing: &mut Vec<BlobDigest>) {
        let mut given: Vec<BlobDigest> = self.index.blobs().collect();
        given.sort_unstable();
        missing.retain(|blob| given.binary_search(blob).is_err());
    }

    /// Bytes that are to be read of it for what it gives of `missing`, which is sorted.
    pub fn cost(&self, missing: &[BlobDigest]) -> u64 {
        let mut parts = self.index.parts();
        parts.retain(|part| {
            let mut blobs = self.index.blobs_of(part);
            blobs.any(|blob| missing.binary_search(&blob).is_ok())
        });
        let ranges = parts.iter().map(|part| self.index.range(part));
        ranges.map(|range| range.end - range.start).sum()
    }

    /// Hands what is to be fetched to `sink`; gives the bytes that were asked for.
    pub(super) fn fetch<S: Sink>(&self, groups: &Groups<'_>, sink: &S) -> Result<u64, S::Error> {
        let wanted = |blob: BlobDigest| {
            let group = groups.find(blob);
            group.is_some_and(|group| matches!(group.supply, Supply::Fetch))
        };
        let mut parts = self.index.parts();
        parts.retain(|part| self.index.blobs_of(part).any(wanted));
        let files = Files::of(self.base);
        let threads = if self.index.memory() * AT_ONCE as u64 <= AT_ONCE_BYTES {
            AT_ONCE
        } else {
            1
        };
        let (next, asked) = (AtomicUsize::new(0), AtomicU64::new(0));
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads.min(parts.len()) {
                scope.spawn(|| {
                    while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let range = self.index.range(part);
                        asked.fetch_add(range.end - range.start, Ordering::Relaxed);
                        if let Err(error) = self.part(part, &files, &wanted, sink) {
                            next.store(parts.len(), Ordering::Relaxed);
                            if let Ok(mut first) = failure.lock() {
                                first.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        match failure
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
        {
            None => Ok(asked.into_inner()),
            Some(error) => Err(error),
        }
    }

    fn part<S: Sink>(
        &self,
        part: &Part,
        files: &Files<'_>,
        wanted: &impl Fn(BlobDigest) -> bool,
        sink: &S,
    ) -> Result<(), S::Error> {
        let opened = self
            .source
            .bytes(self.index.range(part))
            .map_err(FetchError::DeltaSource)?;
        let input = BufReader::with_capacity(BUFFER, opened);
        let mut blobs = DeltaBlobs::new(self.index, part, input, self.base.manifest(), files);
        let base = || self.base.folder().to_owned();
        while let Some((digest, size)) = blobs.next_blob() {
            if !wanted(digest) {
                blobs.content(|_| Ok(())).map_err(|source| told(source, base()))?;
                continue;
            }
            let mut content = |piece: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
                blobs.content(piece).map_err(|error| match error {
                    ApplyError::Write(error) => ContentError::Write(error),
                    source => ContentError::Fetch(told(source, base())),
                })
            };
            let wrong = || FetchError::DeltaContent { base: base(), digest };
            sink.blob(digest, size, &mut content, &wrong)?;
        }
        Ok(())
    }
}

/// Bytes that stayed away are the source's affair.
fn told(error: ApplyError, base: String) -> FetchError {
    match error {
        ApplyError::Read(source) => FetchError::DeltaSource(source),
        source => FetchError::Delta { base, source },
    }
}

/// The files of the release that the delta is made against.
struct Files<'a> {
    release: &'a StagedRelease,
    order: Vec<u32>,
}

impl<'a> Files<'a> {
    fn of(release: &'a StagedRelease) -> Self {
        Self {
            release,
            order: release.by_content(),
        }
    }
}

impl BlobBytes for Files<'_> {
    fn read_at(&self, blob: BlobDigest, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let having = |executable| self.release.having(&self.order, blob, executable).first();
        let place = having(false)
            .or_else(|| having(true))
            .ok_or(io::ErrorKind::NotFound)?;
        crate::delta::read_entry(
            self.release.root(),
            self.release.manifest(),
            *place,
            offset,
            buffer,
        )
    }
}
