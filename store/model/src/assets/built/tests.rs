//! What each tool writes, and what is learnt of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use super::*;
use crate::digest::BlobDigest;
use crate::manifest::Entry;
use crate::spec::ReleaseSpec;

fn path(text: &str) -> TreePath {
    TreePath::new(text.as_bytes()).unwrap()
}

/// A release with a root `public` at `/static`, or with all of it as the root.
fn release(root: Option<&str>, names: &[&str]) -> Manifest {
    let mut spec = ReleaseSpec::static_files("web".parse().unwrap());
    let url = if root.is_some() { "/static" } else { "/" };
    spec.assets.push(AssetRoot::new(root.map(path), url));
    let entry = |name: &&str| Entry {
        path: path(name),
        kind: EntryKind::File {
            executable: false,
            size: 1,
            digest: BlobDigest::of(name.as_bytes()),
        },
    };
    Manifest::new(spec, names.iter().map(entry).collect()).unwrap()
}

/// What is said of each file but the manifest itself, which stands first.
fn learnt(root: Option<&str>, names: &[&str], text: &str) -> Vec<Option<Said>> {
    let release = release(root, names);
    let found = manifests(&release);
    assert_eq!(found, [path(names[0])], "it is not found");
    let mut built = Built::default();
    built.read(&release, &found[0], text.as_bytes()).unwrap();
    names[1..]
        .iter()
        .map(|name| built.said(name.as_bytes()))
        .collect()
}

const HASHED: Option<Said> = Some(Said::Fingerprinted);
const LISTED: Option<Said> = Some(Said::Listed);
const PLAIN: Option<Said> = Some(Said::Plain);

#[test]
fn vite() {
    let names = [
        "public/.vite/manifest.json",
        "public/assets/main-qwertzui.js",
        "public/assets/shared-ChJ_j-JX.js",
        "public/assets/main-birthday.css",
        "public/assets/main-qwertzui.js.map",
        "public/assets/other.js",
    ];
    let text = r#"{
        "_shared-B7PI925R.js": {"file": "assets/shared-ChJ_j-JX.js", "name": "shared"},
        "src/main.js": {"file": "assets/main-qwertzui.js", "name": "main", "src": "src/main.js", "isEntry": true,
            "imports": ["_shared-B7PI925R.js"], "css": ["assets/main-birthday.css"]}
    }"#;
    assert_eq!(
        learnt(Some("public"), &names, text),
        [HASHED, HASHED, LISTED, HASHED, None]
    );
    // The same with `entryFileNames: "assets/[name].js"`.
    let names = [
        "public/manifest.json",
        "public/assets/main.js",
        "public/assets/main-birthday.css",
    ];
    let text =
        r#"{"src/main.js": {"file": "assets/main.js", "name": "main", "css": ["assets/main-birthday.css"]}}"#;
    assert_eq!(learnt(Some("public"), &names, text), [PLAIN, None]);
}

#[test]
fn webpack() {
    let names = [
        "public/manifest.json",
        "public/main.3f9a1.js",
        "public/main.3f9a12.js",
        "public/a/x.3f9a12.png",
    ];
    let flat =
        r#"{"main.js": "auto/main.3f9a12.js", "x.png": "https://cdn.example.com/static/a/x.3f9a12.png?v=1"}"#;
    assert_eq!(learnt(Some("public"), &names, flat), [None, HASHED, HASHED]);
    let names = [
        "public/asset-manifest.json",
        "public/static/js/main.3f9a12.js",
        "public/index.html",
    ];
    let cra = r#"{"files": {"main.js": "/static/static/js/main.3f9a12.js", "index.html": "/static/index.html"},
        "entrypoints": ["static/js/main.3f9a12.js"]}"#;
    assert_eq!(learnt(Some("public"), &names, cra), [HASHED, PLAIN]);
    let names = ["stats.json", "dist/hmm.js", "dist/a.b1b2b3.js", "dist/index.html"];
    let stats = r#"{"hash": "x", "outputPath": "/src/dist", "modules": [{"name": "dist/index.html"}],
        "assets": [{"type": "asset", "name": "dist/hmm.js", "info": {"immutable": true}},
            {"name": "dist/a.b1b2b3.js", "info": {"sourceFilename": "src/a.js"}}, {"name": "dist/index.html", "info": {}}]}"#;
    assert_eq!(learnt(None, &names, stats), [HASHED, HASHED, LISTED]);
    let names = ["public/assets-manifest.json", "public/main.3f9a12.js"];
    let plugin = r#"{"entrypoints": {"main": {"assets": {"js": ["main.3f9a12.js"]}}},
        "main.js": {"src": "main.3f9a12.js", "integrity": "sha256-x"}}"#;
    assert_eq!(learnt(Some("public"), &names, plugin), [HASHED]);
}

#[test]
fn esbuild_and_angular() {
    let names = [
        "dist/meta.json",
        "dist/main-ABCDEFGH.js",
        "dist/chunk-QWERTZUI.js",
        "dist/logo-IJKLMNOP.png",
        "dist/plain.js",
    ];
    let text = r#"{"inputs": {"src/main.ts": {"bytes": 1, "imports": []}}, "outputs": {
        "dist/main-ABCDEFGH.js": {"imports": [], "exports": [], "entryPoint": "src/main.ts", "inputs": {"src/main.ts": {}}},
        "dist/chunk-QWERTZUI.js": {"inputs": {"a": {}, "b": {}}},
        "dist/logo-IJKLMNOP.png": {"inputs": {"src/logo.png": {"bytesInOutput": 1}}},
        "dist/plain.js": {"entryPoint": "src/plain.ts", "inputs": {}}}}"#;
    assert_eq!(
        learnt(Some("dist"), &names, text),
        [HASHED, HASHED, HASHED, PLAIN]
    );
    // The folder that esbuild wrote into is the release.
    let bare: Vec<&str> = names.iter().map(|name| &name[5..]).collect();
    assert_eq!(learnt(None, &bare, text), [HASHED, HASHED, HASHED, PLAIN]);
}

