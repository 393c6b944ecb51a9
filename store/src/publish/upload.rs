//! The second step: a bundle comes in.

use std::io::{self, Seek, SeekFrom, Write};

use ship_bundle::{Expected, VerifyError, verify_bundle};
use ship_durable::fault;
use ship_model::digest::BundleDigest;

use super::Publisher;
use crate::engine::{BlobsError, Object, Staged};

/// Bytes after which an upload asks again whether the disk has room.
const ROOM_STEP: u64 = 16 << 20;

/// A bundle on its way in. Dropped, it is gone.
#[derive(Debug)]
pub struct Upload<'a> {
    publisher: &'a Publisher,
    staged: Staged,
    asked_at: u64,
}

/// A bundle that is believed and durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadedBundle {
    pub digest: BundleDigest,
    pub bytes: u64,
    pub blobs: u64,
}

/// Why a bundle was not kept.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the bundle is larger than the {limit} bytes that the store takes")]
    TooLong { limit: u64 },
    #[error("the bundle is refused")]
    Bundle(#[from] VerifyError),
    #[error("cannot keep the bundle")]
    Blobs(#[from] BlobsError),
    #[error("cannot write the bundle")]
    Write(#[source] io::Error),
}

impl Publisher {
    /// Opens the door for one bundle.
    pub fn upload(&self) -> Result<Upload<'_>, UploadError> {
        Ok(Upload {
            publisher: self,
            staged: self.blobs.stage()?,
            asked_at: 0,
        })
    }
}

impl Upload<'_> {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        let limit = self.publisher.limits.bundle_bytes;
        if self.staged.len() + bytes.len() as u64 > limit {
            return Err(UploadError::TooLong { limit });
        }
        if self.staged.len() >= self.asked_at + ROOM_STEP {
            self.asked_at = self.staged.len();
            self.publisher.blobs.room()?;
        }
        self.staged.write_all(bytes).map_err(UploadError::Write)
    }

    /// Checks every byte and keeps the bundle; `announced` is the digest it was announced with.
    ///
    /// Durable when it returns; from then on its blobs have a place.
    pub fn finish(self, announced: Option<BundleDigest>) -> Result<UploadedBundle, UploadError> {
        let Self {
            publisher, staged, ..
        } = self;
        let expected = Expected {
            digest: announced,
            max_raw_bytes: publisher.limits.bundle_raw_bytes,
        };
        let mut file = staged.file();
        file.seek(SeekFrom::Start(0)).map_err(UploadError::Write)?;
        let verified = verify_bundle(file, &expected)?;
        fault::point("store.publish.upload.verified").map_err(UploadError::Write)?;
        publisher.blobs.keep(staged, Object::Bundle(verified.digest))?;
        fault::point("store.publish.upload.kept").map_err(UploadError::Write)?;
        publisher
            .places
            .add(verified.digest, verified.bytes, &verified.index);
        Ok(UploadedBundle {
            digest: verified.digest,
            bytes: verified.bytes,
            blobs: verified.index.blobs().count() as u64,
        })
    }
}
