//! Making a delta: files are matched, frames are coded two at a time, written in order.
//!
//! The same manifests, bytes and effort give the same delta with the same zstd library, however many cores there are.

use std::io::{self, Write};

use rayon::prelude::*;
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use zstd::zstd_safe::{CCtx, CParameter, SafeResult, get_error_name};

use super::index::{DeltaBlob, DeltaFooter, DeltaFrame, DeltaIndex, Span};
use super::large::{LayoutError, Run, layout};
use super::matching::{Group, Grown, Known, matched};
use super::source::BlobBytes;
use crate::progress::Progress;

/// The index is small, and every reader takes it.
const INDEX_LEVEL: i32 = 19;
/// Manifests up to here are coded at that level as well.
const SMALL_MANIFEST: usize = 2 << 20;
/// One byte of each `1 << LDM_MIN_MATCH` is the shortest match over a long distance.
const LDM_MIN_MATCH: u32 = 32;

/// How much work goes into the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    level: i32,
    /// Every so many bytes, as a power of two, a match over a long distance may begin.
    ldm_rate: u32,
    /// Entries of the table for those, as a power of two.
    ldm_table: u32,
    /// Frames that are coded at once: each takes its new bytes, its prefix and zstd's tables, 130 MiB at most.
    at_once: usize,
}

impl Effort {
    /// While somebody waits: at the speed of `zstd -2`.
    pub const AT_ONCE: Self = Self {
        level: 2,
        ldm_rate: 5,
        ldm_table: 20,
        at_once: 2,
    };
    /// In idle time: about sixty times the work for a third fewer bytes, all of it on the thread that asks for it.
    pub const THOROUGH: Self = Self {
        level: 16,
        ldm_rate: 4,
        ldm_table: 21,
        at_once: 1,
    };

    /// The level of zstd, as a delta's footer tells it.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.level as u8
    }
}

/// A delta that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeDelta {
    /// Bytes written.
    pub bytes: u64,
    /// Of these, the manifest's.
    pub manifest_bytes: u64,
    /// Bytes of the blobs that it gives.
    pub raw_bytes: u64,
    /// How many they are.
    pub blobs: u64,
}

