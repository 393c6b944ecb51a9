//! Leaves of an object: parts of a bundle or a delta, each of which can be checked by itself against the object's digest,
//! whoever gave it.
//!
//! An object's digest is the root of BLAKE3's tree over its bytes. A leaf is a part that is one subtree of it, all of one
//! length but the last; the subtrees' chaining values, in order, hash to the digest and are therefore believed from anyone.
//!
//! As bytes (integers little-endian), which may change only with the version in the first eight:
//!
//! ```text
//! "SHIPLVS\x01"      8
//! length             8   of the object in bytes
//! chaining values    32 each, one for each leaf; none when there is one leaf only
//! ```

use std::ops::Range;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len};
use blake3::hazmat::{merge_subtrees_non_root, merge_subtrees_root};

/// Shortest leaf of an object that has several, in bytes.
pub const LEAF: u64 = 64 << 10;
/// Most leaves of an object.
pub const MOST_LEAVES: u64 = 16_384;
/// Longest object that is cut into leaves.
pub const LONGEST: u64 = 1 << 44;
/// Longest list as bytes.
pub const LONGEST_LIST: usize = HEAD + 32 * MOST_LEAVES as usize;

const MAGIC: &[u8; 8] = b"SHIPLVS\x01";
const HEAD: usize = 16;

/// Why a list of leaves is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeavesError {
    #[error("it is no list of leaves that this program knows")]
    Form,
    #[error("it is for an object of {0} bytes, which cannot be")]
    Length(u64),
    #[error("it has {found} leaves where the object has {wanted}")]
    Count { wanted: usize, found: usize },
    #[error("its leaves are those of another object")]
    Digest,
}

/// The leaves of one object; they hash to its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaves {
    digest: [u8; 32],
    len: u64,
    /// Empty when there is one leaf, whose value is the digest.
    values: Vec<ChainingValue>,
}

/// Bytes of every leaf but the last of an object of `len` bytes: [`LEAF`], doubled until there are at most [`MOST_LEAVES`].
pub const fn leaf_len(len: u64) -> u64 {
    let mut leaf = LEAF;
    while len.div_ceil(leaf) > MOST_LEAVES {
        leaf *= 2;
    }
    leaf
}

impl Leaves {
    /// Reads a list that came from anyone for the object `digest`.
    ///
    /// # Errors
    /// [`LeavesError`].
    pub fn read(digest: [u8; 32], bytes: &[u8]) -> Result<Self, LeavesError> {
        let (head, values) = bytes.split_at_checked(HEAD).ok_or(LeavesError::Form)?;
        let (magic, len) = head.split_at(8);
        let len = len.try_into().map(u64::from_le_bytes);
        let len = len.map_err(|_| LeavesError::Form)?;
        if magic != MAGIC {
            return Err(LeavesError::Form);
        }
        let (values, []) = values.as_chunks::<32>() else {
            return Err(LeavesError::Form);
        };
        Self::of(digest, len, values.to_vec())
    }

    fn of(digest: [u8; 32], len: u64, values: Vec<ChainingValue>) -> Result<Self, LeavesError> {
        if len == 0 || len > LONGEST {
            return Err(LeavesError::Length(len));
        }
        let wanted = match len.div_ceil(leaf_len(len)) as usize {
            1 => 0,
            several => several,
        };
        if values.len() != wanted {
            let found = values.len();
            return Err(LeavesError::Count { wanted, found });
        }
        if wanted > 0 && root(&values, len) != digest {
            return Err(LeavesError::Digest);
        }
        Ok(Self { digest, len, values })
    }

    /// The list as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + 32 * self.values.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.len.to_le_bytes());
        self.values
            .iter()
            .for_each(|value| bytes.extend_from_slice(value));
        bytes
    }

    /// Bytes of the object.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Never: an object has bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many leaves there are.
    pub fn count(&self) -> usize {
        self.values.len().max(1)
    }

    /// Bytes of every leaf but the last.
    pub const fn leaf_len(&self) -> u64 {
        leaf_len(self.len)
    }

    /// The bytes that lie in these leaves.
    pub fn bytes_of(&self, leaves: &Range<usize>) -> Range<u64> {
        let at = |leaf: usize| (leaf as u64).saturating_mul(self.leaf_len()).min(self.len);
        at(leaves.start)..at(leaves.end)
    }

    /// The leaves that hold these bytes, which lie within the object.
    pub fn holding(&self, bytes: &Range<u64>) -> Range<usize> {
        let leaf = self.leaf_len();
        (bytes.start / leaf) as usize..bytes.end.div_ceil(leaf) as usize
    }

    /// Whether `bytes` are leaf `leaf`, whole.
    pub fn is(&self, leaf: usize, bytes: &[u8]) -> bool {
        let at = self.bytes_of(&(leaf..leaf + 1));
        if bytes.is_empty() || bytes.len() as u64 != at.end - at.start {
            return false;
        }
        match self.values.get(leaf) {
            Some(value) => value_of(at.start, bytes) == *value,
            None => leaf == 0 && *blake3::hash(bytes).as_bytes() == self.digest,
        }
    }
}

