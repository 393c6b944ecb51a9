//! The store as a whole.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ship_bundle::delta::Effort;
use ship_store::admin::{
    BackupError, Copies, RestoreError, backup, mirror, rebuild, repair, restore, verify,
};
use ship_store::deltas::{Deltas, Maker};
use ship_store::engine::{Object, ObjectKind};
use ship_store::folder::{OpenFolderError, StoreFolder};
use ship_store::publish::Limits;

use super::deltas::version;
use super::optimize::{assert_given, optimized};
use super::tree::{open, prepare, publish, tree, web};

#[test]
fn verify_reads_everything_and_names_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = publish(&store.publisher, &tree(&web(), &[("a", b"1")]), 1).unwrap();
    let two = publish(&store.publisher, &tree(&web(), &[("b", b"2")]), 2).unwrap();
    let report = verify(&store).unwrap();
    assert!(report.is_good(), "{report}");
    assert_eq!((report.objects, report.releases, report.audit.links), (4, 2, 2));

    let hex = one.bundle.unwrap().to_string();
    let path = dir.path().join("objects/bundle").join(&hex[..2]).join(&hex);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let report = verify(&store).unwrap();
    assert!(!report.is_good());
    let text = report.to_string();
    for part in [&hex, "web@1", "that of a"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert_eq!(report.incomplete.len(), 1, "{text}");

    let id = two.id.to_string();
    let object = Object::Manifest(two.id);
    fs::remove_file(dir.path().join("objects/manifest").join(&id[..2]).join(&id)).unwrap();
    assert_eq!(store.blobs.len(object).unwrap(), None);
    let text = verify(&store).unwrap().to_string();
    assert!(text.contains("web@2"), "{text}");
}

