//! A store that reads everything again: what rotted is found, healed from wherever it lies whole, and named when it does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ship_bundle::delta::Effort;
use ship_model::desired::DesiredHost;
use ship_model::digest::BlobDigest;
use ship_model::name::{EnvName, HostName};
use ship_model::release::Target;
use ship_model::report::{AppReport, HostReport};
use ship_model::rollout::Thresholds;
use ship_store::admin::{Copies, verify};
use ship_store::clock::Clock;
use ship_store::deltas::{Deltas, Maker};
use ship_store::engine::{Blobs, BlobsError, Object, ObjectKind, ObjectReader, Staged};
use ship_store::folder::StoreFolder;
use ship_store::rollout::fleet::Fleet;
use ship_store::scrub::{Findings, MARKS, Scrubber, Wanted, Wants};
use tokio_util::sync::CancellationToken;

use super::admin::{copy_all, file_of, flip};
use super::deltas::version;
use super::optimize::{assert_given, optimized};
use super::tree::{Tree, open, publish, tree, web};

const DAY: u64 = 86_400_000;

/// What a scrub needs besides the store.
struct Around {
    dir: PathBuf,
    now_ms: Arc<AtomicU64>,
    findings: Arc<Findings>,
    fleet: Arc<Fleet>,
    wants: Arc<Wants>,
    stop: CancellationToken,
    copies: Vec<Copies>,
}

impl Around {
    fn new(dir: &Path, store: &StoreFolder) -> Self {
        Self {
            dir: dir.to_owned(),
            now_ms: Arc::new(AtomicU64::new(1_800_000_000_000)),
            findings: Arc::default(),
            fleet: Arc::new(Fleet::new(Thresholds::default(), 0)),
            wants: Arc::new(Wants::new(Arc::clone(&store.blobs))),
            stop: CancellationToken::new(),
            copies: Vec::new(),
        }
    }

    fn scrubber(&self, store: &StoreFolder) -> Scrubber {
        let deltas = Arc::new(Deltas::load(&*store.blobs).unwrap());
        let (blobs, places) = (Arc::clone(&store.blobs), Arc::clone(&store.places));
        Scrubber {
            maker: Maker::new(blobs, places, Arc::clone(&deltas)),
            blobs: Arc::clone(&store.blobs),
            places: Arc::clone(&store.places),
            ledger: store.ledger.clone(),
            deltas,
            fleet: Arc::clone(&self.fleet),
            wants: Arc::clone(&self.wants),
            copies: self.copies.clone(),
            within_ms: 7 * DAY,
            limit: None,
            marks: self.dir.join(MARKS),
            findings: Arc::clone(&self.findings),
            clock: Clock::set_by(Arc::clone(&self.now_ms)),
            stop: self.stop.clone(),
        }
    }

    /// The next round, some days later.
    fn round(&self, store: &StoreFolder) {
        self.now_ms.fetch_add(4 * DAY, Ordering::SeqCst);
        self.scrubber(store).round();
    }

    fn lost(&self) -> Vec<String> {
        self.findings.lost().iter().map(|lost| lost.words()).collect()
    }

    /// A host of dev that says it has `release`.
    fn host(&self, release: Target) -> (EnvName, HostName) {
        let from: (EnvName, HostName) = ("dev".parse().unwrap(), "h1".parse().unwrap());
        let app = AppReport {
            staged: vec![release],
            ..AppReport::of(web())
        };
        let report = HostReport {
            apps: vec![app],
            ..HostReport::default()
        };
        let heard = Arc::new(report);
        self.fleet
            .hear(&from.0, &from.1, heard, &DesiredHost::default(), 1);
        from
    }
}

/// All objects, one after another.
fn objects(store: &StoreFolder) -> Vec<Object> {
    let kinds = ObjectKind::ALL.into_iter();
    let mut all: Vec<_> = kinds.flat_map(|kind| store.blobs.list(kind).unwrap()).collect();
    all.sort_unstable();
    all.into_iter().map(|(object, _)| object).collect()
}

