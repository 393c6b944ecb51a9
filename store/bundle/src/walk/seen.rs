//! What files of a tree looked like when they were hashed, so that the next walk need not read those that still look so.
//!
//! ```text
//! "SHIPSEEN" | version u8 = 1 | files u64 | file … | lists, as in a bundle's index | BLAKE3 of all before, 32 bytes
//! file       device u64 | inode u64 | size u64 | mtime ns i64 | ctime ns i64 | looks like a secret u8 | digest, 32 bytes
//! ```
//! Integers are little-endian; files ascend by device and inode. A path is not needed: another file in its place is
//! another inode or has another ctime, and one that was renamed has the bytes that it had.
//!
//! The kernel moves the ctime at every change of bytes or mode, whatever is done to the mtime. A file that changed just before it
//! was hashed may change once more within the same tick of the file system's clock; so only files are remembered whose ctime was
//! older, by [`RACY`], than the moment they were opened to be hashed. What stays open is what `git` cannot see either: a clock
//! that was set back, a server of files whose clock is behind, bytes written through a mapping and not yet to the file. Then a
//! release has the older bytes of that file: content is hashed once more while it is packed, so nothing is ever published
//! under a digest that it does not have.

use ship_model::digest::BlobDigest;
use ship_model::manifest::MAX_ENTRIES;

use crate::index::Reader;
use crate::segments::{MAX_SEGMENTS, SegmentList, decode_lists, encode_lists};
use crate::stamp::FileStamp;

const MAGIC: &[u8; 9] = b"SHIPSEEN\x01";
const FILE: usize = 5 * 8 + 1 + 32;
const CHECKSUM: usize = 32;
/// How much older than its reading a file's last change must be, in nanoseconds: file systems count in steps of up to two seconds.
pub const RACY: i64 = 2_000_000_000;

/// Largest encoding, in bytes.
pub const MAX_SEEN: u64 =
    (MAGIC.len() + 8 + 4 + CHECKSUM) as u64 + MAX_ENTRIES * FILE as u64 + MAX_SEGMENTS as u64 * (36 + 44);

/// A file that was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SeenFile {
    pub device: u64,
    pub stamp: FileStamp,
    /// Whether its first bytes look like a secret.
    pub secret: bool,
    pub digest: BlobDigest,
}

impl SeenFile {
    fn place(&self) -> (u64, u64) {
        (self.device, self.stamp.inode)
    }

    /// Whether a later change is bound to show, when this was hashed at `at` (nanoseconds since 1970).
    pub fn is_settled(&self, at: i64) -> bool {
        self.stamp.ctime_ns <= at.saturating_sub(RACY)
    }
}

/// Files that were hashed, and the segments of large ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Sorted by device and inode, each once.
    files: Vec<SeenFile>,
    /// Ascending by blob.
    lists: Vec<SegmentList>,
}

/// The bytes are not what a walk saw, or are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not what a walk saw, in version 1, or damaged")]
pub struct SeenError;

impl Seen {
    pub(super) fn new(mut files: Vec<SeenFile>, mut lists: Vec<SegmentList>) -> Self {
        files.sort_unstable_by_key(SeenFile::place);
        files.dedup_by_key(|file| file.place());
        lists.sort_unstable_by_key(|list| list.blob);
        lists.dedup_by_key(|list| list.blob);
        Self { files, lists }
    }

