//! Deltas between real trees: every blob comes out as it was, and nothing that is damaged is taken for one.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use proptest::prelude::*;
use ship_bundle::delta::{
    ApplyError, BlobBytes, DeltaBlobs, DeltaError, DeltaFooter, DeltaIndex, Effort, FOOTER, MadeDelta,
    MakeDeltaError, TreeBlobs, delta_needs, make_delta, read_manifest,
};
use ship_bundle::walk;
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;

use crate::fixture::*;

/// A folder and what is in it.
struct Tree {
    dir: tempfile::TempDir,
    manifest: Manifest,
}

impl Tree {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let manifest = walk(dir.path(), &spec(), &()).unwrap().manifest;
        Self { dir, manifest }
    }

    fn of(files: &BTreeMap<&str, Vec<u8>>) -> Self {
        Self::new(|root| files.iter().for_each(|(name, content)| put(root, name, content)))
    }

    fn blobs(&self) -> TreeBlobs<'_> {
        TreeBlobs::open(self.dir.path(), &self.manifest).unwrap()
    }

    fn digests(&self) -> HashSet<BlobDigest> {
        self.manifest.files().map(|(_, _, _, digest)| digest).collect()
    }
}

fn make_with(old: &Tree, new: &Tree, effort: Effort) -> (Vec<u8>, MadeDelta) {
    let mut bytes = Vec::new();
    let (from, to) = (old.blobs(), new.blobs());
    let made = make_delta(
        (&old.manifest, &from),
        (&new.manifest, &to),
        effort,
        &mut bytes,
        &(),
    )
    .unwrap();
    assert_eq!(made.bytes, bytes.len() as u64);
    (bytes, made)
}

