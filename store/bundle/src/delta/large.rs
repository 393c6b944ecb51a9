//! A large file against the old one: chunks that both have are named, what lies between them is coded against what lay
//! there before.

use std::collections::HashMap;
use std::io;

use fastcdc::v2020::{Normalization, StreamCDC};
use ship_model::digest::BlobDigest;

use super::index::{Piece, Span};
use super::matching::Known;
use super::source::{BlobBytes, Stream};
use super::{MAX_PREFIX, MAX_RAW};

/// Sizes of the chunks. Nobody but the maker of a delta knows them: other ones give other deltas, all of them good.
const MIN: usize = 4 << 10;
const AVERAGE: usize = 16 << 10;
const MAX: usize = 64 << 10;
/// New bytes coded in one frame, and old ones before them.
const FRAME: u64 = MAX_RAW / 2;
const BEFORE: u64 = MAX_PREFIX / 2;
/// Old bytes around a changed run that it is coded against, at most as many again as it has.
const AROUND: u64 = 64 << 10;

/// New bytes of the file, and where they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub offset: u64,
    pub len: u64,
}

/// New bytes that are coded together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RunGroup {
    pub runs: Vec<Run>,
    pub prefix: Vec<Span>,
}

/// How a large file is put together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub pieces: Vec<Piece>,
    pub groups: Vec<RunGroup>,
}

struct Chunk {
    offset: u64,
    len: u64,
    mark: [u8; 16],
}

/// Cuts the blob, and gives the digest of what was read.
fn chunks(bytes: &dyn BlobBytes, blob: &Known, mut each: impl FnMut(Chunk)) -> io::Result<BlobDigest> {
    let stream = Stream::new(bytes, blob.digest, 0..blob.size);
    let stream = io::BufReader::with_capacity(4 << 20, stream);
    let mut hasher = blake3::Hasher::new();
    for chunk in StreamCDC::with_level(stream, MIN, AVERAGE, MAX, Normalization::Level1) {
        let chunk = chunk.map_err(io::Error::other)?;
        hasher.update(&chunk.data);
        let mut mark = [0; 16];
        mark.copy_from_slice(&blake3::hash(&chunk.data).as_bytes()[..16]);
        each(Chunk {
            offset: chunk.offset,
            len: chunk.length as u64,
            mark,
        });
    }
    Ok(hasher.finalize().into())
}

/// Why a large file cannot be laid out.
pub(super) enum LayoutError {
    Old(io::Error),
    New(io::Error),
    /// It has other bytes than its digest says.
    Changed,
}

/// Without an old file all of it is new.
pub(super) fn layout(
    old: Option<(&dyn BlobBytes, &Known)>,
    to: &dyn BlobBytes,
    new: &Known,
) -> Result<Layout, LayoutError> {
    let mut chunks_of_old = Vec::new();
    if let Some((from, old)) = old {
        chunks(from, old, |chunk| chunks_of_old.push(chunk)).map_err(LayoutError::Old)?;
    }
    let mut by_mark: HashMap<[u8; 16], usize> = HashMap::with_capacity(chunks_of_old.len());
    for (at, chunk) in chunks_of_old.iter().enumerate() {
        by_mark.entry(chunk.mark).or_insert(at);
    }
    let entry = old.map_or(0, |(_, old)| old.entry);
    let mut pieces = Pieces {
        entry,
        out: Vec::new(),
    };
    // The chunk that follows the last match: repeated content goes on where it is.
    let mut next = 0;
    let digest = chunks(to, new, |chunk| {
        let follows = chunks_of_old.get(next).is_some_and(|old| old.mark == chunk.mark);
        let found = if follows {
            Some(next)
        } else {
            by_mark.get(&chunk.mark).copied()
        };
        match found.and_then(|at| Some((at, chunks_of_old.get(at)?))) {
            Some((at, old)) if old.len == chunk.len => {
                pieces.old(old.offset, chunk.len);
                next = at + 1;
            }
            _ => pieces.new_bytes(chunk.len),
        }
    });
    if digest.map_err(LayoutError::New)? != new.digest {
        return Err(LayoutError::Changed);
    }
    let groups = groups(&pieces.out, entry, old.map_or(0, |(_, old)| old.size));
    Ok(Layout {
        pieces: pieces.out,
        groups,
    })
}

struct Pieces {
    entry: u32,
    out: Vec<Piece>,
}

impl Pieces {
    fn old(&mut self, offset: u64, len: u64) {
        match self.out.last_mut() {
            Some(Piece::Old(last)) if last.offset + last.len == offset => last.len += len,
            _ => self.out.push(Piece::Old(Span {
                entry: self.entry,
                offset,
                len,
            })),
        }
    }

    fn new_bytes(&mut self, len: u64) {
        match self.out.last_mut() {
            Some(Piece::New(last)) => *last += len,
            _ => self.out.push(Piece::New(len)),
        }
    }
}

fn groups(pieces: &[Piece], entry: u32, old_size: u64) -> Vec<RunGroup> {
    let mut groups: Vec<RunGroup> = Vec::new();
    let (mut at, mut old_at) = (0_u64, 0_u64);
    let (mut new_room, mut old_room) = (0_u64, 0_u64);
    for (number, piece) in pieces.iter().enumerate() {
        let len = match piece {
            Piece::Old(span) => {
                at += span.len;
                old_at = span.offset + span.len;
                continue;
            }
            Piece::New(len) => *len,
        };
        let until = match pieces.get(number + 1) {
            Some(Piece::Old(span)) if span.offset >= old_at => span.offset,
            _ => old_at.saturating_add(len),
        };
        let mut left = len;
        while left > 0 {
            let part = left.min(FRAME);
            let before = (until.min(old_size).saturating_sub(old_at))
                .min(part + AROUND)
                .min(BEFORE);
            if new_room < part || old_room < before {
                groups.push(RunGroup::default());
                (new_room, old_room) = (FRAME, BEFORE);
            }
            if let Some(group) = groups.last_mut() {
                group.runs.push(Run {
                    offset: at,
                    len: part,
                });
                if before > 0 {
                    group.prefix.push(Span {
                        entry,
                        offset: old_at,
                        len: before,
                    });
                }
            }
            new_room -= part;
            old_room -= before;
            at += part;
            old_at += before;
            left -= part;
        }
    }
    groups
}
