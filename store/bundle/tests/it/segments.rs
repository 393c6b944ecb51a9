//! Large files told by segments: only new ones travel, tar still opens the bundle, and what a list says is believed by nobody before
//! its bytes were hashed.

use std::collections::HashSet;
use std::fs;
use std::process::Command;

use ship_bundle::segments::{Held, LARGE, ReadListError, gather, read_listed};
use ship_bundle::stage::{Depth, FetchError, Kept, StageError, StageTask, fetch_cost, stage, verify_staged};
use ship_bundle::{BundleIndex, Expected, Parts, VerifyError, export, pack_parts, verify_bundle};
use ship_model::digest::{BlobDigest, BundleDigest};

use crate::fixture::*;

/// Two releases of a tree with a large file, the second with an insertion near its start, and a small file that follows.
struct Scene {
    trees: [tempfile::TempDir; 2],
    old: Published,
    new: Published,
}

fn tree(large: &[u8], small: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), ".a", "before the folder of segments");
    put(dir.path(), "data/large.bin", large);
    put(dir.path(), "z", small);
    dir
}

fn inserted(old: &[u8]) -> Vec<u8> {
    [&old[..100_000], b"inserted", &old[100_000..]].concat()
}

impl Scene {
    fn new() -> Self {
        let large = noise(7, 24 << 20);
        let trees = [tree(&large, "one"), tree(&inserted(&large), "two")];
        let old = published_cut(trees[0].path(), &[]);
        let new = published_cut(trees[1].path(), &[&old]);
        Self { trees, old, new }
    }

    fn all(&self) -> [&Published; 2] {
        [&self.old, &self.new]
    }
}

fn is_there(host: &Host, folder: &str, tree: &tempfile::TempDir) {
    let verified = verify_staged(host.place(folder), Depth::Full, &()).unwrap();
    assert!(verified.problems.is_empty(), "{:?}", verified.problems);
    assert_eq!(snapshot(&host.releases.join(folder)), snapshot(tree.path()));
}

fn unpacked(bundle: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bundle");
    fs::write(&file, bundle).unwrap();
    let out = tempfile::tempdir().unwrap();
    let status = Command::new("tar")
        .args(["--zstd", "-xf"])
        .arg(&file)
        .current_dir(out.path())
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    out
}

#[test]
fn an_insertion_moves_a_few_segments_and_identity_stays() {
    let scene = Scene::new();
    assert!(scene.new.bytes.len() < scene.old.bytes.len() / 4);
    assert!(scene.new.index.blobs().count() <= 4);
    // Whoever does not cut names everything the same.
    let whole = published(scene.trees[1].path());
    assert_eq!(whole.manifest.id(), scene.new.manifest.id());
    assert!(whole.index.lists().is_empty());
    let [list] = scene.new.index.lists() else {
        panic!("one list")
    };
    assert_eq!(list.size, (24 << 20) + 8);
    assert!(list.segments.len() > 12);
}

#[test]
fn tar_unpacks_whole_new_files_and_segments_of_others() {
    let scene = Scene::new();
    let out = unpacked(&scene.old.bytes);
    assert_eq!(snapshot(out.path()), snapshot(scene.trees[0].path()));
    let out = unpacked(&scene.new.bytes);
    assert_eq!(names(out.path()), [".ship-segments", "z"]);
    for name in names(&out.path().join(".ship-segments")) {
        let bytes = fs::read(out.path().join(".ship-segments").join(&name)).unwrap();
        assert_eq!(BlobDigest::of(&bytes).to_string(), name);
    }
}

#[test]
fn a_segment_is_had_by_one_small_read() {
    let scene = Scene::new();
    for frame in scene.old.index.frames() {
        assert!(frame.raw_len <= (4 << 20) + 1024, "{}", frame.raw_len);
    }
    assert!(scene.old.index.frames().len() >= 6);
}

