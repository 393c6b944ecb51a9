//! Believing a bundle: one pass over all its bytes, in bounded memory, before anybody may fetch from it.
//!
//! The reader does not follow the index: it reads frame by frame and member by member, hashes each content, and writes
//! down what it found. At the end the index must say exactly that. So there is nothing in a believed bundle that the
//! index does not name, and nothing that tar would unpack and we would not see.

mod members;

use std::io::{self, BufRead, BufReader, Read};

use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::manifest::MAX_ENTRIES;
use ship_model::path::TreePath;

use self::members::{Found, Members, Seen};
use crate::content::PIECE;
use crate::frame::FrameDecoder;
use crate::index::{BundleIndex, FOOTER, IndexError, IndexLocation, MAX_INDEX, SKIPPABLE};
use crate::tarball::TarError;

const ZSTD_MAGIC: u32 = 0xFD2F_B528;
const BUFFER: usize = 256 << 10;

/// What is known of a bundle before it is read.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Its name; none while it is not known yet.
    pub digest: Option<BundleDigest>,
    /// Most bytes that it may decompress to, with all of the files of which it has segments: the sum of what it is expected to carry, and
    /// some room for tar headers.
    pub max_raw_bytes: u64,
}

impl Default for Expected {
    /// Any name, and up to 1 PiB.
    fn default() -> Self {
        Self {
            digest: None,
            max_raw_bytes: 1 << 50,
        }
    }
}

/// A bundle whose every byte was checked.
#[derive(Debug)]
pub struct Verified {
    pub digest: BundleDigest,
    /// The bundle's length.
    pub bytes: u64,
    pub index: BundleIndex,
    /// Blobs that are listed with segments of other bundles, ascending: whether those give them is for
    /// [`read_listed`](crate::segments::read_listed) to find out.
    pub unproven: Vec<BlobDigest>,
}

