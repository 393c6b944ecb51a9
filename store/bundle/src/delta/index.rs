//! The index of a delta, and its checks against the two manifests it speaks of.

use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::manifest::{MAX_ENCODED, Manifest};

use super::matching::file;
use super::{MAX_PREFIX, MAX_RAW};

/// Bytes of the footer, the last of a delta.
pub const FOOTER: usize = 89;
/// Largest index before compression, in bytes.
const MAX_INDEX: usize = 32 << 20;
/// Pieces and spans of one delta together, which are held in 24 bytes each.
const MAX_PARTS: usize = 2 << 20;
/// Largest delta: 1 PiB.
const MAX_DELTA: u64 = 1 << 50;
const MAGIC: &[u8; 8] = b"SHIPDLT\x01";

/// Why bytes are not a delta between these two releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    #[error("not a delta: its last bytes are not a delta's footer, or its version is not 1")]
    Footer,
    #[error("the delta's footer contradicts its length of {total} bytes")]
    Length { total: u64 },
    #[error("the delta is made for release {}, and release {} is there", expected.short(), got.short())]
    Base { expected: ReleaseId, got: ReleaseId },
    #[error("the delta's {what} cannot be decompressed")]
    Decompress { what: &'static str },
    #[error("the delta gives another manifest than that of release {}", expected.short())]
    Target { expected: ReleaseId },
    #[error("the delta's index ends too early or goes on after its end")]
    Size,
    #[error("the delta's index is contradictory: {what}")]
    Contradiction { what: &'static str },
}

const fn contradiction(what: &'static str) -> DeltaError {
    DeltaError::Contradiction { what }
}

/// What a delta's last bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaFooter {
    pub base: ReleaseId,
    pub target: ReleaseId,
    /// The level of zstd that its frames were made at: who finds a low one may make a smaller delta.
    pub level: u8,
    /// Bytes of the manifest frame, the delta's first.
    pub manifest_len: u64,
    pub(super) manifest_raw: usize,
    /// Byte at which the index frame begins.
    pub index_at: u64,
    /// Bytes of the index frame.
    pub index_len: u64,
    pub(super) index_raw: usize,
}

impl DeltaFooter {
    /// Bytes of the target's canonical manifest.
    #[must_use]
    pub const fn manifest_bytes(&self) -> u64 {
        self.manifest_raw as u64
    }

    /// Reads it from a delta's last bytes, at least [`FOOTER`] of them; `total` is the delta's length.
    ///
    /// # Errors
    /// [`DeltaError::Footer`] and [`DeltaError::Length`].
    pub fn from_tail(tail: &[u8], total: u64) -> Result<Self, DeltaError> {
        let footer: &[u8; FOOTER] = tail.last_chunk().ok_or(DeltaError::Footer)?;
        let (ids, rest) = footer.split_at(64);
        let (numbers, rest) = rest.split_at(16);
        let Some((level, _)) = rest.split_first().filter(|(_, magic)| *magic == MAGIC) else {
            return Err(DeltaError::Footer);
        };
        let id = |from: usize| {
            let bytes = ids.get(from..).and_then(|bytes| bytes.first_chunk::<32>());
            bytes
                .map(|bytes| ReleaseId::from_bytes(*bytes))
                .ok_or(DeltaError::Footer)
        };
        let number = |at: usize| {
            let bytes = numbers.get(at * 4..).and_then(|bytes| bytes.first_chunk::<4>());
            bytes
                .map(|bytes| u32::from_le_bytes(*bytes))
                .ok_or(DeltaError::Footer)
        };
        let (manifest_len, index_len) = (u64::from(number(0)?), u64::from(number(2)?));
        let found = Self {
            base: id(0)?,
            target: id(32)?,
            level: *level,
            manifest_len,
            manifest_raw: number(1)? as usize,
            index_at: total.saturating_sub(index_len + FOOTER as u64),
            index_len,
            index_raw: number(3)? as usize,
        };
        let fits = manifest_len <= found.index_at && total >= index_len + FOOTER as u64 && total <= MAX_DELTA;
        if !fits || found.manifest_raw > MAX_ENCODED || found.index_raw > MAX_INDEX {
            return Err(DeltaError::Length { total });
        }
        Ok(found)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = [self.base.as_bytes().as_slice(), self.target.as_bytes()].concat();
        let numbers = [
            self.manifest_len as usize,
            self.manifest_raw,
            self.index_len as usize,
            self.index_raw,
        ];
        for number in numbers {
            out.extend_from_slice(&(number as u32).to_le_bytes());
        }
        out.push(self.level);
        out.extend_from_slice(MAGIC);
        out
    }
}

