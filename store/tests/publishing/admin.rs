//! The store as a whole.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ship_store::admin::{BackupError, RestoreError, backup, rebuild, restore, verify};
use ship_store::engine::Object;
use ship_store::folder::{OpenFolderError, StoreFolder};
use ship_store::publish::Limits;

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
