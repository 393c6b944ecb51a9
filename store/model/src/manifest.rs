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

use check::check;

use crate::digest::{BlobDigest, ReleaseId};
use crate::path::{PathError, TreePath};
use crate::spec::ReleaseSpec;

/// Most entries in one release.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Largest encoded manifest, in bytes: it is held in memory by every process that works with the release.
pub const MAX_ENCODED: usize = 64 << 20;
/// Largest encoded `ReleaseSpec`.
const MAX_SPEC: usize = 1 << 20;
/// Longest link target (Linux `PATH_MAX`).
pub const MAX_TARGET: usize = 4095;
/// Most bytes of content in one release, each file counted as often as it stands in the tree: 1 PiB.
pub const MAX_BYTES: u64 = 1 << 50;

const MAGIC: &[u8; 9] = b"SHIPTREE\x01";

/// One name of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: TreePath,
    pub kind: EntryKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File {
        executable: bool,
        size: u64,
        digest: BlobDigest,
    },
    Link {
        target: Box<[u8]>,
    },
    EmptyFolder,
}

/// A whole tree with its spec, known to be well-formed: it came through [`Manifest::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    spec: ReleaseSpec,
    entries: Vec<Entry>,
}

/// Why entries do not make a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the tree is empty: a release needs at least one file")]
    Empty,
    #[error("the tree has more than {MAX_ENTRIES} names")]
    TooMany,
    #[error("the manifest would take more than {MAX_ENCODED} bytes")]
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
    pub fn new(spec: ReleaseSpec, mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        check(&spec, &entries)?;
        Ok(Self { spec, entries })
    }

    pub fn spec(&self) -> &ReleaseSpec {
        &self.spec
    }

    /// Sorted by path.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        let at = self
            .entries
            .binary_search_by(|e| e.path.as_bytes().cmp(path))
            .ok()?;
        self.entries.get(at)
    }

    /// Every file: path, executable bit, size, digest.
    pub fn files(&self) -> impl Iterator<Item = (&TreePath, bool, u64, BlobDigest)> {
        self.entries.iter().filter_map(|entry| match entry.kind {
            EntryKind::File {
                executable,
                size,
                digest,
            } => Some((&entry.path, executable, size, digest)),
            EntryKind::Link { .. } | EntryKind::EmptyFolder => None,
        })
    }

    /// Bytes of all files, each counted as often as it stands in the tree.
    pub fn total_bytes(&self) -> u64 {
        self.files().map(|(_, _, size, _)| size).sum()
    }

    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let spec = serde_json::to_vec(&self.spec).map_err(|_| ManifestError::Spec)?;
        let entries: usize = self.entries.iter().map(encoded_len).sum();
        let mut out = Vec::with_capacity(entries + spec.len() + 32);
        out.extend_from_slice(MAGIC);
        put_bytes32(&mut out, &spec);
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            put_entry(&mut out, entry);
        }
        if out.len() > MAX_ENCODED || spec.len() > MAX_SPEC {
            return Err(ManifestError::TooLong);
        }
        Ok(out)
    }

    /// The identity of a release with this manifest, given its encoding.
    pub fn id_of(encoded: &[u8]) -> ReleaseId {
        ReleaseId::of(encoded)
    }

    /// Reads what [`encode`](Self::encode) wrote and nothing else: one tree has one encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_ENCODED {
            return Err(DecodeError::Limit {
                what: "bytes",
                limit: MAX_ENCODED as u64,
            });
        }
        let mut reader = Reader { bytes, at: 0 };
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
            return Err(DecodeError::Limit {
                what: "entries",
                limit: MAX_ENTRIES,
            });
        }
        // Four bytes are the least an entry can take: a small input cannot ask for a large reservation.
        let mut entries = Vec::with_capacity((count as usize).min(bytes.len() / 4));
        for _ in 0..count {
            entries.push(reader.entry()?);
        }
        if reader.at != bytes.len() {
            return Err(DecodeError::Trailing { at: reader.at });
        }
        check(&spec, &entries)?;
        Ok(Self { spec, entries })
    }
}

/// Bytes that [`put_entry`] writes.
fn encoded_len(entry: &Entry) -> usize {
    let rest = match &entry.kind {
        EntryKind::File { .. } => 8 + 32,
        EntryKind::Link { target } => 2 + target.len(),
        EntryKind::EmptyFolder => 0,
    };
    1 + 2 + entry.path.as_bytes().len() + rest
}

fn put_bytes32(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_bytes16(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.push(match entry.kind {
        EntryKind::File { executable, .. } => executable.into(),
        EntryKind::Link { .. } => 2,
        EntryKind::EmptyFolder => 3,
    });
    put_bytes16(out, entry.path.as_bytes());
    match &entry.kind {
        EntryKind::File { size, digest, .. } => {
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(digest.as_bytes());
        }
        EntryKind::Link { target } => put_bytes16(out, target),
        EntryKind::EmptyFolder => {}
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(DecodeError::Truncated { at: self.bytes.len() })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let at = self.at;
        self.take(N)?
            .try_into()
            .map_err(|_| DecodeError::Truncated { at })
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bytes16(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = u16::from_le_bytes(self.array()?);
        self.take(len.into())
    }

    fn bytes32(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        if len > limit {
            return Err(DecodeError::Limit {
                what: "a spec",
                limit: limit as u64,
            });
        }
        self.take(len)
    }

    fn entry(&mut self) -> Result<Entry, DecodeError> {
        let at = self.at;
        let [kind] = self.array()?;
        let path = TreePath::new(self.bytes16()?)?;
        let kind = match kind {
            0 | 1 => EntryKind::File {
                executable: kind == 1,
                size: self.u64()?,
                digest: BlobDigest::from_bytes(self.array()?),
            },
            2 => EntryKind::Link {
                target: self.bytes16()?.into(),
            },
            3 => EntryKind::EmptyFolder,
            kind => return Err(DecodeError::Kind { kind, at }),
        };
        Ok(Entry { path, kind })
    }
}

#[cfg(test)]
mod tests;
