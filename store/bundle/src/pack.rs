//! From a tree to a bundle: frames of 8 to 16 MiB compressed on all cores, written in order.
//!
//! Files that resemble each other stand together, each blob once, under the first path that has it, and matches reach over
//! the whole window: trees that hold several builds of the same sources take a third less than by path. A file over a
//! frame's size is a frame of its own and is streamed, whatever its size; with [lists](crate::segments), one over 8 MiB goes over frames of whole segments. The
//! same manifest, blobs, lists and level give the same bytes with the same zstd library, however many cores there are.

mod plan;
mod source;

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::manifest::Manifest;
use ship_model::path::TreePath;
use zstd::zstd_safe::CParameter;

use self::plan::{Item, Plan, Planned};
use self::source::Source;
use crate::beneath::Root;
use crate::content::PIECE;
use crate::delta::BlobBytes;
use crate::frame::MAX_WINDOW_LOG;
use crate::index::{BlobPlace, BundleIndex, Frame};
use crate::progress::Progress;
use crate::segments::SegmentList;
use crate::tarball::{self, Member};

/// Frames that a bundle has, so that they are made and read on several cores, as long as each stays within
/// [`SMALLEST`] and [`LARGEST`]: whoever needs one blob reads its frame.
const FRAMES: u64 = 8;
/// Raw bytes after which a frame may be closed. Smaller ones cost bytes: what is alike is not seen.
const SMALLEST: u64 = 8 << 20;
/// Larger frames gain little, for a window is 8 MiB.
const LARGEST: u64 = 16 << 20;
/// Raw bytes of a frame of segments, which come one by one.
const LISTED: u64 = 4 << 20;
/// The level of `zstd -3`.
pub const DEFAULT_LEVEL: i32 = 3;
/// Higher levels ask every reader for larger windows.
pub const MAX_LEVEL: i32 = 19;
/// What one thread compresses at a time within a large file.
const JOB: u32 = 4 << 20;

/// A bundle that was written.
#[derive(Debug)]
pub struct Packed {
    pub digest: BundleDigest,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes of the blobs' content.
    pub raw_bytes: u64,
    /// How many blobs and segments it holds.
    pub blobs: u64,
    pub index: BundleIndex,
}

/// What is to be packed.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    pub wanted: &'a HashSet<BlobDigest>,
    /// Of all wanted blobs that are large, or of none; ascending by blob.
    pub lists: &'a [SegmentList],
    /// Segments that need not be packed.
    pub known: &'a HashSet<BlobDigest>,
}

/// Why a bundle could not be written. What was written until then is not a bundle.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("cannot read folder {}", path.display())]
    Root { path: PathBuf, source: io::Error },
    #[error("blob {digest} is wanted, but no file of the release has it")]
    Unknown { digest: BlobDigest },
    #[error("\"{path}\" is large and was not cut as others were")]
    Uncut { path: TreePath },
    #[error("cannot read \"{path}\"")]
    Read { path: TreePath, source: io::Error },
    #[error("\"{path}\" changed since it was read first: publish when the build is done")]
    Changed { path: TreePath },
    #[error("cannot compress")]
    Compress(#[source] io::Error),
    #[error("cannot write the bundle")]
    Write(#[source] io::Error),
}

/// Writes the bundle of the `wanted` blobs, each whole, to `out`, reading them from the tree at `root` that `manifest` describes.
///
/// # Errors
/// [`PackError`].
pub fn pack(
    root: &Path,
    manifest: &Manifest,
    wanted: &HashSet<BlobDigest>,
    level: i32,
    out: impl Write,
    progress: &dyn Progress,
) -> Result<Packed, PackError> {
    let parts = Parts {
        wanted,
        lists: &[],
        known: &HashSet::new(),
    };
    pack_parts(root, manifest, &parts, level, out, progress)
}

/// As [`pack`]; of files that are listed, only segments that are not known.
///
/// Every file's digest is checked again while it is read. `level` is zstd's, held within 1 to [`MAX_LEVEL`]. Memory: a
/// few frames, at most about 190 MiB.
///
/// # Errors
/// [`PackError`].
pub fn pack_parts(
    root: &Path,
    manifest: &Manifest,
    parts: &Parts<'_>,
    level: i32,
    out: impl Write,
    progress: &dyn Progress,
) -> Result<Packed, PackError> {
    let opened = Root::open(root).map_err(|source| PackError::Root {
        path: root.to_owned(),
        source,
    })?;
    let at_once = rayon::current_num_threads();
    packed(
        Source::Tree(&opened),
        manifest,
        parts,
        (level, at_once),
        out,
        progress,
    )
}

/// As [`pack_parts`], of blobs that lie elsewhere than in a tree; `manifest` tells what they are called. `at_once`: compressors
/// that may run at a time; with one, memory is at most about 70 MiB.
///
/// # Errors
/// [`PackError`].
pub fn pack_blobs(
    from: &dyn BlobBytes,
    manifest: &Manifest,
    parts: &Parts<'_>,
    (level, at_once): (i32, usize),
    out: impl Write,
    progress: &dyn Progress,
) -> Result<Packed, PackError> {
    packed(
        Source::Blobs(from),
        manifest,
        parts,
        (level, at_once),
        out,
        progress,
    )
}

fn packed(
    source: Source<'_>,
    manifest: &Manifest,
    parts: &Parts<'_>,
    (level, at_once): (i32, usize),
    out: impl Write,
    progress: &dyn Progress,
) -> Result<Packed, PackError> {
    let plan = Plan::new(manifest, parts)?;
    let raw_bytes = plan.content();
    progress.total(raw_bytes);
    let packing = Packing {
        source,
        plan: &plan,
        level: level.clamp(1, MAX_LEVEL),
        at_once,
        progress,
    };
    let mut out = Bundle {
        out,
        hasher: blake3::Hasher::new(),
        bytes: 0,
        frames: Vec::with_capacity(plan.frames.len() + 1),
        seen: (!parts.lists.is_empty()).then(HashSet::new),
    };
    packing.frames(&mut out)?;
    out.finish(packing.level, raw_bytes, plan.lists(parts.wanted))
}

struct Packing<'a> {
    source: Source<'a>,
    plan: &'a Plan<'a>,
    level: i32,
    /// Compressors that the caller allows.
    at_once: usize,
    progress: &'a dyn Progress,
}