#[test]
fn a_backup_of_a_serving_store_is_put_back() {
    let root = tempfile::tempdir().unwrap();
    let (dir, copy, back) = (
        root.path().join("store"),
        root.path().join("copy"),
        root.path().join("back"),
    );
    let store = open(&dir);
    fs::create_dir(dir.join("ca")).unwrap();
    fs::write(dir.join("ca/key.pem"), b"secret").unwrap();
    fs::set_permissions(dir.join("ca/key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(dir.join("run")).unwrap();
    fs::write(dir.join("run/addresses.json"), b"{}").unwrap();
    let one = tree(&web(), &[("a", b"1")]);
    let first = publish(&store.publisher, &one, 1).unwrap();
    let report = backup(&dir, &copy, 1000).unwrap();
    assert!(report.files >= 4, "{report:?}");
    publish(&store.publisher, &tree(&web(), &[("b", b"2")]), 2).unwrap();

    assert!(matches!(
        backup(&dir, &copy, 1000),
        Err(BackupError::NotEmpty { .. })
    ));
    assert!(matches!(
        restore(&copy, &dir, 2000),
        Err(RestoreError::Target { .. })
    ));
    restore(&copy, &back, 2000).unwrap();
    assert_eq!(fs::read(back.join("ca/key.pem")).unwrap(), b"secret");
    let mode = fs::metadata(back.join("ca/key.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!back.join("run").exists());

    let (restored, report) = StoreFolder::open(&back, Limits::default()).unwrap();
    let mark = report.restored.unwrap();
    assert_eq!(mark.at_ms, 2000);
    let releases = restored.ledger.releases(&web(), 10).unwrap();
    assert_eq!(releases, [first]);
    assert!(verify(&restored).unwrap().is_good());
    let acts = restored.ledger.audit_tail(1).unwrap();
    assert_eq!(acts[0].what, "restore");
    let begin = restored.publisher.begin(&web(), &one.encoded).unwrap_err();
    let commit = prepare(&store.publisher, &one, 3);
    let commit = restored.publisher.commit(&commit).unwrap_err();
    for refused in [begin.to_string(), commit.to_string()] {
        for part in [
            "put back from a backup",
            "1970-01-01T00:00:01Z",
            "nobody has accepted",
        ] {
            assert!(refused.contains(part), "{refused}");
        }
    }
    drop(restored);
    let (_, report) = StoreFolder::open(&back, Limits::default()).unwrap();
    assert_eq!(report.restored, Some(mark));
    assert_eq!(report.catalog.rebuilt, None);
}

#[test]
fn half_a_backup_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let half = root.path().join("half");
    fs::create_dir(&half).unwrap();
    let back = root.path().join("back");
    assert!(matches!(
        restore(&half, &back, 1),
        Err(RestoreError::NoBackup { .. })
    ));
    assert!(!back.exists());
    assert!(matches!(
        backup(&half, &back, 1),
        Err(BackupError::NoStore { .. })
    ));
}

#[test]
fn rebuild_needs_the_folder_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let record = publish(&store.publisher, &tree(&web(), &[("a", b"1")]), 1).unwrap();
    assert!(matches!(rebuild(dir.path()), Err(OpenFolderError::Locked { .. })));
    drop(store);
    assert!(rebuild(dir.path()).unwrap().rebuilt.is_some());
    let store = open(dir.path());
    assert_eq!(store.ledger.newest_release(&web()).unwrap(), Some(record));
}

pub fn file_of(dir: &Path, object: Object) -> PathBuf {
    let hex = object.hex();
    let kind = dir.join("objects").join(object.kind().as_str());
    kind.join(&hex[..2]).join(&hex)
}

/// A file that is like the old one but for one bit.
pub fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1 << (at % 8);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Without hard links: what rots in one does not rot in the other. And without a process: it would hold the locks of the stores
/// that other tests have open here until it executes, so that those who open one again would find it in use.
pub fn copy_all(dir: &Path, copy: &Path) {
    fs::create_dir_all(copy).unwrap();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let to = copy.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// A store whose older releases are kept as deltas, in a chain; every object of it.
fn with_a_chain(dir: &Path) -> Vec<Object> {
    let store = open(dir);
    for number in 1..=4 {
        publish(&store.publisher, &version(number), number).unwrap();
    }
    optimized(&store);
    let kinds = ObjectKind::ALL.into_iter();
    let listed = kinds.flat_map(|kind| store.blobs.list(kind).unwrap());
    listed.map(|(object, _)| object).collect()
}

#[test]
fn every_flipped_byte_of_a_chain_is_found_and_healed_from_a_copy() {
    let root = tempfile::tempdir().unwrap();
    let (dir, copy) = (root.path().join("store"), root.path().join("copy"));
    let objects = with_a_chain(&dir);
    let kept = objects.iter().filter(|object| object.kind() == ObjectKind::Kept);
    assert_eq!((kept.count(), objects.len()), (3, 8), "{objects:?}");
    copy_all(&dir, &copy);
    let from = [Copies::Folder(copy)];
    let store = open(&dir);
    for object in objects {
        let path = file_of(&dir, object);
        let len = fs::metadata(&path).unwrap().len() as usize;
        let mut places: Vec<usize> = (0..len).step_by(len / 7 + 1).collect();
        places.extend([len / 2, len - 2, len - 1]);
        for at in places {
            flip(&path, at);
            let found = verify(&store).unwrap();
            assert_eq!(found.lost, [object], "byte {at} of {len}: {found}");
            let healed = repair(&store, &found, &from).unwrap();
            assert_eq!(
                (healed.healed.len(), healed.lost.len()),
                (1, 0),
                "byte {at}: {healed}"
            );
            let found = verify(&store).unwrap();
            assert!(found.is_good(), "{object}, byte {at}: {found}");
        }
    }
    (1..=4).for_each(|number| assert_given(&store, &version(number)));
}

#[test]
fn a_kept_delta_that_was_lost_earlier_is_brought_back() {
    let root = tempfile::tempdir().unwrap();
    let (dir, copy) = (root.path().join("store"), root.path().join("copy"));
    let objects = with_a_chain(&dir);
    copy_all(&dir, &copy);
    let kept = objects
        .into_iter()
        .filter(|object| object.kind() == ObjectKind::Kept);
    for object in kept {
        fs::remove_file(file_of(&dir, object)).unwrap();
        let store = open(&dir);
        let found = verify(&store).unwrap();
        assert!(!found.is_good() && found.lost.is_empty(), "{found}");
        let healed = repair(&store, &found, &[Copies::Folder(copy.clone())]).unwrap();
        assert!(
            healed.healed.iter().any(|(healed, _)| *healed == object),
            "{healed}"
        );
        let found = verify(&store).unwrap();
        assert!(found.is_good(), "{found}");
    }
}

/// Two releases and the delta between them: an object of each kind and a second of two.
fn with_every_kind(dir: &Path) -> Vec<Object> {
    let store = open(dir);
    let deltas = Arc::new(Deltas::load(&*store.blobs).unwrap());
    let page = |number: u64| format!("page {number} ").repeat(900);
    let ids: Vec<_> = (1..=2)
        .map(|number| {
            let tree = tree(&web(), &[("a.html", page(number).as_bytes()), ("b.css", b"b")]);
            publish(&store.publisher, &tree, number).unwrap().id
        })
        .collect();
    let maker = Maker::new(Arc::clone(&store.blobs), Arc::clone(&store.places), deltas);
    maker.make((ids[0], ids[1]), Effort::AT_ONCE).unwrap();
    let kinds = ObjectKind::ALL.into_iter();
    let listed = kinds.flat_map(|kind| store.blobs.list(kind).unwrap());
    listed.map(|(object, _)| object).collect()
}

#[test]
fn every_flipped_byte_is_found_and_healed_from_a_copy() {
    let root = tempfile::tempdir().unwrap();
    let (dir, copy) = (root.path().join("store"), root.path().join("copy"));
    let objects = with_every_kind(&dir);
    assert_eq!(objects.len(), 5, "{objects:?}");
    // A backup has no deltas, which are made again; this has everything.
    copy_all(&dir, &copy);
    let from = [Copies::Folder(root.path().join("absent")), Copies::Folder(copy)];
    let store = open(&dir);
    for object in objects {
        let path = file_of(&dir, object);
        let len = fs::metadata(&path).unwrap().len() as usize;
        // Its ends, where headers and indexes are, and what lies between.
        let mut places: Vec<usize> = (0..len).step_by(len / 29 + 1).collect();
        places.extend([1, len / 2, len - 2, len - 1]);
        for at in places {
            flip(&path, at);
            let found = verify(&store).unwrap();
            assert_eq!(found.lost, [object], "byte {at} of {len}: {found}");
            let healed = repair(&store, &found, &from).unwrap();
            assert_eq!(
                (healed.healed.len(), healed.lost.len()),
                (1, 0),
                "byte {at}: {healed}"
            );
            let found = verify(&store).unwrap();
            assert!(found.is_good(), "byte {at}: {found}");
        }
    }
}

#[test]
fn what_was_lost_earlier_is_brought_back_and_a_rotten_copy_is_not_taken() {
    let root = tempfile::tempdir().unwrap();
    let (dir, rotten, copy) = (
        root.path().join("store"),
        root.path().join("rotten"),
        root.path().join("copy"),
    );
    let objects = with_every_kind(&dir);
    backup(&dir, &rotten, 1000).unwrap();
    let bundle = *objects
        .iter()
        .find(|object| object.kind() == ObjectKind::Bundle)
        .unwrap();
    let manifest = *objects
        .iter()
        .find(|object| object.kind() == ObjectKind::Manifest)
        .unwrap();
    flip(&file_of(&rotten, bundle), 10);
    copy_all(&dir, &copy);
    for lost in [bundle, manifest] {
        fs::remove_file(file_of(&dir, lost)).unwrap();
    }
    let store = open(&dir);
    let found = verify(&store).unwrap();
    assert!(!found.is_good());
    let healed = repair(&store, &found, &[Copies::Folder(rotten.clone())]).unwrap();
    assert_eq!(healed.healed.len(), 1, "{healed}");
    assert!(healed.to_string().contains("damaged as well"), "{healed}");
    let found = verify(&store).unwrap();
    let healed = repair(&store, &found, &[Copies::Folder(rotten), Copies::Folder(copy)]).unwrap();
    assert_eq!(healed.healed.len(), 1, "{healed}");
    assert!(verify(&store).unwrap().is_good());
}

/// Hands a folder out, as any web server does, until nobody asks any more.
fn serve(listener: TcpListener, folder: PathBuf, times: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for _ in 0..times {
            let (mut asking, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                asking.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap().trim_start_matches("/mirror/");
            match fs::read(folder.join(path)) {
                Ok(body) => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    asking.write_all(head.as_bytes()).unwrap();
                    asking.write_all(&body).unwrap();
                }
                Err(_) => asking
                    .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .unwrap(),
            }
        }
    })
}

#[test]
fn a_mirror_heals_bundles() {
    let root = tempfile::tempdir().unwrap();
    let (dir, out) = (root.path().join("store"), root.path().join("mirror"));
    let objects = with_every_kind(&dir);
    mirror(&dir, &out).unwrap();
    let bundles: Vec<_> = objects
        .into_iter()
        .filter(|object| object.kind() == ObjectKind::Bundle)
        .collect();
    for bundle in &bundles {
        flip(&file_of(&dir, *bundle), 7);
    }
    fs::remove_file(out.join("bundles").join(bundles[1].hex())).unwrap();
    let store = open(&dir);
    let found = verify(&store).unwrap();
    assert_eq!(found.lost.len(), 2, "{found}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mirror", listener.local_addr().unwrap());
    let served = serve(listener, out, 2);
    let healed = repair(&store, &found, &[url.parse().unwrap()]).unwrap();
    served.join().unwrap();
    assert_eq!((healed.healed.len(), healed.lost.len()), (1, 1), "{healed}");
    assert!(healed.to_string().contains("has none"), "{healed}");
}
