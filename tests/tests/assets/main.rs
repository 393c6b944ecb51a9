//! Assets through real servers: the recipes of `store/assets/recipes`, as they stand but for addresses and folders.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod folder;
mod front;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ship_assets::{Shelf, Union};
use ship_model::digest::BlobDigest;
use ship_model::manifest::{Entry, EntryKind, Manifest};
use ship_model::name::AppName;
use ship_model::path::TreePath;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::spec::{AssetRoot, ReleaseSpec};

const OLD: &str = "app.0123456789abcdef.js";
const NEW: &str = "app.fedcba9876543210.js";

/// A recipe's text.
fn recipe(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(root.join("store/assets/recipes").join(name)).unwrap()
}

/// `text` with every `from` replaced; a recipe that has it no more is no longer tested.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the recipe has no {from:?} any more");
    text.replace(from, to)
}

/// An app's folders on a host, as an agent leaves them.
struct Host {
    dir: tempfile::TempDir,
    union: Arc<Union>,
    shelf: Arc<Shelf>,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let union = Union::open(&dir.path().join("assets"), &dir.path().join("assets.records"));
        Self {
            union: Arc::new(union.unwrap()),
            shelf: Arc::default(),
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Unpacks a release, adds its assets and switches to it.
    fn switch(&self, number: u64, files: &[(&str, &[u8])]) {
        let tree = self.path("releases").join(number.to_string());
        let (target, manifest) = release(number, &tree, files);
        self.union.add_tree(target, &manifest, &tree).unwrap();
        let app = AppName::new("web").unwrap();
        self.shelf.set_union(&app, &self.union);
        self.shelf.set_running(&app, &tree, &manifest).unwrap();
        ship_durable::replace_symlink(&self.path("current"), &tree).unwrap();
    }
}

fn release(number: u64, tree: &Path, files: &[(&str, &[u8])]) -> (Target, Manifest) {
    let mut entries = Vec::new();
    for (name, bytes) in files {
        let path = tree.join("public").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        entries.push(Entry {
            path: TreePath::new(format!("public/{name}").as_bytes()).unwrap(),
            kind: EntryKind::File {
                executable: false,
                size: bytes.len() as u64,
                digest: BlobDigest::of(bytes),
            },
        });
    }
    let mut spec = ReleaseSpec::static_files(AppName::new("web").unwrap());
    spec.assets
        .push(AssetRoot::new(TreePath::new(b"public").ok(), "/static"));
    let manifest = Manifest::new(spec, entries).unwrap();
    let id = Manifest::id_of(manifest.encoded());
    let number = ReleaseNumber(number);
    (Target { number, id }, manifest)
}
