//! What a publisher must not get through.

use std::fs;

use ship_model::digest::{BundleDigest, ReleaseId};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_store::engine::Object;
use ship_store::folder::{OpenFolderError, StoreFolder};
use ship_store::publish::{BeginError, CommitError, Limits, UploadError};

use super::tree::{bundle, open, prepare, publish, tree, web};

#[test]
fn a_manifest_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = tree(&web(), &[("a", b"1"), ("b/c", b"2")]);
    for end in 0..one.encoded.len() {
        let refused = store.publisher.begin(&web(), &one.encoded[..end]);
        assert!(matches!(refused, Err(BeginError::Manifest(_))), "cut at {end}");
    }
    let other = AppName::new("shop").unwrap();
    let refused = store.publisher.begin(&other, &one.encoded).unwrap_err();
    assert!(matches!(refused, BeginError::App { .. }), "{refused}");
    let id = Manifest::id_of(&one.encoded);
    assert_eq!(store.blobs.len(Object::Manifest(id)).unwrap(), None);
}

#[test]
fn a_link_among_assets_that_leads_nowhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let name = "app-f00dfeed12345678.js";
    let with = |target: &str| {
        let made = tree(&web(), &[("index.html", b"page"), ("static/main.js", b"main")]);
        let link = made.dir.path().join("static").join(name);
        std::os::unix::fs::symlink(target, link).unwrap();
        let walked = ship_bundle::walk(made.dir.path(), made.manifest.spec(), &()).unwrap();
        store.publisher.begin(&web(), walked.manifest.encoded())
    };
    let refused = with("gone.js").unwrap_err();
    assert!(matches!(refused, BeginError::Assets(_)), "{refused}");
    assert!(refused.to_string().contains(name), "{refused}");
    assert!(with("main.js").is_ok());
}

#[test]
fn a_bundle_is_believed_only_when_every_byte_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = tree(&web(), &[("a", b"content of a"), ("b/c", b"2")]);
    let missing = store.publisher.begin(&web(), &one.encoded).unwrap().missing;
    let (digest, good) = bundle(&one, &missing);
    let upload = |bytes: &[u8], announced| {
        let mut upload = store.publisher.upload().unwrap();
        upload.push(bytes).unwrap();
        upload.finish(announced)
    };
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(upload(&bad, Some(digest)).is_err(), "flip at {at}");
        assert!(upload(&good[..at], Some(digest)).is_err(), "cut at {at}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(upload(&longer, None).is_err());
    assert!(upload(&good, Some(BundleDigest::of(b"other"))).is_err());
    assert_eq!(store.places.len(), (0, 0));
    assert_eq!(
        fs::read_dir(dir.path().join("objects/incoming")).unwrap().count(),
        0
    );
    assert_eq!(upload(&good, None).unwrap().digest, digest);
    assert_eq!(store.places.len(), (1, 2));
}

#[test]
fn a_bundle_beyond_the_limit_is_refused_while_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        bundle_bytes: 1000,
        bundle_raw_bytes: 1 << 20,
        ..Limits::default()
    };
    let (store, _) = StoreFolder::open(dir.path(), limits).unwrap();
    let mut upload = store.publisher.upload().unwrap();
    upload.push(&[0; 1000]).unwrap();
    let refused = upload.push(&[0]).unwrap_err();
    assert!(
        matches!(refused, UploadError::TooLong { limit: 1000 }),
        "{refused}"
    );
    drop(upload);

    // A few hundred bytes that would become two megabytes.
    let bomb = tree(&web(), &[("zeros", &vec![0; 2 << 20])]);
    let missing = store.publisher.begin(&web(), &bomb.encoded).unwrap().missing;
    let (_, bytes) = bundle(&bomb, &missing);
    let mut upload = store.publisher.upload().unwrap();
    upload.push(&bytes).unwrap();
    assert!(matches!(upload.finish(None), Err(UploadError::Bundle(_))));
}

#[test]
fn a_commit_needs_everything_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = tree(&web(), &[("a", b"1"), ("b", b"2")]);
    let good = prepare(&store.publisher, &one, 1);

    let mut bad = good.clone();
    bad.id = ReleaseId::of(b"unknown");
    let refused = store.publisher.commit(&bad).unwrap_err();
    assert!(matches!(refused, CommitError::NotBegun { .. }), "{refused}");

    let mut bad = good.clone();
    bad.bundle = Some(BundleDigest::of(b"unknown"));
    let refused = store.publisher.commit(&bad).unwrap_err();
    assert!(matches!(refused, CommitError::UnknownBundle { .. }), "{refused}");

    let mut bad = good.clone();
    bad.app = AppName::new("shop").unwrap();
    let refused = store.publisher.commit(&bad).unwrap_err();
    assert!(matches!(refused, CommitError::App { .. }), "{refused}");

    let mut bad = good.clone();
    bad.provenance.label = Some("x".repeat(201));
    let refused = store.publisher.commit(&bad).unwrap_err();
    assert!(matches!(refused, CommitError::TooLong { .. }), "{refused}");

    let more = tree(&web(), &[("a", b"1"), ("b", b"3")]);
    let begun = store.publisher.begin(&web(), &more.encoded).unwrap();
    let mut bad = good.clone();
    (bad.id, bad.bundle) = (begun.id, None);
    let refused = store.publisher.commit(&bad).unwrap_err();
    assert!(
        matches!(refused, CommitError::Missing { count: 1, .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("that of b"), "{refused}");

    assert_eq!(store.ledger.apps().unwrap(), []);
    assert_eq!(store.publisher.commit(&good).unwrap().record.number.0, 1);
}

#[test]
fn a_damaged_bundle_is_put_aside_at_start_and_the_others_serve() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = tree(&web(), &[("a", b"1")]);
    let two = tree(&web(), &[("b", b"2")]);
    let lost = publish(&store.publisher, &one, 1).unwrap().bundle.unwrap();
    publish(&store.publisher, &two, 2).unwrap();
    drop(store);
    let hex = lost.to_string();
    let path = dir.path().join("objects/bundle").join(&hex[..2]).join(&hex);
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();

    let (store, report) = StoreFolder::open(dir.path(), Limits::default()).unwrap();
    assert_eq!((report.places.bundles, report.places.unread.len()), (1, 1));
    assert_eq!(report.places.unread[0].0, lost);
    assert!(!path.exists());
    assert_eq!(store.publisher.begin(&web(), &two.encoded).unwrap().missing, []);
    // Publishing the first again heals it.
    assert_eq!(
        store.publisher.begin(&web(), &one.encoded).unwrap().missing.len(),
        1
    );
    assert_eq!(publish(&store.publisher, &one, 3).unwrap().bundle, Some(lost));
    assert!(path.exists());
}

#[test]
fn a_folder_in_use_is_refused_naming_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let Err(OpenFolderError::Locked { source, .. }) = StoreFolder::open(dir.path(), Limits::default()) else {
        panic!("it was opened twice");
    };
    let pid = std::process::id().to_string();
    assert!(source.to_string().contains(&pid), "{source}");
}