/// A store with objects of every kind: bundles, manifests, a delta and kept deltas.
fn with_every_kind(dir: &Path) -> (StoreFolder, Vec<Tree>) {
    let store = open(dir);
    let trees: Vec<Tree> = (1..=3).map(version).collect();
    let ids: Vec<_> = (1..)
        .zip(&trees)
        .map(|(number, tree)| publish(&store.publisher, tree, number).unwrap().id)
        .collect();
    optimized(&store);
    let deltas = Arc::new(Deltas::load(&*store.blobs).unwrap());
    let maker = Maker::new(Arc::clone(&store.blobs), Arc::clone(&store.places), deltas);
    maker.make((ids[1], ids[2]), Effort::AT_ONCE).unwrap();
    (store, trees)
}

#[test]
fn whatever_rots_is_found_and_takes_its_bytes_from_a_copy() {
    let root = tempfile::tempdir().unwrap();
    let (dir, copy) = (root.path().join("store"), root.path().join("copy"));
    let (store, trees) = with_every_kind(&dir);
    copy_all(&dir, &copy);
    let mut around = Around::new(&dir, &store);
    around.copies = vec![Copies::Folder(root.path().join("absent")), Copies::Folder(copy)];
    around.round(&store);
    assert_eq!((around.findings.damaged(), around.findings.healed()), (0, 0));
    let all = objects(&store);
    assert!(
        ObjectKind::ALL
            .iter()
            .all(|kind| all.iter().any(|object| object.kind() == *kind))
    );
    let total: u64 = all
        .iter()
        .map(|object| store.blobs.len(*object).unwrap().unwrap())
        .sum();
    assert_eq!(around.findings.read_bytes(), total, "each is read once");
    for (turn, object) in (1..).zip(all) {
        let path = file_of(&dir, object);
        let len = fs::metadata(&path).unwrap().len() as usize;
        flip(&path, len * 2 / 3);
        around.round(&store);
        assert_eq!(
            (around.findings.damaged(), around.findings.healed()),
            (turn, turn),
            "{object}"
        );
        assert_eq!(around.lost(), [""; 0]);
        let found = verify(&store).unwrap();
        assert!(found.is_good(), "{object}: {found}");
    }
    trees.iter().for_each(|tree| assert_given(&store, tree));
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Files of more than one frame, and the release that they are published as.
fn several_frames(store: &StoreFolder) -> (Tree, Target) {
    let (a, b, c) = (noise(1, 5 << 20), noise(2, 5 << 20), noise(3, 5 << 20));
    let tree = tree(&web(), &[("a", &a), ("b", &b), ("c", &c), ("page", b"page")]);
    let target = publish(&store.publisher, &tree, 1).unwrap().target();
    (tree, target)
}

fn missing(store: &StoreFolder, tree: &Tree) -> usize {
    let files = tree.manifest.files().map(|(_, _, _, digest)| digest);
    store.places.missing(files).len()
}

/// Damages one file in the release's only bundle.
fn damage(dir: &Path, store: &StoreFolder) -> Object {
    let (bundle, len) = store.blobs.list(ObjectKind::Bundle).unwrap()[0];
    flip(&file_of(dir, bundle), len as usize / 2);
    bundle
}

#[test]
fn what_of_a_rotten_bundle_can_be_read_is_kept_and_what_is_lost_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (tree, _) = several_frames(&store);
    let around = Around::new(dir.path(), &store);
    let bundle = damage(dir.path(), &store);
    around.round(&store);
    assert_eq!((around.findings.damaged(), around.findings.healed()), (1, 0));
    assert_eq!(missing(&store, &tree), 1, "the others were rescued");
    let lost = around.lost();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(
        ["a", "b", "c"]
            .iter()
            .any(|path| lost[0] == format!("web@1: {path} is lost")),
        "{lost:?}"
    );
    assert_eq!(store.blobs.len(bundle).unwrap(), None);
    assert_eq!(store.blobs.quarantined().unwrap(), [bundle]);
    let record = publish(&store.publisher, &tree, 2).unwrap();
    assert_eq!(record.new_bytes, 5 << 20, "only what was lost is sent again");
    around.round(&store);
    assert_eq!(around.findings.damaged(), 1);
    assert!(verify(&store).unwrap().is_good());
    assert_given(&store, &tree);
}

