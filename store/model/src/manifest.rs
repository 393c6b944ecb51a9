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

use std::collections::{HashMap, HashSet};

use crate::digest::{BlobDigest, ReleaseId};
use crate::path::{MAX_PATH, PathError, TreePath, escape};
use crate::spec::ReleaseSpec;

/// Most entries in one release.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Largest encoded manifest, in bytes: it is held in memory by every process that works with the release.
pub const MAX_ENCODED: usize = 64 << 20;
/// Largest encoded `ReleaseSpec`.
const MAX_SPEC: usize = 1 << 20;
/// Longest link target (Linux `PATH_MAX`).
pub const MAX_TARGET: usize = 4095;
/// Links followed while one name is resolved, as in Linux.
const MAX_HOPS: u32 = 40;
/// Components walked while all links of a manifest are resolved; real trees take a few for each link.
const MAX_STEPS: u64 = 5_000_000;
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
        "link \"{path}\" -> \"{target}\" leaves the release; name the target in [links] external if that is meant"
    )]
    Leaves { path: TreePath, target: String },
    #[error("the links lead through each other too often to follow them all")]
    Tangled,
    #[error("the files have more than {MAX_BYTES} bytes together")]
    TooLarge,
    #[error("the release's spec cannot be encoded")]
    Spec,
    #[error("the release's spec is not one")]
    Meaning(#[from] crate::spec::SpecDefect),
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
        let mut out = Vec::with_capacity(64 * self.entries.len() + spec.len() + 32);
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

/// The rules of a tree as a whole; `entries` must be sorted.
fn check(spec: &ReleaseSpec, entries: &[Entry]) -> Result<(), ManifestError> {
    if entries.len() as u64 > MAX_ENTRIES {
        return Err(ManifestError::TooMany);
    }
    let mut bytes = Some(0_u64);
    for entry in entries {
        if let EntryKind::File { size, .. } = entry.kind {
            bytes = bytes.and_then(|sum| sum.checked_add(size));
        }
    }
    if bytes.is_none_or(|sum| sum > MAX_BYTES) {
        return Err(ManifestError::TooLarge);
    }
    if !entries.iter().any(|e| matches!(e.kind, EntryKind::File { .. })) {
        return Err(ManifestError::Empty);
    }
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].path >= pair[1].path) {
        return Err(ManifestError::Order {
            path: pair[1].path.clone(),
        });
    }
    check_parents(entries)?;
    spec.check()?;
    check_links(spec, entries)
}

fn check_parents(entries: &[Entry]) -> Result<(), ManifestError> {
    let named: HashMap<&[u8], &EntryKind> = entries.iter().map(|e| (e.path.as_bytes(), &e.kind)).collect();
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for entry in entries {
        let mut parent = entry.path.parent();
        while let Some(path) = parent {
            if !seen.insert(path) {
                break;
            }
            match named.get(path) {
                None => {}
                Some(EntryKind::EmptyFolder) => {
                    let path = TreePath::new(path).unwrap_or_else(|_| entry.path.clone());
                    return Err(ManifestError::NotEmpty { path });
                }
                Some(_) => {
                    let path = entry.path.clone();
                    return Err(ManifestError::BelowFile {
                        path,
                        parent: escape(parent.unwrap_or_default()),
                    });
                }
            }
            parent = path.iter().rposition(|b| *b == b'/').map(|at| &path[..at]);
        }
    }
    Ok(())
}

fn check_links(spec: &ReleaseSpec, entries: &[Entry]) -> Result<(), ManifestError> {
    let links: HashMap<&[u8], &[u8]> = entries
        .iter()
        .filter_map(|e| match &e.kind {
            EntryKind::Link { target } => Some((e.path.as_bytes(), &**target)),
            EntryKind::File { .. } | EntryKind::EmptyFolder => None,
        })
        .collect();
    let mut resolution = Resolution {
        spec,
        links: &links,
        steps: MAX_STEPS,
    };
    for entry in entries {
        let EntryKind::Link { target } = &entry.kind else {
            continue;
        };
        if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
            return Err(ManifestError::Target {
                path: entry.path.clone(),
            });
        }
        match resolution.stays(entry.path.as_bytes()) {
            Some(true) => {}
            None => return Err(ManifestError::Tangled),
            Some(false) => {
                return Err(ManifestError::Leaves {
                    path: entry.path.clone(),
                    target: escape(target),
                });
            }
        }
    }
    Ok(())
}

/// Follows names as the kernel would. Comparing texts is not enough: `a/b/up -> ../..` and
/// `x -> a/b/up/../y` both look tame, and `x` lies outside.
struct Resolution<'a> {
    spec: &'a ReleaseSpec,
    links: &'a HashMap<&'a [u8], &'a [u8]>,
    /// Steps that may still be taken for the whole manifest: links that lead through links through links would else
    /// keep the reader of a small manifest busy for hours.
    steps: u64,
}

