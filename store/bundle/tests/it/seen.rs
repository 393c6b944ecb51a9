//! What a walk remembers: files that look as they did are not read again, and everything that changed is.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use ship_bundle::segments::cut_files;
use ship_bundle::walk::{RACY, Reading, Seen, WalkError, Walked};
use ship_bundle::{PackError, Progress, pack, walk, walk_with};
use ship_model::digest::BlobDigest;

use crate::fixture::*;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_nanos() as i64
}

/// Long after everything was written.
fn later() -> i64 {
    now() + 3 * RACY
}

fn walked(tree: &Path, seen: Option<&Seen>, clock: fn() -> i64) -> Walked {
    let reading = Reading {
        seen,
        clock: Some(&clock),
        cut: true,
    };
    walk_with(tree, &spec(), &reading, &()).unwrap()
}

/// Whether the file is the one that is not told as it lies there: then nobody read it.
fn is_believed(tree: &Path, seen: &Seen) -> bool {
    walked(tree, Some(seen), later).manifest != walk(tree, &spec(), &()).unwrap().manifest
}

fn sample() -> (tempfile::TempDir, Walked) {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(dir.path());
    put(dir.path(), "key", "-----BEGIN PRIVATE KEY-----\nMII");
    put(dir.path(), "large", noise(3, 9 << 20));
    let walked = walked(dir.path(), None, later);
    (dir, walked)
}

#[test]
fn what_was_seen_is_told_again_and_nothing_is_read() {
    let (tree, first) = sample();
    assert_eq!(first.manifest, walk(tree.path(), &spec(), &()).unwrap().manifest);
    let files = first.manifest.files().count();
    assert_eq!(first.seen.len(), files);
    assert_eq!(first.warnings.len(), 1);
    // As it would be after some time on a disk.
    let seen = Seen::decode(&first.seen.encode()).unwrap();
    // Nobody may open any file: only what is not read can be told then.
    let again = walked(tree.path(), Some(&seen), later);
    assert_eq!(again.manifest, first.manifest);
    assert_eq!(again.warnings, first.warnings);
    assert_eq!(again.seen, first.seen);
    let wanted = first.manifest.files().map(|file| file.3).collect();
    let lists = cut_files(tree.path(), &first.manifest, &wanted, &()).unwrap();
    assert_eq!(again.seen.into_lists(), lists);
    assert_eq!(lists.len(), 1);
}

/// A memory that lies about every file.
fn lying(tree: &Path) -> Seen {
    let truth = walked(tree, None, later).seen.encode();
    // Every digest but the checksum behind them, which is made anew: the first byte of each is changed.
    let mut body = truth[..truth.len() - 32].to_vec();
    let files = u64::from_le_bytes(body[9..17].try_into().unwrap()) as usize;
    for file in 0..files {
        body[17 + file * 73 + 41] ^= 1;
    }
    let checksum = blake3::hash(&body);
    body.extend_from_slice(checksum.as_bytes());
    Seen::decode(&body).unwrap()
}

#[test]
fn a_memory_that_lies_publishes_nothing_wrong() {
    let (tree, honest) = sample();
    let lying = lying(tree.path());
    let told = walked(tree.path(), Some(&lying), later);
    assert_ne!(told.manifest, honest.manifest, "it was believed");
    // No content can be packed under a digest that it does not have.
    for (_, _, size, digest) in told.manifest.files() {
        let mut out = Vec::new();
        let packed = pack(tree.path(), &told.manifest, &[digest].into(), 3, &mut out, &());
        assert!(
            matches!(packed, Err(PackError::Changed { .. })),
            "{size} bytes were packed"
        );
    }
}

type Change = fn(&Path);

#[test]
fn every_change_is_seen_whatever_was_done_to_the_mtime() {
    let changes: &[(&str, Change)] = &[
        ("same size, mtime set back", |root| {
            let file = File::options().write(true).open(root.join("index.html")).unwrap();
            let mtime = file.metadata().unwrap().modified().unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"[html]", 0).unwrap();
            file.set_modified(mtime).unwrap();
        }),
        ("replaced by rename, mtime and size as before", |root| {
            let old = root.join("index.html");
            let mtime = fs::metadata(&old).unwrap().modified().unwrap();
            let new = File::create(root.join("new")).unwrap();
            std::io::Write::write_all(&mut &new, b"[html]").unwrap();
            new.set_modified(mtime).unwrap();
            fs::rename(root.join("new"), old).unwrap();
        }),
        ("two files that changed places", |root| {
            fs::rename(root.join("index.html"), root.join("aside")).unwrap();
            fs::rename(root.join("bin/server"), root.join("index.html")).unwrap();
            fs::rename(root.join("aside"), root.join("bin/server")).unwrap();
        }),
        ("made executable", |root| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(root.join("index.html"), mode).unwrap();
        }),
        ("a segment of a large file", |root| {
            let file = File::options().write(true).open(root.join("large")).unwrap();
            let mtime = file.metadata().unwrap().modified().unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"other", 5 << 20).unwrap();
            file.set_modified(mtime).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (tree, before) = sample();
        change(tree.path());
        let truth = walk(tree.path(), &spec(), &()).unwrap().manifest;
        let after = walked(tree.path(), Some(&before.seen), later);
        assert_ne!(truth, before.manifest, "{what}");
        assert_eq!(after.manifest, truth, "{what}");
        let wanted = truth.files().map(|file| file.3).collect();
        let lists = cut_files(tree.path(), &truth, &wanted, &()).unwrap();
        assert_eq!(after.seen.into_lists(), lists, "{what}");
    }
}

#[test]
fn what_changed_just_before_it_was_hashed_is_not_remembered() {
    let (tree, _) = sample();
    assert_eq!(
        walked(tree.path(), None, now).seen.len(),
        0,
        "all of it was written just now"
    );
    let without = Reading {
        cut: true,
        ..Reading::default()
    };
    let without = walk_with(tree.path(), &spec(), &without, &()).unwrap();
    assert_eq!(without.seen.len(), 0, "nobody told the time");
    // Of a tree that was remembered, one file changes, and only that one is forgotten.
    let all = walked(tree.path(), None, later);
    put(tree.path(), "index.html", "changed");
    let again = walked(tree.path(), Some(&all.seen), now);
    assert_eq!(again.seen.len(), all.seen.len() - 1);
    assert!(!is_believed(tree.path(), &again.seen));
    assert!(is_believed(tree.path(), &lying(tree.path())), "the test can tell");
}

/// Changes a file while the tree is read.
struct Meanwhile<'a>(Mutex<Option<&'a Path>>);

impl Progress for Meanwhile<'_> {
    fn done(&self, _: u64) {
        if let Some(root) = self.0.lock().unwrap().take() {
            for name in ["index.html", "bin/server", "lib/a.js", "noise", "large", "key"] {
                put(root, name, "changed meanwhile");
            }
        }
    }
}

#[test]
fn a_change_while_a_file_is_read_is_an_offence_and_not_remembered() {
    let (tree, _) = sample();
    let reading = Reading {
        seen: None,
        clock: Some(&later),
        cut: true,
    };
    let meanwhile = Meanwhile(Mutex::new(Some(tree.path())));
    let walked = walk_with(tree.path(), &spec(), &reading, &meanwhile);
    assert!(matches!(walked, Err(WalkError::Refused { .. })));
    let digests: Vec<BlobDigest> = walk(tree.path(), &spec(), &())
        .unwrap()
        .manifest
        .files()
        .map(|file| file.3)
        .collect();
    assert!(digests.contains(&BlobDigest::of(b"changed meanwhile")));
}
