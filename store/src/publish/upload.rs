//! The second step: a bundle comes in.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use ship_bundle::segments::{ReadListError, read_listed};
use ship_bundle::{Expected, Verified, VerifyError, verify_bundle};
use ship_durable::fault;
use ship_model::digest::{BlobDigest, BundleDigest};

use super::Publisher;
use crate::engine::{BlobsError, Object, Staged};
use crate::locate::ReadIndexError;
use crate::segments::{StoreSource, damaged, gathered, put_aside};

/// Bytes after which an upload asks again whether the disk has room.
pub(super) const ROOM_STEP: u64 = 16 << 20;

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
    #[error("the bundle lists {count} segments that no bundle carries, {first} among them")]
    Segments { count: usize, first: BlobDigest },
    #[error("blob {blob} is not what the bundle lists for it")]
    List { blob: BlobDigest, source: ReadListError },
    #[error("cannot read the index of a bundle that has segments")]
    Index(#[from] ReadIndexError),
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

impl Publisher {
    /// Reads every file that the bundle lists with segments of others: a list is believed when it gives its blob. A bundle that
    /// turns out to be damaged on the way is put aside; what it held is missing when the publisher asks again.
    fn prove(&self, verified: &mut Verified, incoming: &File) -> Result<(), UploadError> {
        if verified.unproven.is_empty() {
            return Ok(());
        }
        let here = verified.index.blobs().map(|place| place.digest);
        let here: HashSet<BlobDigest> = here.collect();
        let lists = verified.index.lists().iter();
        let lists = lists.filter(|list| verified.unproven.binary_search(&list.blob).is_ok());
        let segments = lists.clone().flat_map(|list| &list.segments);
        let mut elsewhere: Vec<BlobDigest> = segments.map(|segment| segment.digest).collect();
        elsewhere.retain(|segment| !here.contains(segment));
        elsewhere.sort_unstable();
        elsewhere.dedup();
        let missing = self.places.missing(elsewhere.iter().copied());
        if let Some(first) = missing.first() {
            return Err(UploadError::Segments {
                count: missing.len(),
                first: *first,
            });
        }
        let lists: Vec<_> = lists.cloned().collect();
        let mut bundles = gathered(&*self.blobs, &self.places, &elsewhere)?;
        bundles.push((verified.digest, std::mem::take(&mut verified.index)));
        let source = StoreSource {
            blobs: &*self.blobs,
            incoming: Some((verified.digest, incoming)),
        };
        for list in &lists {
            let read = read_listed(list, &bundles, &source, |_| Ok(()));
            if let Err(source) = read {
                match damaged(&source) {
                    Some(bundle) if bundle != verified.digest => {
                        put_aside(&*self.blobs, &self.places, bundle)?
                    }
                    _ => {}
                }
                return Err(UploadError::List {
                    blob: list.blob,
                    source,
                });
            }
        }
        if let Some((_, index)) = bundles.pop() {
            verified.index = index;
        }
        Ok(())
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
        let mut verified = verify_bundle(file, &expected)?;
        // What it lists of other bundles stays there until it is listed.
        let _relying = publisher.places.rely();
        publisher.prove(&mut verified, staged.file())?;
        fault::point("store.publish.upload.verified").map_err(UploadError::Write)?;
        let Verified {
            digest,
            bytes,
            ref index,
            ..
        } = verified;
        publisher.places.placed(digest, bytes, index, || {
            publisher.blobs.keep(staged, Object::Bundle(digest))?;
            fault::point("store.publish.upload.kept").map_err(UploadError::Write)
        })?;
        publisher.places.complete(&*publisher.blobs);
        Ok(UploadedBundle {
            digest: verified.digest,
            bytes: verified.bytes,
            blobs: verified.index.blobs().count() as u64,
        })
    }
}