impl Resolution<'_> {
    fn stays(&mut self, path: &[u8]) -> Option<bool> {
        // Components still to walk, last first.
        let links = self.links;
        let mut ahead: Vec<&[u8]> = path.split(|b| *b == b'/').rev().collect();
        let mut at: Vec<u8> = Vec::new();
        let mut hops = 0;
        while let Some(part) = ahead.pop() {
            self.steps = self.steps.checked_sub(1)?;
            match part {
                b"" | b"." => continue,
                b".." if at.is_empty() => return Some(false),
                b".." => {
                    ascend(&mut at);
                    continue;
                }
                _ if at.is_empty() => at.extend_from_slice(part),
                _ => {
                    at.push(b'/');
                    at.extend_from_slice(part);
                }
            }
            if at.len() > MAX_PATH {
                // No name of a tree is as long: it leads nowhere, and so not out.
                return Some(true);
            }
            let Some(target) = links.get(&at[..]) else {
                continue;
            };
            hops += 1;
            if hops > MAX_HOPS || target.len() > MAX_TARGET {
                // A loop leads nowhere, either.
                return Some(true);
            }
            if target.first() == Some(&b'/') {
                return Some(ahead.is_empty() && self.external(target));
            }
            ascend(&mut at);
            ahead.extend(target.split(|b| *b == b'/').rev());
        }
        Some(true)
    }

    fn external(&self, target: &[u8]) -> bool {
        self.spec
            .external_links
            .iter()
            .any(|allowed| allowed.as_bytes() == target)
    }
}