fn make(old: &Tree, new: &Tree) -> Vec<u8> {
    make_with(old, new, Effort::AT_ONCE).0
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Delta(#[from] DeltaError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("a blob came out wrong")]
    Blob,
}

/// Reads the whole delta as a host would; the blobs it gave.
fn read(
    delta: &[u8],
    base: &Manifest,
    from: &dyn BlobBytes,
) -> Result<(Manifest, Vec<BlobDigest>), ReadError> {
    let tail = &delta[delta.len().saturating_sub(FOOTER)..];
    let footer = DeltaFooter::from_tail(tail, delta.len() as u64)?;
    let target = read_manifest(&footer, &delta[..footer.manifest_len as usize], base)?;
    let coded = &delta[footer.index_at as usize..delta.len() - FOOTER];
    let index = DeltaIndex::parse(&footer, coded, base, &target)?;
    let mut given = Vec::new();
    // Backwards: parts know nothing of each other.
    for part in index.parts().iter().rev() {
        let range = index.range(part);
        let input = &delta[range.start as usize..range.end as usize];
        let mut blobs = DeltaBlobs::new(&index, part, input, base, from);
        while let Some((digest, size)) = blobs.next_blob() {
            let mut content = Vec::new();
            blobs.content(|piece| {
                content.extend_from_slice(piece);
                Ok(())
            })?;
            if BlobDigest::of(&content) != digest || content.len() as u64 != size {
                return Err(ReadError::Blob);
            }
            given.push(digest);
        }
    }
    assert_eq!(given.len(), index.blobs().count());
    Ok((target, given))
}

/// The delta gives the new manifest, and each blob that the old tree lacks once.
fn gives_what_is_new(delta: &[u8], old: &Tree, new: &Tree) {
    let (target, given) = read(delta, &old.manifest, &old.blobs()).unwrap();
    assert_eq!(target, new.manifest);
    let all: HashSet<_> = given.iter().copied().collect();
    assert_eq!(all.len(), given.len());
    assert_eq!(all, &new.digests() - &old.digests());
}

/// What a bundler writes: much of the same in another order, with other names in it.
fn built(version: u64, lines: u64) -> Vec<u8> {
    let line = |at: u64| {
        let number = blake3::hash(&at.to_le_bytes()).to_hex();
        format!("function f{at}(){{return chunk{version}(\"{number}\")}}\n")
    };
    let order = (0..lines).map(|at| (at + version * 37) % lines);
    order.map(line).collect::<String>().into_bytes()
}

#[test]
fn renamed_and_shifted_files_cost_little() {
    let old = Tree::of(&BTreeMap::from([
        ("index.html", b"<html> main.0f1e2d3c.js".to_vec()),
        ("static/main.0f1e2d3c.js", built(1, 4_000)),
        ("static/other-AbCd1234.js", noise(1, 200_000)),
        ("bin/tool*", noise(2, 100_000)),
        ("gone", noise(3, 50_000)),
    ]));
    let moved = [noise(3, 50_000), b"and more".to_vec()].concat();
    let new = Tree::of(&BTreeMap::from([
        ("index.html", b"<html> main.aa11bb22.js".to_vec()),
        ("static/main.aa11bb22.js", built(2, 4_000)),
        (
            "static/other-ZyXw9876.js",
            [b"x".to_vec(), noise(1, 200_000)].concat(),
        ),
        // Only what may be executed changed: nothing to send.
        ("bin/tool", noise(2, 100_000)),
        ("elsewhere/what-was-gone", moved),
        ("copy", b"twice".to_vec()),
        ("copy-of-copy", b"twice".to_vec()),
        ("empty", Vec::new()),
    ]));
    let (delta, made) = make_with(&old, &new, Effort::AT_ONCE);
    gives_what_is_new(&delta, &old, &new);
    assert_eq!(made.blobs, 6);
    assert!(delta.len() < 60_000, "{} bytes", delta.len());
    let (thorough, _) = make_with(&old, &new, Effort::THOROUGH);
    gives_what_is_new(&thorough, &old, &new);
    assert!(thorough.len() <= delta.len(), "{} bytes", thorough.len());
}

/// Made once, by the first program that could: today's must read it. What it writes may differ with another zstd.
#[test]
fn version_1_is_read() {
    let content = noise(7, 9 << 20);
    let mut changed = content.clone();
    changed.splice(5_000_000..5_000_100, noise(8, 333));
    let old = Tree::of(&BTreeMap::from([
        ("data.bin", content),
        ("main.0f1e2d3c.js", built(1, 100)),
        ("notes", b"one".to_vec()),
    ]));
    let new = Tree::of(&BTreeMap::from([
        ("bin/tool*", b"#!/bin/sh".to_vec()),
        ("data.bin", changed),
        ("main.aa11bb22.js", built(2, 100)),
        ("empty", Vec::new()),
    ]));
    let place = crate::frozen::frozen("delta-1");
    if std::env::var_os("SHIP_BLESS").is_some() {
        fs::write(&place, make(&old, &new)).unwrap();
    }
    gives_what_is_new(&fs::read(&place).unwrap(), &old, &new);
}

#[test]
fn a_large_file_costs_what_changed_in_it() {
    let content = noise(7, 24 << 20);
    let mut changed = content.clone();
    for at in 0..40 {
        let from = at * 600_000 + 1_000;
        changed[from..from + 200].copy_from_slice(&noise(100 + at as u64, 200));
    }
    changed.splice(500..500, noise(8, 333));
    changed.truncate(23 << 20);
    let old = Tree::of(&BTreeMap::from([
        ("data.bin", content),
        ("notes", b"one".to_vec()),
    ]));
    let new = Tree::of(&BTreeMap::from([
        ("data.bin", changed),
        ("notes", b"two".to_vec()),
    ]));
    let delta = make(&old, &new);
    gives_what_is_new(&delta, &old, &new);
    assert!(delta.len() < 40 * 200 + 333 + 8_000, "{} bytes", delta.len());
}

#[test]
fn a_large_file_of_new_bytes_goes_over_many_frames() {
    let old = Tree::of(&BTreeMap::from([("a", b"a".to_vec())]));
    let new = Tree::of(&BTreeMap::from([
        ("b", b"b".to_vec()),
        ("big", noise(9, (40 << 20) + 5)),
        ("c", b"c".to_vec()),
    ]));
    let delta = make(&old, &new);
    gives_what_is_new(&delta, &old, &new);
}

#[test]
fn nothing_new_is_a_delta_too() {
    let old = Tree::of(&BTreeMap::from([("a", b"a".to_vec()), ("b", b"b".to_vec())]));
    let new = Tree::of(&BTreeMap::from([("renamed", b"a".to_vec())]));
    let (delta, made) = make_with(&old, &new, Effort::AT_ONCE);
    assert_eq!((made.blobs, made.raw_bytes), (0, 0));
    gives_what_is_new(&delta, &old, &new);
}

/// Whoever reads it opens each file that it is made against.
#[test]
fn of_very_many_files_a_few_thousand_are_read() {
    let tree = |text: &str| {
        Tree::new(|root| {
            put(root, "changed", text);
            (0..6_000_u32).for_each(|number| put(root, &format!("many/{number}"), number.to_string()));
        })
    };
    let (old, new) = (tree("one"), tree("two"));
    let (of_old, of_new) = delta_needs(&old.manifest, &new.manifest);
    assert_eq!((of_old.len(), of_new.len()), (4097, 1));
    assert!(of_old.contains(&BlobDigest::of(b"one")));
    gives_what_is_new(&make(&old, &new), &old, &new);
}

#[test]
fn the_same_trees_give_the_same_delta_on_any_number_of_cores() {
    let old = Tree::of(&BTreeMap::from([
        ("a.js", built(1, 900)),
        ("big", noise(1, 20 << 20)),
    ]));
    let mut big = noise(1, 20 << 20);
    big[9 << 20..][..100].copy_from_slice(&[0; 100]);
    let new = Tree::of(&BTreeMap::from([("a.js", built(2, 900)), ("big", big)]));
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| make(&old, &new))
    };
    assert!(on(1) == on(3));
}

