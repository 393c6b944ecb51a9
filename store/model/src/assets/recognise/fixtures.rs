//! What real tools name their files (`tests/fixtures/assets`, written by `build` there), and what is made of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use super::*;
use crate::assets::assets_of;
use crate::assets::built::manifests;
use crate::digest::BlobDigest;
use crate::manifest::{Entry, EntryKind};
use crate::path::TreePath;

macro_rules! fixtures {
    ($($tool:literal)*) => {
        &[$(($tool, include_str!(concat!("../../../../../tests/fixtures/assets/", $tool, ".txt")))),*]
    };
}

const FIXTURES: &[(&str, &str)] = fixtures!(
    "angular" "angular-media" "django" "esbuild" "next" "phoenix" "propshaft" "rollup" "sprockets" "sprockets-4" "vite" "webpack"
);

/// What is not recognised, though it is fingerprinted, without the tool's manifest.
const MISSED_BY_NAME: &[(&str, &str)] = &[
    // Eight letters without a digit, alone in its folder: a word in capitals would look the same.
    ("angular-media", "dist/browser/media/roboto-LBNWQPMA.woff2"),
];
/// And with it: its list of inputs and outputs does not say that a hash of letters alone was added.
const MISSED: &[(&str, &str)] = &[("angular-media", "dist/browser/media/roboto-LBNWQPMA.woff2")];

struct Fixture {
    release: Manifest,
    fingerprinted: Vec<String>,
    mutable: Vec<String>,
    built: Built,
}

fn read(text: &str) -> Fixture {
    let mut root = "";
    let (mut fingerprinted, mut mutable, mut told) = (Vec::new(), Vec::new(), Vec::new());
    let mut entries = Vec::new();
    let mut add = |path: &str, bytes: &[u8]| {
        entries.push(Entry {
            path: TreePath::new(path.as_bytes()).unwrap(),
            kind: EntryKind::File {
                executable: false,
                size: bytes.len() as u64,
                digest: BlobDigest::of(path.as_bytes()),
            },
        });
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(' ').unwrap() {
            ("root", folder) => root = folder,
            ("manifest", rest) => told.push(rest.split_once(' ').unwrap()),
            ("F", path) => fingerprinted.push(path.to_owned()),
            ("M", path) => mutable.push(path.to_owned()),
            ("?", path) => add(path, b"x"),
            other => panic!("{other:?}"),
        }
    }
    let manifest_paths: Vec<&str> = told.iter().map(|(path, _)| *path).collect();
    let files = fingerprinted.iter().chain(&mutable).map(String::as_str);
    for path in files.chain(
        manifest_paths
            .iter()
            .copied()
            .filter(|path| !text.contains(&format!(" {path}\n"))),
    ) {
        add(path, b"x");
    }
    let mut spec = ReleaseSpec::static_files("web".parse().unwrap());
    let folder = TreePath::new(root.as_bytes()).ok().filter(|_| root != ".");
    spec.assets.push(AssetRoot::new(folder, "/static"));
    let release = Manifest::new(spec, entries).unwrap();
    let looked_for = manifests(&release);
    let mut built = Built::default();
    for (path, json) in told {
        let path = TreePath::new(path.as_bytes()).unwrap();
        assert!(looked_for.contains(&path), "{path} is not looked for");
        built.read(&release, &path, json.as_bytes()).unwrap();
    }
    Fixture {
        release,
        fingerprinted,
        mutable,
        built,
    }
}

fn kept(release: &Manifest, built: &Built) -> HashSet<String> {
    let made =
        recognise(release, built).map_or_else(|| release.clone(), |spec| release.with_spec(spec).unwrap());
    let assets = assets_of(&made).unwrap();
    let kept = assets.iter().filter(|asset| asset.fingerprinted);
    kept.map(|asset| asset.path.to_string()).collect()
}

/// A mutable name that is taken for a fingerprint would be kept by browsers for a year: there is none, with and without
/// the tools' manifests. Those that are missed are listed, each.
#[test]
fn names_of_real_tools_are_recognised() {
    for (tool, text) in FIXTURES {
        let fixture = read(text);
        assert!(
            !fixture.fingerprinted.is_empty(),
            "{tool} has nothing to recognise"
        );
        let ways = [
            (kept(&fixture.release, &Built::default()), MISSED_BY_NAME),
            (kept(&fixture.release, &fixture.built), MISSED),
        ];
        for (kept, missed) in ways {
            let wrong = fixture.mutable.iter().filter(|path| kept.contains(*path));
            assert_eq!(
                wrong.collect::<Vec<_>>(),
                [""; 0],
                "{tool}: taken for fingerprints"
            );
            let not_kept = fixture.fingerprinted.iter().filter(|path| !kept.contains(*path));
            let expected = missed.iter().filter(|(of, _)| of == tool).map(|(_, path)| path);
            assert_eq!(
                not_kept.collect::<Vec<_>>(),
                expected.collect::<Vec<_>>(),
                "{tool}: missed"
            );
        }
    }
}