/// Why a delta could not be written. What was written until then is none.
#[derive(Debug, thiserror::Error)]
pub enum MakeDeltaError {
    #[error("cannot read blob {digest} of the older release")]
    Base { digest: BlobDigest, source: io::Error },
    #[error("cannot read blob {digest} of the newer release")]
    Target { digest: BlobDigest, source: io::Error },
    #[error("blob {digest} has other bytes than its digest says")]
    Changed { digest: BlobDigest },
    #[error("the releases are too different for a delta: its index would be too large")]
    Index,
    #[error("cannot compress")]
    Compress(#[source] io::Error),
    #[error("cannot write the delta")]
    Write(#[source] io::Error),
}

/// Writes the delta from `base` to `target`, whose blobs `from` and `to` give.
///
/// Every blob it reads whole is checked against its digest. Memory: two frames at a time, at most about 250 MiB, besides
/// the manifests.
///
/// # Errors
/// [`MakeDeltaError`].
pub fn make_delta(
    (base, from): (&Manifest, &dyn BlobBytes),
    (target, to): (&Manifest, &dyn BlobBytes),
    effort: Effort,
    out: impl Write,
    progress: &dyn Progress,
) -> Result<MadeDelta, MakeDeltaError> {
    let found = matched(base, target);
    let small = found.groups.iter().flat_map(|group| &group.new);
    let raw_bytes = small
        .chain(found.grown.iter().map(|grown| &grown.new))
        .map(|new| new.size)
        .sum();
    progress.total(raw_bytes);
    let making = Making {
        from,
        to,
        effort,
        progress,
    };
    let mut out = Delta {
        out,
        bytes: 0,
        index: DeltaIndex {
            frames: Vec::new(),
            blobs: Vec::new(),
        },
    };
    let manifest = code_manifest(base, target, effort)?;
    out.write(&manifest)?;
    let manifest_bytes = out.bytes;
    for groups in found.groups.chunks(effort.at_once) {
        for frame in making.all(groups, |group| making.group(group))? {
            out.frame(frame)?;
        }
        let new = groups.iter().flat_map(|group| &group.new);
        out.index.blobs.extend(new.map(|new| blob(new, Vec::new())));
    }
    for grown in &found.grown {
        making.grown(grown, &mut out)?;
    }
    let blobs = out.index.blobs.len() as u64;
    let bytes = out.finish((base, target), effort, manifest_bytes)?;
    Ok(MadeDelta {
        bytes,
        manifest_bytes,
        raw_bytes,
        blobs,
    })
}

/// The blobs of `base` and of `target` that [`make_delta`] reads.
#[must_use]
pub fn delta_needs(base: &Manifest, target: &Manifest) -> (Vec<BlobDigest>, Vec<BlobDigest>) {
    let found = matched(base, target);
    let old = found.groups.iter().flat_map(|group| &group.old);
    let old = old.chain(found.grown.iter().filter_map(|grown| grown.old.as_ref()));
    let new = found.groups.iter().flat_map(|group| &group.new);
    let new = new.chain(found.grown.iter().map(|grown| &grown.new));
    let digests = |files: &mut dyn Iterator<Item = &Known>| {
        let mut digests: Vec<_> = files.map(|file| file.digest).collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    };
    (digests(&mut { old }), digests(&mut { new }))
}

fn blob(new: &Known, pieces: Vec<super::index::Piece>) -> DeltaBlob {
    DeltaBlob {
        digest: new.digest,
        size: new.size,
        entry: new.entry,
        pieces,
    }
}

fn code_manifest(base: &Manifest, target: &Manifest, effort: Effort) -> Result<Vec<u8>, MakeDeltaError> {
    let small = target.encoded().len() <= SMALL_MANIFEST;
    let effort = if small {
        Effort {
            level: INDEX_LEVEL,
            ..Effort::THOROUGH
        }
    } else {
        effort
    };
    code(base.encoded(), target.encoded(), effort).map_err(MakeDeltaError::Compress)
}

/// A frame that is coded.
struct Coded {
    bytes: Vec<u8>,
    raw_len: u64,
    prefix: Vec<Span>,
}

struct Making<'a> {
    from: &'a dyn BlobBytes,
    to: &'a dyn BlobBytes,
    effort: Effort,
    progress: &'a dyn Progress,
}

impl Making<'_> {
    fn all<T: Sync>(
        &self,
        groups: &[T],
        code: impl Fn(&T) -> Result<Coded, MakeDeltaError> + Sync + Send,
    ) -> Result<Vec<Coded>, MakeDeltaError> {
        match groups {
            // Here and not among rayon's threads: who asks may have made this thread give way to others.
            [one] => Ok(vec![code(one)?]),
            several => several.par_iter().map(code).collect(),
        }
    }

    fn group(&self, group: &Group) -> Result<Coded, MakeDeltaError> {
        let prefix = whole(self.from, &group.old, |digest, source| MakeDeltaError::Base {
            digest,
            source,
        })?;
        let new = whole(self.to, &group.new, |digest, source| MakeDeltaError::Target {
            digest,
            source,
        })?;
        let spans = group.old.iter().map(|old| Span {
            entry: old.entry,
            offset: 0,
            len: old.size,
        });
        self.code(&prefix, &new, spans.collect())
    }

    fn code(&self, prefix: &[u8], new: &[u8], spans: Vec<Span>) -> Result<Coded, MakeDeltaError> {
        let bytes = code(prefix, new, self.effort).map_err(MakeDeltaError::Compress)?;
        self.progress.done(new.len() as u64);
        Ok(Coded {
            bytes,
            raw_len: new.len() as u64,
            prefix: spans,
        })
    }

    fn grown(&self, grown: &Grown, out: &mut Delta<impl Write>) -> Result<(), MakeDeltaError> {
        let new = &grown.new;
        let old = grown.old.as_ref();
        let laid = layout(old.map(|old| (self.from, old)), self.to, new).map_err(|error| match error {
            LayoutError::Old(source) => MakeDeltaError::Base {
                digest: old.map_or(new.digest, |old| old.digest),
                source,
            },
            LayoutError::New(source) => target(new, source),
            LayoutError::Changed => MakeDeltaError::Changed { digest: new.digest },
        })?;
        for groups in laid.groups.chunks(self.effort.at_once) {
            let coded = self.all(groups, |group| {
                let mut prefix = Vec::new();
                if let Some(old) = old {
                    let spans = group.prefix.iter().map(|span| (span.offset, span.len));
                    parts(self.from, old.digest, spans, &mut prefix).map_err(|source| {
                        MakeDeltaError::Base {
                            digest: old.digest,
                            source,
                        }
                    })?;
                }
                let mut raw = Vec::new();
                let runs = group.runs.iter().map(|Run { offset, len }| (*offset, *len));
                parts(self.to, new.digest, runs, &mut raw).map_err(|source| target(new, source))?;
                self.code(&prefix, &raw, group.prefix.clone())
            });
            for frame in coded? {
                out.frame(frame)?;
            }
        }
        out.index.blobs.push(blob(new, laid.pieces));
        Ok(())
    }
}

