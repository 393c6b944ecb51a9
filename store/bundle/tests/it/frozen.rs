//! Bytes of versions 1 and 2, as they were written first, by path, and as they are written today, by likeness: today's program
//! must read both, and write the same as the latter.
//!
//! `SHIP_BLESS=1` writes them anew; that is right only together with a new version byte.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ship_bundle::{BlobPlace, BundleIndex, Expected, Verified, verify_bundle};
use ship_model::assets::assets_of;
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_model::path::TreePath;
use ship_model::spec::{AssetRoot, Marks, Pattern};

use crate::fixture::*;

pub fn frozen(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/frozen")
        .join(name)
}

fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "bin/server*", "#!/bin/sh\nexec true\n");
    put(tree.path(), "index.html", "<html>\n");
    put(tree.path(), "copy.html", "<html>\n");
    put(tree.path(), &format!("{}deep", "long/".repeat(30)), "deep\n");
    fs::create_dir(tree.path().join("empty")).unwrap();
    std::os::unix::fs::symlink("index.html", tree.path().join("link")).unwrap();
    tree
}

#[test]
fn version_1_is_read_and_written() {
    let published = published(tree().path());
    let encoded = published.manifest.encoded().to_vec();
    if std::env::var_os("SHIP_BLESS").is_some() {
        fs::write(frozen("bundle-1-alike.tar.zst"), &published.bytes).unwrap();
        fs::write(frozen("manifest-1"), &encoded).unwrap();
    }
    let manifest = fs::read(frozen("manifest-1")).unwrap();
    assert_eq!(Manifest::decode(&manifest).unwrap(), published.manifest);
    assert_eq!(encoded, manifest);
    assert_eq!(held(&read("bundle-1").index), held(&published.index));
    // Compressed bytes may differ with another zstd; what they hold may not.
    assert_eq!(frames(&read("bundle-1-alike").index), frames(&published.index));
}

fn read(name: &str) -> Verified {
    let bundle = fs::read(frozen(&format!("{name}.tar.zst"))).unwrap();
    verify_bundle(&bundle[..], &Expected::default()).unwrap()
}

/// What lies where.
fn frames(index: &BundleIndex) -> Vec<(u64, Vec<BlobPlace>)> {
    let frames = index.frames().iter();
    frames.map(|frame| (frame.raw_len, frame.blobs.clone())).collect()
}

/// What lies anywhere.
fn held(index: &BundleIndex) -> BTreeSet<BlobDigest> {
    index.blobs().map(|blob| blob.digest).collect()
}

/// A file of which half is known and one that is new, cut: where the cuts are, what is packed of them, and how it is listed.
#[test]
fn version_2_is_read_and_written() {
    let known = tempfile::tempdir().unwrap();
    let half: Vec<u8> = (0..5_u32 << 20).map(|at| (at / (300 << 10)) as u8).collect();
    put(known.path(), "data", [&half[..], &half[..]].concat());
    let before = published_cut(known.path(), &[]);
    put(known.path(), "data", [&half[..], b"new", &half[..]].concat());
    put(known.path(), "more*", vec![1; 9 << 20]);
    put(known.path(), "page", "<html>\n");
    let published = published_cut(known.path(), &[&before]);
    if std::env::var_os("SHIP_BLESS").is_some() {
        fs::write(frozen("bundle-2-alike.tar.zst"), &published.bytes).unwrap();
    }
    for name in ["bundle-2", "bundle-2-alike"] {
        let verified = read(name);
        assert_eq!(verified.index.lists().len(), 2);
        assert_eq!(verified.unproven.len(), 1);
        assert_eq!(verified.index.lists(), published.index.lists());
        assert_eq!(held(&verified.index), held(&published.index));
    }
    assert_eq!(frames(&read("bundle-2-alike").index), frames(&published.index));
}

/// What publish finds out of names and keeps private: on every machine the same files are assets for ever.
#[test]
fn marks_of_fingerprinted_files_are_read_and_written() {
    let tree = tempfile::tempdir().unwrap();
    for name in [
        "index.html",
        "main-qwertzui.js",
        "main-qwertzui.js.map",
        "plain.css",
    ] {
        put(tree.path(), &format!("public/{name}"), name);
    }
    let manifest = published(tree.path()).manifest;
    let mut spec = manifest.spec().clone();
    spec.assets = vec![AssetRoot {
        mutable: vec![TreePath::new(b"index.html").unwrap()],
        private: vec![Pattern::new("*.map").unwrap()],
        marks: Some(Marks::new([false, true, false])),
        ..AssetRoot::new(TreePath::new(b"public").ok(), "/static")
    }];
    let today = manifest.with_spec(spec).unwrap();
    if std::env::var_os("SHIP_BLESS").is_some() {
        fs::write(frozen("manifest-1-assets"), today.encoded()).unwrap();
    }
    let then = fs::read(frozen("manifest-1-assets")).unwrap();
    assert_eq!(Manifest::decode(&then).unwrap(), today);
    assert_eq!(then, today.encoded());
    let assets = assets_of(&today).unwrap();
    let told: Vec<_> = assets
        .iter()
        .map(|asset| (asset.url_path.as_str(), asset.fingerprinted))
        .collect();
    assert_eq!(
        told,
        [
            ("/static/index.html", false),
            ("/static/main-qwertzui.js", true),
            ("/static/plain.css", false)
        ]
    );
}