/// A part of an old file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The file's place in the base's manifest.
    pub entry: u32,
    pub offset: u64,
    pub len: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Old(Span),
    /// So many bytes, from the frames.
    New(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeltaFrame {
    pub offset: u64,
    pub len: u64,
    pub raw_len: u64,
    pub prefix: Vec<Span>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeltaBlob {
    pub digest: BlobDigest,
    pub size: u64,
    /// Its place in the target's manifest.
    pub entry: u32,
    /// None: all its bytes are new.
    pub pieces: Vec<Piece>,
}

impl DeltaBlob {
    pub fn new_bytes(&self) -> u64 {
        if self.pieces.is_empty() {
            return self.size;
        }
        let new = self.pieces.iter().map(|piece| match piece {
            Piece::New(len) => *len,
            Piece::Old(_) => 0,
        });
        new.sum()
    }
}

/// What a delta holds; free of contradictions between itself and the manifests, not known to be true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaIndex {
    pub(super) frames: Vec<DeltaFrame>,
    pub(super) blobs: Vec<DeltaBlob>,
}

impl DeltaIndex {
    /// Every blob it gives.
    pub fn blobs(&self) -> impl Iterator<Item = BlobDigest> {
        self.blobs.iter().map(|blob| blob.digest)
    }

    pub(super) fn encode(&self, base: &Manifest) -> Vec<u8> {
        let mut out = Writer {
            out: Vec::new(),
            base,
            last_base: 0,
            last_target: 0,
        };
        out.number(self.frames.len() as u64);
        for frame in &self.frames {
            out.number(frame.len);
            out.number(frame.raw_len);
            out.number(frame.prefix.len() as u64);
            frame.prefix.iter().for_each(|span| out.span(span));
        }
        out.number(self.blobs.len() as u64);
        for blob in &self.blobs {
            out.blob(blob);
        }
        out.out
    }

    /// `data`: where frames begin and end in the delta.
    pub(super) fn decode(
        raw: &[u8],
        data: std::ops::Range<u64>,
        base: &Manifest,
        target: &Manifest,
    ) -> Result<Self, DeltaError> {
        let mut reader = Reader {
            rest: raw,
            base,
            target,
            last_base: 0,
            last_target: 0,
            parts: 0,
        };
        let index = reader.index(data.start)?;
        if !reader.rest.is_empty() {
            return Err(DeltaError::Size);
        }
        let end = index
            .frames
            .last()
            .map_or(data.start, |last| last.offset + last.len);
        if end != data.end {
            return Err(contradiction("its frames do not fill the delta"));
        }
        let raw: u64 = index.frames.iter().map(|frame| frame.raw_len).sum();
        let new: u64 = index.blobs.iter().map(DeltaBlob::new_bytes).sum();
        if raw != new {
            return Err(contradiction("its blobs do not fill its frames"));
        }
        Ok(index)
    }
}

struct Writer<'a> {
    out: Vec<u8>,
    base: &'a Manifest,
    last_base: i64,
    last_target: i64,
}

impl Writer<'_> {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.out.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.out.push(number as u8);
    }

    fn span(&mut self, span: &Span) {
        let step = zigzag(i64::from(span.entry) - self.last_base);
        self.last_base = i64::from(span.entry);
        let size = self.base.entries().get(span.entry as usize).and_then(file);
        let whole = span.offset == 0 && size.is_some_and(|(size, _)| size == span.len);
        self.number(step << 1 | u64::from(!whole));
        if !whole {
            self.number(span.offset);
            self.number(span.len);
        }
    }

    fn blob(&mut self, blob: &DeltaBlob) {
        self.number(zigzag(i64::from(blob.entry) - self.last_target));
        self.last_target = i64::from(blob.entry);
        self.number(blob.pieces.len() as u64);
        // Old parts mostly go on where the part before them ended, plus what changed in between.
        let mut next = 0;
        for piece in &blob.pieces {
            match piece {
                Piece::New(len) => {
                    self.number(len << 1);
                    next += *len as i64;
                }
                Piece::Old(span) => {
                    self.number(span.len << 1 | 1);
                    self.number(zigzag(i64::from(span.entry) - self.last_base));
                    self.last_base = i64::from(span.entry);
                    self.number(zigzag(span.offset as i64 - next));
                    next = (span.offset + span.len) as i64;
                }
            }
        }
    }
}

const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

struct Reader<'a> {
    rest: &'a [u8],
    base: &'a Manifest,
    target: &'a Manifest,
    last_base: i64,
    last_target: i64,
    parts: usize,
}

