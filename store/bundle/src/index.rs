//! The index at the end of a bundle: which blob lies where, found from the tail by one ranged read.
//!
//! ```text
//! bundle     data frame …            zstd frames of whole tar members, then one with the archive's end mark
//!            index frame             skippable: magic 0x184D2A5E u32 | length u32 | index | footer
//! index      zstd frame of:  frames u32 | frame … | lists (version 2; see `segments/list.rs`)
//! frame      compressed u64 | raw u64 | blobs u32 | blob …
//! blob       digest, 32 bytes | offset of its content in the raw frame u64 | size u64      ascending, apart
//! footer     data u64 (bytes of all data frames) | index u32 | raw index u32 | "SHIPBDL" | version u8 = 1 or 2
//! ```
//! Integers are little-endian. Frames lie one after another from byte 0, so only their lengths are told, and a frame
//! can neither overlap another nor reach outside. A blob stands once.
//!
//! A bundle is of version 2 when it has [segments](crate::segments), else of version 1. Its files over 8 MiB are cut: the content of a
//! new one goes on over as many frames as it takes, each of whole segments, so that tar still unpacks one file, and a segment is had by
//! reading one frame of 4 MiB; of one that is known in part only the new segments are there, as members of their own. Segments stand in the index as
//! blobs do, where they come first; a frame may hold nothing that was not there before.

use std::collections::HashSet;

use ship_model::digest::BlobDigest;
use ship_model::manifest::MAX_ENTRIES;

use crate::segments::{ListError, MAX_SEGMENTS, SegmentList, decode_lists, encode_lists};
use crate::tarball::MAX_FILE;

/// Bytes of the footer, the last of a bundle.
pub const FOOTER: usize = 24;
/// A tail of this many bytes holds most indexes whole.
pub const TAIL: u64 = 64 << 10;
/// Largest index before compression, in bytes.
pub const MAX_INDEX: usize = 64 << 20;
/// Largest bundle: 1 PiB.
const MAX_BUNDLE: u64 = 1 << 50;
pub(crate) const SKIPPABLE: u32 = 0x184D_2A5E;
const SKIPPABLE_HEAD: usize = 8;
const MAGIC: &[u8; 7] = b"SHIPBDL";
/// Most bytes of a frame of version 2 when decompressed: of such a bundle no reader has to read far for a segment.
pub(crate) const MAX_CUT_FRAME: u64 = 16 << 20;
const INDEX_LEVEL: i32 = 3;

/// Why bytes are not the index of a bundle.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("not a bundle: its last bytes are not a bundle's footer")]
    Footer,
    #[error("the bundle is of version {found}, and this program knows 1 and 2: update it")]
    Version { found: u8 },
    #[error("the bundle's footer contradicts its length of {total} bytes")]
    Length { total: u64 },
    #[error("{got} bytes are given where the bundle's index takes {expected}")]
    Partial { expected: u64, got: usize },
    #[error("the bundle's index does not begin as one")]
    Head,
    #[error("the bundle's index cannot be decompressed")]
    Decompress(#[source] std::io::Error),
    #[error("the bundle's index ends too early or goes on after its end")]
    Size,
    #[error("the bundle's index has more than {MAX_ENTRIES} {what}")]
    TooMany { what: &'static str },
    #[error("the bundle's index is contradictory: {what}")]
    Contradiction { what: &'static str },
    #[error("the bundle's index lists segments that cannot be")]
    List(#[from] ListError),
}

/// Where a bundle's index lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexLocation {
    /// Byte of the bundle at which the index frame begins; all before it are data frames.
    pub offset: u64,
    /// From there to the bundle's end.
    pub len: u64,
    raw: usize,
    version: u8,
}

/// One zstd frame of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Byte of the bundle at which it begins.
    pub offset: u64,
    /// Compressed bytes.
    pub len: u64,
    /// Bytes when decompressed.
    pub raw_len: u64,
    /// Ascending by offset.
    pub blobs: Vec<BlobPlace>,
}

/// One blob's content within a raw frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobPlace {
    pub digest: BlobDigest,
    pub offset: u64,
    pub size: u64,
}

/// What a bundle holds; known to be free of contradictions, not known to be true.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BundleIndex {
    frames: Vec<Frame>,
    lists: Vec<SegmentList>,
}

impl IndexLocation {
    /// Reads the footer from a bundle's last bytes, at least [`FOOTER`] of them; `total` is the bundle's length.
    ///
    /// # Errors
    /// [`IndexError::Footer`] and [`IndexError::Length`].
    pub fn from_tail(tail: &[u8], total: u64) -> Result<Self, IndexError> {
        let footer: &[u8; FOOTER] = tail.last_chunk().ok_or(IndexError::Footer)?;
        let (numbers, magic) = footer.split_at(FOOTER - MAGIC.len() - 1);
        let version = match magic.strip_prefix(MAGIC) {
            Some([version @ 1..=2]) => *version,
            Some([found]) => return Err(IndexError::Version { found: *found }),
            _ => return Err(IndexError::Footer),
        };
        let mut reader = Reader { rest: numbers };
        let (data, index, raw) = (reader.u64()?, reader.u32()?, reader.u32()? as usize);
        let len = (SKIPPABLE_HEAD + FOOTER) as u64 + u64::from(index);
        let whole = data
            .checked_add(len)
            .filter(|sum| *sum == total && total <= MAX_BUNDLE);
        if whole.is_none() || raw > MAX_INDEX || u64::from(index) > 2 * MAX_INDEX as u64 {
            return Err(IndexError::Length { total });
        }
        Ok(Self {
            offset: data,
            len,
            raw,
            version,
        })
    }
}

