//! Immutable objects, each named by the BLAKE3 of its bytes: bundles, manifests, deltas and kept deltas.
//!
//! Bytes are staged first (a file nobody else sees, hashed while it is written), checked by whoever knows
//! what they mean, and only then kept under their digest. Engines hold no pointers and no locks, so any
//! of them can be as simple as a folder or a bucket.

mod fs;
mod memory;
mod slice;
mod staged;

pub use fs::FsBlobs;
pub use memory::MemoryBlobs;
pub(crate) use slice::Slice;
pub use staged::Staged;

use std::fmt;
use std::io;

use ship_model::digest::{BundleDigest, DeltaDigest, ReleaseId};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    Bundle,
    Manifest,
    /// Derived: what is lost can be made again from bundles.
    Delta,
    /// A delta that a release is kept by, and truth as bundles are: see [`keeping`](crate::keeping).
    Kept,
}

impl ObjectKind {
    pub const ALL: [Self; 4] = [Self::Bundle, Self::Manifest, Self::Delta, Self::Kept];

    /// The kind that is called so.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word for people and for folders: `bundle`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Manifest => "manifest",
            Self::Delta => "delta",
            Self::Kept => "kept",
        }
    }
}

/// An object's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    Bundle(BundleDigest),
    Manifest(ReleaseId),
    Delta(DeltaDigest),
    Kept(DeltaDigest),
}

impl Object {
    /// The object of `kind` whose bytes have this BLAKE3.
    pub const fn new(kind: ObjectKind, digest: [u8; 32]) -> Self {
        match kind {
            ObjectKind::Bundle => Self::Bundle(BundleDigest::from_bytes(digest)),
            ObjectKind::Manifest => Self::Manifest(ReleaseId::from_bytes(digest)),
            ObjectKind::Delta => Self::Delta(DeltaDigest::from_bytes(digest)),
            ObjectKind::Kept => Self::Kept(DeltaDigest::from_bytes(digest)),
        }
    }

    pub const fn kind(&self) -> ObjectKind {
        match self {
            Self::Bundle(_) => ObjectKind::Bundle,
            Self::Manifest(_) => ObjectKind::Manifest,
            Self::Delta(_) => ObjectKind::Delta,
            Self::Kept(_) => ObjectKind::Kept,
        }
    }

    pub const fn digest(&self) -> &[u8; 32] {
        match self {
            Self::Bundle(digest) => digest.as_bytes(),
            Self::Manifest(id) => id.as_bytes(),
            Self::Delta(digest) | Self::Kept(digest) => digest.as_bytes(),
        }
    }

    /// The digest as 64 digits.
    pub fn hex(&self) -> String {
        match self {
            Self::Bundle(digest) => digest.to_string(),
            Self::Manifest(id) => id.to_string(),
            Self::Delta(digest) | Self::Kept(digest) => digest.to_string(),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind().as_str(), self.hex())
    }
}

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlobsError {
    #[error("{object} is not in the store")]
    Absent { object: Object },
    /// What was sent is not what its name says; nothing was kept.
    #[error("{object} was announced, but the bytes that came are {found}")]
    Mismatch { object: Object, found: String },
    /// What lies in the store is not what its name says; it was put aside.
    #[error(
        "{object} is damaged ({reason}) and was put into quarantine; publish its release again to heal it"
    )]
    Damaged { object: Object, reason: String },
    #[error("{object} has {len} bytes, more than the {limit} that can be read here")]
    TooLong { object: Object, len: u64, limit: u64 },
    #[error("only {free} bytes are free on the store's disk and {wanted} must stay so; free some")]
    DiskFull { free: u64, wanted: u64 },
    #[error("cannot {action}")]
    Io { action: String, source: io::Error },
    #[error("cannot {action}")]
    Durable {
        action: String,
        source: ship_durable::FileError,
    },
}

