//! Pieces that were fetched lately, for other hosts: files in a folder of their own, at most so many bytes, the ones that
//! nobody wanted for longest go first.
//!
//! It is no record: an agent begins without any, nothing is synced, and every leaf is checked again when it is read.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ship_model::leaves::Leaves;

use super::lines::Object;
use super::share::{Piece, leaves_a_piece};

/// Every method blocks.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    most: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    pieces: HashMap<Piece, Lying>,
    bytes: u64,
    /// Counts uses.
    now: u64,
}

#[derive(Debug, Default)]
struct Lying {
    /// One bit for each leaf.
    leaves: u32,
    bytes: u64,
    used: u64,
}

fn bits(run: Range<usize>, first: usize) -> u32 {
    run.fold(0, |bits, leaf| {
        bits | 1_u32.checked_shl((leaf - first) as u32).unwrap_or(0)
    })
}

impl Cache {
    /// Makes the folder anew, and empty.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(folder: &Path, most: u64) -> io::Result<Self> {
        match ship_durable::remove_tree(folder) {
            Err(error) if folder.exists() => return Err(io::Error::other(error)),
            _ => {}
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            most,
            held: Mutex::default(),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, (object, piece): &Piece) -> PathBuf {
        let name = object.path().replace('/', "-");
        self.folder
            .join(format!("{}-{piece}", name.trim_start_matches('-')))
    }

    /// The leaves of a run that lies in one piece, if all are here and right.
    pub fn read(&self, object: Object, leaves: &Leaves, run: &Range<usize>) -> Option<Vec<Bytes>> {
        let each = leaves_a_piece(leaves);
        let first = run.start / each * each;
        let key = (object, (run.start / each) as u64);
        let file = {
            let mut held = self.held();
            held.now += 1;
            let now = held.now;
            let lying = held.pieces.get_mut(&key)?;
            lying.used = now;
            let wanted = bits(run.clone(), first);
            if lying.leaves & wanted != wanted {
                return None;
            }
            // Open, it can be read whatever happens to its name.
            File::open(self.path(&key)).ok()?
        };
        let base = leaves.bytes_of(&(first..first + 1)).start;
        let read = |leaf: usize| {
            let at = leaves.bytes_of(&(leaf..leaf + 1));
            let mut bytes = vec![0; (at.end - at.start) as usize];
            file.read_exact_at(&mut bytes, at.start - base).ok()?;
            leaves.is(leaf, &bytes).then(|| Bytes::from(bytes))
        };
        let found: Option<Vec<Bytes>> = run.clone().map(read).collect();
        if found.is_none() {
            self.forget(&mut self.held(), &key);
        }
        found
    }

