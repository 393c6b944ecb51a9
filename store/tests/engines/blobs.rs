//! What every engine of objects does alike.

use std::fs;
use std::io::Write;
use std::sync::Arc;

use ship_model::digest::{BundleDigest, ReleaseId};
use ship_store::engine::blobs::{FsBlobs, MemoryBlobs, check_whole, read_whole};
use ship_store::engine::{Blobs, BlobsError, Object, ObjectKind};

fn over_every_engine(suite: fn(Arc<dyn Blobs>)) {
    suite(Arc::new(MemoryBlobs::default()));
    let dir = tempfile::tempdir().unwrap();
    suite(Arc::new(FsBlobs::open(dir.path()).unwrap()));
}

fn keep(blobs: &dyn Blobs, bytes: &[u8]) -> Object {
    let object = Object::Bundle(BundleDigest::of(bytes));
    let mut staged = blobs.stage().unwrap();
    for piece in bytes.chunks(7) {
        staged.write_all(piece).unwrap();
    }
    blobs.keep(staged, object).unwrap();
    object
}

#[test]
fn what_is_kept_is_read_back() {
    over_every_engine(|blobs| {
        let object = keep(&*blobs, b"the bytes of a bundle");
        assert_eq!(keep(&*blobs, b"the bytes of a bundle"), object);
        assert_eq!(blobs.len(object).unwrap(), Some(21));
        assert_eq!(blobs.list(ObjectKind::Bundle).unwrap(), [(object, 21)]);
        assert_eq!(blobs.list(ObjectKind::Manifest).unwrap(), []);
        assert_eq!(read_whole(&*blobs, object, 21).unwrap(), b"the bytes of a bundle");
        assert_eq!(check_whole(&*blobs, object).unwrap(), 21);
        let reader = blobs.open(object).unwrap();
        let mut piece = [0; 5];
        assert_eq!(reader.read_at(&mut piece, 4).unwrap(), 5);
        assert_eq!(&piece, b"bytes");
        assert_eq!(reader.read_at(&mut piece, 21).unwrap(), 0);
        assert_eq!(reader.read_at(&mut piece, u64::MAX / 2).unwrap(), 0);
        assert!(matches!(
            read_whole(&*blobs, object, 20),
            Err(BlobsError::TooLong { .. })
        ));
    });
}

#[test]
fn nothing_is_kept_under_another_name() {
    over_every_engine(|blobs| {
        let other = Object::Manifest(ReleaseId::of(b"something else"));
        let mut staged = blobs.stage().unwrap();
        staged.write_all(b"something").unwrap();
        assert!(matches!(
            blobs.keep(staged, other),
            Err(BlobsError::Mismatch { .. })
        ));
        assert_eq!(blobs.len(other).unwrap(), None);
        assert!(matches!(blobs.open(other), Err(BlobsError::Absent { .. })));
        assert_eq!(blobs.list(ObjectKind::Manifest).unwrap(), []);
    });
}

#[test]
fn a_quarantined_object_is_gone_and_comes_back_when_kept_again() {
    over_every_engine(|blobs| {
        let object = keep(&*blobs, b"bytes");
        let open = blobs.open(object).unwrap();
        blobs.quarantine(object).unwrap();
        blobs.quarantine(object).unwrap();
        assert_eq!(blobs.len(object).unwrap(), None);
        let mut piece = [0; 5];
        assert_eq!(open.read_at(&mut piece, 0).unwrap(), 5);
        assert_eq!(keep(&*blobs, b"bytes"), object);
        assert_eq!(check_whole(&*blobs, object).unwrap(), 5);
    });
}

#[test]
fn a_rotten_object_is_named_put_aside_and_healed_by_keeping_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let object = keep(&blobs, b"some bytes");
    let path = dir
        .path()
        .join("bundle")
        .join(&object.hex()[..2])
        .join(object.hex());
    for rot in [&b"some bytez"[..], b"some", b"", b"some bytes and more"] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, rot).unwrap();
        let refused = read_whole(&blobs, object, 100).unwrap_err();
        assert!(refused.to_string().contains(&object.hex()), "{refused}");
        assert!(matches!(refused, BlobsError::Damaged { .. }));
        assert!(!path.exists());
        let aside = dir
            .path()
            .join("quarantine")
            .join(format!("bundle-{}", object.hex()));
        assert_eq!(fs::read(aside).unwrap(), rot);
        keep(&blobs, b"some bytes");
        assert_eq!(read_whole(&blobs, object, 100).unwrap(), b"some bytes");
    }
}

#[test]
fn what_was_staged_and_not_kept_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let incoming = || fs::read_dir(dir.path().join("incoming")).unwrap().count();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let mut staged = blobs.stage().unwrap();
    staged.write_all(b"half").unwrap();
    assert_eq!(incoming(), 1);
    drop(staged);
    assert_eq!(incoming(), 0);
    std::mem::forget(blobs.stage().unwrap());
    assert_eq!(incoming(), 1);
    drop(blobs);
    let _blobs = FsBlobs::open(dir.path()).unwrap();
    assert_eq!(incoming(), 0);
}

#[test]
fn foreign_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FsBlobs::open(dir.path()).unwrap();
    let object = keep(&blobs, b"bytes");
    let foreign = dir.path().join("bundle/00/notes.txt");
    fs::write(&foreign, b"mine").unwrap();
    assert_eq!(blobs.list(ObjectKind::Bundle).unwrap(), [(object, 5)]);
    assert!(foreign.exists());
}