/// An open object. Reads need no order and may run in parallel.
pub trait ObjectReader: Send + Sync + fmt::Debug {
    /// Bytes in all.
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads at most `buffer.len()` bytes at `offset`; 0 only at the end.
    ///
    /// The bytes are not checked against the object's digest, which only a whole read can do: see
    /// [`read_whole`] and, for a bundle's blobs, their own digests.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Asks that what is read from now on comes from the disk, not out of memory. Where that cannot be had, memory is read.
    fn drop_cached(&self) {}
}

/// Objects under their digests. Every method blocks; every method may be called from any thread.
pub trait Blobs: Send + Sync + fmt::Debug {
    /// Refuses when the disk has no room for more uploads; asked again while one grows.
    fn room(&self) -> Result<(), BlobsError>;

    /// A new, empty staged file. Dropped unkept, it is gone; what a crash leaves is swept at the next start.
    fn stage(&self) -> Result<Staged, BlobsError>;

    /// Keeps what was staged as `object`; durable when it returns. Keeping what is there already replaces
    /// it by the same bytes, which heals a copy that rotted.
    fn keep(&self, staged: Staged, object: Object) -> Result<(), BlobsError>;

    /// Opens an object for ranged reads. It can be read to its end whatever happens to its name.
    fn open(&self, object: Object) -> Result<Box<dyn ObjectReader>, BlobsError>;

    /// Its length in bytes, if it is there.
    fn len(&self, object: Object) -> Result<Option<u64>, BlobsError>;

    /// Every object of a kind with its length, in no order.
    fn list(&self, kind: ObjectKind) -> Result<Vec<(Object, u64)>, BlobsError>;

    /// Takes a damaged object out of the store's sight, keeping its bytes for whoever wants to look.
    /// An absent object is fine.
    fn quarantine(&self, object: Object) -> Result<(), BlobsError>;

    /// What lies in quarantine, in no order: it may be in the store again by now.
    fn quarantined(&self) -> Result<Vec<Object>, BlobsError>;

    /// Takes away for good what nothing needs any more; who has it open can read it to its end. An absent object is fine.
    fn remove(&self, object: Object) -> Result<(), BlobsError>;
}

/// Reads a whole object of at most `limit` bytes and checks its digest; a damaged one is quarantined.
pub fn read_whole(blobs: &dyn Blobs, object: Object, limit: u64) -> Result<Vec<u8>, BlobsError> {
    let reader = blobs.open(object)?;
    if reader.len() > limit {
        return Err(BlobsError::TooLong {
            object,
            len: reader.len(),
            limit,
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(reader.len()).unwrap_or(0));
    walk(reader.as_ref(), object, |piece| bytes.extend_from_slice(piece))?;
    if blake3::hash(&bytes).as_bytes() == object.digest() {
        Ok(bytes)
    } else {
        Err(put_aside(blobs, object, "its bytes have another digest"))
    }
}

/// Reads an object from end to end and checks its digest, keeping nothing; a damaged one is quarantined.
pub fn check_whole(blobs: &dyn Blobs, object: Object) -> Result<u64, BlobsError> {
    let reader = blobs.open(object)?;
    let mut hasher = blake3::Hasher::new();
    let len = walk(reader.as_ref(), object, |piece| {
        hasher.update(piece);
    })?;
    if hasher.finalize().as_bytes() == object.digest() {
        Ok(len)
    } else {
        Err(put_aside(blobs, object, "its bytes have another digest"))
    }
}

/// Quarantines `object` and says why.
pub fn put_aside(blobs: &dyn Blobs, object: Object, reason: &str) -> BlobsError {
    match blobs.quarantine(object) {
        Ok(()) => BlobsError::Damaged {
            object,
            reason: reason.to_owned(),
        },
        Err(error) => error,
    }
}

/// Hands all of an object on, piece by piece; gives its length.
pub(crate) fn walk(
    reader: &dyn ObjectReader,
    object: Object,
    mut visit: impl FnMut(&[u8]),
) -> Result<u64, BlobsError> {
    let mut buffer = vec![0; 256 * 1024];
    let mut offset = 0;
    loop {
        match reader.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(offset),
            Ok(n) => {
                visit(&buffer[..n]);
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(BlobsError::Io {
                    action: format!("read {object}"),
                    source,
                });
            }
        }
    }
}
