//! A release's tree, and the canonical bytes whose BLAKE3 is the release's id.
//!
//! ```text
//! "SHIPTREE" | version u8 = 1
//! spec       u32 length | canonical JSON of `ReleaseSpec`
//! entries    u64 count  | entry …                            sorted by path, strictly
//! entry      kind u8 | path: u16 length, bytes | what the kind needs
//!   0 file, 1 executable   size u64 | BLAKE3 of the whole content, 32 bytes
//!   2 link                 target: u16 length, bytes
//!   3 empty folder         nothing
//! ```
//! Integers are little-endian. Folders that hold something are implied by what they hold. There are no
//! times, owners or modes beyond the executable bit: the same input has the same id on every machine.

mod check;
mod encoding;
mod entries;

use check::check;
use encoding::{Reader, put_bytes32, put_entry};

pub use entries::{Entries, EntryRef};

use crate::digest::{BlobDigest, ReleaseId};
use crate::path::{PathError, PathRef, TreePath};
use crate::spec::ReleaseSpec;

/// Most entries in one release. At paths of 80 bytes an agent takes 1.2 KiB for each, so that it stays within 256 MiB.
pub const MAX_ENTRIES: u64 = 200_000;
/// Largest encoded manifest, in bytes: it is held in memory by every process that works with the release.
pub const MAX_ENCODED: usize = 48 << 20;
/// Largest encoded `ReleaseSpec`.
const MAX_SPEC: usize = 1 << 20;
/// Longest link target (Linux `PATH_MAX`).
pub const MAX_TARGET: usize = 4095;
/// Most bytes of content in one release, each file counted as often as it stands in the tree: 1 PiB.
pub const MAX_BYTES: u64 = 1 << 50;

const MAGIC: &[u8; 9] = b"SHIPTREE\x01";

/// One name of a tree, as something that is yet to become part of a manifest has it; a manifest gives out [`EntryRef`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: TreePath,
    pub kind: EntryKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind<T = Box<[u8]>> {
    File {
        executable: bool,
        size: u64,
        digest: BlobDigest,
    },
    Link {
        target: T,
    },
    EmptyFolder,
}

/// A whole tree with its spec, known to be well-formed: it came through [`Manifest::new`].
///
/// It holds its encoding and where each entry begins in it, nothing besides: 127 bytes for a file with a path of 80.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    spec: ReleaseSpec,
    encoded: Box<[u8]>,
    starts: Box<[u32]>,
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manifest")
            .field("spec", &self.spec)
            .field("entries", &self.entries())
            .finish()
    }
}

/// Why entries do not make a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the tree is empty: a release needs at least one file")]
    Empty,
    #[error(
        "it has {entries} names, more than the {MAX_ENTRIES} that a release may have: pack folders that change together into archives, or split the app"
    )]
    TooMany { entries: u64 },
    #[error(
        "its names and links take more than {MAX_ENCODED} bytes, which is the most for a release: pack folders that change together into archives, or split the app"
    )]
    TooLong,
    #[error("\"{path}\" stands twice in the manifest, or out of order")]
    Order { path: TreePath },
    #[error("\"{path}\" is below \"{parent}\", which is not a folder")]
    BelowFile { path: TreePath, parent: String },
    #[error("folder \"{path}\" is listed as empty and is not")]
    NotEmpty { path: TreePath },
    #[error("link \"{path}\" has an empty, over-long or NUL-bearing target")]
    Target { path: TreePath },
    #[error(
        "link \"{path}\" -> \"{target}\" leaves the release{}", allowing(.beyond.as_deref())
    )]
    Leaves {
        path: TreePath,
        target: String,
        /// Where it leads in the end, if that can be allowed.
        beyond: Option<String>,
    },
    #[error("the links lead through each other too often to follow them all")]
    Tangled,
    #[error("the files have more than {MAX_BYTES} bytes together")]
    TooLarge,
    #[error("the release's spec cannot be encoded")]
    Spec,
    #[error("the release's spec is not one")]
    Meaning(#[from] crate::spec::SpecDefect),
}

