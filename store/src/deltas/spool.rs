//! Blobs out of bundles into one file without a name that lasts, where a maker of deltas reads them at any place.

use std::collections::HashSet;
use std::io::{self, BufReader, Write};
use std::os::unix::fs::FileExt;

use ship_bundle::delta::BlobBytes;
use ship_bundle::segments::{ReadListError, read_listed};
use ship_bundle::{FrameError, FrameReader};
use ship_model::digest::{BlobDigest, BundleDigest};

use crate::engine::{Blobs, BlobsError, Object, Slice, Staged};
use crate::locate::{Places, ReadIndexError, read_index};
use crate::segments::{StoreSource, gathered};

/// Bytes after which it is asked again whether the disk has room.
const ROOM_STEP: u64 = 64 << 20;

/// Why blobs could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("{count} blobs lie in no bundle")]
    Missing { count: usize },
    #[error("cannot read a bundle")]
    Index(#[from] ReadIndexError),
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    #[error("cannot put blob {blob} together")]
    List { blob: BlobDigest, source: ReadListError },
    #[error("cannot read bundle {bundle}")]
    Bundle {
        bundle: BundleDigest,
        source: FrameError,
    },
}

/// Blobs, one after another.
#[derive(Debug)]
pub(super) struct Spool {
    staged: Staged,
    /// Sorted by digest, with where each begins.
    places: Vec<(BlobDigest, u64)>,
}

impl Spool {
    /// Reads each frame that holds something of `wanted` once.
    pub fn fill(blobs: &dyn Blobs, places: &Places, wanted: &[BlobDigest]) -> Result<Self, SpoolError> {
        let mut left: HashSet<BlobDigest> = wanted.iter().copied().collect();
        let mut spool = Self {
            staged: blobs.stage()?,
            places: Vec::with_capacity(left.len()),
        };
        let mut asked_at = 0;
        for located in places.locate(wanted, &[]) {
            let bundle = located.bundle;
            let broken = |source| SpoolError::Bundle { bundle, source };
            let index = read_index(blobs, bundle)?;
            let reader = blobs.open(Object::Bundle(bundle))?;
            for frame in index.frames() {
                if !frame.blobs.iter().any(|place| left.contains(&place.digest)) {
                    continue;
                }
                let input = BufReader::new(Slice::of(reader.as_ref(), frame));
                let mut frames = FrameReader::new(input, frame).map_err(broken)?;
                for place in &frame.blobs {
                    if !left.remove(&place.digest) {
                        continue;
                    }
                    spool.places.push((place.digest, spool.staged.len()));
                    frames
                        .blob(place, |piece| spool.staged.write_all(piece))
                        .map_err(broken)?;
                }
                if spool.staged.len() >= asked_at + ROOM_STEP {
                    asked_at = spool.staged.len();
                    blobs.room()?;
                }
            }
            for list in index.lists() {
                if !left.remove(&list.blob) {
                    continue;
                }
                blobs.room()?;
                spool.places.push((list.blob, spool.staged.len()));
                let bundles = gathered(blobs, places, &[list.blob])?;
                let source = StoreSource::of(blobs);
                let read = read_listed(list, &bundles, &source, |piece| spool.staged.write_all(piece));
                read.map_err(|source| SpoolError::List {
                    blob: list.blob,
                    source,
                })?;
            }
        }
        spool.places.sort_unstable();
        match left.len() {
            0 => Ok(spool),
            count => Err(SpoolError::Missing { count }),
        }
    }
}

impl BlobBytes for Spool {
    fn read_at(&self, blob: BlobDigest, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let at = self.places.binary_search_by_key(&blob, |(digest, _)| *digest);
        let (_, begins) = at
            .ok()
            .and_then(|at| self.places.get(at))
            .ok_or(io::ErrorKind::NotFound)?;
        self.staged.file().read_exact_at(buffer, begins + offset)
    }
}