#[test]
fn what_bundles_cost_is_told_for_listed_files_too() {
    let scene = Scene::new();
    let large = BlobDigest::of(&inserted(&noise(7, 24 << 20)));
    let both = scene.all().map(|each| (each.digest, each.index.clone()));
    let cost = fetch_cost(&[large], &both).unwrap();
    let all = (scene.old.bytes.len() + scene.new.bytes.len()) as u64;
    assert!((20 << 20..all).contains(&cost), "{cost} of {all}");
    // The segments that did not change lie in the older bundle only.
    assert_eq!(fetch_cost(&[large], &both[1..]), None);
    assert_eq!(fetch_cost(&[], &both), Some(0));
}

#[test]
fn a_host_uses_segments_of_its_older_files() {
    let scene = Scene::new();
    let host = Host::in_memory();
    let source = Source::of(&scene.all());
    host.stage("1", &scene.old).unwrap();
    is_there(&host, "1", &scene.trees[0]);
    let staged = host
        .stage_from("2", &scene.new.manifest, &["1"], &scene.all(), &source)
        .unwrap();
    is_there(&host, "2", &scene.trees[1]);
    assert!(staged.fetched_bytes <= scene.new.bytes.len() as u64, "{staged:?}");
    // A host without the old release reads both bundles.
    let bare = Host::in_memory();
    let staged = bare
        .stage_from("2", &scene.new.manifest, &[], &scene.all(), &source)
        .unwrap();
    is_there(&bare, "2", &scene.trees[1]);
    assert!(staged.fetched_bytes > 20 << 20, "{staged:?}");
}

#[test]
fn an_older_file_under_another_name_gives_its_segments() {
    let large = noise(8, 16 << 20);
    let trees = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    put(trees[0].path(), "app.0a1b2c3d.wasm", &large);
    put(trees[1].path(), "app.9f8e7d6c.wasm", inserted(&large));
    put(trees[1].path(), "bin/twin.wasm*", inserted(&large));
    let old = published_cut(trees[0].path(), &[]);
    let new = published_cut(trees[1].path(), &[&old]);
    let host = Host::in_memory();
    host.stage("1", &old).unwrap();
    let source = Source::of(&[&old, &new]);
    let staged = host.stage_from("2", &new.manifest, &["1"], &[&old, &new], &source);
    assert!(staged.unwrap().fetched_bytes <= new.bytes.len() as u64);
    is_there(&host, "2", &trees[1]);
}