impl BundleIndex {
    /// Of version 2 when there are lists.
    pub(crate) fn new(frames: Vec<Frame>, lists: Vec<SegmentList>) -> Self {
        Self { frames, lists }
    }

    /// In the bundle's order; the last one holds only the archive's end mark.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The large files that the bundle brought segments of, ascending by blob.
    pub fn lists(&self) -> &[SegmentList] {
        &self.lists
    }

    /// Every blob, and every segment where it stands first, in the bundle's order.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobPlace> {
        self.frames.iter().flat_map(|frame| &frame.blobs)
    }

    /// Only the blobs that are `wanted`, which are sorted, the frames that hold them, and the lists of those that are listed with what is
    /// here of their segments.
    #[must_use]
    pub fn keep(mut self, wanted: &[BlobDigest]) -> Self {
        self.lists.retain(|list| wanted.binary_search(&list.blob).is_ok());
        self.lists.shrink_to_fit();
        let listed = self.lists.iter().flat_map(|list| &list.segments);
        let listed: HashSet<BlobDigest> = listed.map(|segment| segment.digest).collect();
        for frame in &mut self.frames {
            frame
                .blobs
                .retain(|blob| wanted.binary_search(&blob.digest).is_ok() || listed.contains(&blob.digest));
            frame.blobs.shrink_to_fit();
        }
        self.frames.retain(|frame| !frame.blobs.is_empty());
        self.frames.shrink_to_fit();
        self
    }

    /// Bytes of the tar archive when decompressed.
    pub fn raw_bytes(&self) -> u64 {
        self.frames.iter().map(|frame| frame.raw_len).sum()
    }

    /// Reads the index from `bytes`: those of `location`, no more and no fewer.
    ///
    /// # Errors
    /// [`IndexError`]. Memory stays within [`MAX_INDEX`] and what the index truly holds.
    pub fn parse(bytes: &[u8], location: &IndexLocation) -> Result<Self, IndexError> {
        if bytes.len() as u64 != location.len || bytes.len() < SKIPPABLE_HEAD + FOOTER {
            return Err(IndexError::Partial {
                expected: location.len,
                got: bytes.len(),
            });
        }
        let mut head = Reader { rest: bytes };
        let (magic, len) = (head.u32()?, head.u32()?);
        if magic != SKIPPABLE || len as usize != bytes.len() - SKIPPABLE_HEAD {
            return Err(IndexError::Head);
        }
        let packed = &bytes[SKIPPABLE_HEAD..bytes.len() - FOOTER];
        let whole = zstd::zstd_safe::find_frame_compressed_size(packed);
        if whole.ok() != Some(packed.len()) {
            return Err(IndexError::Size);
        }
        let raw = zstd::bulk::decompress(packed, location.raw).map_err(IndexError::Decompress)?;
        if raw.len() != location.raw {
            return Err(IndexError::Size);
        }
        decode(&raw, location.offset, location.version)
    }

    /// Finds and reads the index with `read(offset, length)`, usually in one read of at most [`TAIL`] bytes.
    ///
    /// # Errors
    /// What `read` returns, and [`IndexError`] as its source.
    pub fn read(
        total: u64,
        mut read: impl FnMut(u64, u64) -> std::io::Result<Vec<u8>>,
    ) -> std::io::Result<Self> {
        let invalid = |error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        let from = total.saturating_sub(TAIL);
        let tail = read(from, total - from)?;
        let location = IndexLocation::from_tail(&tail, total).map_err(invalid)?;
        if location.offset >= from {
            let bytes = tail.get((location.offset - from) as usize..).unwrap_or_default();
            return Self::parse(bytes, &location).map_err(invalid);
        }
        let bytes = read(location.offset, location.len)?;
        Self::parse(&bytes, &location).map_err(invalid)
    }

    /// The whole index frame with its footer; none when the index would be too large.
    pub(crate) fn encode(&self) -> std::io::Result<Vec<u8>> {
        let too_large = || std::io::Error::other("the bundle's index would be too large");
        let raw = self.encode_raw();
        if raw.len() > MAX_INDEX {
            return Err(too_large());
        }
        let packed = crate::pack::compress(&raw, INDEX_LEVEL)?;
        let data: u64 = self.frames.iter().map(|frame| frame.len).sum();
        let mut out = SKIPPABLE.to_le_bytes().to_vec();
        let len = u32::try_from(packed.len() + FOOTER).map_err(|_| too_large())?;
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&packed);
        out.extend_from_slice(&data.to_le_bytes());
        out.extend_from_slice(&(len - FOOTER as u32).to_le_bytes());
        out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
        out.extend_from_slice(MAGIC);
        out.push(self.version());
        Ok(out)
    }

    pub(crate) fn version(&self) -> u8 {
        if self.lists.is_empty() { 1 } else { 2 }
    }

    fn encode_raw(&self) -> Vec<u8> {
        let mut raw = (self.frames.len() as u32).to_le_bytes().to_vec();
        for frame in &self.frames {
            raw.extend_from_slice(&frame.len.to_le_bytes());
            raw.extend_from_slice(&frame.raw_len.to_le_bytes());
            raw.extend_from_slice(&(frame.blobs.len() as u32).to_le_bytes());
            for blob in &frame.blobs {
                raw.extend_from_slice(blob.digest.as_bytes());
                raw.extend_from_slice(&blob.offset.to_le_bytes());
                raw.extend_from_slice(&blob.size.to_le_bytes());
            }
        }
        if self.version() == 2 {
            encode_lists(&self.lists, &mut raw);
        }
        raw
    }
}