/// Takes the last component away.
fn ascend(path: &mut Vec<u8>) {
    path.truncate(path.iter().rposition(|b| *b == b'/').unwrap_or(0));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    fn spec() -> ReleaseSpec {
        ReleaseSpec::static_files("web".parse().unwrap())
    }

    /// `f` a file, `f*` an executable, `d/` an empty folder, `l -> t` a link.
    fn entry(text: &str) -> Entry {
        let (name, kind) = if let Some((name, target)) = text.split_once(" -> ") {
            let target = target.as_bytes().into();
            (name, EntryKind::Link { target })
        } else if let Some(name) = text.strip_suffix('/') {
            (name, EntryKind::EmptyFolder)
        } else {
            let name = text.trim_end_matches('*');
            let kind = EntryKind::File {
                executable: name != text,
                size: 7,
                digest: BlobDigest::of(name.as_bytes()),
            };
            (name, kind)
        };
        Entry {
            path: TreePath::new(name.as_bytes()).unwrap(),
            kind,
        }
    }

    fn tree(entries: &[&str]) -> Result<Manifest, ManifestError> {
        Manifest::new(spec(), entries.iter().copied().map(entry).collect())
    }

    fn sample() -> Manifest {
        tree(&[
            "bin/server*",
            "index.html",
            "lib/a",
            "lib/b -> ../index.html",
            "log/",
        ])
        .unwrap()
    }

    /// Bytes as [`Manifest::encode`] would write them if it did not check.
    fn unchecked(entries: &[Entry]) -> Vec<u8> {
        let spec = serde_json::to_vec(&spec()).unwrap();
        let mut out = MAGIC.to_vec();
        put_bytes32(&mut out, &spec);
        out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
        entries.iter().for_each(|entry| put_entry(&mut out, entry));
        out
    }

    #[test]
    fn a_manifest_reads_back_whatever_the_order_it_was_made_in() {
        let manifest = sample();
        let encoded = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&encoded).unwrap(), manifest);
        let mut reversed = manifest.entries().to_vec();
        reversed.reverse();
        let again = Manifest::new(spec(), reversed).unwrap();
        assert_eq!(
            Manifest::id_of(&again.encode().unwrap()),
            Manifest::id_of(&encoded)
        );
        assert_eq!(manifest.total_bytes(), 21);
        assert_eq!(manifest.get(b"lib/a"), Some(&entry("lib/a")));
        assert_eq!(manifest.get(b"lib"), None);
    }

    #[test]
    fn a_cut_manifest_is_refused_at_every_byte() {
        let encoded = sample().encode().unwrap();
        for at in 0..encoded.len() {
            let cut = Manifest::decode(&encoded[..at]);
            assert!(
                matches!(cut, Err(DecodeError::Magic | DecodeError::Truncated { .. })),
                "{cut:?} at {at}"
            );
        }
        let mut longer = encoded.clone();
        longer.push(0);
        assert_eq!(
            Manifest::decode(&longer),
            Err(DecodeError::Trailing { at: encoded.len() })
        );
    }

    #[test]
    fn one_tree_has_one_encoding() {
        // Whatever bytes are read without complaint are the ones that would be written: no two ids for one tree.
        let encoded = sample().encode().unwrap();
        for at in 0..encoded.len() {
            for bit in 0..8 {
                let mut flipped = encoded.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(manifest) = Manifest::decode(&flipped) {
                    assert_eq!(manifest.encode().unwrap(), flipped, "bit {bit} at {at}");
                    assert_ne!(
                        manifest,
                        sample(),
                        "bit {bit} at {at} is not part of the identity"
                    );
                }
            }
        }
    }

    #[test]
    fn a_spec_in_another_spelling_is_refused() {
        for spelling in [
            &br#"{ "app":"web"}"#[..],
            br#"{"app":"web","platform":[]}"#,
            br#"{"app":"web","surprise":1}"#,
            br#"{"app":"../web"}"#,
            b"",
            b"[]",
        ] {
            let mut bytes = MAGIC.to_vec();
            put_bytes32(&mut bytes, spelling);
            bytes.extend_from_slice(&1_u64.to_le_bytes());
            put_entry(&mut bytes, &entry("f"));
            assert!(
                matches!(
                    Manifest::decode(&bytes),
                    Err(DecodeError::NotCanonical | DecodeError::Spec { .. })
                ),
                "{}",
                escape(spelling)
            );
        }
    }

    #[test]
    fn announced_sizes_cannot_ask_for_memory() {
        let mut spec = MAGIC.to_vec();
        spec.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Manifest::decode(&spec), Err(DecodeError::Limit { .. })));
        for count in [MAX_ENTRIES, MAX_ENTRIES + 1, u64::MAX] {
            let mut many = unchecked(&[]);
            let at = many.len() - 8;
            many[at..].copy_from_slice(&count.to_le_bytes());
            assert!(matches!(
                Manifest::decode(&many),
                Err(DecodeError::Limit { .. } | DecodeError::Truncated { .. })
            ));
        }
    }

    #[test]
    fn entries_stand_in_order_and_once() {
        for pair in [["b", "a"], ["a", "a"], ["a/b", "a-b"]] {
            let bytes = unchecked(&pair.map(entry));
            assert!(
                matches!(
                    Manifest::decode(&bytes),
                    Err(DecodeError::Tree(ManifestError::Order { .. }))
                ),
                "{pair:?}"
            );
        }
        assert!(matches!(tree(&["a", "a"]), Err(ManifestError::Order { .. })));
        assert!(matches!(
            tree(&["a", "a -> b", "b"]),
            Err(ManifestError::Order { .. })
        ));
    }

    #[test]
    fn paths_that_leave_are_refused_in_bytes_too() {
        for bad in [&b"../x"[..], b"/x", b"a/../x", b"", b"a//b", b"a/.", b"a\0"] {
            let mut bytes = unchecked(&[]);
            let at = bytes.len() - 8;
            bytes[at..].copy_from_slice(&1_u64.to_le_bytes());
            bytes.push(0);
            put_bytes16(&mut bytes, bad);
            bytes.extend_from_slice(&[0; 40]);
            assert!(
                matches!(Manifest::decode(&bytes), Err(DecodeError::Path(_))),
                "{}",
                escape(bad)
            );
        }
        let mut kind = unchecked(&[entry("f")]);
        let at = unchecked(&[]).len();
        kind[at] = 4;
        assert_eq!(Manifest::decode(&kind), Err(DecodeError::Kind { kind: 4, at }));
    }

    #[test]
    fn a_tree_has_files_and_only_folders_hold_things() {
        for empty in [&[][..], &["d/"], &["l -> d", "d/"]] {
            assert_eq!(tree(empty), Err(ManifestError::Empty), "{empty:?}");
        }
        for below in [
            &["a", "a/b"][..],
            &["a*", "a/b/c/d"],
            &["l -> x", "l/f", "x/f"],
            &["a", "a-b", "a/b"],
        ] {
            assert!(
                matches!(tree(below), Err(ManifestError::BelowFile { .. })),
                "{below:?}"
            );
        }
        for full in [&["d/", "d/f"][..], &["d/", "d/e/"], &["d/", "d/e/f", "d-"]] {
            let result = tree(&[full, &["file"]].concat());
            assert!(matches!(result, Err(ManifestError::NotEmpty { .. })), "{full:?}");
        }
        assert!(tree(&["a", "a-b", "a.d/b", "ab/c"]).is_ok());
    }

    #[test]
    fn links_that_leave_are_refused_wherever_they_lead_through() {
        for leaving in [
            &["l -> .."][..],
            &["l -> ../x"],
            &["a/l -> ../../x"],
            &["l -> /etc/passwd"],
            &["l -> .", "m -> l/.."],
            // By their texts both stay; walked physically, `up` is the root and `x` lies above it.
            &["a/b/up -> ../..", "x -> a/b/up/../y"],
            &["a/b/up -> ../..", "a/b/x -> up/../y"],
            &["a/up -> ..", "b/c -> ../a/up/up2", "up2 -> a/up/.."],
            &["l -> a/../../x"],
            &["abs -> /usr", "l -> abs/bin"],
            &["a -> b", "b -> c", "c -> .."],
        ] {
            let result = tree(&[leaving, &["f"]].concat());
            assert!(
                matches!(result, Err(ManifestError::Leaves { .. })),
                "{leaving:?}: {result:?}"
            );
        }
    }

    #[test]
    fn links_that_stay_are_kept() {
        for staying in [
            &["l -> f"][..],
            &["a/l -> ../f"],
            &["a/b/up -> ../..", "x -> a/b/up/f"],
            &["l -> absent"],
            &["l -> l"],
            &["a -> b", "b -> a"],
            &["a/l -> .."],
            &["l -> ./a/./../f"],
        ] {
            let result = tree(&[staying, &["f"]].concat());
            assert!(result.is_ok(), "{staying:?}: {result:?}");
        }
        let many: Vec<String> = (0..100).map(|n| format!("l{n:03} -> l{:03}", n + 1)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).chain(["f"]).collect();
        assert!(
            tree(&many).is_ok(),
            "a chain that no kernel follows to its end leads nowhere"
        );
    }

    #[test]
    fn links_cannot_keep_the_reader_busy() {
        // Each link leads through forty others by detours of thousands of components.
        let detour = "./".repeat(2000);
        let links: Vec<String> = (0..400)
            .map(|n| format!("l{n:03} -> {detour}l{:03}", n + 1))
            .collect();
        let links: Vec<&str> = links.iter().map(String::as_str).chain(["f"]).collect();
        assert_eq!(tree(&links), Err(ManifestError::Tangled));
    }

    #[test]
    fn sizes_cannot_overflow_a_sum() {
        let sized = |name: &str, size| Entry {
            path: TreePath::new(name.as_bytes()).unwrap(),
            kind: EntryKind::File {
                executable: false,
                size,
                digest: BlobDigest::of(b""),
            },
        };
        for (a, b) in [
            (u64::MAX, 1),
            (u64::MAX, 0),
            (MAX_BYTES, 1),
            (MAX_BYTES / 2 + 1, MAX_BYTES / 2),
        ] {
            let bytes = unchecked(&[sized("a", a), sized("b", b)]);
            assert_eq!(
                Manifest::decode(&bytes),
                Err(DecodeError::Tree(ManifestError::TooLarge))
            );
        }
        assert!(Manifest::new(spec(), vec![sized("a", MAX_BYTES)]).is_ok());
    }

    #[test]
    fn link_targets_are_bytes_within_limits() {
        let with = |target: &[u8]| {
            let link = Entry {
                path: TreePath::new(b"l").unwrap(),
                kind: EntryKind::Link {
                    target: target.into(),
                },
            };
            Manifest::new(spec(), vec![link, entry("f")])
        };
        for bad in [&b""[..], b"a\0b", &[b'a'; MAX_TARGET + 1]] {
            assert!(
                matches!(with(bad), Err(ManifestError::Target { .. })),
                "{} bytes",
                bad.len()
            );
        }
        assert!(with(b"not\xffutf8").is_ok());
        let long = with(&[b'a'; MAX_TARGET]).unwrap();
        assert_eq!(Manifest::decode(&long.encode().unwrap()).unwrap(), long);
    }

    #[test]
    fn an_external_target_is_allowed_by_its_whole_text_only() {
        let mut spec = spec();
        spec.external_links = vec!["/usr/bin/python3".to_owned()];
        let with =
            |entries: &[&str]| Manifest::new(spec.clone(), entries.iter().copied().map(entry).collect());
        assert!(with(&["f", "bin/python -> /usr/bin/python3"]).is_ok());
        assert!(with(&["f", "bin/python -> /usr/bin/python3", "p -> bin/python"]).is_ok());
        for bad in [
            "p -> /usr/bin/python3.11",
            "p -> /usr/bin/../bin/python3",
            "p -> /usr/bin/python3/",
            "p -> ../usr/bin/python3",
        ] {
            assert!(with(&["f", bad]).is_err(), "{bad}");
        }
        let through = with(&["d -> /usr/bin/python3", "f", "p -> d/x"]);
        assert!(matches!(through, Err(ManifestError::Leaves { .. })));
    }
}
