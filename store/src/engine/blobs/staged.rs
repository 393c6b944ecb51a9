//! Bytes that came in and are no object yet.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::{BlobsError, Object};

/// A file being filled, hashed while it is written. Nobody else sees it; dropped, it is gone.
#[derive(Debug)]
pub struct Staged {
    file: File,
    /// Where it lies, when it has a name to be removed or renamed.
    place: Option<PathBuf>,
    hasher: blake3::Hasher,
    len: u64,
}

impl Staged {
    pub(super) fn new(file: File, place: Option<PathBuf>) -> Self {
        Self {
            file,
            place,
            hasher: blake3::Hasher::new(),
            len: 0,
        }
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// BLAKE3 of the bytes written so far.
    pub fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    /// The bytes written so far, to be read at any place.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Refuses to be `object` unless its bytes say so.
    pub(super) fn must_be(&self, object: Object) -> Result<(), BlobsError> {
        if self.digest() == *object.digest() {
            return Ok(());
        }
        let found = Object::new(object.kind(), self.digest()).hex();
        Err(BlobsError::Mismatch { object, found })
    }

    pub(super) fn place(&self) -> Option<&std::path::Path> {
        self.place.as_deref()
    }

    /// Its name was given away by a rename: dropping it must not remove anything.
    pub(super) fn moved(mut self) {
        self.place = None;
    }
}

impl io::Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ship_durable::fault::point("store.blobs.write")?;
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            // What cannot be removed now is swept at the next start.
            let _ = std::fs::remove_file(place);
        }
    }
}