    /// How many files are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Bytes of the files that are remembered.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.stamp.size).sum()
    }

    pub(super) fn find(&self, device: u64, stamp: &FileStamp) -> Option<&SeenFile> {
        let place = (device, stamp.inode);
        let at = self.files.binary_search_by_key(&place, SeenFile::place).ok()?;
        self.files.get(at).filter(|file| file.stamp == *stamp)
    }

    /// Lists of the large files that were cut, ascending by blob.
    #[must_use]
    pub fn into_lists(self) -> Vec<SegmentList> {
        self.lists
    }

    pub(super) fn list(&self, blob: BlobDigest) -> Option<&SegmentList> {
        let at = self.lists.binary_search_by_key(&blob, |list| list.blob).ok()?;
        self.lists.get(at)
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAGIC.len() + 8 + self.files.len() * FILE + CHECKSUM);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(self.files.len() as u64).to_le_bytes());
        for file in &self.files {
            out.extend_from_slice(&file.device.to_le_bytes());
            out.extend_from_slice(&file.stamp.inode.to_le_bytes());
            out.extend_from_slice(&file.stamp.size.to_le_bytes());
            out.extend_from_slice(&file.stamp.mtime_ns.to_le_bytes());
            out.extend_from_slice(&file.stamp.ctime_ns.to_le_bytes());
            out.push(file.secret.into());
            out.extend_from_slice(file.digest.as_bytes());
        }
        encode_lists(&self.lists, &mut out);
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }

    /// # Errors
    /// [`SeenError`]: then every file is to be read.
    pub fn decode(bytes: &[u8]) -> Result<Self, SeenError> {
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(SeenError)?;
        if blake3::hash(body) != *checksum {
            return Err(SeenError);
        }
        let rest = body.strip_prefix(MAGIC).ok_or(SeenError)?;
        let (count, rest) = rest.split_first_chunk().ok_or(SeenError)?;
        let count = u64::from_le_bytes(*count).min(MAX_ENTRIES + 1) as usize;
        let (files, lists) = rest.split_at_checked(count * FILE).ok_or(SeenError)?;
        let files: Vec<SeenFile> = files.as_chunks::<FILE>().0.iter().map(file).collect();
        let sorted = files.is_sorted_by(|a, b| a.place() < b.place());
        let mut lists = Reader::of(lists);
        let read = decode_lists(&mut lists).map_err(|_| SeenError)?;
        if !sorted || files.len() as u64 > MAX_ENTRIES || lists.left() > 0 {
            return Err(SeenError);
        }
        Ok(Self { files, lists: read })
    }
}

fn file(bytes: &[u8; FILE]) -> SeenFile {
    let number = |at: usize| bytes.as_chunks::<8>().0[at];
    let mut digest = [0; 32];
    digest.copy_from_slice(&bytes[FILE - 32..]);
    SeenFile {
        device: u64::from_le_bytes(number(0)),
        stamp: FileStamp {
            inode: u64::from_le_bytes(number(1)),
            size: u64::from_le_bytes(number(2)),
            mtime_ns: i64::from_le_bytes(number(3)),
            ctime_ns: i64::from_le_bytes(number(4)),
        },
        secret: bytes[5 * 8] != 0,
        digest: BlobDigest::from_bytes(digest),
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        clippy::unwrap_used,
        reason = "tests stop at the first surprise"
    )]
    use super::*;
    use crate::segments::Segment;

    fn sample() -> Seen {
        let file = |inode: u64, secret: bool| SeenFile {
            device: 3,
            stamp: FileStamp {
                inode,
                size: 9 << 20,
                mtime_ns: -5,
                ctime_ns: 1_700_000_000_123_456_789,
            },
            secret,
            digest: BlobDigest::of(&inode.to_le_bytes()),
        };
        let segment = |len: u32| Segment {
            digest: BlobDigest::of(&len.to_le_bytes()),
            len,
        };
        let list = SegmentList {
            blob: BlobDigest::of(b"large"),
            size: 9 << 20,
            segments: vec![segment(4 << 20), segment(3 << 20), segment(2 << 20)],
        };
        Seen::new(vec![file(12, true), file(7, false)], vec![list])
    }

    #[test]
    fn it_reads_back_and_damage_is_seen() {
        let good = sample().encode();
        assert_eq!(Seen::decode(&good).unwrap(), sample());
        assert_eq!(Seen::decode(&Seen::default().encode()).unwrap(), Seen::default());
        for at in 0..good.len() {
            assert!(Seen::decode(&good[..at]).is_err());
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Seen::decode(&bad).is_err());
        }
    }

    #[test]
    fn what_cannot_be_is_refused_though_its_checksum_is_right() {
        let good = sample().encode();
        let signed = |mut body: Vec<u8>| {
            body.truncate(body.len() - CHECKSUM);
            let checksum = blake3::hash(&body);
            body.extend_from_slice(checksum.as_bytes());
            body
        };
        let mut many = good.clone();
        many[MAGIC.len()..MAGIC.len() + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let mut newer = good.clone();
        newer[MAGIC.len() - 1] = 2;
        let mut unsorted = good.clone();
        unsorted[MAGIC.len() + 8] = 200;
        let mut longer = good.clone();
        longer.insert(good.len() - CHECKSUM, 0);
        for bad in [many, newer, unsorted, longer] {
            assert_eq!(Seen::decode(&signed(bad)), Err(SeenError));
        }
    }

    #[test]
    fn the_bytes_of_version_1_are_frozen() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/frozen/seen-1");
        if std::env::var_os("SHIP_BLESS").is_some() {
            std::fs::write(path, sample().encode()).unwrap();
        }
        let frozen = std::fs::read(path).unwrap();
        assert_eq!(sample().encode(), frozen);
        assert_eq!(Seen::decode(&frozen).unwrap(), sample());
    }
}
