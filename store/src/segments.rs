//! Large files that the store holds by segments: where those lie, and reading them in order.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use ship_bundle::segments::{Held, ReadListError, gather};
use ship_bundle::stage::BlobSource;
use ship_bundle::{BundleIndex, FrameError};
use ship_model::digest::{BlobDigest, BundleDigest};

use crate::engine::{Blobs, BlobsError, Object, ObjectReader};
use crate::locate::{Places, ReadIndexError, read_index};

/// The indexes of all bundles that `wanted` and the segments of what is listed of it are read from.
///
/// # Errors
/// [`ReadIndexError`]. What lies nowhere is left out.
pub fn gathered(
    blobs: &dyn Blobs,
    places: &Places,
    wanted: &[BlobDigest],
) -> Result<Vec<(BundleDigest, BundleIndex)>, ReadIndexError> {
    let locate = |wanted: &[BlobDigest]| {
        let located = places.locate(wanted, &[]).into_iter();
        let held = located.map(|found| Held {
            bundle: found.bundle,
            bytes: found.bundle_bytes,
            blobs: found.blobs,
        });
        Ok(held.collect())
    };
    gather(wanted, locate, |bundle, _| read_index(blobs, bundle))
}

/// The store's bundles, and one that is on its way in.
#[derive(Debug)]
pub struct StoreSource<'a> {
    pub blobs: &'a dyn Blobs,
    pub incoming: Option<(BundleDigest, &'a File)>,
}

impl<'a> StoreSource<'a> {
    pub const fn of(blobs: &'a dyn Blobs) -> Self {
        Self {
            blobs,
            incoming: None,
        }
    }
}

impl BlobSource for StoreSource<'_> {
    fn frames(&self, bundle: BundleDigest, offset: u64, len: u64) -> io::Result<Box<dyn Read + Send>> {
        let bytes = match self.incoming {
            Some((incoming, file)) if incoming == bundle => Bytes::Incoming(file.try_clone()?),
            _ => Bytes::Kept(
                self.blobs
                    .open(Object::Bundle(bundle))
                    .map_err(io::Error::other)?,
            ),
        };
        Ok(Box::new(Range {
            bytes,
            at: offset,
            end: offset.saturating_add(len),
        }))
    }
}

enum Bytes {
    Incoming(File),
    Kept(Box<dyn ObjectReader>),
}

/// Part of a bundle.
struct Range {
    bytes: Bytes,
    at: u64,
    end: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let buffer = &mut buffer[..most];
        let got = match &self.bytes {
            Bytes::Incoming(file) => file.read_at(buffer, self.at)?,
            Bytes::Kept(reader) => reader.read_at(buffer, self.at)?,
        };
        self.at += got as u64;
        Ok(got)
    }
}

/// The bundle that an error says is damaged, as opposed to one that could not be read now.
pub fn damaged(error: &ReadListError) -> Option<BundleDigest> {
    match error {
        ReadListError::Content { bundle, .. } => Some(*bundle),
        ReadListError::Frame { bundle, source } => match source {
            FrameError::Read(error) if error.kind() != io::ErrorKind::InvalidData => None,
            FrameError::Write(_) => None,
            _ => Some(*bundle),
        },
        _ => None,
    }
}

/// Takes a bundle that turned out to be damaged out of the store's sight, so that what it held is missing and brought again.
///
/// # Errors
/// When it cannot be put aside, or the others cannot be listed.
pub fn put_aside(blobs: &dyn Blobs, places: &Places, bundle: BundleDigest) -> Result<(), BlobsError> {
    tracing::error!(%bundle, "a bundle is damaged and was put into quarantine");
    blobs.quarantine(Object::Bundle(bundle))?;
    places.forget(blobs, bundle)
}