/// `data`: the bytes that the frames must fill exactly.
fn decode(raw: &[u8], data: u64, version: u8) -> Result<BundleIndex, IndexError> {
    let mut reader = Reader { rest: raw };
    let rules = Rules::of(version);
    let count = reader.u32()?;
    if u64::from(count) > rules.places + 1 {
        return Err(IndexError::TooMany { what: "frames" });
    }
    let mut seen = HashSet::new();
    let mut frames = Vec::with_capacity((count as usize).min(raw.len() / 20));
    let mut offset = 0_u64;
    for number in 0..count {
        let frame = reader.frame(offset, &rules, &mut seen)?;
        let last = number + 1 == count;
        if frame.blobs.is_empty() && !last && !rules.cut || !frame.blobs.is_empty() && last {
            return Err(IndexError::Contradiction {
                what: "every frame but the last holds a blob",
            });
        }
        offset = frame.offset.saturating_add(frame.len);
        frames.push(frame);
    }
    if offset != data || frames.is_empty() {
        return Err(IndexError::Contradiction {
            what: "its frames do not fill the bundle",
        });
    }
    let lists = if rules.cut {
        decode_lists(&mut reader)?
    } else {
        Vec::new()
    };
    if rules.cut && lists.is_empty() {
        return Err(IndexError::Contradiction {
            what: "it is of version 2 and lists no segments",
        });
    }
    if lists.iter().any(|list| seen.contains(&list.blob)) {
        return Err(IndexError::Contradiction {
            what: "a blob is there and listed as well",
        });
    }
    if !reader.rest.is_empty() {
        return Err(IndexError::Size);
    }
    Ok(BundleIndex { frames, lists })
}

/// What differs between the versions.
struct Rules {
    /// Whether files are cut.
    cut: bool,
    /// A tar header stands before each content, 512 bytes at least; none before a segment within a file.
    before: u64,
    raw: u64,
    places: u64,
}

impl Rules {
    const fn of(version: u8) -> Self {
        match version {
            2 => Self {
                cut: true,
                before: 0,
                raw: MAX_CUT_FRAME,
                places: MAX_ENTRIES + MAX_SEGMENTS as u64,
            },
            _ => Self {
                cut: false,
                before: 512,
                raw: 2 * MAX_FILE,
                places: MAX_ENTRIES,
            },
        }
    }
}

pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub const fn of(rest: &'a [u8]) -> Self {
        Self { rest }
    }
}

impl Reader<'_> {
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], IndexError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(IndexError::Size)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u64(&mut self) -> Result<u64, IndexError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, IndexError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Bytes that are not read yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    fn frame(
        &mut self,
        offset: u64,
        rules: &Rules,
        seen: &mut HashSet<BlobDigest>,
    ) -> Result<Frame, IndexError> {
        let (len, raw_len, count) = (self.u64()?, self.u64()?, self.u32()?);
        if len == 0 || len > MAX_BUNDLE || raw_len > rules.raw {
            return Err(IndexError::Contradiction {
                what: "a frame has an impossible length",
            });
        }
        let mut blobs = Vec::with_capacity((count as usize).min(self.rest.len() / 48));
        let mut end = 0;
        for _ in 0..count {
            let blob = BlobPlace {
                digest: BlobDigest::from_bytes(self.array()?),
                offset: self.u64()?,
                size: self.u64()?,
            };
            if !seen.insert(blob.digest) || seen.len() as u64 > rules.places {
                return Err(IndexError::Contradiction {
                    what: "a blob stands twice, or there are too many",
                });
            }
            let apart = blob.offset >= end + rules.before
                && blob.offset <= raw_len
                && blob.size <= raw_len - blob.offset;
            if !apart {
                return Err(IndexError::Contradiction {
                    what: "blobs overlap or lie outside their frame",
                });
            }
            end = blob.offset + blob.size;
            blobs.push(blob);
        }
        Ok(Frame {
            offset,
            len,
            raw_len,
            blobs,
        })
    }
}

#[cfg(test)]
mod tests;