impl Reader<'_> {
    fn number(&mut self) -> Result<u64, DeltaError> {
        let mut number = 0_u64;
        for shift in (0..63).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(DeltaError::Size)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(contradiction("a number is too large"))
    }

    /// How many follow; each takes at least one byte.
    fn count(&mut self) -> Result<usize, DeltaError> {
        let count = self.number()? as usize;
        self.parts = self.parts.saturating_add(count);
        if count > self.rest.len() || self.parts > MAX_PARTS {
            return Err(contradiction("it announces more than it holds"));
        }
        Ok(count)
    }

    fn step(
        &mut self,
        last: i64,
        step: u64,
        manifest: &Manifest,
    ) -> Result<(u32, u64, BlobDigest), DeltaError> {
        let entry = last
            .checked_add(unzigzag(step))
            .and_then(|entry| u32::try_from(entry).ok());
        let entry = entry.ok_or(contradiction("a file lies outside its manifest"))?;
        let found = manifest.entries().get(entry as usize).and_then(file);
        let (size, digest) = found.ok_or(contradiction("what it names is no file of its manifest"))?;
        Ok((entry, size, digest))
    }

    fn base_entry(&mut self, step: u64) -> Result<(u32, u64), DeltaError> {
        let (entry, size, _) = self.step(self.last_base, step, self.base)?;
        self.last_base = i64::from(entry);
        Ok((entry, size))
    }

    fn span(&mut self) -> Result<Span, DeltaError> {
        let number = self.number()?;
        let (entry, size) = self.base_entry(number >> 1)?;
        let (offset, len) = match number & 1 {
            0 => (0, size),
            _ => (self.number()?, self.number()?),
        };
        within(entry, offset, len, size)
    }

    fn index(&mut self, mut offset: u64) -> Result<DeltaIndex, DeltaError> {
        let count = self.count()?;
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            let frame = self.frame(offset)?;
            offset = frame.offset.saturating_add(frame.len);
            frames.push(frame);
        }
        let count = self.count()?;
        let mut blobs = Vec::with_capacity(count);
        for _ in 0..count {
            blobs.push(self.blob()?);
        }
        Ok(DeltaIndex { frames, blobs })
    }

    fn frame(&mut self, offset: u64) -> Result<DeltaFrame, DeltaError> {
        let (len, raw_len) = (self.number()?, self.number()?);
        let spans = self.count()?;
        let mut prefix = Vec::with_capacity(spans);
        for _ in 0..spans {
            prefix.push(self.span()?);
        }
        let old = prefix
            .iter()
            .try_fold(0_u64, |sum, span| sum.checked_add(span.len));
        let bounded = old.is_some_and(|old| old <= MAX_PREFIX) && raw_len <= MAX_RAW && len <= 2 * MAX_RAW;
        if !bounded || raw_len == 0 {
            return Err(contradiction("a frame has an impossible length"));
        }
        Ok(DeltaFrame {
            offset,
            len,
            raw_len,
            prefix,
        })
    }

    fn blob(&mut self) -> Result<DeltaBlob, DeltaError> {
        let step = self.number()?;
        let (entry, size, digest) = self.step(self.last_target, step, self.target)?;
        self.last_target = i64::from(entry);
        let count = self.count()?;
        let mut pieces = Vec::with_capacity(count);
        let mut next = 0_i64;
        for _ in 0..count {
            let piece = self.piece(next)?;
            next = match piece {
                Piece::New(len) => next.saturating_add_unsigned(len),
                Piece::Old(span) => (span.offset + span.len) as i64,
            };
            pieces.push(piece);
        }
        let sum = pieces.iter().try_fold(0_u64, |sum, piece| match piece {
            Piece::New(len) => sum.checked_add(*len),
            Piece::Old(span) => sum.checked_add(span.len),
        });
        if count > 0 && sum != Some(size) {
            return Err(contradiction("the pieces of a blob are not as long as the blob"));
        }
        Ok(DeltaBlob {
            digest,
            size,
            entry,
            pieces,
        })
    }

    fn piece(&mut self, next: i64) -> Result<Piece, DeltaError> {
        let number = self.number()?;
        if number & 1 == 0 {
            return Ok(Piece::New(number >> 1));
        }
        let step = self.number()?;
        let (entry, size) = self.base_entry(step)?;
        let offset = next.checked_add(unzigzag(self.number()?));
        let offset = offset.and_then(|offset| u64::try_from(offset).ok());
        let offset = offset.ok_or(contradiction("a span lies outside its file"))?;
        within(entry, offset, number >> 1, size).map(Piece::Old)
    }
}

fn within(entry: u32, offset: u64, len: u64, size: u64) -> Result<Span, DeltaError> {
    if offset.checked_add(len).is_some_and(|end| end <= size) {
        return Ok(Span { entry, offset, len });
    }
    Err(contradiction("a span lies outside its file"))
}
