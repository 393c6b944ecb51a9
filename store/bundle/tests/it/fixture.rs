//! Folders to publish, a host to stage on, and a source of bundles in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ship_bundle::segments::{SegmentList, cut_files};
use ship_bundle::stage::{BlobSource, Place, StageError, StageReport, StageTask, StagedRelease, stage};
use ship_bundle::{BundleIndex, Expected, Parts, pack, pack_parts, verify_bundle, walk};
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::manifest::Manifest;
use ship_model::spec::ReleaseSpec;

pub fn spec() -> ReleaseSpec {
    ReleaseSpec::static_files("web".parse().unwrap())
}

/// Writes a file and its folders; a name that ends with `*` is executable.
pub fn put(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name.trim_end_matches('*'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    let mode = if name.ends_with('*') { 0o755 } else { 0o644 };
    fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Bytes that look random and do not compress; the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// A tree with the usual things in it.
pub fn sample_tree(root: &Path) {
    put(root, "index.html", "<html>");
    put(root, "bin/server*", "#!/bin/sh\n");
    put(root, "lib/a.js", "let a = 1;".repeat(500));
    put(root, "lib/copy-of-a.js", "let a = 1;".repeat(500));
    put(root, "lib/executable-copy-of-a*", "let a = 1;".repeat(500));
    put(root, "lib/empty", "");
    put(root, "lib/also-empty*", "");
    put(root, "noise", noise(1, 300_000));
    fs::create_dir_all(root.join("nothing/here")).unwrap();
    std::os::unix::fs::symlink("lib/a.js", root.join("link")).unwrap();
    std::os::unix::fs::symlink("../bin/server", root.join("lib/up")).unwrap();
}

pub fn published(root: &Path) -> Published {
    published_with(root, &spec(), None)
}

#[derive(Debug, Clone)]
pub struct Published {
    pub manifest: Manifest,
    pub digest: BundleDigest,
    pub index: BundleIndex,
    pub bytes: Vec<u8>,
}

/// Walks and packs; all blobs, or only those that `known` does not have.
pub fn published_with(root: &Path, spec: &ReleaseSpec, known: Option<&Manifest>) -> Published {
    let manifest = walk(root, spec, &()).unwrap().manifest;
    let known: HashSet<BlobDigest> = known.iter().flat_map(|m| m.files()).map(|file| file.3).collect();
    let wanted: HashSet<BlobDigest> = manifest.files().map(|file| file.3).collect();
    let wanted = &wanted - &known;
    let mut bytes = Vec::new();
    let packed = pack(root, &manifest, &wanted, 3, &mut bytes, &()).unwrap();
    assert_eq!(packed.bytes, bytes.len() as u64);
    assert_eq!(packed.blobs, wanted.len() as u64);
    let expected = Expected {
        digest: Some(packed.digest),
        ..Expected::default()
    };
    let verified = verify_bundle(&bytes[..], &expected).unwrap();
    assert_eq!(verified.index, packed.index);
    Published {
        manifest,
        digest: packed.digest,
        index: packed.index,
        bytes,
    }
}

/// As [`published_with`], large files cut: of those, what none of `before` holds.
pub fn published_cut(root: &Path, before: &[&Published]) -> Published {
    let manifest = walk(root, &spec(), &()).unwrap().manifest;
    let known: HashSet<BlobDigest> = before.iter().flat_map(|p| known(p)).collect();
    let wanted: HashSet<BlobDigest> = manifest.files().map(|file| file.3).collect();
    let wanted = &wanted - &known;
    let lists = cut_files(root, &manifest, &wanted, &()).unwrap();
    let parts = Parts {
        wanted: &wanted,
        lists: &lists,
        known: &known,
    };
    let mut bytes = Vec::new();
    let packed = pack_parts(root, &manifest, &parts, 3, &mut bytes, &()).unwrap();
    let expected = Expected {
        digest: Some(packed.digest),
        ..Expected::default()
    };
    let verified = verify_bundle(&bytes[..], &expected).unwrap();
    assert_eq!(verified.index, packed.index);
    assert_eq!(packed.blobs, packed.index.blobs().count() as u64);
    assert_eq!(packed.bytes, bytes.len() as u64);
    Published {
        manifest,
        digest: packed.digest,
        index: packed.index,
        bytes,
    }
}

fn known(published: &Published) -> Vec<BlobDigest> {
    let lists = published.index.lists().iter();
    let blobs = published.index.blobs().map(|place| place.digest);
    blobs.chain(lists.map(|list: &SegmentList| list.blob)).collect()
}

/// Bundles in memory, and what to do before a range is given.
#[derive(Default)]
pub struct Source {
    pub bundles: HashMap<BundleDigest, Vec<u8>>,
    pub before: Option<Box<dyn Fn() + Sync>>,
}

impl Source {
    pub fn of(published: &[&Published]) -> Self {
        Self {
            bundles: published.iter().map(|p| (p.digest, p.bytes.clone())).collect(),
            before: None,
        }
    }
}

impl BlobSource for Source {
    fn frames(&self, bundle: BundleDigest, offset: u64, len: u64) -> io::Result<Box<dyn Read + Send>> {
        if let Some(before) = &self.before {
            before();
        }
        let bytes = self.bundles.get(&bundle).ok_or(io::ErrorKind::NotFound)?;
        let from = (offset as usize).min(bytes.len());
        let to = (from + len as usize).min(bytes.len());
        Ok(Box::new(Cursor::new(bytes[from..to].to_vec())))
    }
}

/// An app's folder on a host.
#[derive(Debug)]
pub struct Host {
    pub dir: tempfile::TempDir,
    pub releases: PathBuf,
}

impl Host {
    pub fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    /// In memory where that is possible: for tests that stage often and pull no plug, syncing would be waiting.
    pub fn in_memory() -> Self {
        Self::within(
            tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .unwrap(),
        )
    }

    fn within(dir: tempfile::TempDir) -> Self {
        let releases = dir.path().join("releases");
        fs::create_dir(&releases).unwrap();
        Self { dir, releases }
    }

    pub fn place<'a>(&'a self, folder: &'a str) -> Place<'a> {
        Place::new(&self.releases, folder).unwrap()
    }

    pub fn donors(&self, folders: &[&str]) -> Vec<StagedRelease> {
        let opened = folders
            .iter()
            .map(|folder| StagedRelease::open(self.place(folder)));
        opened.map(Result::unwrap).collect()
    }

    pub fn stage_from(
        &self,
        folder: &str,
        manifest: &Manifest,
        donors: &[&str],
        published: &[&Published],
        source: &Source,
    ) -> Result<StageReport, StageError> {
        let bundles: Vec<_> = published.iter().map(|p| (p.digest, p.index.clone())).collect();
        stage(&StageTask {
            place: self.place(folder),
            manifest,
            donors: &self.donors(donors),
            kept: None,
            keep: false,
            delta: None,
            bundles: &bundles,
            source,
            progress: &(),
        })
    }

    pub fn stage(&self, folder: &str, published: &Published) -> Result<StageReport, StageError> {
        self.stage_from(
            folder,
            &published.manifest,
            &[],
            &[published],
            &Source::of(&[published]),
        )
    }

    /// All names in `releases/`.
    pub fn names(&self) -> Vec<String> {
        names(&self.releases)
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What a tree holds, name by name: kind, executable bit, content. A top-level `.git` is left out.
pub fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut all = BTreeMap::new();
    look(root, root, &mut all);
    all
}

fn look(root: &Path, dir: &Path, all: &mut BTreeMap<Vec<u8>, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        if name == b".git" {
            continue;
        }
        let found = fs::symlink_metadata(&path).unwrap();
        let what = if found.is_dir() {
            look(root, &path, all);
            "folder".to_owned()
        } else if found.is_symlink() {
            format!("link {:?}", fs::read_link(&path).unwrap())
        } else {
            let executable = found.mode() & 0o111 != 0;
            format!("file {executable} {}", blake3::hash(&fs::read(&path).unwrap()))
        };
        all.insert(name, what);
    }
}
