//! Small trees to publish, and stores to publish them to.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use ship_bundle::delta::{Effort, TreeBlobs, make_delta};
use ship_bundle::{pack, walk};
use ship_model::digest::{BlobDigest, BundleDigest, DeltaDigest};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_model::path::TreePath;
use ship_model::release::{Provenance, ReleaseRecord};
use ship_model::spec::{AssetRoot, ReleaseSpec};
use ship_store::folder::StoreFolder;
use ship_store::ledger::RequestId;
use ship_store::publish::{Commit, CommitError, DeltaOffer, DeltaUploadError, Limits, Publisher, TakenDelta};

/// Files of a tree: path and content.
pub type Files<'a> = &'a [(&'a str, &'a [u8])];

pub struct Tree {
    pub dir: tempfile::TempDir,
    pub manifest: Manifest,
    pub encoded: Vec<u8>,
}

pub fn web() -> AppName {
    AppName::new("web").unwrap()
}

/// A tree of static files whose `static/`, if it has one, is asked for as `/static`.
pub fn tree(app: &AppName, files: Files<'_>) -> Tree {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let mut spec = ReleaseSpec::static_files(app.clone());
    if files.iter().any(|(path, _)| path.starts_with("static/")) {
        let root = TreePath::new(b"static").ok();
        spec.assets.push(AssetRoot::new(root, "/static"));
    }
    let manifest = walk(dir.path(), &spec, &()).unwrap().manifest;
    let encoded = manifest.encoded().to_vec();
    Tree {
        dir,
        manifest,
        encoded,
    }
}

pub fn bundle(tree: &Tree, wanted: &[BlobDigest]) -> (BundleDigest, Vec<u8>) {
    let wanted: HashSet<BlobDigest> = wanted.iter().copied().collect();
    let mut bytes = Vec::new();
    let packed = pack(tree.dir.path(), &tree.manifest, &wanted, 3, &mut bytes, &()).unwrap();
    (packed.digest, bytes)
}

/// The delta that leads from `base` to `tree`.
pub fn delta(base: &Tree, tree: &Tree) -> (DeltaDigest, Vec<u8>) {
    let from = TreeBlobs::open(base.dir.path(), &base.manifest).unwrap();
    let to = TreeBlobs::open(tree.dir.path(), &tree.manifest).unwrap();
    let (old, new) = ((&base.manifest, &from as _), (&tree.manifest, &to as _));
    let mut bytes = Vec::new();
    make_delta(old, new, Effort::AT_ONCE, &mut bytes, &()).unwrap();
    (DeltaDigest::of(&bytes), bytes)
}

/// What is said of bytes that are, or are not, the delta from `base` to `tree`.
pub fn offer(base: &Tree, tree: &Tree, bytes: &[u8]) -> DeltaOffer {
    DeltaOffer {
        app: tree.manifest.spec().app.clone(),
        base: base.manifest.id(),
        target: tree.manifest.id(),
        delta: DeltaDigest::of(bytes),
    }
}

pub fn upload_delta(
    publisher: &Publisher,
    offer: DeltaOffer,
    bytes: &[u8],
) -> Result<TakenDelta, DeltaUploadError> {
    let mut upload = publisher.upload_delta(offer)?;
    for piece in bytes.chunks(1000) {
        upload.push(piece)?;
    }
    upload.finish()
}

pub fn open(dir: &Path) -> StoreFolder {
    StoreFolder::open(dir, Limits::default()).unwrap().0
}

pub fn request(number: u64) -> RequestId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    RequestId(id)
}

/// Begin and upload; what is left is the commit.
pub fn prepare(publisher: &Publisher, tree: &Tree, number: u64) -> Commit {
    let begun = publisher.begin(&tree.manifest.spec().app, &tree.encoded).unwrap();
    let bundle = (!begun.missing.is_empty()).then(|| {
        let (digest, bytes) = bundle(tree, &begun.missing);
        let mut upload = publisher.upload().unwrap();
        for piece in bytes.chunks(1000) {
            upload.push(piece).unwrap();
        }
        assert_eq!(upload.finish(Some(digest)).unwrap().digest, digest);
        digest
    });
    commit(tree, bundle, number)
}

pub fn commit(tree: &Tree, bundle: Option<BundleDigest>, number: u64) -> Commit {
    Commit {
        app: tree.manifest.spec().app.clone(),
        id: tree.manifest.id(),
        bundle,
        provenance: Provenance::default(),
        request: request(number),
        who: "publisher/ci".to_owned(),
        at_ms: 1_700_000_000_000 + number,
    }
}

pub fn publish(publisher: &Publisher, tree: &Tree, number: u64) -> Result<ReleaseRecord, CommitError> {
    let commit = prepare(publisher, tree, number);
    publisher.commit(&commit).map(|added| added.record)
}
