//! Reading a file once, in bounded pieces, and hashing what was read.

use std::fs::File;
use std::io::{self, Read};

use rayon::prelude::*;
use rustix::fs::{Advice, FileType};
use ship_model::digest::BlobDigest;

use crate::beneath::{Parents, Root};
use crate::progress::Progress;
use crate::stamp::FileStamp;

/// Files from here on are hashed one after another, each by all cores.
pub(crate) const LARGE: u64 = 8 << 20;
/// One read of a large file.
const LARGE_PIECE: usize = 4 << 20;
/// One read of another.
pub(crate) const PIECE: usize = 128 << 10;

/// Items whose results wait in memory.
const BATCH: usize = 4096;

/// What a thread keeps from one item to the next.
#[derive(Debug)]
pub(crate) struct Reach<'a> {
    /// To read with.
    pub buffer: Vec<u8>,
    pub parents: Parents<'a>,
}

impl<'a> Reach<'a> {
    pub fn of(root: &'a Root) -> Self {
        Self {
            buffer: Vec::new(),
            parents: Parents::of(root),
        }
    }
}

/// Does `work` on all items with all cores, for what lies below `root`; `take` gets the results, in no order.
///
/// Item by item some thousands at a time, so that hundreds of thousands of results never wait together. Of those the
/// large ones come first, one after another, so that their buffers do not add up; then the others, side by side.
pub(crate) fn each<'a, T: Send, R: Send>(
    root: &'a Root,
    items: impl IntoIterator<Item = T>,
    bytes: impl Fn(&T) -> u64,
    work: impl Fn(T, &mut Reach<'a>) -> R + Sync,
    mut take: impl FnMut(R),
) {
    let mut items = items.into_iter();
    loop {
        let batch: Vec<T> = items.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return;
        }
        let (large, others): (Vec<T>, Vec<T>) = batch.into_iter().partition(|item| bytes(item) >= LARGE);
        let mut reach = Reach::of(root);
        for item in large {
            take(work(item, &mut reach));
        }
        drop(reach);
        let results: Vec<R> = others
            .into_par_iter()
            .map_init(|| Reach::of(root), |reach, item| work(item, reach))
            .collect();
        results.into_iter().for_each(&mut take);
    }
}

/// The stamp of an open regular file.
pub(crate) fn stamp_of(file: &File) -> io::Result<FileStamp> {
    let stat = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no longer a regular file"));
    }
    Ok(FileStamp::of(&stat))
}

/// Hashes `file` from its start to its end, with all cores when it is large. Returns the bytes read, too.
///
/// `first` sees the first piece.
pub(crate) fn hash(
    file: &mut File,
    size: u64,
    buffer: &mut Vec<u8>,
    progress: &dyn Progress,
    first: impl FnOnce(&[u8]),
) -> io::Result<(BlobDigest, u64)> {
    let large = size >= LARGE;
    buffer.resize(if large { LARGE_PIECE } else { PIECE }, 0);
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    let mut first = Some(first);
    loop {
        let got = fill(file, buffer)?;
        let piece = &buffer[..got];
        if let Some(first) = first.take() {
            first(piece);
        }
        if large {
            hasher.update_rayon(piece);
        } else {
            hasher.update(piece);
        }
        total += got as u64;
        progress.done(got as u64);
        // A short piece is the end: `fill` reads on until the buffer is full.
        if got < buffer.len() || total > size {
            return Ok((hasher.finalize().into(), total));
        }
    }
}

/// As [`hash`], from the disk instead of from memory as far as the kernel lets go of what it holds.
pub(crate) fn hash_from_disk(
    file: &mut File,
    size: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<(BlobDigest, u64)> {
    // Advice only: where it is refused, memory is compared.
    let _ = rustix::fs::fadvise(&*file, 0, None, Advice::DontNeed);
    hash(file, size, buffer, &(), |_| {})
}

/// Reads until `buffer` is full or the source ends.
pub(crate) fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match source.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
