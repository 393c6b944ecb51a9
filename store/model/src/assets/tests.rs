#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use super::fingerprint::{Fingerprint, fingerprint};
use super::*;
use crate::digest::ReleaseId;
use crate::manifest::Entry;
use crate::name::AppName;
use crate::release::ReleaseNumber;
use crate::spec::ReleaseSpec;

/// Names as real builds write them.
const SURE: &[&str] = &[
    // streamlit, by webpack and later by Vite
    "main.754b94e5.js",
    "main.754b94e5.js.map",
    "176.0f1d11cd.chunk.js",
    "KaTeX_AMS-Regular.73ea273a72f4aca30ca5.woff2",
    "index.CbQtRkVt.js",
    "SourceSansVF-Upright.ttf.BsWL4Kly.woff2",
    // Vite, Rollup, Rolldown
    "index-BxY3k_9Q.js",
    "index-D-3kf_x2.css",
    "index-DiwrgTda.js",
    "vendor-_pLz-3aQ.js",
    "logo-4fa8e1c2.svg",
    "entry-BxY3k_9QaZ12.js",
    // webpack, Create React App, Vue CLI
    "main.3f9a12bc.chunk.js",
    "2.b4a1c7de8f9012345678.css",
    "runtime~main.a8a9905a.js",
    "chunk-vendors.12345678.js",
    "a1b2c3d4e5f6a7b8c9d0.png",
    // Sprockets, propshaft
    "application-908e25f4bf641868d8683022a5b62f54908e25f4bf641868d8683022a5b62f54.css",
    "logo-7d8f2a1b.png",
    "application-908e25f4bf641868d8683022a5b62f54908e25f4bf641868d8683022a5b62f54.js.gz",
    // Phoenix, Django
    "app-5bb4a6a5cd7d5f0e4c4d9d0b7c8a1e2f.js",
    "base.5af66c1b1797.css",
    // Next.js
    "framework-2c79e2a64abdb08b.js",
    "_app-0a1b2c3d4e5f6a7b.js",
    "4bd1b696-f0a4dd4d4a7f2a5c.js",
    "3bf45a0d2c8a5a4f.css",
    "[id]-9c5f1a7be0d3428a.js",
    // esbuild, Angular
    "chunk-2XJQ7ZKF.js",
    "main-5KXR4B4T.js",
    // SvelteKit, Nuxt, Astro
    "start.B1cD2eF3.js",
    "Cf8sK1p2.js",
    "photo.DqK3xY2a_Z1x2Yq.webp",
];

const NONE: &[&str] = &[
    "jquery-3.6.0.min.js",
    "bootstrap.bundle.js",
    "icon-192x192.png",
    "image-1024x768.png",
    "index.html",
    "favicon.ico",
    "asset-manifest.json",
    "manifest.json",
    "jquery.validate.js",
    "app-settings.js",
    "report-20260131.pdf",
    "backup_20260131123456.tar",
    "20260131.png",
    "12345678.png",
    "polyfills-es5.js",
    "angular-animate.js",
    "service-worker.js",
    "robots.txt",
    "LICENSE",
    "3f9a12bc",
    "d3.v7.min.js",
    "font-awesome.css",
    "fontawesome-webfont.woff2",
    "bootstrap-5.3.2.min.css",
    "workbox-v6.5.4.js",
    "photo-1600x900.jpg",
    "",
    ".",
    ".js",
];

const AMBIGUOUS: &[&str] = &[
    // streamlit 1.41: the company must decide
    "index.Cetmyrdk.js",
    "index-qwertzui.js",
    "page-Checkins.js",
    "setup-windows7.js",
    "x-ab-cd_e1.js",
];

#[test]
fn names_of_real_builds() {
    let all = [
        (SURE, Fingerprint::Sure),
        (NONE, Fingerprint::None),
        (AMBIGUOUS, Fingerprint::Ambiguous),
    ];
    for (names, expected) in all {
        for name in names {
            assert_eq!(fingerprint(name.as_bytes()), expected, "{name}");
        }
    }
    assert_eq!(fingerprint(b"main.\xff3f9a12bc.js"), Fingerprint::None);
}

