//! Reading a delta: the manifest first, then blob after blob, part by part.

use std::io::{self, Read};
use std::ops::Range;

use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use zstd::zstd_safe::DCtx;

use super::index::{DeltaBlob, DeltaError, DeltaFooter, DeltaFrame, DeltaIndex, Piece, Span};
use super::source::{BlobBytes, Stream};
use crate::content::PIECE;

/// Decodes exactly `raw` bytes.
fn decode(coded: &[u8], prefix: &[u8], raw: usize) -> Option<Vec<u8>> {
    let mut context = DCtx::create();
    context.ref_prefix(prefix).ok()?;
    let mut out = Vec::with_capacity(raw);
    let whole = zstd::zstd_safe::find_frame_compressed_size(coded).ok() == Some(coded.len());
    let got = context.decompress(&mut out, coded).ok().filter(|_| whole)?;
    (got == raw).then_some(out)
}

/// The target's manifest, from the delta's first [`manifest_len`](DeltaFooter::manifest_len) bytes.
///
/// # Errors
/// [`DeltaError`]: a manifest is the one whose id the footer tells, or none.
pub fn read_manifest(footer: &DeltaFooter, coded: &[u8], base: &Manifest) -> Result<Manifest, DeltaError> {
    if base.id() != footer.base {
        return Err(DeltaError::Base {
            expected: footer.base,
            got: base.id(),
        });
    }
    let decoded = decode(coded, base.encoded(), footer.manifest_raw);
    let decoded = decoded.ok_or(DeltaError::Decompress { what: "manifest" })?;
    let expected = footer.target;
    let manifest = Manifest::read(decoded).map_err(|_| DeltaError::Target { expected })?;
    if manifest.id() != expected {
        return Err(DeltaError::Target { expected });
    }
    Ok(manifest)
}

impl DeltaIndex {
    /// Reads it from the index frame's bytes.
    ///
    /// # Errors
    /// [`DeltaError`]. Memory stays within what the index truly holds, and some times 32 MiB.
    pub fn parse(
        footer: &DeltaFooter,
        coded: &[u8],
        base: &Manifest,
        target: &Manifest,
    ) -> Result<Self, DeltaError> {
        let raw = decode(coded, &[], footer.index_raw).ok_or(DeltaError::Decompress { what: "index" })?;
        Self::decode(&raw, footer.manifest_len..footer.index_at, base, target)
    }

    /// The delta in parts that know nothing of each other: they may be read at once, in any order.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        let (mut frame, mut blob) = (0, 0);
        let (mut frames, mut blobs) = (0, 0);
        let (mut given, mut taken) = (0_u64, 0_u64);
        while blob < self.blobs.len() {
            taken += self.blobs.get(blob).map_or(0, DeltaBlob::new_bytes);
            blob += 1;
            while given < taken {
                given += self
                    .frames
                    .get(frame)
                    .map_or(u64::MAX - given, |frame| frame.raw_len);
                frame += 1;
            }
            if given == taken {
                parts.push(Part {
                    frames: frames..frame,
                    blobs: blobs..blob,
                });
                (frames, blobs) = (frame, blob);
            }
        }
        parts
    }

    /// What a part is decoded against: the blobs of `base`, the manifest that the index was parsed with, whose bytes it takes.
    #[must_use]
    pub fn needs_of(&self, part: &Part, base: &Manifest) -> Vec<BlobDigest> {
        let frames = self.frames.get(part.frames.clone()).unwrap_or_default();
        let blobs = self.blobs.get(part.blobs.clone()).unwrap_or_default();
        let pieces = blobs.iter().flat_map(|blob| &blob.pieces);
        let old = pieces.filter_map(|piece| match piece {
            Piece::Old(span) => Some(span),
            Piece::New(_) => None,
        });
        let spans = frames.iter().flat_map(|frame| &frame.prefix).chain(old);
        let mut needs: Vec<_> = spans.filter_map(|span| digest_of(base, span)).collect();
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    /// What comes out of a part, in its order.
    pub fn blobs_of(&self, part: &Part) -> impl Iterator<Item = BlobDigest> {
        let blobs = self.blobs.get(part.blobs.clone()).unwrap_or_default();
        blobs.iter().map(|blob| blob.digest)
    }

    /// Bytes that the frame that takes most takes with its prefix while it is decoded.
    pub(crate) fn memory(&self) -> u64 {
        let frames = self.frames.iter();
        let taken = frames
            .map(|frame| frame.len + frame.raw_len + frame.prefix.iter().map(|span| span.len).sum::<u64>());
        taken.max().unwrap_or(0)
    }

    /// Bytes that decoding all of it reads and writes: every frame with its prefix, and old bytes that are copied.
    #[must_use]
    pub fn work(&self) -> u64 {
        let spans = self.frames.iter().flat_map(|frame| &frame.prefix);
        let frames = self
            .frames
            .iter()
            .map(|frame| frame.len.saturating_add(frame.raw_len));
        let blobs = self.blobs.iter().map(|blob| blob.size);
        let all = spans.map(|span| span.len).chain(frames).chain(blobs);
        all.fold(0, u64::saturating_add)
    }

    /// Where in the delta a part's bytes lie.
    #[must_use]
    pub fn range(&self, part: &Part) -> Range<u64> {
        let frames = self.frames.get(part.frames.clone()).unwrap_or_default();
        let from = frames.first().map_or(0, |first| first.offset);
        from..frames.last().map_or(from, |last| last.offset + last.len)
    }
}