#[test]
fn web_frameworks() {
    let names = [
        "public/.sprockets-manifest-6d5a3b1c0f9e8d7c6b5a493827160504.json",
        "public/application-3f9a12.js",
        "public/application.js",
        "public/application-3f9a12.js.gz",
    ];
    let sprockets = r#"{"files": {"application-3f9a12.js": {"logical_path": "application.js", "size": 1, "digest": "3f9a12"}},
        "assets": {"application.js": "application-3f9a12.js"}}"#;
    assert_eq!(learnt(Some("public"), &names, sprockets), [HASHED, PLAIN, HASHED]);
    let names = [
        "public/.manifest.json",
        "public/app-3f9a12.js",
        "public/b-3f9a12.css",
    ];
    let propshaft =
        r#"{"app.js": "app-3f9a12.js", "b.css": {"digested_path": "b-3f9a12.css", "integrity": null}}"#;
    assert_eq!(learnt(Some("public"), &names, propshaft), [HASHED, HASHED]);
    let names = [
        "public/cache_manifest.json",
        "public/js/app-5bb4a6.js",
        "public/js/app.js",
    ];
    let phoenix = r#"{"version": 1, "digests": {"js/app-5bb4a6.js": {"logical_path": "js/app.js", "mtime": 1}},
        "latest": {"js/app.js": "js/app-5bb4a6.js"}}"#;
    assert_eq!(learnt(Some("public"), &names, phoenix), [HASHED, PLAIN]);
    let names = [
        "public/staticfiles.json",
        "public/css/base.5af66c.css",
        "public/css/base.css",
    ];
    let django = r#"{"paths": {"css/base.css": "css/base.5af66c.css"}, "version": "1.1", "hash": "x"}"#;
    assert_eq!(learnt(Some("public"), &names, django), [HASHED, PLAIN]);
    let names = ["public/mix-manifest.json", "public/js/app.js"];
    let mix = r#"{"/js/app.js": "/js/app.js?id=b1c2d3e4f5"}"#;
    assert_eq!(learnt(Some("public"), &names, mix), [PLAIN]);
}

/// `entryFileNames: "[name]-bundled1.js"` is no fingerprint, though it might be one of a single file.
#[test]
fn what_is_added_to_every_name_is_a_word() {
    let names = [
        "public/manifest.json",
        "public/a-bundled1.js",
        "public/b-bundled1.js",
        "public/c-qwertzui.js",
    ];
    let text = r#"{"a.js": "a-bundled1.js", "b.js": "b-bundled1.js", "c.js": "c-qwertzui.js"}"#;
    assert_eq!(learnt(Some("public"), &names, text), [PLAIN, PLAIN, HASHED]);
}

/// A web app's manifest, an API's file, and names that lead elsewhere.
#[test]
fn what_is_no_tools_manifest_teaches_nothing() {
    let names = [
        "public/manifest.json",
        "public/index.html",
        "public/icon-192x192.png",
    ];
    for text in [
        r#"{"name": "A", "start_url": "/static/index.html", "icons": [{"src": "/static/icon-192x192.png"}]}"#,
        r#"{"a": "../../etc/passwd", "b": "/../x", "c": "//", "d": "http://", "e": "", "f": "?", "g": {"file": 1}}"#,
        r#"{"paths": 1, "files": [], "outputs": "x", "assets": {"a": {}}, "digests": {"a": {"logical_path": []}}}"#,
        "[]",
        "1",
        "null",
    ] {
        assert_eq!(learnt(Some("public"), &names, text), [None, None], "{text}");
    }
    let release = release(Some("public"), &names);
    let refused = Built::default()
        .read(&release, &path(names[0]), b"{")
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("\"public/manifest.json\" looks like the manifest")
    );
}

#[test]
fn manifests_are_looked_for_beside_the_roots_alone() {
    let names = [
        "dist/.vite/manifest.json",
        "dist/manifest-6d5a3b1c0f9e8d7c6b5a493827160504.json",
        "dist/public/a.js",
        "dist/public/deep/stats.json",
        "dist/public/node_modules/x/manifest.json",
        "manifest.json",
        "other/manifest.json",
    ];
    let found = manifests(&release(Some("dist/public"), &names));
    let wanted = [names[0], names[1], names[3], names[5]];
    assert_eq!(found, wanted.map(path));
}

/// Every way to cut or flip the files above is an error or teaches something; none of them ends the program.
#[test]
fn damaged_manifests_are_survived() {
    let names = ["public/manifest.json", "public/main.3f9a12.js"];
    let release = release(Some("public"), &names);
    let text = br#"{"files": {"main.js": "/static/main.3f9a12.js"}, "outputs": {"a": {"inputs": {"b": 1}}}, "x": ["\u00e9"]}"#;
    for at in 0..text.len() {
        let _ = Built::default().read(&release, &path(names[0]), &text[..at]);
        for bit in 0..8 {
            let mut flipped = text.to_vec();
            flipped[at] ^= 1 << bit;
            let _ = Built::default().read(&release, &path(names[0]), &flipped);
        }
    }
}
