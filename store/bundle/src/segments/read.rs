//! A listed blob's bytes in their order, from wherever its segments lie.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};

use ship_model::digest::{BlobDigest, BundleDigest};

use super::{Segment, SegmentList};
use crate::frame::{FrameError, FrameReader};
use crate::index::{BlobPlace, BundleIndex, Frame};
use crate::stage::BlobSource;

const BUFFER: usize = 256 << 10;

/// Why a listed blob cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadListError {
    #[error("no known bundle holds segment {digest}")]
    Nowhere { digest: BlobDigest },
    #[error("cannot read bundle {bundle}")]
    Source { bundle: BundleDigest, source: io::Error },
    #[error("bundle {bundle} does not hold what its index says")]
    Frame {
        bundle: BundleDigest,
        source: FrameError,
    },
    #[error("segment {digest} from bundle {bundle} has other bytes than its digest says")]
    Content {
        bundle: BundleDigest,
        digest: BlobDigest,
    },
    #[error("the segments listed for blob {blob} do not give it")]
    Blob { blob: BlobDigest },
    #[error("cannot take what is read")]
    Write(#[source] io::Error),
}

/// Hands the blob's bytes to `sink`, segment by segment, each checked before, and all of them together after the last.
///
/// Memory: one segment and one zstd window.
///
/// # Errors
/// [`ReadListError`].
pub fn read_listed(
    list: &SegmentList,
    bundles: &[(BundleDigest, BundleIndex)],
    source: &dyn BlobSource,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ReadListError> {
    let mut reading = Reading {
        places: places(list, bundles),
        source,
        open: None,
        bytes: Vec::new(),
    };
    let mut whole = blake3::Hasher::new();
    for segment in &list.segments {
        reading.read(segment)?;
        whole.update(&reading.bytes);
        sink(&reading.bytes).map_err(ReadListError::Write)?;
    }
    if BlobDigest::from(whole.finalize()) != list.blob {
        return Err(ReadListError::Blob { blob: list.blob });
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct At<'a> {
    bundle: BundleDigest,
    frame: &'a Frame,
    place: BlobPlace,
}

fn places<'a>(list: &SegmentList, bundles: &'a [(BundleDigest, BundleIndex)]) -> HashMap<BlobDigest, At<'a>> {
    let wanted: std::collections::HashSet<_> = list.segments.iter().map(|segment| segment.digest).collect();
    let mut places = HashMap::with_capacity(wanted.len());
    for (bundle, index) in bundles {
        for frame in index.frames() {
            for place in frame.blobs.iter().filter(|place| wanted.contains(&place.digest)) {
                places.entry(place.digest).or_insert(At {
                    bundle: *bundle,
                    frame,
                    place: *place,
                });
            }
        }
    }
    places
}

type OpenFrame<'a> = FrameReader<'a, BufReader<Box<dyn Read + Send>>>;

struct Reading<'a> {
    places: HashMap<BlobDigest, At<'a>>,
    source: &'a dyn BlobSource,
    /// The frame that was read last: what follows usually lies behind it.
    open: Option<(BundleDigest, OpenFrame<'a>)>,
    bytes: Vec<u8>,
}

impl<'a> Reading<'a> {
    /// Leaves the segment's bytes in `bytes`.
    fn read(&mut self, segment: &Segment) -> Result<(), ReadListError> {
        let digest = segment.digest;
        let at = *self
            .places
            .get(&digest)
            .filter(|at| at.place.size == u64::from(segment.len))
            .ok_or(ReadListError::Nowhere { digest })?;
        let bundle = at.bundle;
        let broken = |source| ReadListError::Frame { bundle, source };
        let mut reader = match self.open.take() {
            Some((open, reader)) if open == bundle && reader.is_before(at.frame, &at.place) => reader,
            _ => self.opened(&at)?,
        };
        self.bytes.clear();
        let bytes = &mut self.bytes;
        reader
            .blob(&at.place, |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })
            .map_err(broken)?;
        self.open = Some((bundle, reader));
        if BlobDigest::of(&self.bytes) != digest {
            return Err(ReadListError::Content { bundle, digest });
        }
        Ok(())
    }

    fn opened(&self, at: &At<'a>) -> Result<OpenFrame<'a>, ReadListError> {
        let bundle = at.bundle;
        let opened = self.source.frames(bundle, at.frame.offset, at.frame.len);
        let opened = opened.map_err(|source| ReadListError::Source { bundle, source })?;
        FrameReader::new(BufReader::with_capacity(BUFFER, opened), at.frame)
            .map_err(|source| ReadListError::Frame { bundle, source })
    }
}