/// Of a build's random names, none may be missed: a missed one is an asset that old pages lose.
#[test]
fn a_whole_build_is_recognised() {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut missed = 0;
    let mut names = Vec::new();
    for _ in 0..20_000 {
        let mut hash = String::new();
        for _ in 0..8 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            hash.push(char::from(LETTERS[(seed >> 33) as usize % 64]));
        }
        names.push(format!("static/js/index-{hash}.js"));
    }
    names.push("static/js/index.html".to_owned());
    let neighbours = fingerprint::Neighbours::new(names.iter().map(String::as_bytes));
    for name in &names[..20_000] {
        missed += usize::from(!neighbours.is_fingerprinted(name.as_bytes()));
    }
    assert!(missed <= 1, "{missed} of 20000 were missed");
    assert!(!neighbours.is_fingerprinted(b"static/js/index.html"));
    assert!(!neighbours.is_fingerprinted(b"static/js/asset-manifest.json"));
    // The same ambiguous name, in a folder of plain names and in one that vouches for its names.
    assert!(!neighbours.is_fingerprinted(b"other/index-qwertzui.js"));
    assert!(neighbours.is_fingerprinted(b"_app/immutable/index-qwertzui.js"));
}

fn path(text: &str) -> TreePath {
    TreePath::new(text.as_bytes()).unwrap()
}

fn file(name: &str, content: &str) -> Entry {
    Entry {
        path: path(name),
        kind: EntryKind::File {
            executable: false,
            size: content.len() as u64,
            digest: BlobDigest::of(content.as_bytes()),
        },
    }
}

fn link(name: &str, target: &str) -> Entry {
    Entry {
        path: path(name),
        kind: EntryKind::Link {
            target: target.as_bytes().into(),
        },
    }
}

fn manifest(mutable: &[&str], entries: Vec<Entry>) -> Manifest {
    let mut spec = ReleaseSpec::static_files(AppName::new("web").unwrap());
    spec.assets.push(AssetRoot {
        mutable: mutable.iter().map(|text| path(text)).collect(),
        ..AssetRoot::new(Some(path("public")), "/static")
    });
    Manifest::new(spec, entries).unwrap()
}

#[test]
fn more_assets_than_a_release_may_have_are_refused() {
    let file = |number: usize| file(&format!("public/{number}.js"), "x");
    let entries: Vec<_> = (0..=MAX_ASSETS).map(file).collect();
    let all_but_one = entries[1..].to_vec();
    assert_eq!(assets_of(&manifest(&[], all_but_one)).unwrap().len(), MAX_ASSETS);
    assert_eq!(
        assets_of(&manifest(&[], entries)).unwrap_err().to_string(),
        "asset root \"public\" brings the release's assets to 60001, and a release may have 60000: narrow the roots to what browsers fetch"
    );
}

#[test]
fn a_fingerprinted_link_to_no_file_is_refused() {
    let with = |links: Vec<Entry>| {
        let files = [
            file("public/js/main.3f9a12bc77d01e55.js", "js"),
            file("lib/x.js", "x"),
        ];
        refuse_dangling(&manifest(&[], files.into_iter().chain(links).collect()))
    };
    let name = "public/app.77d01e553f9a12bc.js";
    for fine in ["js/main.3f9a12bc77d01e55.js", "../lib/x.js", "js", "../lib", ".."] {
        assert_eq!(with(vec![link(name, fine)]), Ok(()), "{fine}");
    }
    // Not asked for by a name that pages keep, or not by browsers at all.
    assert_eq!(with(vec![link("public/latest.js", "gone.js")]), Ok(()));
    assert_eq!(with(vec![link("lib/app.77d01e553f9a12bc.js", "gone.js")]), Ok(()));
    for bad in ["gone.js", "js/none", "../li", "app.77d01e553f9a12bc.js"] {
        let refused = with(vec![link(name, bad)]).unwrap_err().to_string();
        assert!(refused.contains(name) && refused.contains(bad), "{refused}");
    }
    let chain = [link(name, "two.js"), link("public/two.js", "gone.js")];
    assert!(with(chain.into()).is_err());
}

