//! Releases staged from a delta: the same tree as from bundles, for fewer bytes; whatever is wrong, bundles give the rest.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::sync::Mutex;

use ship_bundle::delta::{DeltaFooter, DeltaIndex, Effort, FOOTER, TreeBlobs, make_delta, read_manifest};
use ship_bundle::stage::{
    DeltaSource, DeltaTask, Depth, Kept, StageError, StageReport, StageTask, StagedRelease, stage,
    verify_staged,
};
use ship_model::manifest::Manifest;

use crate::fixture::*;

/// A delta in memory, read as it is asked for.
struct Delta {
    bytes: Vec<u8>,
    index: DeltaIndex,
    target: Manifest,
    asked: Mutex<Vec<Range<u64>>>,
}

impl DeltaSource for Delta {
    fn bytes(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        self.asked.lock().unwrap().push(range.clone());
        let bytes = self.bytes.get(range.start as usize..range.end as usize);
        Ok(Box::new(Cursor::new(
            bytes.ok_or(io::ErrorKind::UnexpectedEof)?.to_vec(),
        )))
    }
}

struct Scene {
    host: Host,
    old: Published,
    new: Published,
    delta: Delta,
    trees: [tempfile::TempDir; 2],
}

fn put_all(files: &BTreeMap<&str, Vec<u8>>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    files
        .iter()
        .for_each(|(name, content)| put(dir.path(), name, content));
    dir
}

impl Scene {
    /// Release 1 lies on the host; there is a bundle with what release 2 adds, and a delta.
    fn new() -> Self {
        let trees = [
            put_all(&BTreeMap::from([
                ("app.js", noise(1, 60_000)),
                ("big", noise(2, 9 << 20)),
                ("same", noise(3, 10_000)),
                ("tool*", noise(4, 10_000)),
            ])),
            put_all(&BTreeMap::from([
                ("app.js", [noise(1, 60_000), noise(5, 100)].concat()),
                ("big", [noise(6, 100), noise(2, 9 << 20)].concat()),
                ("big-too", noise(7, 8 << 20)),
                ("copy-of-app.js*", [noise(1, 60_000), noise(5, 100)].concat()),
                ("empty", Vec::new()),
                ("same", noise(3, 10_000)),
                ("tool", noise(4, 10_000)),
            ])),
        ];
        let old = published(trees[0].path());
        let new = published_with(trees[1].path(), &spec(), Some(&old.manifest));
        let host = Host::in_memory();
        host.stage("1", &old).unwrap();
        let bytes = bytes_of(&trees, &old.manifest, &new.manifest);
        let delta = Delta::parse(bytes, &old.manifest);
        Self {
            host,
            old,
            new,
            delta,
            trees,
        }
    }

    fn stage(&self, delta: Option<&Delta>, bundles: &[&Published]) -> Result<StageReport, StageError> {
        let place = self.host.place("2");
        let base = StagedRelease::open(self.host.place("1")).unwrap();
        let kept = Kept::take(place).unwrap();
        let source = Source::of(bundles);
        let bundles: Vec<_> = bundles.iter().map(|p| (p.digest, p.index.clone())).collect();
        stage(&StageTask {
            place,
            manifest: &self.new.manifest,
            donors: &self.host.donors(&["1"]),
            kept: kept.as_ref(),
            keep: true,
            delta: delta.map(|delta| DeltaTask {
                index: &delta.index,
                base: &base,
                source: delta,
            }),
            bundles: &bundles,
            source: &source,
            progress: &(),
        })
    }

    fn is_there(&self) {
        let verified = verify_staged(self.host.place("2"), Depth::Full, &()).unwrap();
        assert!(verified.problems.is_empty(), "{:?}", verified.problems);
        let tree = self.host.releases.join("2");
        assert_eq!(snapshot(&tree), snapshot(self.trees[1].path()));
    }
}

