//! Where a large file is cut: where its content says, so that an insertion moves the cuts behind it along with the bytes.
//!
//! FastCDC of 2020 with normalisation of level 1 and no seed, and the sizes below. A bundle of version 2 holds exactly these cuts: other
//! parameters are another version of bundles.

use std::io::{self, Read};

use fastcdc::v2020::{FastCDC, Normalization};
use rayon::prelude::*;
use ship_model::digest::BlobDigest;

use super::{MAX_SEGMENT, Segment, SegmentList};
use crate::content::fill;
use crate::progress::Progress;

const MIN: usize = 256 << 10;
const AVERAGE: usize = 1 << 20;
const MAX: usize = MAX_SEGMENT as usize;
/// Bytes that are looked at together: what is left behind a cut is moved to the front only when they are used up.
const WINDOW: usize = 4 * MAX;
/// Bytes that are read at once.
const READ: usize = 1 << 20;

/// Cuts bytes as they come, and hashes them whole and by the piece. Memory: 16 MiB.
#[derive(Debug)]
pub(crate) struct Cutter {
    window: Vec<u8>,
    /// What is cut off already.
    from: usize,
    size: u64,
    whole: blake3::Hasher,
    segments: Vec<Segment>,
    given_up: bool,
}

impl Cutter {
    pub fn new() -> Self {
        Self {
            window: Vec::new(),
            from: 0,
            size: 0,
            whole: blake3::Hasher::new(),
            segments: Vec::new(),
            given_up: false,
        }
    }

    /// Segments so far.
    pub fn count(&self) -> usize {
        self.segments.len()
    }

    /// Cuts no further: from now on bytes are only hashed, and the list will have no segments.
    pub fn give_up(&mut self) {
        self.given_up = true;
        self.window = Vec::new();
        self.segments = Vec::new();
        self.from = 0;
    }

    /// Takes the next bytes; `each` sees every segment that ends in them.
    pub fn push<E>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Segment, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.whole.update(bytes);
        self.size += bytes.len() as u64;
        if self.given_up {
            return Ok(());
        }
        self.add(bytes);
        // Where a segment ends depends on its own bytes, and those are at most so many.
        while self.window.len() - self.from >= MAX {
            self.cut(&mut each)?;
        }
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.window.len() + bytes.len() > WINDOW {
            self.window.drain(..self.from);
            self.from = 0;
        }
        self.window.extend_from_slice(bytes);
    }

    /// As [`push`](Self::push), with all cores, and nobody sees the segments.
    fn push_side_by_side(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.add(bytes);
        let (window, mut from) = (&self.window, self.from);
        let cuts = || {
            let mut cuts = Vec::new();
            while window.len() - from >= MAX {
                let len = next_cut(&window[from..]);
                cuts.push(&window[from..from + len]);
                from += len;
            }
            cuts.into_par_iter().map(segment).collect::<Vec<_>>()
        };
        let (_, segments) = rayon::join(|| self.whole.update_rayon(bytes), cuts);
        self.from = from;
        self.segments.extend(segments);
    }

    /// After the last bytes: the list of all, and their digest.
    pub fn finish<E>(
        mut self,
        mut each: impl FnMut(Segment, &[u8]) -> Result<(), E>,
    ) -> Result<SegmentList, E> {
        while self.from < self.window.len() {
            self.cut(&mut each)?;
        }
        Ok(SegmentList {
            blob: self.whole.finalize().into(),
            size: self.size,
            segments: self.segments,
        })
    }

    fn cut<E>(&mut self, each: &mut impl FnMut(Segment, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let ahead = &self.window[self.from..];
        let bytes = &ahead[..next_cut(ahead)];
        let segment = segment(bytes);
        self.segments.push(segment);
        self.from += bytes.len();
        each(segment, bytes)
    }
}

fn next_cut(ahead: &[u8]) -> usize {
    let cuts = FastCDC::with_level(ahead, MIN, AVERAGE, MAX, Normalization::Level1);
    cuts.cut(0, ahead.len()).1
}

fn segment(bytes: &[u8]) -> Segment {
    Segment {
        digest: BlobDigest::of(bytes),
        len: bytes.len() as u32,
    }
}

