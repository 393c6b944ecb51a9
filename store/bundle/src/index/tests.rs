#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
use super::*;
use crate::segments::Segment;

fn frame(offset: u64, len: u64, raw_len: u64, blobs: &[(u8, u64, u64)]) -> Frame {
    let blobs = blobs.iter().map(|(name, offset, size)| BlobPlace {
        digest: BlobDigest::of(&[*name]),
        offset: *offset,
        size: *size,
    });
    Frame {
        offset,
        len,
        raw_len,
        blobs: blobs.collect(),
    }
}

fn sample() -> BundleIndex {
    let frames = vec![
        frame(0, 100, 2048, &[(1, 512, 3), (2, 1536, 512)]),
        frame(100, 7, 512, &[(3, 512, 0)]),
        frame(107, 20, 1024, &[]),
    ];
    BundleIndex::new(frames, Vec::new())
}

fn list(blob: u8, size: u64, segments: &[(u8, u32)]) -> SegmentList {
    let segments = segments.iter().map(|(name, len)| Segment {
        digest: BlobDigest::of(&[*name]),
        len: *len,
    });
    SegmentList {
        blob: BlobDigest::of(&[blob]),
        size,
        segments: segments.collect(),
    }
}

/// A file of three segments over two frames; the second frame repeats the first segment.
fn cut() -> BundleIndex {
    let frames = vec![
        frame(
            0,
            90,
            512 + (8 << 20),
            &[(1, 512, 4 << 20), (2, 512 + (4 << 20), 4 << 20)],
        ),
        frame(90, 17, 4 << 20, &[]),
        frame(107, 20, 1024, &[]),
    ];
    let segments = [(1, 4 << 20), (2, 4 << 20), (1, 4 << 20)];
    BundleIndex::new(frames, vec![list(9, 12 << 20, &segments)])
}

fn parse(bytes: &[u8]) -> Result<BundleIndex, IndexError> {
    let total = 127 + bytes.len() as u64;
    BundleIndex::parse(bytes, &IndexLocation::from_tail(bytes, total)?)
}

#[test]
fn an_index_reads_back_and_nothing_else_does() {
    for sample in [sample(), cut()] {
        let good = sample.encode().unwrap();
        assert_eq!(parse(&good).unwrap(), sample);
        for at in 0..good.len() {
            assert!(parse(&good[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                // zstd ignores one bit of its header.
                let read = parse(&bad).ok();
                assert!(read.is_none_or(|read| read == sample), "bit {bit} at {at}");
            }
        }
    }
}

#[test]
fn contradictions_are_refused() {
    for bad in [
        vec![],
        vec![frame(0, 126, 1024, &[])],
        vec![frame(0, 100, 1024, &[]), frame(100, 27, 1024, &[])],
        vec![frame(0, 127, 1024, &[(1, 512, 5)])],
        vec![frame(0, 100, 1024, &[(1, 0, 5)]), frame(100, 27, 1024, &[])],
        vec![frame(0, 100, 1024, &[(1, 512, 513)]), frame(100, 27, 1024, &[])],
        vec![
            frame(0, 100, 1024, &[(1, u64::MAX, 2)]),
            frame(100, 27, 1024, &[]),
        ],
        vec![
            frame(0, 100, 4096, &[(1, 512, 9), (1, 2048, 9)]),
            frame(100, 27, 1024, &[]),
        ],
        vec![
            frame(0, 100, 4096, &[(1, 512, 9), (2, 520, 9)]),
            frame(100, 27, 1024, &[]),
        ],
        vec![
            frame(0, u64::MAX, 4096, &[(1, 512, 9)]),
            frame(100, 27, 1024, &[]),
        ],
    ] {
        let raw = BundleIndex::new(bad.clone(), Vec::new()).encode_raw();
        assert!(decode(&raw, 127, 1).is_err(), "{bad:?}");
    }
    for (sample, version) in [(sample(), 1), (cut(), 2)] {
        let mut long = sample.encode_raw();
        assert!(decode(&long, 127, version).is_ok());
        assert!(decode(&long, 127, 3 - version).is_err());
        long.push(0);
        assert!(decode(&long, 127, version).is_err());
    }
}

#[test]
fn lists_that_cannot_be_are_refused() {
    let (most, mib) = (4_u32 << 20, 1_u64 << 20);
    let good = [(1, most), (2, most), (1, most)];
    for bad in [
        vec![list(9, 12 * mib + 1, &good)],
        vec![list(9, 4 * mib, &[(1, most)])],
        vec![list(9, 12 * mib, &[(1, most), (2, 2 * most)])],
        vec![list(9, 12 * mib, &[(1, most), (2, most), (3, 0), (1, most)])],
        vec![list(9, 12 * mib, &[(1, most), (9, most), (1, most)])],
        vec![list(1, 12 * mib, &[(2, most), (3, most), (4, most)])],
        vec![list(9, 12 * mib, &good), list(9, 12 * mib, &good)],
        vec![list(9, u64::MAX, &[])],
    ] {
        let raw = BundleIndex::new(cut().frames, bad.clone()).encode_raw();
        assert!(decode(&raw, 127, 2).is_err(), "{bad:?}");
    }
    // What the lists claim to hold takes no memory before it is there.
    let mut raw = cut().encode_raw();
    let at = raw.len() - 3 * 36 - 4;
    raw[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let told = decode(&raw, 127, 2).unwrap_err();
    assert!(matches!(told, IndexError::List(ListError::TooMany)), "{told}");
    raw[at - 44..at - 40].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(decode(&raw, 127, 2).is_err());
}

#[test]
fn a_frame_of_a_cut_bundle_is_bounded() {
    let mut frames = cut().frames;
    frames[1].raw_len = MAX_CUT_FRAME + 1;
    let raw = BundleIndex::new(frames, cut().lists).encode_raw();
    assert!(decode(&raw, 127, 2).is_err());
}

#[test]
fn what_is_kept_of_a_list_is_what_it_needs() {
    let blob = |name: u8| BlobDigest::of(&[name]);
    let kept = cut().keep(&[blob(9)]);
    assert_eq!((kept.lists().len(), kept.blobs().count()), (1, 2));
    let kept = cut().keep(&[blob(2)]);
    assert_eq!((kept.lists().len(), kept.blobs().count()), (0, 1));
}

#[test]
fn counts_cannot_ask_for_memory() {
    assert!(decode(&u32::MAX.to_le_bytes(), 0, 1).is_err());
    let mut raw = 2_u32.to_le_bytes().to_vec();
    raw.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]);
    raw.extend(u32::MAX.to_le_bytes());
    assert!(decode(&raw, 1, 1).is_err());
}

#[test]
fn the_tail_is_read_once_or_twice() {
    let mut bundle = vec![7; 127];
    bundle.extend(sample().encode().unwrap());
    let mut reads = 0;
    let read = BundleIndex::read(bundle.len() as u64, |from, len| {
        reads += 1;
        Ok(bundle[from as usize..(from + len) as usize].to_vec())
    });
    assert_eq!((read.unwrap(), reads), (sample(), 1));
}
