//! Releases made from real trees with the real packer.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;

use ship_bundle::delta::{BlobBytes, Effort, make_delta};
use ship_bundle::segments::cut_files;
use ship_bundle::{DEFAULT_LEVEL, Parts, pack_parts, walk};
use ship_model::digest::{BlobDigest, BundleDigest, DeltaDigest, ReleaseId};
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
    /// Every file's bytes, of which deltas are made.
    pub contents: HashMap<BlobDigest, Vec<u8>>,
    pub deltas: HashMap<DeltaDigest, Vec<u8>>,
    pub offers: Vec<Offer>,
}

/// A delta that the store tells of.
#[derive(Debug, Clone)]
pub struct Offer {
    pub base: ReleaseId,
    pub target: ReleaseId,
    pub delta: DeltaDigest,
    pub bytes: u64,
}

struct Contents<'a>(&'a HashMap<BlobDigest, Vec<u8>>);

impl BlobBytes for Contents<'_> {
    fn read_at(&self, blob: BlobDigest, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        buffer.copy_from_slice(&self.0[&blob][offset as usize..][..buffer.len()]);
        Ok(())
    }
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
    /// As a store that needs a bundle no more: what it held is told of where it lies elsewhere.
    pub fn let_go(&mut self, bundle: BundleDigest) {
        self.bundles.remove(&bundle);
        self.places.retain(|_, (place, _)| *place != bundle);
        for (blob, place) in &self.elsewhere {
            self.places.entry(*blob).or_insert(*place);
        }
    }

    /// Publishes a tree as release `number`; a path that ends in `!` is executable.
    pub fn publish(&mut self, number: u64, spec: &ReleaseSpec, files: &[(&str, &[u8])]) -> Target {
        let tree = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let file = tree.path().join(path.trim_end_matches('!'));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, content).unwrap();
            self.contents.insert(BlobDigest::of(content), content.to_vec());
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
            let lists = cut_files(tree.path(), &walked.manifest, &missing, &()).unwrap();
            let parts = Parts {
                wanted: &missing,
                lists: &lists,
                known: &self.places.keys().copied().collect(),
            };
            let packed = pack_parts(
                tree.path(),
                &walked.manifest,
                &parts,
                DEFAULT_LEVEL,
                &mut bytes,
                &(),
            )
            .unwrap();
            let segments = packed.index.blobs().map(|place| place.digest);
            for blob in missing.into_iter().chain(segments) {
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

    /// Offers a delta between two releases, spoiled before it gets its name.
    pub fn offer(&mut self, base: Target, target: Target, spoil: impl FnOnce(&mut Vec<u8>)) -> &mut Offer {
        let manifest = |id| Manifest::read(self.manifests[&id].clone()).unwrap();
        let (old, new) = (manifest(base.id), manifest(target.id));
        let (contents, mut bytes) = (Contents(&self.contents), Vec::new());
        make_delta(
            (&old, &contents),
            (&new, &contents),
            Effort::AT_ONCE,
            &mut bytes,
            &(),
        )
        .unwrap();
        spoil(&mut bytes);
        let delta = DeltaDigest::of(&bytes);
        self.offers.push(Offer {
            base: base.id,
            target: target.id,
            delta,
            bytes: bytes.len() as u64,
        });
        self.deltas.insert(delta, bytes);
        self.offers.last_mut().unwrap()
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