    /// Keeps leaves from `first` on, all of one piece, that were checked.
    ///
    /// # Errors
    /// When they cannot be written; then they are not here.
    pub fn write(&self, object: Object, leaves: &Leaves, first: usize, got: &[Bytes]) -> io::Result<()> {
        let each = leaves_a_piece(leaves);
        let start = first / each * each;
        let key = (object, (first / each) as u64);
        let len: u64 = got.iter().map(|leaf| leaf.len() as u64).sum();
        if len > self.most || each > 32 {
            return Ok(());
        }
        // Under the lock: another piece's room, this one's bytes and its bits belong together.
        let mut held = self.held();
        held.now += 1;
        let now = held.now;
        let here = held.pieces.get(&key).map_or(0, |lying| lying.leaves);
        let new = (first..)
            .zip(got)
            .filter(|(leaf, _)| here & bits(*leaf..leaf + 1, start) == 0);
        let more: u64 = new.map(|(_, bytes)| bytes.len() as u64).sum();
        while held.bytes + more > self.most {
            let oldest = held.pieces.iter().filter(|(other, _)| **other != key);
            let Some(oldest) = oldest.min_by_key(|(_, lying)| lying.used).map(|(key, _)| *key) else {
                return Ok(());
            };
            self.forget(&mut held, &oldest);
        }
        let base = leaves.bytes_of(&(start..start + 1)).start;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path(&key))?;
        for (leaf, bytes) in (first..).zip(got) {
            let at = leaves.bytes_of(&(leaf..leaf + 1));
            file.write_all_at(bytes, at.start - base)?;
            let bit = bits(leaf..leaf + 1, start);
            let lying = held.pieces.entry(key).or_default();
            lying.used = now;
            if lying.leaves & bit == 0 {
                lying.leaves |= bit;
                lying.bytes += bytes.len() as u64;
                held.bytes += bytes.len() as u64;
            }
        }
        Ok(())
    }

    fn forget(&self, held: &mut Held, key: &Piece) {
        if let Some(lying) = held.pieces.remove(key) {
            held.bytes -= lying.bytes;
        }
        if let Err(error) = std::fs::remove_file(self.path(key)) {
            tracing::debug!(%error, "a piece is not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a failed unwrap fails the test"
    )]
    use ship_model::digest::BundleDigest;
    use ship_model::leaves::{LEAF, LeavesMaker};

    use super::*;

    fn object(seed: u8, len: usize) -> (Object, Leaves, Vec<Bytes>) {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8 ^ seed).collect();
        let digest = BundleDigest::of(&bytes);
        let mut maker = LeavesMaker::new(len as u64);
        maker.update(&bytes);
        let leaves = maker.finish(*digest.as_bytes()).unwrap();
        let parts = bytes.chunks(LEAF as usize).map(Bytes::copy_from_slice).collect();
        (Object::Bundle(digest), leaves, parts)
    }

    #[test]
    fn only_whole_runs_of_right_leaves_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::begin(&folder.path().join("pieces"), 10 << 20).unwrap();
        let (object, leaves, parts) = object(1, 40 * LEAF as usize + 5);
        assert_eq!(leaves_a_piece(&leaves), 16);
        assert_eq!(cache.read(object, &leaves, &(0..1)), None);
        cache.write(object, &leaves, 17, &parts[17..20]).unwrap();
        cache.write(object, &leaves, 40, &parts[40..]).unwrap();
        assert_eq!(cache.read(object, &leaves, &(17..20)).unwrap(), parts[17..20]);
        assert_eq!(cache.read(object, &leaves, &(40..41)).unwrap(), parts[40..]);
        assert_eq!(cache.read(object, &leaves, &(16..18)), None);
        assert_eq!(cache.read(object, &leaves, &(17..21)), None);
        // Rot is no content.
        let lying = cache.path(&(object, 1));
        let mut bytes = std::fs::read(&lying).unwrap();
        bytes[2 * LEAF as usize] ^= 1;
        std::fs::write(&lying, bytes).unwrap();
        assert_eq!(cache.read(object, &leaves, &(17..20)), None);
        assert!(!lying.exists());
        // Another agent begins with nothing.
        let again = Cache::begin(&folder.path().join("pieces"), 10 << 20).unwrap();
        assert_eq!(again.read(object, &leaves, &(40..41)), None);
        assert_eq!(
            std::fs::read_dir(folder.path().join("pieces")).unwrap().count(),
            0
        );
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_longest_unwanted_goes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::begin(&folder.path().join("pieces"), 3 << 20).unwrap();
        let all: Vec<_> = (0..4).map(|seed| object(seed, 1 << 20)).collect();
        let there = |at: usize| cache.read(all[at].0, &all[at].1, &(0..16)).is_some();
        let put = |at: usize| cache.write(all[at].0, &all[at].1, 0, &all[at].2).unwrap();
        (0..3).for_each(put);
        put(0);
        assert!(there(0) && there(1) && there(2));
        assert!(there(0));
        put(3);
        assert_eq!([0, 1, 2, 3].map(there), [true, false, true, true]);
        let bytes: u64 = std::fs::read_dir(folder.path().join("pieces"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!((bytes, cache.held().bytes), (3 << 20, 3 << 20));
        let (object, leaves, parts) = object(9, 5 << 20);
        cache.write(object, &leaves, 0, &parts).unwrap();
        assert_eq!(
            cache.read(object, &leaves, &(0..1)),
            None,
            "larger than all there is room for"
        );
    }
}