fn digest_of(base: &Manifest, span: &Span) -> Option<BlobDigest> {
    let entry = base.entries().get(span.entry as usize)?;
    super::matching::file(entry).map(|(_, digest)| digest)
}

/// Frames and the blobs that come out of them and of no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    frames: Range<usize>,
    blobs: Range<usize>,
}

/// Why a delta does not give its blobs.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot read the delta")]
    Read(#[source] io::Error),
    #[error("cannot read blob {digest}, which the delta is made against")]
    Base { digest: BlobDigest, source: io::Error },
    #[error(
        "a frame of the delta cannot be decompressed: it is damaged, or the blobs it is made against are"
    )]
    Frame,
    #[error("cannot write what the delta holds")]
    Write(#[source] io::Error),
}

/// The blobs of one part, in the order of the index.
pub struct DeltaBlobs<'a, R> {
    input: R,
    base: &'a Manifest,
    from: &'a dyn BlobBytes,
    frames: std::slice::Iter<'a, DeltaFrame>,
    blobs: std::slice::Iter<'a, DeltaBlob>,
    coded: Vec<u8>,
    prefix: Vec<u8>,
    raw: Vec<u8>,
    /// How much of `raw` was given.
    given: usize,
}

impl<R> std::fmt::Debug for DeltaBlobs<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaBlobs")
            .field("frames", &self.frames)
            .field("blobs", &self.blobs)
            .finish_non_exhaustive()
    }
}

impl<'a, R: Read> DeltaBlobs<'a, R> {
    /// `input` stands at the first byte of the part's [`range`](DeltaIndex::range).
    pub fn new(
        index: &'a DeltaIndex,
        part: &Part,
        input: R,
        base: &'a Manifest,
        from: &'a dyn BlobBytes,
    ) -> Self {
        Self {
            input,
            base,
            from,
            frames: index.frames.get(part.frames.clone()).unwrap_or_default().iter(),
            blobs: index.blobs.get(part.blobs.clone()).unwrap_or_default().iter(),
            coded: Vec::new(),
            prefix: Vec::new(),
            raw: Vec::new(),
            given: 0,
        }
    }

    /// The next blob and its size; its bytes come out of [`content`](Self::content).
    pub fn next_blob(&mut self) -> Option<(BlobDigest, u64)> {
        self.blobs.as_slice().first().map(|blob| (blob.digest, blob.size))
    }

    /// Hands the next blob's content to `sink`, piece by piece. Its digest is the caller's to check.
    ///
    /// # Errors
    /// [`ApplyError`]; what `sink` returns is [`ApplyError::Write`].
    pub fn content(&mut self, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), ApplyError> {
        let Some(blob) = self.blobs.next() else {
            return Ok(());
        };
        if blob.pieces.is_empty() {
            return self.new_bytes(blob.size, &mut sink);
        }
        for piece in &blob.pieces {
            match piece {
                Piece::New(len) => self.new_bytes(*len, &mut sink)?,
                Piece::Old(span) => self.old_bytes(span, &mut sink)?,
            }
        }
        Ok(())
    }

    fn new_bytes(
        &mut self,
        mut len: u64,
        sink: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ApplyError> {
        while len > 0 {
            if self.given == self.raw.len() {
                self.next_frame()?;
            }
            let rest = self.raw.get(self.given..).unwrap_or_default();
            let piece = &rest[..rest.len().min(len as usize)];
            sink(piece).map_err(ApplyError::Write)?;
            self.given += piece.len();
            len -= piece.len() as u64;
        }
        Ok(())
    }

    fn old_bytes(
        &self,
        span: &Span,
        sink: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ApplyError> {
        let digest = self.digest(span);
        let mut stream = Stream::new(self.from, digest, span.offset..span.offset + span.len);
        let mut buffer = vec![0; (4 * PIECE).min(span.len as usize)];
        loop {
            let got = stream.read(&mut buffer);
            match got.map_err(|source| ApplyError::Base { digest, source })? {
                0 => return Ok(()),
                got => sink(&buffer[..got]).map_err(ApplyError::Write)?,
            }
        }
    }

    fn digest(&self, span: &Span) -> BlobDigest {
        digest_of(self.base, span).unwrap_or(BlobDigest::from_bytes([0; 32]))
    }

    fn next_frame(&mut self) -> Result<(), ApplyError> {
        let frame = self.frames.next().ok_or(ApplyError::Frame)?;
        // Freed before the next ones are taken, so that two frames never lie here together.
        self.raw = Vec::new();
        self.prefix.clear();
        let old = frame.prefix.iter().map(|span| span.len as usize).sum();
        // Not by doubling, which holds it twice.
        self.prefix.reserve_exact(old);
        for span in &frame.prefix {
            let at = self.prefix.len();
            self.prefix.resize(at + span.len as usize, 0);
            let digest = self.digest(span);
            let read = self.from.read_at(digest, span.offset, &mut self.prefix[at..]);
            read.map_err(|source| ApplyError::Base { digest, source })?;
        }
        self.coded.resize(frame.len as usize, 0);
        self.input.read_exact(&mut self.coded).map_err(ApplyError::Read)?;
        self.raw = decode(&self.coded, &self.prefix, frame.raw_len as usize).ok_or(ApplyError::Frame)?;
        self.given = 0;
        Ok(())
    }
}