/// Reads all of `source`, hashes and cuts it with all cores, and shows `first` its first piece. A list of another size than `size`
/// tells that there was more or less. Memory: 20 MiB.
pub(crate) fn hash_and_cut(
    source: impl Read,
    size: u64,
    progress: &dyn Progress,
    first: impl FnOnce(&[u8]),
) -> io::Result<SegmentList> {
    let mut source = source.take(size.saturating_add(1));
    let mut cutter = Cutter::new();
    let mut buffer = vec![0; MAX];
    let mut first = Some(first);
    loop {
        let got = fill(&mut source, &mut buffer)?;
        let bytes = &buffer[..got];
        if let Some(first) = first.take() {
            first(bytes);
        }
        cutter.push_side_by_side(bytes);
        progress.done(got as u64);
        if got < buffer.len() {
            return cutter.finish(|_, _| Ok(()));
        }
    }
}

/// Cuts what `source` gives, up to one byte more than `size`: a list of another size tells that there was more or less.
pub(crate) fn cut<E: From<io::Error>>(
    source: impl Read,
    size: u64,
    mut each: impl FnMut(Segment, &[u8]) -> Result<(), E>,
) -> Result<SegmentList, E> {
    let mut source = source.take(size.saturating_add(1));
    let mut cutter = Cutter::new();
    let mut buffer = vec![0; READ];
    loop {
        let got = fill(&mut source, &mut buffer)?;
        cutter.push(&buffer[..got], &mut each)?;
        if got < buffer.len() {
            return cutter.finish(each);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    /// Bytes of a generator that is written down here: the cuts below are theirs for ever.
    fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed;
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            out.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        out.truncate(len);
        out
    }

    fn list(bytes: &[u8]) -> SegmentList {
        cut::<io::Error>(bytes, bytes.len() as u64, |_, _| Ok(())).unwrap()
    }

    fn lengths(list: &SegmentList) -> Vec<u32> {
        list.segments.iter().map(|segment| segment.len).collect()
    }

    #[test]
    fn cuts_are_where_they_always_were() {
        assert_eq!(lengths(&list(&bytes(1, 12 << 20))), GOLDEN);
        assert_eq!(lengths(&list(&vec![0; 9 << 20])), [4 << 20, 4 << 20, 1 << 20]);
        assert_eq!(lengths(&list(&bytes(2, 1000))), [1000]);
        assert!(list(b"").segments.is_empty());
    }

    #[test]
    fn cuts_do_not_depend_on_how_bytes_come() {
        let bytes = bytes(3, 10 << 20);
        let whole = list(&bytes);
        assert_eq!(whole.blob, BlobDigest::of(&bytes));
        assert_eq!(whole.size, bytes.len() as u64);
        for step in [999, 70_000, 5 << 20, 40 << 20] {
            let mut cutter = Cutter::new();
            let mut again = Vec::new();
            let mut keep = |segment: Segment, bytes: &[u8]| {
                assert_eq!(segment.digest, BlobDigest::of(bytes));
                again.extend_from_slice(bytes);
                Ok::<(), io::Error>(())
            };
            for piece in bytes.chunks(step) {
                cutter.push(piece, &mut keep).unwrap();
            }
            assert_eq!(cutter.finish(&mut keep).unwrap(), whole, "{step}");
            assert!(again == bytes);
        }
        for len in [10 << 20, (8 << 20) + 1, 4 << 20, 17, 0] {
            let (mut first, bytes) = (Vec::new(), &bytes[..len]);
            let cut = hash_and_cut(bytes, len as u64, &(), |piece| {
                first.extend_from_slice(&piece[..piece.len().min(5)])
            });
            assert_eq!(cut.unwrap(), list(bytes));
            assert_eq!(first, bytes[..len.min(5)]);
        }
        let more = hash_and_cut(&bytes[..], 1000, &(), |_| {}).unwrap();
        assert_eq!(more.size, 1001, "what grew meanwhile is seen");
    }

    #[test]
    fn an_insertion_near_the_start_costs_a_few_segments() {
        let old = bytes(4, 32 << 20);
        let new = [&old[..100_000], b"inserted", &old[100_000..]].concat();
        let (old, new) = (list(&old), list(&new));
        let held: std::collections::HashSet<_> = old.segments.iter().map(|s| s.digest).collect();
        let fresh = new.segments.iter().filter(|s| !held.contains(&s.digest));
        assert!(fresh.count() <= 2);
        assert!(new.segments.len() > 16);
    }

    const GOLDEN: &[u32] = &[
        278_755, 827_435, 1_633_517, 1_252_205, 593_103, 2_103_531, 805_973, 1_202_200, 1_619_404, 1_993_092,
        273_697,
    ];
}