/// Text of its own, and until the last release a file that all have.
fn in_a_chain(number: u64) -> Tree {
    let lines = (0..2_000_u64).map(|line| {
        let hash = blake3::hash(&(line + number * 30).to_le_bytes()).to_hex();
        format!("{hash}\n")
    });
    let own: String = lines.collect();
    let mut files: Vec<(&str, &[u8])> = vec![("own", own.as_bytes())];
    if number < 4 {
        files.push(("old", b"of all but the last"));
    }
    tree(&web(), &files)
}

/// Release 1 is kept against 2, whose delta rots, and 2 against 3, whose delta gives a file that all three have.
#[test]
fn a_kept_delta_that_rots_takes_nothing_with_it_that_can_be_decoded_or_is_on_a_host() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let trees: Vec<Tree> = (1..=4).map(in_a_chain).collect();
    let targets: Vec<Target> = (1..)
        .zip(&trees)
        .map(|(number, tree)| publish(&store.publisher, tree, number).unwrap().target())
        .collect();
    optimized(&store);
    let around = Around::new(dir.path(), &store);
    let link = store.places.link(targets[1].id).unwrap();
    let path = file_of(dir.path(), Object::Kept(link.delta));
    flip(&path, fs::metadata(&path).unwrap().len() as usize / 2);
    let from = around.host(targets[1]);
    let host = give(&around, &from, &trees[1], |bytes| bytes);
    around.round(&store);
    assert_eq!(host.join().unwrap(), 1);
    assert_eq!(around.lost(), [""; 0]);
    assert_eq!((around.findings.damaged(), around.findings.healed()), (1, 1));
    trees.iter().for_each(|tree| assert_given(&store, tree));
    drop(store);
    let store = open(dir.path());
    assert!(verify(&store).unwrap().is_good());
    trees.iter().for_each(|tree| assert_given(&store, tree));
}

/// Answers the next question as a host would that has `tree`; gives how many things were taken, and ends.
fn give(
    around: &Around,
    from: &(EnvName, HostName),
    tree: &Tree,
    lie: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static,
) -> std::thread::JoinHandle<u64> {
    let (wants, from) = (Arc::clone(&around.wants), from.clone());
    let files = tree.manifest.files();
    let files: Vec<(BlobDigest, Vec<u8>)> = files
        .map(|(path, _, _, digest)| (digest, fs::read(tree.dir.path().join(path.to_string())).unwrap()))
        .collect();
    let (id, encoded) = (tree.manifest.id(), tree.encoded.clone());
    let mut asked = wants.listen();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let question = runtime
            .block_on(asked.wait_for(Option::is_some))
            .unwrap()
            .clone()
            .unwrap();
        assert_eq!((&question.env, &question.host), (&from.0, &from.1));
        let mut taking = wants.take((&from.0, &from.1), question.number).unwrap();
        for what in question.wanted.keys() {
            let bytes = match what {
                Wanted::Manifest(wanted) if *wanted == id => encoded.clone(),
                Wanted::Manifest(_) => continue,
                Wanted::Blob(blob) => match files.iter().find(|(digest, _)| digest == blob) {
                    Some((_, bytes)) => bytes.clone(),
                    None => continue,
                },
            };
            let mut bytes = Some(lie(bytes).into());
            if taking.one(*what, &mut || Ok(bytes.take())).is_err() {
                break;
            }
        }
        taking.taken()
    })
}