#[test]
fn a_damaged_older_file_gives_only_what_is_sound() {
    let scene = Scene::new();
    let host = Host::in_memory();
    host.stage("1", &scene.old).unwrap();
    let path = host.releases.join("1/data/large.bin");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[12 << 20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let source = Source::of(&scene.all());
    host.stage_from("2", &scene.new.manifest, &["1"], &scene.all(), &source)
        .unwrap();
    is_there(&host, "2", &scene.trees[1]);
}

/// Zeros are one segment again and again; a small file has the bytes of a segment; two files share most.
#[test]
fn segments_that_repeat_are_packed_once() {
    let dir = tempfile::tempdir().unwrap();
    let shared = noise(9, 10 << 20);
    put(dir.path(), "a", vec![0; 40 << 20]);
    put(dir.path(), "b", vec![0; 4 << 20]);
    put(dir.path(), "c*", &shared);
    put(dir.path(), "d", inserted(&shared));
    let published = published_cut(dir.path(), &[]);
    assert_eq!(published.index.lists().len(), 3);
    assert!(published.bytes.len() < 14 << 20, "{}", published.bytes.len());
    let host = Host::in_memory();
    host.stage("1", &published).unwrap();
    is_there(&host, "1", &dir);
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("tree");
    let bundles = [(published.digest, published.index.clone())];
    let fetched = export(
        &published.manifest,
        &bundles,
        &Source::of(&[&published]),
        &to,
        &(),
    )
    .unwrap();
    assert!(fetched > 0);
    assert_eq!(snapshot(&to), snapshot(dir.path()));
}

#[test]
fn a_file_of_known_segments_only_brings_its_list() {
    let large = noise(10, 12 << 20);
    let scene = [tree(&large, "s"), tree(&[&large[..], &large[..]].concat(), "s")];
    let old = published_cut(scene[0].path(), &[]);
    let new = published_cut(scene[1].path(), &[&old]);
    assert!(new.index.blobs().count() <= 2);
    assert!(!new.index.lists().is_empty());
    let host = Host::in_memory();
    host.stage("1", &old).unwrap();
    let source = Source::of(&[&old, &new]);
    host.stage_from("2", &new.manifest, &["1"], &[&old, &new], &source)
        .unwrap();
    is_there(&host, "2", &scene[1]);
}

#[test]
fn what_a_broken_fetch_left_is_not_fetched_again() {
    let scene = Scene::new();
    let host = Host::in_memory();
    let left = std::sync::atomic::AtomicUsize::new(3);
    let try_it = |source: &Source| {
        let place = host.place("1");
        let kept = Kept::take(place).unwrap();
        stage(&StageTask {
            place,
            manifest: &scene.old.manifest,
            donors: &[],
            kept: kept.as_ref(),
            keep: true,
            delta: None,
            bundles: &[(scene.old.digest, scene.old.index.clone())],
            source,
            progress: &(),
        })
    };
    struct Breaking<'a>(Source, &'a std::sync::atomic::AtomicUsize);
    impl ship_bundle::stage::BlobSource for Breaking<'_> {
        fn frames(
            &self,
            bundle: BundleDigest,
            offset: u64,
            len: u64,
        ) -> std::io::Result<Box<dyn std::io::Read + Send>> {
            use std::sync::atomic::Ordering;
            // The second of the ranges of the large file ends early.
            let whole = self.0.frames(bundle, offset, len)?;
            if self.1.fetch_sub(1, Ordering::SeqCst) == 2 {
                return Ok(Box::new(std::io::Read::take(whole, len / 2)));
            }
            Ok(whole)
        }
    }
    let broken = Breaking(Source::of(&[&scene.old]), &left);
    let place = host.place("1");
    let task = StageTask {
        place,
        manifest: &scene.old.manifest,
        donors: &[],
        kept: None,
        keep: true,
        delta: None,
        bundles: &[(scene.old.digest, scene.old.index.clone())],
        source: &broken,
        progress: &(),
    };
    let error = stage(&task).unwrap_err();
    assert!(error.keeps(), "{error:?}");
    let report = try_it(&Source::of(&[&scene.old])).unwrap();
    assert!(report.fetched_bytes < 16 << 20, "{report:?}");
    is_there(&host, "1", &scene.trees[0]);
}