impl Packing<'_> {
    /// Compressors that may run at once: one takes a frame, what becomes of it, and up to 60 MiB at the highest levels.
    fn at_once(&self) -> usize {
        self.at_once.clamp(1, [4, 3, 2][self.weight()])
    }

    /// Threads within one large file, whose tables are larger: up to 100 MiB each.
    fn workers(&self) -> u32 {
        self.at_once.clamp(1, [4, 2, 1][self.weight()]) as u32
    }

    fn weight(&self) -> usize {
        match self.level {
            ..=5 => 0,
            6..=12 => 1,
            _ => 2,
        }
    }

    fn frames(&self, out: &mut Bundle<impl Write>) -> Result<(), PackError> {
        let mut ahead = &self.plan.frames[..];
        while !ahead.is_empty() {
            let small = ahead
                .iter()
                .take(self.at_once())
                .take_while(|f| !self.plan.is_streamed(f));
            let (batch, rest) = ahead.split_at(small.count());
            let packed: Vec<Vec<u8>> = batch
                .par_iter()
                .map(|frame| self.in_memory(frame))
                .collect::<Result<_, _>>()?;
            for (frame, bytes) in batch.iter().zip(packed) {
                out.write_all(&bytes).map_err(PackError::Write)?;
                out.close(self.plan.raw_len(frame), self.plan.places(frame));
            }
            ahead = rest;
            if let Some((large, rest)) = ahead.split_first()
                && self.plan.is_streamed(large)
            {
                self.streamed(large, out)?;
                ahead = rest;
            }
        }
        Ok(())
    }

    fn in_memory(&self, frame: &[Item]) -> Result<Vec<u8>, PackError> {
        let mut raw = Vec::with_capacity(self.plan.raw_len(frame) as usize);
        for item in frame {
            self.item(*item, &mut raw)?;
        }
        compress_far(&raw, self.level).map_err(PackError::Compress)
    }

    fn streamed(&self, frame: &[Item], out: &mut Bundle<impl Write>) -> Result<(), PackError> {
        let mut encoder = self
            .encoder(self.plan.raw_len(frame), &mut *out)
            .map_err(PackError::Compress)?;
        for item in frame {
            self.item(*item, &mut encoder)?;
        }
        encoder.finish().map_err(PackError::Write)?;
        out.close(self.plan.raw_len(frame), self.plan.places(frame));
        Ok(())
    }

    fn encoder<W: Write>(&self, raw: u64, out: W) -> io::Result<zstd::Encoder<'static, W>> {
        let mut encoder = zstd::Encoder::new(out, self.level)?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(raw))?;
        // The bytes depend on the job's size, not on how many workers there are.
        encoder.set_parameter(CParameter::JobSize(JOB))?;
        encoder.multithread(self.workers())?;
        Ok(encoder)
    }

    /// Writes header, content and padding as far as they belong to the item, and checks the content.
    fn item(&self, item: Item, out: &mut impl Write) -> Result<(), PackError> {
        let Some(planned) = self.plan.planned(item) else {
            return Ok(());
        };
        let (head, tail) = self.plan.around(item);
        if let Some(member) = head {
            out.write_all(&member.header()).map_err(PackError::Write)?;
        }
        match item {
            Item::File(_) => self.whole(&planned, out)?,
            Item::Part { .. } | Item::Segment { .. } => self.segments(item, &planned, out)?,
        }
        let padding = tail.map_or(0, |member| member.padding());
        out.write_all(&tarball::END[..padding]).map_err(PackError::Write)
    }

    fn whole(&self, planned: &Planned, out: &mut impl Write) -> Result<(), PackError> {
        let member = &planned.member;
        let hash = self.copy(self.source.open(planned)?, member, out)?;
        if hash.map(BlobDigest::from) != Some(planned.digest) {
            return Err(PackError::Changed {
                path: member.path.clone(),
            });
        }
        Ok(())
    }

    /// Each segment is compared with what it was when the file was cut, and the file was compared whole then.
    fn segments(&self, item: Item, planned: &Planned, out: &mut impl Write) -> Result<(), PackError> {
        let member = &planned.member;
        let content = self.source.open(planned)?;
        let (mut offset, segments) = self.plan.segments(item);
        let mut bytes = Vec::new();
        for segment in segments {
            bytes.resize(segment.len as usize, 0);
            let path = || member.path.clone();
            content
                .read_exact_at(&mut bytes, offset)
                .map_err(|source| match source.kind() {
                    io::ErrorKind::UnexpectedEof => PackError::Changed { path: path() },
                    _ => PackError::Read { path: path(), source },
                })?;
            if BlobDigest::of(&bytes) != segment.digest {
                return Err(PackError::Changed { path: path() });
            }
            out.write_all(&bytes).map_err(PackError::Write)?;
            self.progress.done(segment.len.into());
            offset += u64::from(segment.len);
        }
        Ok(())
    }

    /// None when the file is not of the expected length; never writes more than that.
    fn copy(
        &self,
        mut content: impl Read,
        member: &Member,
        out: &mut impl Write,
    ) -> Result<Option<blake3::Hash>, PackError> {
        let read_error = |source| PackError::Read {
            path: member.path.clone(),
            source,
        };
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; PIECE.min(member.size as usize + 1)];
        let mut left = member.size;
        loop {
            let got = match content.read(&mut buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(error)),
            };
            if got == 0 {
                return Ok((left == 0).then(|| hasher.finalize()));
            }
            let Some(less) = left.checked_sub(got as u64) else {
                return Ok(None);
            };
            left = less;
            hasher.update(&buffer[..got]);
            out.write_all(&buffer[..got]).map_err(PackError::Write)?;
            self.progress.done(got as u64);
        }
    }
}