#[test]
fn a_host_that_has_the_release_gives_back_what_is_lost_and_lies_are_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (tree, target) = several_frames(&store);
    let mut around = Around::new(dir.path(), &store);
    let from = around.host(target);
    damage(dir.path(), &store);
    let liar = give(&around, &from, &tree, |mut bytes| {
        bytes[0] ^= 1;
        bytes
    });
    around.round(&store);
    assert_eq!(liar.join().unwrap(), 0);
    assert_eq!((missing(&store, &tree), around.lost().len()), (1, 1));
    assert!(
        around.wants.take((&from.0, &from.1), 1).is_err(),
        "nothing is asked any more"
    );

    // It looks again by itself as long as something is lost.
    let host = give(&around, &from, &tree, |bytes| bytes);
    let mut again = around.scrubber(&store);
    again.within_ms = 1_000;
    let looking = std::thread::spawn(move || again.run());
    assert_eq!(host.join().unwrap(), 1);
    while !around.lost().is_empty() {
        std::thread::yield_now();
    }
    around.stop.cancel();
    looking.join().unwrap();
    assert!(verify(&store).unwrap().is_good());
    assert_given(&store, &tree);

    around.stop = CancellationToken::new();
    flip(&file_of(dir.path(), Object::Manifest(target.id)), 50);
    let host = give(&around, &from, &tree, |bytes| bytes);
    around.round(&store);
    assert_eq!(host.join().unwrap(), 1);
    assert_eq!(around.lost(), [""; 0]);
    assert!(verify(&store).unwrap().is_good());
}
/// Objects of a store that is stopped while the last of so many is read.
#[derive(Debug)]
struct EndsAt {
    blobs: Arc<dyn Blobs>,
    left: AtomicU64,
    stop: CancellationToken,
}

impl Blobs for EndsAt {
    fn room(&self) -> Result<(), BlobsError> {
        self.blobs.room()
    }
    fn stage(&self) -> Result<Staged, BlobsError> {
        self.blobs.stage()
    }
    fn keep(&self, staged: Staged, object: Object) -> Result<(), BlobsError> {
        self.blobs.keep(staged, object)
    }
    fn open(&self, object: Object) -> Result<Box<dyn ObjectReader>, BlobsError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.stop.cancel();
        }
        self.blobs.open(object)
    }
    fn len(&self, object: Object) -> Result<Option<u64>, BlobsError> {
        self.blobs.len(object)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(Object, u64)>, BlobsError> {
        self.blobs.list(kind)
    }
    fn quarantine(&self, object: Object) -> Result<(), BlobsError> {
        self.blobs.quarantine(object)
    }
    fn quarantined(&self) -> Result<Vec<Object>, BlobsError> {
        self.blobs.quarantined()
    }
    fn remove(&self, object: Object) -> Result<(), BlobsError> {
        self.blobs.remove(object)
    }
}

#[test]
fn a_store_that_is_stopped_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = with_every_kind(dir.path());
    let count = objects(&store).len() as u64;
    let marks = || -> serde_json::Value {
        serde_json::from_slice(&fs::read(dir.path().join(MARKS)).unwrap()).unwrap()
    };
    let mut around = Around::new(dir.path(), &store);
    let mut first = around.scrubber(&store);
    first.blobs = Arc::new(EndsAt {
        blobs: Arc::clone(&store.blobs),
        left: AtomicU64::new(3),
        stop: around.stop.clone(),
    });
    first.round();
    let passed = marks()["objects"].as_u64().unwrap();
    assert_eq!(passed, 2, "of {count}: it ended in the third");
    assert_eq!(marks()["over"], false);
    let read = around.findings.read_bytes();
    // The next process.
    around.stop = CancellationToken::new();
    around.findings = Arc::default();
    around.scrubber(&store).round();
    assert_eq!(
        (marks()["objects"].as_u64().unwrap(), &marks()["over"]),
        (count, &true.into())
    );
    let total: u64 = objects(&store)
        .iter()
        .map(|object| store.blobs.len(*object).unwrap().unwrap())
        .sum();
    let again = around.findings.read_bytes();
    assert!(
        again < total && again + read >= total,
        "{read}, then {again} of {total}"
    );
    // And then it waits until the next round is due.
    around.scrubber(&store).round();
    assert_eq!(around.findings.read_bytes(), again);
    around.round(&store);
    assert_eq!(around.findings.read_bytes(), again + total);
}
