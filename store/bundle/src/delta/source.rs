//! Where the bytes of blobs are read from while a delta is made or applied.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;

use crate::beneath::Root;

/// Bytes of blobs, wherever they lie. Called from several threads at once.
pub trait BlobBytes: Sync {
    /// Fills `buffer` with the blob's bytes from `offset` on.
    ///
    /// # Errors
    /// Whatever keeps them away; [`io::ErrorKind::NotFound`] when the blob is not there.
    fn read_at(&self, blob: BlobDigest, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// The blobs of a tree on disk. Bytes are as the files have them now: whoever reads compares digests.
#[derive(Debug)]
pub struct TreeBlobs<'a> {
    root: Root,
    manifest: &'a Manifest,
    /// Sorted by digest; with the place of the file in the manifest.
    files: Vec<(BlobDigest, u32)>,
}

impl<'a> TreeBlobs<'a> {
    /// # Errors
    /// When the folder cannot be opened.
    pub fn open(root: &Path, manifest: &'a Manifest) -> io::Result<Self> {
        let places = (0..).zip(manifest.entries().iter());
        let mut files: Vec<_> = places
            .filter_map(|(at, entry)| Some((super::matching::file(entry)?.1, at)))
            .collect();
        files.sort_unstable();
        files.dedup_by_key(|(digest, _)| *digest);
        Ok(Self {
            root: Root::open(root)?,
            manifest,
            files,
        })
    }
}

impl BlobBytes for TreeBlobs<'_> {
    fn read_at(&self, blob: BlobDigest, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let at = self.files.binary_search_by_key(&blob, |(digest, _)| *digest);
        let (_, place) = at
            .ok()
            .and_then(|at| self.files.get(at))
            .ok_or(io::ErrorKind::NotFound)?;
        read_entry(&self.root, self.manifest, *place, offset, buffer)
    }
}

/// Fills `buffer` from the file at this place of the manifest.
pub(crate) fn read_entry(
    root: &Root,
    manifest: &Manifest,
    place: u32,
    offset: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let entry = manifest
        .entries()
        .get(place as usize)
        .ok_or(io::ErrorKind::NotFound)?;
    root.read(entry.path.as_bytes())?.read_exact_at(buffer, offset)
}

/// One blob as a stream.
pub(crate) struct Stream<'a> {
    bytes: &'a dyn BlobBytes,
    blob: BlobDigest,
    at: u64,
    end: u64,
}

impl<'a> Stream<'a> {
    /// The blob's bytes of this range.
    pub fn new(bytes: &'a dyn BlobBytes, blob: BlobDigest, range: std::ops::Range<u64>) -> Self {
        Self {
            bytes,
            blob,
            at: range.start,
            end: range.end,
        }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = (self.end - self.at).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..want];
        self.bytes.read_at(self.blob, self.at, buffer)?;
        self.at += want as u64;
        Ok(want)
    }
}