/// One frame that tells its size and has a checksum.
pub(crate) fn compress(raw: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    compressor.compress(raw)
}

/// As [`compress`], finding what repeats anywhere within the largest window that readers take.
fn compress_far(raw: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    for parameter in [
        CParameter::ChecksumFlag(true),
        CParameter::WindowLog(MAX_WINDOW_LOG),
        CParameter::EnableLongDistanceMatching(true),
        CParameter::LdmMinMatch(32),
        CParameter::LdmHashRateLog(5),
    ] {
        compressor.set_parameter(parameter)?;
    }
    compressor.compress(raw)
}

/// What is written, counted and hashed on its way out.
struct Bundle<W> {
    out: W,
    hasher: blake3::Hasher,
    bytes: u64,
    frames: Vec<Frame>,
    /// With lists: what has a place already.
    seen: Option<HashSet<BlobDigest>>,
}

impl<W: Write> Write for Bundle<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Bundle<W> {
    /// Everything written since the last frame is this one.
    fn close(&mut self, raw_len: u64, mut blobs: Vec<BlobPlace>) {
        if let Some(seen) = &mut self.seen {
            blobs.retain(|blob| seen.insert(blob.digest));
        }
        let offset = self.frames.last().map_or(0, |last| last.offset + last.len);
        self.frames.push(Frame {
            offset,
            len: self.bytes - offset,
            raw_len,
            blobs,
        });
    }

    fn finish(mut self, level: i32, raw_bytes: u64, lists: Vec<SegmentList>) -> Result<Packed, PackError> {
        let end = compress(&tarball::END, level).map_err(PackError::Compress)?;
        self.write_all(&end).map_err(PackError::Write)?;
        self.close(tarball::END.len() as u64, Vec::new());
        let index = BundleIndex::new(std::mem::take(&mut self.frames), lists);
        let encoded = index.encode().map_err(PackError::Compress)?;
        self.write_all(&encoded).map_err(PackError::Write)?;
        self.flush().map_err(PackError::Write)?;
        Ok(Packed {
            digest: self.hasher.finalize().into(),
            bytes: self.bytes,
            raw_bytes,
            blobs: index.blobs().count() as u64,
            index,
        })
    }
}