#[test]
fn assets_of_a_release() {
    let entries = vec![
        file("bin/main-12345678.js", "outside"),
        file("public/index.html", "page"),
        file("public/js/main.3f9a12bc.js", "js"),
        file("public/js/pinned.3f9a12bc.js", "changes"),
        file("public/a b.png", "png"),
        link("public/latest.js", "js/main.3f9a12bc.js"),
        link("public/loop", "loop"),
        link("public/folder", "js"),
    ];
    let assets = assets_of(&manifest(&["js/pinned.3f9a12bc.js"], entries)).unwrap();
    let told: Vec<_> = assets
        .iter()
        .map(|a| (a.url_path.as_str(), a.size, a.fingerprinted))
        .collect();
    assert_eq!(
        told,
        [
            ("/static/a%20b.png", 3, false),
            ("/static/index.html", 4, false),
            ("/static/js/main.3f9a12bc.js", 2, true),
            ("/static/js/pinned.3f9a12bc.js", 7, false),
            ("/static/latest.js", 2, false),
        ]
    );
    let both = union([&assets[..], &assets[..1]]);
    assert_eq!(both.keys().collect::<Vec<_>>(), [&"/static/js/main.3f9a12bc.js"]);
}

#[test]
fn a_whole_release_can_be_the_root_without_its_ship_toml() {
    let mut spec = ReleaseSpec::static_files(AppName::new("site").unwrap());
    spec.assets.push(AssetRoot {
        mutable: vec![path("index.html")],
        ..AssetRoot::new(None, "/")
    });
    let entries = vec![
        file("index.html", "page"),
        file("assets/main.3f9a12bc.js", "js"),
        file("docs/ship.toml", "a page about it"),
        file("ship.toml", "ours"),
    ];
    let assets = assets_of(&Manifest::new(spec.clone(), entries).unwrap()).unwrap();
    let urls: Vec<_> = assets.iter().map(|asset| asset.url_path.as_str()).collect();
    assert_eq!(
        urls,
        ["/assets/main.3f9a12bc.js", "/docs/ship.toml", "/index.html"]
    );
    spec.assets[0].mutable.clear();
    let alone = Manifest::new(spec, vec![file("ship.toml", "ours")]).unwrap();
    assert_eq!(
        assets_of(&alone).unwrap_err().to_string(),
        "asset root \".\" is not a folder of the release, or is empty"
    );
}

#[test]
fn what_cannot_be_served_is_refused() {
    let refused = |mutable: &[&str], names: &[&str]| {
        let entries = names.iter().map(|name| file(name, name)).collect();
        assets_of(&manifest(mutable, entries)).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&[], &["a"]),
        "asset root \"public\" is not a folder of the release, or is empty"
    );
    assert_eq!(
        refused(&["b"], &["public/a"]),
        "\"b\" is named mutable and is not in asset root \"public\""
    );
    assert!(refused(&[], &["public/A.js", "public/a.js"]).contains("differ only in case"));
    let mut spec = manifest(&[], vec![file("public/a", "")]).spec().clone();
    spec.assets.push(AssetRoot::new(Some(path("other")), "/"));
    let entries = vec![file("public/a", "1"), file("other/static/a", "2")];
    let twice = assets_of(&Manifest::new(spec, entries).unwrap()).unwrap_err();
    assert!(twice.to_string().contains("would both be served at /static/a"));
}

#[test]
fn a_fingerprinted_url_never_changes_its_bytes() {
    let release = Target {
        number: ReleaseNumber(7),
        id: ReleaseId::of(b"7"),
    };
    let old = assets_of(&manifest(
        &[],
        vec![
            file("public/main.3f9a12bc.js", "1"),
            file("public/index.html", "1"),
        ],
    ))
    .unwrap();
    let new = assets_of(&manifest(
        &[],
        vec![
            file("public/main.3f9a12bc.js", "2"),
            file("public/index.html", "2"),
        ],
    ))
    .unwrap();
    let known = |assets: &[Asset]| {
        let ledger: BTreeMap<String, BlobDigest> = assets
            .iter()
            .map(|asset| (asset.url_path.clone(), asset.digest))
            .collect();
        move |url: &str| ledger.get(url).map(|digest| (*digest, release))
    };
    assert_eq!(clashes(&old, known(&old)), []);
    let found = clashes(&new, known(&old));
    assert_eq!(found.len(), 1);
    assert!(
        found[0]
            .to_string()
            .starts_with("/static/main.3f9a12bc.js has other bytes than in release 7")
    );
}