fn value_of(at: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(at);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

fn root(values: &[ChainingValue], len: u64) -> [u8; 32] {
    let (left, right) = halves(values, len, leaf_len(len));
    *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
}

/// The values of the two subtrees below the root of `values`, of which there are at least two.
fn halves(values: &[ChainingValue], len: u64, leaf: u64) -> (ChainingValue, ChainingValue) {
    // A power of two of leaves, since leaves are: the recursion never cuts through one.
    let left_len = left_subtree_len(len);
    let (left, right) = values.split_at((left_len / leaf) as usize);
    (
        subtree(left, left_len, leaf),
        subtree(right, len - left_len, leaf),
    )
}

fn subtree(values: &[ChainingValue], len: u64, leaf: u64) -> ChainingValue {
    match values {
        [only] => *only,
        several => {
            let (left, right) = halves(several, len, leaf);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

/// Makes the list of an object whose bytes come in order. The object's length is known beforehand.
#[derive(Debug)]
pub struct LeavesMaker {
    len: u64,
    leaf: u64,
    /// Bytes taken in.
    at: u64,
    whole: blake3::Hasher,
    open: blake3::Hasher,
    values: Vec<ChainingValue>,
}

impl LeavesMaker {
    /// For an object of `len` bytes.
    pub fn new(len: u64) -> Self {
        Self {
            len,
            leaf: leaf_len(len),
            at: 0,
            whole: blake3::Hasher::new(),
            open: blake3::Hasher::new(),
            values: Vec::new(),
        }
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if self.len <= self.leaf {
            self.whole.update(bytes);
            self.at += bytes.len() as u64;
            return;
        }
        while !bytes.is_empty() {
            let room = (self.leaf - self.at % self.leaf).min(bytes.len() as u64) as usize;
            let (now, later) = bytes.split_at(room);
            self.open.update(now);
            self.at += room as u64;
            if self.at.is_multiple_of(self.leaf) {
                self.close();
            }
            bytes = later;
        }
    }

    fn close(&mut self) {
        self.values.push(self.open.finalize_non_root());
        self.open = blake3::Hasher::new();
        if self.at < self.len {
            self.open.set_input_offset(self.at);
        }
    }

    /// The list, if what came is the object `digest`.
    ///
    /// # Errors
    /// [`LeavesError`].
    pub fn finish(mut self, digest: [u8; 32]) -> Result<Leaves, LeavesError> {
        if self.at != self.len {
            return Err(LeavesError::Length(self.at));
        }
        if self.len <= self.leaf {
            if self.len > 0 && *self.whole.finalize().as_bytes() != digest {
                return Err(LeavesError::Digest);
            }
            return Leaves::of(digest, self.len, Vec::new());
        }
        if !self.at.is_multiple_of(self.leaf) {
            self.close();
        }
        Leaves::of(digest, self.len, self.values)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    fn object(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 % 251) as u8).collect()
    }

    fn leaves(bytes: &[u8]) -> Leaves {
        let mut maker = LeavesMaker::new(bytes.len() as u64);
        bytes.chunks(10_007).for_each(|piece| maker.update(piece));
        maker.finish(*blake3::hash(bytes).as_bytes()).unwrap()
    }

    #[test]
    fn every_length_hashes_to_the_objects_digest() {
        let leaf = LEAF as usize;
        for len in [
            1,
            1024,
            leaf - 1,
            leaf,
            leaf + 1,
            2 * leaf,
            3 * leaf,
            5 * leaf + 7,
            16 * leaf,
            17 * leaf - 1,
        ] {
            let bytes = object(len);
            let list = leaves(&bytes);
            assert_eq!(list.count(), len.div_ceil(leaf), "{len}");
            assert_eq!(
                Leaves::read(*blake3::hash(&bytes).as_bytes(), &list.encode()),
                Ok(list.clone())
            );
            for (number, part) in bytes.chunks(leaf).enumerate() {
                assert!(list.is(number, part), "leaf {number} of {len}");
                let mut other = part.to_vec();
                *other.last_mut().unwrap() ^= 1;
                assert!(
                    !list.is(number, &other) && !list.is(number, &part[1..]) && !list.is(number + 1, part)
                );
            }
        }
    }

    #[test]
    fn what_is_not_the_objects_is_refused() {
        let bytes = object(5 * LEAF as usize + 7);
        let digest = *blake3::hash(&bytes).as_bytes();
        let good = leaves(&bytes).encode();
        let read = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut list = good.clone();
            change(&mut list);
            Leaves::read(digest, &list).unwrap_err()
        };
        assert_eq!(read(&|list| list[7] = 2), LeavesError::Form);
        assert_eq!(read(&|list| list.truncate(9)), LeavesError::Form);
        assert_eq!(read(&|list| list.push(0)), LeavesError::Form);
        assert_eq!(read(&|list| list[8..16].fill(0)), LeavesError::Length(0));
        assert_eq!(
            read(&|list| list[8..16].fill(0xff)),
            LeavesError::Length(u64::MAX)
        );
        assert_eq!(
            read(&|list| list.truncate(16 + 32)),
            LeavesError::Count { wanted: 6, found: 1 }
        );
        assert_eq!(read(&|list| list[40] ^= 1), LeavesError::Digest);
        assert_eq!(read(&|list| list[16..80].rotate_left(32)), LeavesError::Digest);
        let mut maker = LeavesMaker::new(bytes.len() as u64);
        maker.update(&bytes[1..]);
        assert_eq!(
            maker.finish(digest),
            Err(LeavesError::Length(bytes.len() as u64 - 1))
        );
    }

    #[test]
    fn a_list_is_short_however_long_the_object() {
        assert_eq!((leaf_len(1), leaf_len(1 << 30)), (LEAF, LEAF));
        assert_eq!(leaf_len((1 << 30) + 1), 2 * LEAF);
        for len in [1 << 31, 1 << 40, LONGEST] {
            assert!(len.div_ceil(leaf_len(len)) <= MOST_LEAVES);
        }
    }
}
