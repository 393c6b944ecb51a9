//! Releases made from real trees with the real packer.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;

use ship_bundle::{DEFAULT_LEVEL, pack, walk};
use ship_model::digest::{BlobDigest, BundleDigest, ReleaseId};
use ship_model::manifest::Manifest;
use ship_model::path::TreePath;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::spec::{AssetRoot, ReleaseSpec};

/// What a store holds of the releases of one app.
#[derive(Debug, Default)]
pub struct Shelf {
    pub manifests: HashMap<ReleaseId, Vec<u8>>,
    pub bundles: HashMap<BundleDigest, Vec<u8>>,
    pub places: HashMap<BlobDigest, (BundleDigest, u64)>,
    /// Where blobs lie besides, told to who avoids their first place.
    pub elsewhere: HashMap<BlobDigest, (BundleDigest, u64)>,
}

/// A static release of app `web` whose `assets/` is served below `/assets`.
pub fn static_spec() -> ReleaseSpec {
    let mut spec = ReleaseSpec::static_files("web".parse().unwrap());
    spec.assets = vec![AssetRoot {
        mutable: vec![TreePath::new(b"logo.txt").unwrap()],
        ..AssetRoot::new(TreePath::new(b"assets").ok(), "/assets")
    }];
    spec
}

impl Shelf {
    /// Publishes a tree as release `number`; a path that ends in `!` is executable.
    pub fn publish(&mut self, number: u64, spec: &ReleaseSpec, files: &[(&str, &[u8])]) -> Target {
        let tree = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let file = tree.path().join(path.trim_end_matches('!'));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, content).unwrap();
            let mode = if path.ends_with('!') { 0o755 } else { 0o644 };
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let walked = walk(tree.path(), spec, &()).unwrap();
        let encoded = walked.manifest.encoded().to_vec();
        let id = Manifest::id_of(&encoded);
        let missing: HashSet<BlobDigest> = walked
            .manifest
            .files()
            .map(|(_, _, _, digest)| digest)
            .filter(|digest| !self.places.contains_key(digest) && *digest != BlobDigest::of(b""))
            .collect();
        if !missing.is_empty() {
            let mut bytes = Vec::new();
            let packed = pack(
                tree.path(),
                &walked.manifest,
                &missing,
                DEFAULT_LEVEL,
                &mut bytes,
                &(),
            )
            .unwrap();
            for blob in missing {
                self.places.insert(blob, (packed.digest, packed.bytes));
            }
            self.bundles.insert(packed.digest, bytes);
        }
        self.manifests.insert(id, encoded);
        Target {
            number: ReleaseNumber(number),
            id,
        }
    }

    /// Packs these files once more, into a bundle of their own.
    pub fn pack_elsewhere(&mut self, files: &[(&str, &[u8])]) {
        let mut other = Self::default();
        other.publish(1, &ReleaseSpec::static_files("web".parse().unwrap()), files);
        // Another bundle only if its bytes differ: it holds a file more.
        self.bundles.extend(other.bundles);
        self.elsewhere.extend(other.places);
    }

    /// Flips a bit in the middle of what bundles hold, index and footer apart.
    pub fn damage_bundles(&mut self) {
        for bytes in self.bundles.values_mut() {
            bytes[12] ^= 0x10;
        }
    }
}

/// What a bundle's parts are checked by.
pub fn leaves(bundle: &[u8]) -> Vec<u8> {
    let mut maker = ship_model::leaves::LeavesMaker::new(bundle.len() as u64);
    maker.update(bundle);
    let digest = BundleDigest::of(bundle);
    maker.finish(*digest.as_bytes()).unwrap().encode()
}

/// The page and assets of a small site; `version` makes them differ.
pub fn site(version: u64) -> Vec<(String, Vec<u8>)> {
    let asset = format!("assets/app.{version:08x}{version:08x}.js");
    let page = format!("<script src=/{asset}></script> v{version}");
    vec![
        ("index.html".to_owned(), page.into_bytes()),
        (asset, format!("console.log({version})").into_bytes()),
        (
            "assets/logo.txt".to_owned(),
            format!("logo of {version}").into_bytes(),
        ),
        ("same.bin".to_owned(), noise(77, 400_000)),
        ("only.bin".to_owned(), noise(version, 300_000)),
        ("empty".to_owned(), Vec::new()),
    ]
}

/// Bytes that do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