#[test]
fn a_list_that_lies_is_found_out_by_whoever_uses_it() {
    let scene = Scene::new();
    let truth = scene.new.index.lists()[0].clone();
    let mut lie = truth.clone();
    lie.segments.rotate_left(1);
    // A bundle as a publisher makes it who says that the store has it all.
    let known: HashSet<_> = lie.segments.iter().map(|segment| segment.digest).collect();
    let wanted = HashSet::from([lie.blob]);
    let parts = Parts {
        wanted: &wanted,
        lists: std::slice::from_ref(&lie),
        known: &known,
    };
    let mut bytes = Vec::new();
    let tree = scene.trees[1].path();
    let packed = pack_parts(tree, &scene.new.manifest, &parts, 3, &mut bytes, &()).unwrap();
    let verified = verify_bundle(&bytes[..], &Expected::default()).unwrap();
    assert_eq!(verified.unproven, [lie.blob]);
    let source = Source::of(&scene.all());
    let bundles = scene.all().map(|p| (p.digest, p.index.clone()));
    let mut bytes = Vec::new();
    read_listed(&truth, &bundles, &source, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    assert_eq!(BlobDigest::of(&bytes), truth.blob);
    let told = read_listed(&lie, &bundles, &source, |_| Ok(()));
    assert!(matches!(told, Err(ReadListError::Blob { blob }) if blob == lie.blob));
    let told = read_listed(&truth, &bundles[..1], &source, |_| Ok(()));
    assert!(matches!(told, Err(ReadListError::Nowhere { .. })));
    // A host that is told the lie first has no such release, and says whose lie it was.
    let told = [
        (packed.digest, verified.index),
        bundles[0].clone(),
        bundles[1].clone(),
    ];
    let host = Host::in_memory();
    let error = stage(&StageTask {
        place: host.place("2"),
        manifest: &scene.new.manifest,
        donors: &[],
        kept: None,
        keep: false,
        delta: None,
        bundles: &told,
        source: &source,
        progress: &(),
    })
    .unwrap_err();
    assert_eq!(error.wrong_bundle(), Some(packed.digest), "{error:?}");
    assert!(host.names().is_empty());
}

#[test]
fn a_segment_that_nobody_holds_is_told_before_anything_is_made() {
    let scene = Scene::new();
    let host = Host::in_memory();
    let source = Source::of(&scene.all());
    let told = host.stage_from("2", &scene.new.manifest, &[], &[&scene.new], &source);
    assert!(matches!(told, Err(StageError::Missing(_))), "{told:?}");
    assert!(host.names().is_empty());
}

#[test]
fn rotten_segments_name_their_bundle() {
    let mut scene = Scene::new();
    let place = *scene.old.index.frames()[2].blobs.first().unwrap();
    let at = scene.old.index.frames()[2].offset as usize + 2000;
    scene.old.bytes[at] ^= 1;
    let host = Host::in_memory();
    let error = host.stage("1", &scene.old).unwrap_err();
    assert_eq!(error.wrong_bundle(), Some(scene.old.digest), "{error:?}");
    let lists = scene.old.index.lists();
    let bundles = [(scene.old.digest, scene.old.index.clone())];
    let told = read_listed(&lists[0], &bundles, &Source::of(&[&scene.old]), |_| Ok(()));
    assert!(
        matches!(
            told,
            Err(ReadListError::Content { .. } | ReadListError::Frame { .. })
        ),
        "{told:?} {place:?}"
    );
    let error = verify_bundle(&scene.old.bytes[..], &Expected::default()).unwrap_err();
    assert!(matches!(error, VerifyError::Frame { frame: 2, .. }), "{error:?}");
}

#[test]
fn a_bundle_tells_which_lists_others_must_prove() {
    let scene = Scene::new();
    let verified = verify_bundle(&scene.old.bytes[..], &Expected::default()).unwrap();
    assert!(verified.unproven.is_empty());
    let verified = verify_bundle(&scene.new.bytes[..], &Expected::default()).unwrap();
    assert_eq!(verified.unproven, [scene.new.index.lists()[0].blob]);
    // What is listed counts as what it will be.
    let small = Expected {
        digest: None,
        max_raw_bytes: 16 << 20,
    };
    let told = verify_bundle(&scene.new.bytes[..], &small);
    assert!(matches!(told, Err(VerifyError::TooLarge { .. })));
}

#[test]
fn bundles_are_gathered_in_two_questions() {
    let scene = Scene::new();
    let indexes: [(BundleDigest, BundleIndex); 2] = scene.all().map(|p| (p.digest, p.index.clone()));
    let blob = scene.new.index.lists()[0].blob;
    let mut asked = Vec::new();
    let locate = |wanted: &[BlobDigest]| {
        asked.push(wanted.len());
        let held = indexes.iter().map(|(bundle, index)| Held {
            bundle: *bundle,
            bytes: 0,
            blobs: wanted
                .iter()
                .copied()
                .filter(|blob| {
                    let listed = index.lists().iter().any(|list| list.blob == *blob);
                    listed || index.blobs().any(|place| place.digest == *blob)
                })
                .collect(),
        });
        Ok::<_, FetchError>(held.filter(|held| !held.blobs.is_empty()).collect())
    };
    let read = |bundle, _| {
        let index = indexes.iter().find(|(digest, _)| *digest == bundle);
        Ok(index.unwrap().1.clone())
    };
    let gathered = gather(&[blob], locate, read).unwrap();
    assert_eq!((asked.len(), asked[0]), (2, 1));
    let source = Source::of(&scene.all());
    read_listed(&scene.new.index.lists()[0], &gathered, &source, |_| Ok(())).unwrap();
    assert!(
        gathered
            .iter()
            .all(|(_, index)| index.blobs().all(|place| place.size < LARGE))
    );
}