fn target(new: &Known, source: io::Error) -> MakeDeltaError {
    MakeDeltaError::Target {
        digest: new.digest,
        source,
    }
}

fn parts(
    bytes: &dyn BlobBytes,
    blob: BlobDigest,
    parts: impl Iterator<Item = (u64, u64)>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    for (offset, len) in parts {
        let at = out.len();
        out.resize(at + len as usize, 0);
        bytes.read_at(blob, offset, &mut out[at..])?;
    }
    Ok(())
}

/// These blobs, one after another, each as its digest says.
fn whole(
    bytes: &dyn BlobBytes,
    blobs: &[Known],
    failed: impl Fn(BlobDigest, io::Error) -> MakeDeltaError,
) -> Result<Vec<u8>, MakeDeltaError> {
    let mut out = Vec::with_capacity(blobs.iter().map(|blob| blob.size as usize).sum());
    for blob in blobs {
        let at = out.len();
        parts(bytes, blob.digest, [(0, blob.size)].into_iter(), &mut out)
            .map_err(|source| failed(blob.digest, source))?;
        if BlobDigest::of(&out[at..]) != blob.digest {
            return Err(MakeDeltaError::Changed { digest: blob.digest });
        }
    }
    Ok(out)
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}

/// One frame of `new`, decoded with `prefix` before it.
fn code(prefix: &[u8], new: &[u8], effort: Effort) -> io::Result<Vec<u8>> {
    let both = (prefix.len() + new.len()).max(1) as u64;
    // The window covers all of both.
    let window = u64::BITS - (both - 1).max(1).leading_zeros();
    let mut context = CCtx::create();
    let mut set = |parameter| -> SafeResult { context.set_parameter(parameter) };
    let parameters = [
        CParameter::CompressionLevel(effort.level),
        CParameter::WindowLog(window.clamp(10, 27)),
        CParameter::EnableLongDistanceMatching(true),
        CParameter::LdmHashLog(effort.ldm_table),
        CParameter::LdmMinMatch(LDM_MIN_MATCH),
        CParameter::LdmHashRateLog(effort.ldm_rate),
    ];
    for parameter in parameters {
        set(parameter).map_err(zstd_error)?;
    }
    context.ref_prefix(prefix).map_err(zstd_error)?;
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(new.len()));
    context.compress2(&mut out, new).map_err(zstd_error)?;
    out.shrink_to_fit();
    Ok(out)
}

/// What is written, and what the index will say of it.
struct Delta<W> {
    out: W,
    bytes: u64,
    index: DeltaIndex,
}

impl<W: Write> Delta<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), MakeDeltaError> {
        self.out.write_all(bytes).map_err(MakeDeltaError::Write)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn frame(&mut self, coded: Coded) -> Result<(), MakeDeltaError> {
        // Empty files need none.
        if coded.raw_len == 0 {
            return Ok(());
        }
        let offset = self.bytes;
        self.write(&coded.bytes)?;
        self.index.frames.push(DeltaFrame {
            offset,
            len: coded.bytes.len() as u64,
            raw_len: coded.raw_len,
            prefix: coded.prefix,
        });
        Ok(())
    }

    fn finish(
        mut self,
        (base, target): (&Manifest, &Manifest),
        effort: Effort,
        manifest_len: u64,
    ) -> Result<u64, MakeDeltaError> {
        let raw = self.index.encode(base);
        let coded = zstd::bulk::compress(&raw, INDEX_LEVEL).map_err(MakeDeltaError::Compress)?;
        let footer = DeltaFooter {
            base: base.id(),
            target: target.id(),
            level: effort.level(),
            manifest_len,
            manifest_raw: target.encoded().len(),
            index_at: self.bytes,
            index_len: coded.len() as u64,
            index_raw: raw.len(),
        };
        let total = self.bytes + coded.len() as u64 + super::FOOTER as u64;
        let footer_bytes = footer.encode();
        if DeltaFooter::from_tail(&footer_bytes, total) != Ok(footer) {
            return Err(MakeDeltaError::Index);
        }
        self.write(&coded)?;
        self.write(&footer_bytes)?;
        self.out.flush().map_err(MakeDeltaError::Write)?;
        Ok(self.bytes)
    }
}
