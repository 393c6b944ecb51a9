//! Tree to bundle to staged tree, byte by byte the same.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;
use ship_bundle::export;
use ship_bundle::stage::{Depth, missing, remove_staged, verify_staged};

use crate::fixture::*;

#[test]
fn a_tree_arrives_as_it_was() {
    let tree = tempfile::tempdir().unwrap();
    sample_tree(tree.path());
    put(tree.path(), ".git/config", "left out");
    put(tree.path(), "lib/.git/config", "kept");
    let published = published(tree.path());
    let host = Host::new();
    let report = host.stage("1-a", &published).unwrap();
    assert!(!report.already);
    assert_eq!(report.fetched_bytes, published.index.frames()[0].len);
    assert_eq!(snapshot(tree.path()), snapshot(&host.releases.join("1-a")));
    assert_eq!(host.names(), ["1-a", "1-a.manifest", "1-a.stamps"]);
    for entry in ["1-a", "1-a/lib", "1-a/nothing/here", "1-a/bin/server"] {
        let mode = fs::metadata(host.releases.join(entry)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o555, "{entry}");
    }
    let mode = fs::metadata(host.releases.join("1-a/index.html")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o444);
    let again = host.stage_from("1-a", &published.manifest, &[], &[], &Source::default());
    assert!(again.unwrap().already, "a complete release needs no source");
    let full = verify_staged(host.place("1-a"), Depth::Full, &()).unwrap();
    assert!(full.problems.is_empty(), "{full:?}");
    assert_eq!(full.hashed_bytes, published.manifest.total_bytes());
}

#[test]
fn files_of_every_size_around_a_frame_arrive() {
    let tree = tempfile::tempdir().unwrap();
    let frame = 4 << 20;
    for (seed, len) in [
        0,
        1,
        511,
        512,
        513,
        frame - 512,
        frame - 511,
        frame,
        frame + 1,
        9 << 20,
    ]
    .into_iter()
    .enumerate()
    {
        put(tree.path(), &format!("f{seed}"), noise(seed as u64, len));
    }
    put(tree.path(), "zeros", vec![0; 20 << 20]);
    let published = published(tree.path());
    assert!(published.index.frames().len() > 5);
    let host = Host::new();
    host.stage("1", &published).unwrap();
    assert_eq!(snapshot(tree.path()), snapshot(&host.releases.join("1")));
}

#[test]
fn an_update_fetches_only_what_is_new() {
    let tree = tempfile::tempdir().unwrap();
    sample_tree(tree.path());
    let first = published(tree.path());
    let host = Host::new();
    host.stage("1", &first).unwrap();
    put(tree.path(), "index.html", "<html>2");
    put(tree.path(), "noise-moved", noise(1, 300_000));
    put(tree.path(), "lib/a.js*", "let a = 1;".repeat(500));
    let second = published_with(tree.path(), &spec(), Some(&first.manifest));
    assert_eq!(second.index.blobs().count(), 1);
    assert_eq!(missing(&second.manifest, &host.donors(&["1"]), None).len(), 1);
    let source = Source::of(&[&second]);
    let report = host
        .stage_from("2", &second.manifest, &["1"], &[&first, &second], &source)
        .unwrap();
    assert_eq!(snapshot(tree.path()), snapshot(&host.releases.join("2")));
    assert_eq!(report.fetched_bytes, second.index.frames()[0].len);
    assert!(report.linked_bytes > 600_000, "{report:?}");
    // Stamps of the first release stay true although its inodes were linked, and again when the second goes.
    for folder in ["1", "2"] {
        let quick = verify_staged(host.place(folder), Depth::Quick, &()).unwrap();
        assert_eq!((quick.problems.len(), quick.hashed_bytes), (0, 0), "{folder}");
    }
    remove_staged(host.place("1")).unwrap();
    assert_eq!(host.names(), ["2", "2.manifest", "2.stamps"]);
    let quick = verify_staged(host.place("2"), Depth::Quick, &()).unwrap();
    assert_eq!((quick.problems.len(), quick.hashed_bytes), (0, 0));
    assert_eq!(snapshot(tree.path()), snapshot(&host.releases.join("2")));
}

#[test]
fn shared_names_lead_out_of_the_release_and_nothing_else_does() {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "a/file", "x");
    fs::create_dir(tree.path().join("log")).unwrap();
    let mut spec = spec();
    let name = |text: &str| ship_model::path::TreePath::new(text.as_bytes()).unwrap();
    spec.shared.dirs = vec![name("log"), name("a/b/tmp")];
    spec.shared.files = vec![name(".env")];
    let published = published_with(tree.path(), &spec, None);
    let host = Host::new();
    host.stage("1", &published).unwrap();
    for shared in ["log", "a/b/tmp"] {
        let there = host.dir.path().join("shared").join(shared);
        fs::create_dir_all(&there).unwrap();
        let through = fs::canonicalize(host.releases.join("1").join(shared)).unwrap();
        assert_eq!(through, fs::canonicalize(there).unwrap());
    }
    assert!(host.releases.join("1/.env").is_symlink());
    let full = verify_staged(host.place("1"), Depth::Full, &()).unwrap();
    assert!(full.problems.is_empty(), "{full:?}");
}

