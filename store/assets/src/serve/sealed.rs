//! Files that are asked for all the time, laid where nobody can change them: in memory that is sealed against writing and then
//! hashed.
//!
//! What lies there is right for as long as it lies there, whoever writes to the file that it came from, so that the kernel may send its pages
//! without a copy and without a look at the file's stamp. A plain file cannot be sent so: its pages are still on their way
//! when the last look at its stamp is long past, and a write would change them under way.
//!
//! The memory is the page cache's: it is no part of the process's resident memory, and is charged to its control group.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use ship_model::digest::BlobDigest;

use super::files::hash;

/// Largest file that is sealed, in bytes.
pub(super) const LARGEST: u64 = 16 << 20;
/// Bytes of all sealed files, those included that are forgotten and still sent.
const ALL: u64 = 32 << 20;

/// Counts what is sealed.
#[derive(Debug, Default)]
pub(super) struct Vault {
    held: Arc<AtomicU64>,
}

/// Bytes with the digest they were asked to have.
#[derive(Debug)]
pub(super) struct Sealed {
    memory: File,
    _room: Room,
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// A part of [`ALL`]; given back when it is dropped.
#[derive(Debug)]
struct Room {
    size: u64,
    held: Arc<AtomicU64>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.held.fetch_sub(self.size, Ordering::Relaxed);
    }
}

impl Vault {
    pub fn has_room(&self, size: u64) -> bool {
        self.held.load(Ordering::Relaxed) + size <= ALL
    }

    /// Copies the first `size` bytes of `file`. None: there is no room, or they do not have `digest`. Blocks.
    pub fn seal(&self, file: &File, size: u64, digest: BlobDigest) -> io::Result<Option<Sealed>> {
        let Some(room) = self.take(size) else {
            return Ok(None);
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = File::from(rustix::fs::memfd_create("ship-asset", flags)?);
        let mut at = 0;
        while at < size {
            // It moves `at` on.
            let left = (size - at) as usize;
            if rustix::fs::sendfile(&memory, file, Some(&mut at), left)? == 0 {
                return Ok(None);
            }
        }
        let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory, all)?;
        // Not before it is sealed: until then it could have been written to.
        let found = hash(&memory, size)?;
        Ok((found == digest).then_some(Sealed { memory, _room: room }))
    }

    fn take(&self, size: u64) -> Option<Room> {
        let more = |held: u64| held.checked_add(size).filter(|all| *all <= ALL);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Room {
            size,
            held: Arc::clone(&self.held),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    #[test]
    fn sealed_bytes_are_those_of_the_digest_and_stay_so() {
        let (vault, bytes) = (Vault::default(), vec![7; 300_000]);
        let (source, size) = (file(&bytes), bytes.len() as u64);
        let sealed = vault
            .seal(&source, size, BlobDigest::of(&bytes))
            .unwrap()
            .unwrap();
        source.write_all_at(b"x", 0).unwrap();
        assert!(sealed.memory.write_all_at(b"x", 0).is_err());
        assert!(sealed.memory.set_len(0).is_err());
        assert_eq!(hash(&sealed.memory, size).unwrap(), BlobDigest::of(&bytes));
        // The file holds something else by now, or less than it should.
        assert!(
            vault
                .seal(&source, size, BlobDigest::of(&bytes))
                .unwrap()
                .is_none()
        );
        assert!(
            vault
                .seal(&source, size + 1, BlobDigest::of(&bytes))
                .unwrap()
                .is_none()
        );
        assert_eq!(
            vault.held.load(Ordering::Relaxed),
            size,
            "only the one that stands"
        );
        drop(sealed);
        assert_eq!(vault.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_still_sent_counts() {
        let vault = Vault::default();
        let rooms: Vec<Option<Room>> = (0..4).map(|_| vault.take(LARGEST)).collect();
        assert_eq!(rooms.iter().flatten().count() as u64, ALL / LARGEST);
        assert!(!vault.has_room(1));
        assert!(vault.take(u64::MAX).is_none());
        drop(rooms);
        assert!(vault.has_room(ALL));
    }
}