#[test]
fn only_the_release_it_is_made_for_reads_it() {
    let old = Tree::of(&BTreeMap::from([("a", b"a".to_vec())]));
    let other = Tree::of(&BTreeMap::from([("a", b"b".to_vec())]));
    let new = Tree::of(&BTreeMap::from([("a", b"c".to_vec())]));
    let delta = make(&old, &new);
    let read = read(&delta, &other.manifest, &other.blobs());
    assert!(
        matches!(read, Err(ReadError::Delta(DeltaError::Base { .. }))),
        "{read:?}"
    );
}

#[test]
fn a_base_that_is_damaged_or_gone_gives_no_wrong_blob() {
    let old = Tree::of(&BTreeMap::from([
        ("a.js", built(1, 900)),
        ("big", noise(1, 9 << 20)),
    ]));
    let new = Tree::of(&BTreeMap::from([
        ("a.js", built(2, 900)),
        ("big", [noise(1, 9 << 20), noise(2, 9)].concat()),
    ]));
    let delta = make(&old, &new);
    let at = old.dir.path().join("big");
    let mut bytes = fs::read(&at).unwrap();
    bytes[5 << 20] ^= 1;
    fs::write(&at, bytes).unwrap();
    let damaged = read(&delta, &old.manifest, &old.blobs());
    assert!(matches!(
        damaged,
        Err(ReadError::Blob | ReadError::Apply(ApplyError::Frame))
    ));
    fs::remove_file(at).unwrap();
    let gone = read(&delta, &old.manifest, &old.blobs());
    assert!(
        matches!(gone, Err(ReadError::Apply(ApplyError::Base { .. }))),
        "{gone:?}"
    );
}

#[test]
fn a_tree_that_changes_while_it_is_read_makes_no_delta() {
    let old = Tree::of(&BTreeMap::from([("a", b"a".to_vec())]));
    let new = Tree::of(&BTreeMap::from([
        ("a", b"b".to_vec()),
        ("big", noise(1, 9 << 20)),
    ]));
    for (name, content) in [("a", b"c".to_vec()), ("big", noise(2, 9 << 20))] {
        let before = fs::read(new.dir.path().join(name)).unwrap();
        fs::write(new.dir.path().join(name), content).unwrap();
        let (from, to) = (old.blobs(), new.blobs());
        let made = make_delta(
            (&old.manifest, &from),
            (&new.manifest, &to),
            Effort::AT_ONCE,
            io::sink(),
            &(),
        );
        assert!(matches!(made, Err(MakeDeltaError::Changed { .. })), "{made:?}");
        fs::write(new.dir.path().join(name), before).unwrap();
    }
}

#[test]
fn whatever_is_flipped_or_cut_is_an_error_and_no_wrong_blob() {
    let old = Tree::of(&BTreeMap::from([
        ("a.js", built(1, 60)),
        ("big", noise(1, 9 << 20)),
    ]));
    let new = Tree::of(&BTreeMap::from([
        ("a.js", built(2, 60)),
        ("b", b"b".to_vec()),
        ("big", [noise(2, 99), noise(1, 9 << 20)].concat()),
    ]));
    let delta = make(&old, &new);
    let blobs = old.blobs();
    gives_what_is_new(&delta, &old, &new);
    for len in (0..delta.len()).step_by(5) {
        assert!(read(&delta[..len], &old.manifest, &blobs).is_err(), "{len} bytes");
    }
    for at in (0..delta.len()).step_by(3) {
        let mut bad = delta.clone();
        bad[at] ^= 1 << (at % 8);
        // A bit that means nothing to zstd may change nothing: then all must be there.
        if let Ok((target, given)) = read(&bad, &old.manifest, &blobs) {
            assert_eq!(target, new.manifest, "byte {at}");
            let given: HashSet<_> = given.into_iter().collect();
            assert_eq!(given, &new.digests() - &old.digests(), "byte {at}");
        }
    }
}

/// Names with and without fingerprints, contents that resemble each other.
fn files() -> impl Strategy<Value = BTreeMap<String, (u64, usize, usize)>> {
    let name = "(lib/)?[ab](-[0-9a-f]{8})?\\.(js|css)";
    prop::collection::btree_map(name, (0..3_u64, 0..3_000_usize, 0..3_000_usize), 1..8)
}

fn content((seed, from, len): (u64, usize, usize)) -> Vec<u8> {
    noise(seed, 6_000)[from..from + len].to_vec()
}

fn tree_of(files: &BTreeMap<String, (u64, usize, usize)>) -> Tree {
    Tree::new(|root| {
        files
            .iter()
            .for_each(|(name, what)| put(root, name, content(*what)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn from_any_release_to_any_other(first in files(), second in files()) {
        let (old, new) = (tree_of(&first), tree_of(&second));
        let delta = make(&old, &new);
        gives_what_is_new(&delta, &old, &new);
    }
}