impl Delta {
    fn parse(bytes: Vec<u8>, base: &Manifest) -> Self {
        let footer = DeltaFooter::from_tail(&bytes[bytes.len() - FOOTER..], bytes.len() as u64).unwrap();
        let target = read_manifest(&footer, &bytes[..footer.manifest_len as usize], base).unwrap();
        let coded = &bytes[footer.index_at as usize..bytes.len() - FOOTER];
        let index = DeltaIndex::parse(&footer, coded, base, &target).unwrap();
        Self {
            bytes,
            index,
            target,
            asked: Mutex::default(),
        }
    }

    /// The same with a bit flipped in the frames of its last part.
    fn damaged(&self, base: &Manifest) -> Self {
        let mut bytes = self.bytes.clone();
        let last = self.index.parts().pop().unwrap();
        let range = self.index.range(&last);
        bytes[usize::midpoint(range.start as usize, range.end as usize)] ^= 4;
        Self::parse(bytes, base)
    }
}

fn bytes_of(trees: &[tempfile::TempDir; 2], old: &Manifest, new: &Manifest) -> Vec<u8> {
    let from = TreeBlobs::open(trees[0].path(), old).unwrap();
    let to = TreeBlobs::open(trees[1].path(), new).unwrap();
    let mut bytes = Vec::new();
    make_delta((old, &from), (new, &to), Effort::AT_ONCE, &mut bytes, &()).unwrap();
    bytes
}

#[test]
fn a_delta_alone_gives_the_release() {
    let scene = Scene::new();
    assert_eq!(scene.delta.target, scene.new.manifest);
    let report = scene.stage(Some(&scene.delta), &[]).unwrap();
    scene.is_there();
    let asked: u64 = scene
        .delta
        .asked
        .lock()
        .unwrap()
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    assert_eq!((report.fetched_bytes, report.delta_bytes), (asked, asked));
    assert!(asked < (8 << 20) + 20_000, "{asked} bytes");
    assert_eq!(
        scene.host.names(),
        ["1", "1.manifest", "1.stamps", "2", "2.manifest", "2.stamps"]
    );
}

#[test]
fn what_a_damaged_delta_does_not_give_comes_from_bundles() {
    let scene = Scene::new();
    let damaged = scene.delta.damaged(&scene.old.manifest);
    let error = scene.stage(Some(&damaged), &[]).unwrap_err();
    assert!(error.failed_delta() && error.keeps(), "{error:?}");
    assert!(!scene.host.names().contains(&"2".to_owned()));
    let report = scene.stage(None, &[&scene.new]).unwrap();
    assert!(report.kept_files > 0, "{report:?}");
    scene.is_there();
}

#[test]
fn a_base_that_rotted_gives_no_wrong_file() {
    let scene = Scene::new();
    let at = scene.host.releases.join("1/big");
    let mut bytes = fs::read(&at).unwrap();
    bytes[4 << 20] ^= 1;
    fs::remove_file(&at).unwrap();
    fs::write(&at, bytes).unwrap();
    let error = scene.stage(Some(&scene.delta), &[]).unwrap_err();
    assert!(error.failed_delta(), "{error:?}");
    scene.stage(None, &[&scene.new]).unwrap();
    scene.is_there();
}

#[test]
fn a_delta_gives_only_what_no_neighbour_has() {
    let scene = Scene::new();
    // Another release brought the large new file meanwhile.
    let tree = put_all(&BTreeMap::from([("elsewhere", noise(7, 8 << 20))]));
    scene.host.stage("3", &published(tree.path())).unwrap();
    let base = StagedRelease::open(scene.host.place("1")).unwrap();
    let report = stage(&StageTask {
        place: scene.host.place("2"),
        manifest: &scene.new.manifest,
        donors: &scene.host.donors(&["1", "3"]),
        kept: None,
        keep: false,
        delta: Some(DeltaTask {
            index: &scene.delta.index,
            base: &base,
            source: &scene.delta,
        }),
        bundles: &[],
        source: &Source::default(),
        progress: &(),
    });
    let report = report.unwrap();
    assert!(report.delta_bytes < 20_000, "{report:?}");
    scene.is_there();
}
