//! The files that were opened lately, within bounds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ship_model::digest::BlobDigest;

use super::files::Opened;

/// Bytes of small files in memory.
const MEMORY: u64 = 16 << 20;
/// Larger files that are kept open.
const OPEN: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Kept {
    files: HashMap<BlobDigest, Arc<Opened>>,
    memory: u64,
    open: usize,
}

impl Kept {
    pub fn keep(&mut self, digest: BlobDigest, opened: &Arc<Opened>) {
        self.remove(&digest);
        self.make_room(opened);
        match opened.bytes() {
            Some(bytes) => self.memory += weight(bytes),
            None => self.open += 1,
        }
        self.files.insert(digest, Arc::clone(opened));
    }

    pub fn remove(&mut self, digest: &BlobDigest) {
        if let Some(gone) = self.files.remove(digest) {
            match gone.bytes() {
                Some(bytes) => self.memory -= weight(bytes),
                None => self.open -= 1,
            }
        }
    }

    pub fn get(&self, digest: &BlobDigest) -> Option<Arc<Opened>> {
        self.files.get(digest).map(Arc::clone)
    }

    pub fn keep_only(&mut self, needed: impl Fn(&BlobDigest) -> bool) {
        let gone = self.files.keys().filter(|digest| !needed(digest));
        for digest in &gone.copied().collect::<Vec<_>>() {
            self.remove(digest);
        }
    }

    /// Lets sealed files go until `has_room` says so, or all that are left were used lately.
    pub fn make_room_sealed(&mut self, has_room: impl Fn() -> bool) {
        self.make_room_among(|opened| opened.sealed().is_some(), |_| !has_room());
    }

    fn make_room(&mut self, coming: &Opened) {
        let full = |kept: &Self| match coming.bytes() {
            Some(bytes) => kept.memory + weight(bytes) > MEMORY,
            None => kept.open >= OPEN,
        };
        self.make_room_among(
            |opened| opened.bytes().is_some() == coming.bytes().is_some(),
            full,
        );
    }

    /// Second chance: what was not used since the last time goes, the rest must be used again.
    fn make_room_among(&mut self, alike: impl Fn(&Opened) -> bool, full: impl Fn(&Self) -> bool) {
        for _ in 0..2 {
            if !full(self) {
                return;
            }
            let unused = self
                .files
                .iter()
                .filter(|(_, opened)| alike(opened) && !opened.used.swap(false, Ordering::Relaxed));
            let unused: Vec<BlobDigest> = unused.map(|(digest, _)| *digest).collect();
            for digest in &unused {
                self.remove(digest);
            }
        }
    }
}

/// Bytes that a small file takes, with what is kept about it.
fn weight(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + 256
}
