//! The list that puts a file together again, and its bytes in a bundle's index.
//!
//! ```text
//! lists      lists u32 | list …                                        ascending by blob
//! list       blob's digest, 32 bytes | size u64 | segments u32 | segment …
//! segment    digest, 32 bytes | length u32
//! ```

use ship_model::digest::BlobDigest;

use super::{LARGE, MAX_SEGMENT, MAX_SEGMENTS};
use crate::index::{IndexError, Reader};

/// A piece of a large file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// BLAKE3 of its bytes.
    pub digest: BlobDigest,
    /// In bytes, at most [`MAX_SEGMENT`].
    pub len: u32,
}

/// A blob's segments, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentList {
    pub blob: BlobDigest,
    /// Of the blob, in bytes.
    pub size: u64,
    pub segments: Vec<Segment>,
}

/// Why a list cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    #[error("the segments of blob {blob} are {found} bytes together, and the blob has {size}")]
    Size { blob: BlobDigest, size: u64, found: u64 },
    #[error("a segment of blob {blob} has {len} bytes; 1 to {MAX_SEGMENT} are allowed")]
    Length { blob: BlobDigest, len: u32 },
    #[error("blob {blob} has {size} bytes, too few for segments")]
    Small { blob: BlobDigest, size: u64 },
    #[error("blob {blob} is a segment of itself")]
    Loop { blob: BlobDigest },
    #[error("blob {blob} is listed twice, or out of order")]
    Order { blob: BlobDigest },
    #[error("more than {MAX_SEGMENTS} segments are listed")]
    TooMany,
}

impl SegmentList {
    /// # Errors
    /// [`ListError`]. That the segments give the blob is not known after that.
    pub fn check(&self) -> Result<(), ListError> {
        let blob = self.blob;
        if self.size <= LARGE {
            return Err(ListError::Small {
                blob,
                size: self.size,
            });
        }
        let mut found = 0_u64;
        for segment in &self.segments {
            if segment.len == 0 || segment.len > MAX_SEGMENT {
                return Err(ListError::Length {
                    blob,
                    len: segment.len,
                });
            }
            if segment.digest == blob {
                return Err(ListError::Loop { blob });
            }
            found += u64::from(segment.len);
        }
        if found != self.size {
            return Err(ListError::Size {
                blob,
                size: self.size,
                found,
            });
        }
        Ok(())
    }

    /// Each segment, and where in the blob it begins.
    pub fn places(&self) -> impl Iterator<Item = (u64, Segment)> {
        self.segments.iter().scan(0_u64, |at, segment| {
            let begins = *at;
            *at += u64::from(segment.len);
            Some((begins, *segment))
        })
    }
}

pub(crate) fn encode_lists(lists: &[SegmentList], out: &mut Vec<u8>) {
    out.extend_from_slice(&(lists.len() as u32).to_le_bytes());
    for list in lists {
        out.extend_from_slice(list.blob.as_bytes());
        out.extend_from_slice(&list.size.to_le_bytes());
        out.extend_from_slice(&(list.segments.len() as u32).to_le_bytes());
        for segment in &list.segments {
            out.extend_from_slice(segment.digest.as_bytes());
            out.extend_from_slice(&segment.len.to_le_bytes());
        }
    }
}

/// A segment is a blob of at most [`MAX_SEGMENT`] bytes and a list's blob has more, so lists cannot go in circles.
pub(crate) fn decode_lists(reader: &mut Reader<'_>) -> Result<Vec<SegmentList>, IndexError> {
    let count = reader.u32()?;
    let mut lists: Vec<SegmentList> = Vec::new();
    let mut left = MAX_SEGMENTS;
    for _ in 0..count {
        let blob = BlobDigest::from_bytes(reader.array()?);
        let (size, segments) = (reader.u64()?, reader.u32()? as usize);
        left = left.checked_sub(segments.max(1)).ok_or(ListError::TooMany)?;
        let mut list = SegmentList {
            blob,
            size,
            segments: Vec::with_capacity(segments.min(reader.left() / 36)),
        };
        for _ in 0..segments {
            list.segments.push(Segment {
                digest: BlobDigest::from_bytes(reader.array()?),
                len: reader.u32()?,
            });
        }
        list.check()?;
        if lists.last().is_some_and(|last| last.blob >= blob) {
            return Err(ListError::Order { blob }.into());
        }
        lists.push(list);
    }
    Ok(lists)
}