/// Why a bundle is not believed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("cannot read the bundle")]
    Read(#[source] io::Error),
    #[error("frame {frame} of the bundle is damaged")]
    Frame { frame: usize, source: io::Error },
    #[error("frame {frame} of the bundle holds no archive as bundles have it")]
    Tar { frame: usize, source: TarError },
    #[error("frame {frame} of the bundle is neither data nor the index")]
    Foreign { frame: usize },
    #[error("frame {frame} of the bundle holds nothing")]
    EmptyFrame { frame: usize },
    #[error("frame {frame} of the bundle holds \"{path}\" once more")]
    Twice { frame: usize, path: TreePath },
    #[error("a segment of blob {blob} lies in two frames of the bundle")]
    Straddles { blob: BlobDigest },
    #[error("the bundle holds \"{path}\", and that is not the digest of what is in it")]
    Misnamed { path: TreePath },
    #[error("the bundle holds more than {MAX_ENTRIES} files")]
    TooMany,
    #[error("the bundle decompresses to more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the bundle's index cannot be read")]
    Index(#[source] IndexError),
    #[error("the bundle's index does not say what the bundle holds")]
    Untrue,
    #[error("the bundle goes on after its index")]
    Trailing,
    #[error("the bundle's name is {expected}, but its bytes are those of {found}")]
    Digest {
        expected: BundleDigest,
        found: BundleDigest,
    },
}

/// Reads a bundle from its first to its last byte and checks all of it.
///
/// Memory: the index, one zstd window (8 MiB at most), 16 MiB to cut large files with, and small buffers, whatever the bundle claims.
///
/// # Errors
/// [`VerifyError`]: then nothing of it may be used.
pub fn verify_bundle(source: impl Read, expected: &Expected) -> Result<Verified, VerifyError> {
    let hashing = Hashing {
        source,
        hasher: blake3::Hasher::new(),
        bytes: 0,
    };
    let mut pass = Pass {
        input: BufReader::with_capacity(BUFFER, hashing),
        found: Found::new(expected.max_raw_bytes),
        offset: 0,
        buffer: vec![0; PIECE],
    };
    while !pass.frame()? {}
    let (index, unproven) = pass.index()?;
    let hashing = pass.input.into_inner();
    let digest = BundleDigest::from(hashing.hasher.finalize());
    match expected.digest {
        Some(expected) if expected != digest => Err(VerifyError::Digest {
            expected,
            found: digest,
        }),
        _ => Ok(Verified {
            digest,
            bytes: hashing.bytes,
            index,
            unproven,
        }),
    }
}

struct Pass<R> {
    input: BufReader<Hashing<R>>,
    found: Found,
    offset: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Pass<R> {
    fn magic(&mut self) -> Result<u32, VerifyError> {
        // The buffer may hold fewer than four bytes while more are to come, so the magic cannot be peeked at; a zstd
        // frame's first byte tells it from a skippable one.
        let first = self.input.fill_buf().map_err(VerifyError::Read)?.first().copied();
        match first.map(u32::from) {
            Some(byte) if byte == ZSTD_MAGIC & 0xff => Ok(ZSTD_MAGIC),
            Some(byte) if byte == SKIPPABLE & 0xff => Ok(SKIPPABLE),
            _ => Err(VerifyError::Foreign {
                frame: self.found.frames.len(),
            }),
        }
    }

    /// Reads one data frame; true when it held the archive's end mark.
    fn frame(&mut self) -> Result<bool, VerifyError> {
        let number = self.found.frames.len();
        if self.magic()? != ZSTD_MAGIC {
            return Err(VerifyError::Foreign { frame: number });
        }
        let damaged = |source| VerifyError::Frame {
            frame: number,
            source,
        };
        let decoder = FrameDecoder::new(&mut self.input).map_err(damaged)?;
        self.found.frames.push(Seen::at(self.offset));
        let mut members = Members {
            raw: BufReader::with_capacity(BUFFER, decoder),
            frame: number,
            at: 0,
            found: &mut self.found,
            buffer: &mut self.buffer,
        };
        let (mut count, mut end) = (0_u64, false);
        while !end && !members.at_end()? {
            end = !members.next()?;
            count += u64::from(!end);
        }
        if end == (count > 0) {
            return Err(VerifyError::EmptyFrame { frame: number });
        }
        let decoder = members.raw.into_inner();
        let (len, raw_len) = (decoder.consumed(), decoder.produced());
        if let Some(frame) = self.found.frames.last_mut() {
            (frame.len, frame.raw_len) = (len, raw_len);
        }
        self.offset += len;
        Ok(end)
    }

    /// The index, and which blobs it lists that do not lie in the bundle whole.
    fn index(&mut self) -> Result<(BundleIndex, Vec<BlobDigest>), VerifyError> {
        if self.magic()? != SKIPPABLE {
            return Err(VerifyError::Trailing);
        }
        let mut head = [0; 8];
        self.input.read_exact(&mut head).map_err(VerifyError::Read)?;
        let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if !(FOOTER..=2 * MAX_INDEX).contains(&len) {
            return Err(VerifyError::Index(IndexError::Head));
        }
        let mut bytes = head.to_vec();
        // `take` and not a reservation: the length is only a claim.
        let got = (&mut self.input)
            .take(len as u64)
            .read_to_end(&mut bytes)
            .map_err(VerifyError::Read)?;
        if got != len {
            return Err(VerifyError::Index(IndexError::Partial {
                expected: len as u64 + 8,
                got: bytes.len(),
            }));
        }
        if !self.input.fill_buf().map_err(VerifyError::Read)?.is_empty() {
            return Err(VerifyError::Trailing);
        }
        let total = self.offset + bytes.len() as u64;
        let location = IndexLocation::from_tail(&bytes, total).map_err(VerifyError::Index)?;
        let index = BundleIndex::parse(&bytes, &location).map_err(VerifyError::Index)?;
        if !self.found.is_told_by(&index)? {
            return Err(VerifyError::Untrue);
        }
        let mut proven: Vec<_> = self.found.lists.iter().map(|list| list.blob).collect();
        proven.sort_unstable();
        let lists = index.lists().iter();
        let unproven: Vec<_> = lists
            .filter(|list| proven.binary_search(&list.blob).is_err())
            .collect();
        for list in &unproven {
            self.found.spend(list.size)?;
        }
        let unproven = unproven.into_iter().map(|list| list.blob).collect();
        Ok((index, unproven))
    }
}

struct Hashing<R> {
    source: R,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        self.hasher.update(&buffer[..got]);
        self.bytes += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use crate::index::{BlobPlace, Frame};
    use crate::segments::{Segment, SegmentList};
    use crate::tarball::{END, Member};

    fn member(path: &str, content: &[u8]) -> Vec<u8> {
        let member = Member {
            path: TreePath::new(path.as_bytes()).unwrap(),
            executable: false,
            size: content.len() as u64,
        };
        [&member.header(), content, &END[..member.padding()]].concat()
    }

    /// A bundle of these raw frames, with an index that says of each frame's members what `blobs` says.
    fn bundle(frames: &[(Vec<u8>, Vec<BlobPlace>)]) -> Vec<u8> {
        bundle_with(frames, Vec::new())
    }

    fn bundle_with(frames: &[(Vec<u8>, Vec<BlobPlace>)], lists: Vec<SegmentList>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut index = Vec::new();
        for (raw, blobs) in frames {
            let packed = crate::pack::compress(raw, 3).unwrap();
            index.push(Frame {
                offset: out.len() as u64,
                len: packed.len() as u64,
                raw_len: raw.len() as u64,
                blobs: blobs.clone(),
            });
            out.extend(packed);
        }
        out.extend(BundleIndex::new(index, lists).encode().unwrap());
        out
    }

    fn place(content: &[u8], offset: u64) -> BlobPlace {
        BlobPlace {
            digest: BlobDigest::of(content),
            offset,
            size: content.len() as u64,
        }
    }

    fn end() -> (Vec<u8>, Vec<BlobPlace>) {
        (END.to_vec(), Vec::new())
    }

    fn verify(frames: &[(Vec<u8>, Vec<BlobPlace>)]) -> Result<Verified, VerifyError> {
        verify_bundle(&bundle(frames)[..], &Expected::default())
    }

    #[test]
    fn a_bundle_made_by_hand_is_believed() {
        let frames = [
            (member("a", b"one"), vec![place(b"one", 512)]),
            (member("b", b""), vec![place(b"", 512)]),
            end(),
        ];
        assert_eq!(verify(&frames).unwrap().index.frames().len(), 3);
        assert!(verify(&[end()]).is_ok(), "a bundle of nothing");
    }

    #[test]
    fn an_index_that_lies_is_refused() {
        for lie in [
            place(b"two", 512),
            BlobPlace {
                size: 2,
                ..place(b"one", 512)
            },
            place(b"one", 513),
        ] {
            let frames = [(member("a", b"one"), vec![lie]), end()];
            assert!(matches!(verify(&frames), Err(VerifyError::Untrue)), "{lie:?}");
        }
        let hidden = [member("a", b"one"), member("b", b"evil")].concat();
        let frames = [(hidden, vec![place(b"one", 512)]), end()];
        assert!(matches!(verify(&frames), Err(VerifyError::Untrue)));
    }

    #[test]
    fn tar_tricks_are_refused() {
        let good = member("a", b"one");
        let kind = |kind: u8| {
            let mut block = good.clone();
            block[156] = kind;
            let sum: u32 = block[..512].iter().map(|b| u32::from(*b)).sum();
            let old: u32 = block[148..156].iter().map(|b| u32::from(*b)).sum();
            let text = format!("{:06o}\0 ", sum - old + 8 * 32);
            block[148..156].copy_from_slice(text.as_bytes());
            block
        };
        let named = |name: &[u8]| {
            let mut block = kind(b'0');
            block[..100].fill(0);
            block[..name.len()].copy_from_slice(name);
            block[148..156].fill(b' ');
            let sum: u32 = block[..512].iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            block
        };
        assert_eq!(kind(b'0'), good);
        let mut padded = good.clone();
        *padded.last_mut().unwrap() = 1;
        let mut all = vec![
            padded,
            [&END[..], &good].concat(),
            [&good[..], &END].concat(),
            vec![0; 512],
        ];
        // Hard link, symbolic link, devices, folder, FIFO, PAX, sparse, and the oldest kind of file.
        all.extend(b"1234567xgSKLV\0".map(kind));
        all.extend([&b"../x"[..], b"/x", b"a/../x", b"a//b", b"", b"./a"].map(named));
        for raw in all {
            let frames = [(raw.clone(), vec![place(b"one", 512)]), end()];
            let refused = verify(&frames);
            assert!(
                matches!(
                    refused,
                    Err(VerifyError::Tar { .. } | VerifyError::Frame { .. } | VerifyError::EmptyFrame { .. })
                ),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn no_path_stands_twice() {
        let three = |names: [&str; 3]| {
            let member = |name: &str, content: &[u8]| (member(name, content), vec![place(content, 512)]);
            let [one, two, three] = names;
            verify(&[
                member(one, b"one"),
                member(two, b"two"),
                member(three, b"three"),
                end(),
            ])
        };
        assert!(three(["b", "a", "c"]).is_ok());
        for names in [["b", "a", "b"], ["b", "b", "a"]] {
            assert!(matches!(three(names), Err(VerifyError::Twice { .. })));
        }
    }

    #[test]
    fn a_member_across_two_frames_is_refused() {
        let raw = member("a", &[7; 2000]);
        let frames = [
            (raw[..1024].to_vec(), vec![place(&[7; 512], 512)]),
            (raw[1024..].to_vec(), vec![place(b"one", 512)]),
            end(),
        ];
        assert!(matches!(
            verify(&frames),
            Err(VerifyError::Frame { frame: 0, .. })
        ));
    }

    /// A file of nine MiB of zeros whose archive is parted at these places, with an index that says this.
    fn cut(at: [usize; 2], name: &str, list: Option<&[u32]>) -> Result<Verified, VerifyError> {
        let zeros = vec![0; 9 << 20];
        let raw = member("a", &zeros);
        let (most, mib) = (zeros[..4 << 20].to_vec(), zeros[..1 << 20].to_vec());
        let part = [&raw[..at[0]], &raw[at[0]..at[1]], &raw[at[1]..]];
        let named = member(name, b"segment");
        let frames = [
            (
                [&named[..], part[0]].concat(),
                vec![place(b"segment", 512), place(&most, 1536)],
            ),
            (part[1].to_vec(), vec![]),
            (part[2].to_vec(), vec![place(&mib, 0)]),
            end(),
        ];
        let segments = list.unwrap_or_default().iter().map(|len| Segment {
            digest: BlobDigest::of(&zeros[..*len as usize]),
            len: *len,
        });
        let told = SegmentList {
            blob: BlobDigest::of(if list.is_some() { &zeros[..] } else { b"other" }),
            size: 9 << 20,
            segments: segments.collect(),
        };
        let lists = if list.is_some() { vec![told] } else { Vec::new() };
        let bytes = bundle_with(&frames, lists);
        verify_bundle(&bytes[..], &Expected::default())
    }

    #[test]
    fn what_is_cut_must_be_as_it_is_listed() {
        let name = format!(".ship-segments/{}", BlobDigest::of(b"segment"));
        let good = [512 + (4 << 20), 512 + (8 << 20)];
        let list = [4 << 20, 4 << 20, 1 << 20];
        let verified = cut(good, &name, Some(&list)).unwrap();
        assert_eq!((verified.index.lists().len(), verified.unproven.len()), (1, 0));
        for (at, name, list) in [
            ([good[0] + 512, good[1]], name.as_str(), Some(&list[..])),
            ([good[0], good[1] - 512], &name, Some(&list)),
        ] {
            let told = cut(at, name, list);
            assert!(matches!(told, Err(VerifyError::Straddles { .. })), "{told:?}");
        }
        let told = cut(good, ".ship-segments/other", Some(&list));
        assert!(matches!(told, Err(VerifyError::Misnamed { .. })), "{told:?}");
        let told = cut(good, &name, Some(&[1 << 20, 4 << 20, 4 << 20]));
        assert!(matches!(told, Err(VerifyError::Untrue)), "{told:?}");
        // In version 1 no file goes over frames.
        let told = cut(good, &name, None);
        assert!(told.is_err(), "{told:?}");
    }

    #[test]
    fn a_bundle_without_its_end_mark_is_refused() {
        let frames = [
            (member("a", b"one"), vec![place(b"one", 512)]),
            (member("b", b"two"), vec![]),
        ];
        assert!(verify(&frames).is_err());
    }
}