/// What to write where a link is meant to leave.
fn allowing(beyond: Option<&str>) -> String {
    match beyond {
        Some(beyond) => format!(
            " for {beyond}; if that is meant, and lies on every host, say so in ship.toml: [links] external = [\"{beyond}\"]"
        ),
        None => "; only absolute targets can be allowed, by [links] external".to_owned(),
    }
}

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a manifest: it begins otherwise, or its version is not 1")]
    Magic,
    #[error("manifest ends too early, at byte {at}")]
    Truncated { at: usize },
    #[error("manifest goes on after its last entry, at byte {at}")]
    Trailing { at: usize },
    #[error("manifest has an unknown kind {kind} at byte {at}")]
    Kind { kind: u8, at: usize },
    #[error("manifest announces {what} beyond the limit of {limit}")]
    Limit { what: &'static str, limit: u64 },
    #[error("manifest's spec is not the checked meaning of a ship.toml: {reason}")]
    Spec { reason: String },
    #[error("manifest is not in its canonical form")]
    NotCanonical,
    #[error("manifest has a bad path")]
    Path(#[from] PathError),
    #[error("manifest is not well-formed")]
    Tree(#[from] ManifestError),
}

impl Manifest {
    /// Sorts `entries` and checks them as a whole.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn new(spec: ReleaseSpec, mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        if entries.len() as u64 > MAX_ENTRIES {
            return Err(ManifestError::TooMany {
                entries: entries.len() as u64,
            });
        }
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let encoded_spec = serde_json::to_vec(&spec).map_err(|_| ManifestError::Spec)?;
        let len: usize = entries.iter().map(encoding::encoded_len).sum();
        let len = len + MAGIC.len() + 4 + encoded_spec.len() + 8;
        let mut encoded = Vec::with_capacity(len.min(MAX_ENCODED));
        encoded.extend_from_slice(MAGIC);
        put_bytes32(&mut encoded, &encoded_spec);
        encoded.extend_from_slice(&(entries.len() as u64).to_le_bytes());
        let mut starts = Vec::with_capacity(entries.len());
        for entry in entries {
            check::target(&entry)?;
            starts.push(encoded.len() as u32);
            put_entry(&mut encoded, &entry);
            if encoded.len() > MAX_ENCODED {
                return Err(ManifestError::TooLong);
            }
        }
        if encoded_spec.len() > MAX_SPEC {
            return Err(ManifestError::TooLong);
        }
        let manifest = Self {
            spec,
            encoded: encoded.into(),
            starts: starts.into(),
        };
        check(&manifest.spec, manifest.entries())?;
        Ok(manifest)
    }

    /// The same tree with another spec.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn with_spec(&self, spec: ReleaseSpec) -> Result<Self, ManifestError> {
        let old = self
            .starts
            .first()
            .map_or(self.encoded.len(), |start| *start as usize);
        let encoded_spec = serde_json::to_vec(&spec).map_err(|_| ManifestError::Spec)?;
        let rest = self.encoded.get(old..).unwrap_or_default();
        let len = MAGIC.len() + 4 + encoded_spec.len() + 8 + rest.len();
        if encoded_spec.len() > MAX_SPEC || len > MAX_ENCODED {
            return Err(ManifestError::TooLong);
        }
        let mut encoded = Vec::with_capacity(len);
        encoded.extend_from_slice(MAGIC);
        put_bytes32(&mut encoded, &encoded_spec);
        encoded.extend_from_slice(&(self.starts.len() as u64).to_le_bytes());
        let new = encoded.len();
        encoded.extend_from_slice(rest);
        let starts = self
            .starts
            .iter()
            .map(|start| (*start as usize - old + new) as u32);
        let manifest = Self {
            spec,
            starts: starts.collect(),
            encoded: encoded.into(),
        };
        check(&manifest.spec, manifest.entries())?;
        Ok(manifest)
    }

    pub fn spec(&self) -> &ReleaseSpec {
        &self.spec
    }

    /// Sorted by path.
    pub fn entries(&self) -> Entries<'_> {
        Entries::new(&self.encoded, &self.starts)
    }

    pub fn get(&self, path: &[u8]) -> Option<EntryRef<'_>> {
        self.entries().find(path).map(|(_, entry)| entry)
    }

    /// Every file: path, executable bit, size, digest.
    pub fn files(&self) -> impl Iterator<Item = (PathRef<'_>, bool, u64, BlobDigest)> {
        self.entries().iter().filter_map(|entry| match entry.kind {
            EntryKind::File {
                executable,
                size,
                digest,
            } => Some((entry.path, executable, size, digest)),
            EntryKind::Link { .. } | EntryKind::EmptyFolder => None,
        })
    }

    /// Bytes of all files, each counted as often as it stands in the tree.
    pub fn total_bytes(&self) -> u64 {
        self.files().map(|(_, _, size, _)| size).sum()
    }

    /// The canonical bytes.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The identity of a release with this manifest.
    pub fn id(&self) -> ReleaseId {
        Self::id_of(&self.encoded)
    }

    /// The identity of a release with this manifest, given its encoding.
    pub fn id_of(encoded: &[u8]) -> ReleaseId {
        ReleaseId::of(encoded)
    }

    /// As [`read`](Self::read), of a copy.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        within(bytes.len())?;
        Self::read(bytes.to_vec())
    }

    /// Takes over what [`encoded`](Self::encoded) gives and nothing else: one tree has one encoding.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn read(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        within(bytes.len())?;
        let mut reader = Reader { bytes: &bytes, at: 0 };
        if reader.take(MAGIC.len()).map_err(|_| DecodeError::Magic)? != MAGIC {
            return Err(DecodeError::Magic);
        }
        let spec_bytes = reader.bytes32(MAX_SPEC)?;
        let spec: ReleaseSpec = serde_json::from_slice(spec_bytes).map_err(|error| DecodeError::Spec {
            reason: error.to_string(),
        })?;
        if serde_json::to_vec(&spec).ok().as_deref() != Some(spec_bytes) {
            return Err(DecodeError::NotCanonical);
        }
        let count = reader.u64()?;
        if count > MAX_ENTRIES {
            return Err(ManifestError::TooMany { entries: count }.into());
        }
        // Four bytes are the least an entry can take: a small input cannot ask for a large reservation.
        let mut starts = Vec::with_capacity((count as usize).min(bytes.len() / 4));
        for _ in 0..count {
            starts.push(reader.at as u32);
            reader.entry()?;
        }
        if reader.at != bytes.len() {
            return Err(DecodeError::Trailing { at: reader.at });
        }
        check(&spec, Entries::new(&bytes, &starts))?;
        Ok(Self {
            spec,
            encoded: bytes.into(),
            starts: starts.into(),
        })
    }
}

fn within(len: usize) -> Result<(), DecodeError> {
    if len <= MAX_ENCODED {
        return Ok(());
    }
    Err(DecodeError::Limit {
        what: "bytes",
        limit: MAX_ENCODED as u64,
    })
}

#[cfg(test)]
mod tests;
