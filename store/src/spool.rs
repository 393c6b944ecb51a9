//! Blobs out of bundles into one file without a name that lasts, where whoever works with them reads them at any place.

use std::collections::HashSet;
use std::io::{self, BufReader, Write};
use std::os::unix::fs::FileExt;

use ship_bundle::delta::BlobBytes;
use ship_bundle::segments::{ReadListError, read_listed};
use ship_bundle::{BundleIndex, Frame, FrameError, FrameReader};
use ship_model::digest::{BlobDigest, BundleDigest};

use crate::engine::{Blobs, BlobsError, Object, ObjectReader, Slice, Staged};
use crate::locate::{Places, ReadIndexError, read_index};
use crate::segments::{StoreSource, gathered, put_aside};

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
    /// It was put into quarantine.
    #[error(
        "bundle {bundle} has other bytes for blob {blob} than its digest says: publish its release again"
    )]
    Content { bundle: BundleDigest, blob: BlobDigest },
}

/// Blobs, one after another, each as its digest says.
#[derive(Debug)]
pub(crate) struct Spool {
    staged: Staged,
    /// Sorted by digest once it is [`ready`](Spool::ready), with where each begins.
    places: Vec<(BlobDigest, u64)>,
    asked_at: u64,
}

impl Spool {
    pub fn new(blobs: &dyn Blobs) -> Result<Self, BlobsError> {
        Ok(Self {
            staged: blobs.stage()?,
            places: Vec::new(),
            asked_at: 0,
        })
    }

    /// What bundles carry; reads each frame that holds something of `wanted` once.
    pub fn fill(blobs: &dyn Blobs, places: &Places, wanted: &[BlobDigest]) -> Result<Self, SpoolError> {
        let mut left: HashSet<BlobDigest> = wanted.iter().copied().collect();
        let mut spool = Self::new(blobs)?;
        for located in places.locate(wanted, &[]) {
            let bundle = located.bundle;
            let index = read_index(blobs, bundle)?;
            let reader = blobs.open(Object::Bundle(bundle))?;
            for frame in index.frames() {
                if frame.blobs.iter().any(|place| left.contains(&place.digest)) {
                    let taken = spool.frame(bundle, frame, reader.as_ref(), &mut left);
                    if let Err(SpoolError::Content { .. }) = taken {
                        put_aside(blobs, places, bundle)?;
                    }
                    taken?;
                    spool.room(blobs)?;
                }
            }
            spool.listed(blobs, places, &index, &mut left)?;
        }
        match left.len() {
            0 => Ok(spool.ready()),
            count => Err(SpoolError::Missing { count }),
        }
    }

    /// Takes what of `wanted` a damaged bundle, whose index is `index`, still gives, or lists and others give.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn rescue(
        blobs: &dyn Blobs,
        places: &Places,
        (bundle, index): (BundleDigest, &BundleIndex),
        wanted: &HashSet<BlobDigest>,
    ) -> Result<Self, SpoolError> {
        let mut left = wanted.clone();
        let mut spool = Self::new(blobs)?;
        let reader = blobs.open(Object::Bundle(bundle))?;
        for frame in index.frames() {
            if !frame.blobs.iter().any(|place| left.contains(&place.digest)) {
                continue;
            }
            spool.room(blobs)?;
            let input = BufReader::new(Slice::of(reader.as_ref(), frame));
            let Ok(mut frames) = FrameReader::new(input, frame) else {
                continue;
            };
            for place in &frame.blobs {
                let blob = place.digest;
                if !left.contains(&blob) {
                    continue;
                }
                match spool.add(blob, |sink| frames.blob(place, sink)) {
                    Ok(true) => drop(left.remove(&blob)),
                    Ok(false) => {}
                    Err(FrameError::Write(source)) => {
                        let source = FrameError::Write(source);
                        return Err(SpoolError::Bundle { bundle, source });
                    }
                    // The rest of the frame cannot be had.
                    Err(_) => break,
                }
            }
        }
        // Large files lie in several bundles, and may be listed in others.
        for blob in places.listed(&left.iter().copied().collect::<Vec<_>>()) {
            spool.room(blobs)?;
            let gathered = gathered(blobs, places, &[blob])?;
            let source = StoreSource::of(blobs);
            for (_, index) in &gathered {
                let list = index.lists().iter().find(|list| list.blob == blob);
                let mut read = |list| spool.add(blob, |sink| read_listed(list, &gathered, &source, sink));
                // One that cannot be read whole is lost here.
                if let Some(list) = list
                    && matches!(read(list), Ok(true))
                {
                    break;
                }
            }
        }
        Ok(spool.ready())
    }

    /// The blobs that lie here.
    pub fn blobs(&self) -> impl Iterator<Item = BlobDigest> {
        self.places.iter().map(|(blob, _)| *blob)
    }

    fn frame(
        &mut self,
        bundle: BundleDigest,
        frame: &Frame,
        reader: &dyn ObjectReader,
        left: &mut HashSet<BlobDigest>,
    ) -> Result<(), SpoolError> {
        let broken = |source| SpoolError::Bundle { bundle, source };
        let mut frames = FrameReader::new(BufReader::new(Slice::of(reader, frame)), frame).map_err(broken)?;
        for place in &frame.blobs {
            let blob = place.digest;
            if left.remove(&blob) && !self.add(blob, |sink| frames.blob(place, sink)).map_err(broken)? {
                return Err(SpoolError::Content { bundle, blob });
            }
        }
        Ok(())
    }

    fn listed(
        &mut self,
        blobs: &dyn Blobs,
        places: &Places,
        index: &BundleIndex,
        left: &mut HashSet<BlobDigest>,
    ) -> Result<(), SpoolError> {
        for list in index.lists() {
            let blob = list.blob;
            if !left.remove(&blob) {
                continue;
            }
            self.room(blobs)?;
            let bundles = gathered(blobs, places, &[blob])?;
            let source = StoreSource::of(blobs);
            // Its digest is compared by who reads it.
            self.add(blob, |sink| read_listed(list, &bundles, &source, sink))
                .map_err(|source| SpoolError::List { blob, source })?;
        }
        Ok(())
    }

    /// Adds what `give` hands over as `blob`; false when those are other bytes than its digest says.
    pub fn add<E>(
        &mut self,
        blob: BlobDigest,
        give: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let begins = self.staged.len();
        let mut hasher = blake3::Hasher::new();
        let staged = &mut self.staged;
        give(&mut |piece| {
            hasher.update(piece);
            staged.write_all(piece)
        })?;
        let is_it = BlobDigest::from(hasher.finalize()) == blob;
        if is_it {
            self.places.push((blob, begins));
        }
        Ok(is_it)
    }

    /// Asks now and then whether the disk has room.
    pub fn room(&mut self, blobs: &dyn Blobs) -> Result<(), BlobsError> {
        if self.staged.len() >= self.asked_at + ROOM_STEP {
            self.asked_at = self.staged.len();
            blobs.room()?;
        }
        Ok(())
    }

    /// To be read from now on.
    pub fn ready(mut self) -> Self {
        self.places.sort_unstable();
        self
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
