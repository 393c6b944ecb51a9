//! What is published.

use std::collections::HashSet;
use std::fs;

use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_model::path::TreePath;
use ship_model::spec::{AssetRoot, ReleaseSpec};
use tempfile::TempDir;

/// A tree on the disk that is to be published.
pub struct Tree {
    dir: TempDir,
    pub manifest: Manifest,
}

impl Tree {
    pub fn new(app: &str, files: &[(&str, &[u8])]) -> Self {
        Self::with(app, files, |_| {})
    }

    pub fn with(app: &str, files: &[(&str, &[u8])], change: impl FnOnce(&mut ReleaseSpec)) -> Self {
        let dir = TempDir::new().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            ship_durable::write_file(&path, content).unwrap();
        }
        let mut spec = ReleaseSpec::static_files(app.parse().unwrap());
        if files.iter().any(|(path, _)| path.starts_with("static/")) {
            let root = TreePath::new(b"static").ok();
            spec.assets.push(AssetRoot::new(root, "/static"));
        }
        change(&mut spec);
        let manifest = ship_bundle::walk(dir.path(), &spec, &()).unwrap().manifest;
        Self { dir, manifest }
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub fn pack(&self, wanted: &HashSet<BlobDigest>) -> Vec<u8> {
        let mut bundle = Vec::new();
        ship_bundle::pack(self.dir.path(), &self.manifest, wanted, 3, &mut bundle, &()).unwrap();
        bundle
    }

    pub fn blobs(&self) -> HashSet<BlobDigest> {
        self.manifest.files().map(|(_, _, _, digest)| digest).collect()
    }
}