#[test]
fn an_export_is_an_ordinary_folder() {
    let tree = tempfile::tempdir().unwrap();
    sample_tree(tree.path());
    let published = published(tree.path());
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("web-1");
    let bundles = [(published.digest, published.index.clone())];
    let source = Source::of(&[&published]);
    export(&published.manifest, &bundles, &source, &to, &()).unwrap();
    assert_eq!(snapshot(tree.path()), snapshot(&to));
    for (name, mode) in [
        ("bin/server", 0o755),
        ("index.html", 0o644),
        ("lib", 0o755),
        ("", 0o755),
    ] {
        let found = fs::metadata(to.join(name)).unwrap().mode() & 0o7777;
        if !name.is_empty() {
            assert_eq!(found, mode, "{name}");
        }
    }
    let taken = export(&published.manifest, &bundles, &source, &to, &());
    assert!(matches!(taken, Err(ship_bundle::ExportError::Exists { .. })));
    let nothing = export(
        &published.manifest,
        &bundles,
        &Source::default(),
        &out.path().join("2"),
        &(),
    );
    assert!(nothing.is_err());
    assert_eq!(names(out.path()), ["web-1"]);
}

#[derive(Debug, Clone)]
enum Thing {
    File { content: Vec<u8>, executable: bool },
    Link(Vec<u8>),
    Folder,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => b'a'..=b'c', 1 => 1_u8..=255];
    let long = (1_usize..=255).prop_map(|len| vec![b'n'; len]);
    prop_oneof![9 => prop::collection::vec(byte, 1..4), 1 => long].prop_filter("a real name", |name| {
        !name.contains(&b'/') && name != b"." && name != b".." && name != b".git"
    })
}

fn thing() -> impl Strategy<Value = Thing> {
    let content = prop_oneof![
        (0_u64..4, 0_usize..3000).prop_map(|(seed, len)| noise(seed, len)),
        Just(Vec::new()),
        Just(b"same".to_vec()),
    ];
    prop_oneof![
        8 => (content, any::<bool>()).prop_map(|(content, executable)| Thing::File { content, executable }),
        1 => name().prop_map(Thing::Link),
        1 => Just(Thing::Folder),
    ]
}

fn tree() -> impl Strategy<Value = BTreeMap<Vec<Vec<u8>>, Thing>> {
    prop::collection::btree_map(prop::collection::vec(name(), 1..4), thing(), 1..25)
}

/// Makes the things; one whose place is taken by another is left out.
fn make(root: &Path, tree: &BTreeMap<Vec<Vec<u8>>, Thing>) {
    put(root, "always", "here");
    for (path, thing) in tree {
        let path = path
            .iter()
            .fold(root.to_owned(), |at, part| at.join(OsStr::from_bytes(part)));
        if fs::create_dir_all(path.parent().unwrap()).is_err() || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        let made = match thing {
            Thing::Link(target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), &path),
            Thing::Folder => fs::create_dir(&path),
            Thing::File { content, executable } => fs::write(&path, content).and_then(|()| {
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, PermissionsExt::from_mode(mode))
            }),
        };
        made.unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_two_releases_arrive(first in tree(), second in tree()) {
        let host = Host::in_memory();
        let trees = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        make(trees[0].path(), &first);
        make(trees[1].path(), &second);
        let one = published(trees[0].path());
        let two = published_with(trees[1].path(), &spec(), Some(&one.manifest));
        host.stage("1", &one).unwrap();
        host.stage_from("2", &two.manifest, &["1"], &[&two], &Source::of(&[&two])).unwrap();
        for (folder, tree) in ["1", "2"].into_iter().zip(&trees) {
            prop_assert_eq!(snapshot(tree.path()), snapshot(&host.releases.join(folder)));
            let quick = verify_staged(host.place(folder), Depth::Quick, &()).unwrap();
            prop_assert_eq!((quick.problems.len(), quick.hashed_bytes), (0, 0));
        }
    }
}

#[test]
fn packing_is_the_same_on_any_number_of_threads() {
    let tree = tempfile::tempdir().unwrap();
    sample_tree(tree.path());
    put(
        tree.path(),
        "large",
        [noise(7, 6 << 20), vec![7; 6 << 20]].concat(),
    );
    for number in 0..40 {
        put(tree.path(), &format!("many/{number}"), noise(number, 400_000));
    }
    let many = published(tree.path());
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let one = one.install(|| published(tree.path()));
    assert_eq!(one.digest, many.digest);
}

/// Two builds of the same sources, as npm packages have them: further apart by path than any window reaches.
#[test]
fn what_is_alike_is_packed_together() {
    let tree = tempfile::tempdir().unwrap();
    for number in 0..40 {
        let build = noise(number, 300 << 10);
        put(tree.path(), &format!("dist/part{number}.js"), &build);
        put(
            tree.path(),
            &format!("dist/esm/part{number}.js"),
            [&build[..], b"esm"].concat(),
        );
    }
    let published = published(tree.path());
    let one = 40 * (300 << 10);
    assert!(
        published.bytes.len() < one + one / 20,
        "{}",
        published.bytes.len()
    );
    assert!(published.index.frames().len() > 2);
}
