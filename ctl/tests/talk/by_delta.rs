//! publish, told by what changed: what is sent, what is said, and what is kept for the next time.

use std::os::unix::fs::PermissionsExt as _;

use ship_bundle::delta::DeltaFooter;
use ship_bundle::{Expected, verify_bundle};
use ship_model::digest::BundleDigest;
use ship_model::manifest::Manifest;
use ship_proto::v1::{ReleaseLine, ReleaseRecord, Target};
use tonic::Status;

use crate::fake::{FakeStore, Script, write};

/// A tree that is worth a delta, in versions that have most in common.
fn large_tree(store: &FakeStore, folder: &str, version: u64) {
    let lines = (0..8_000_u64).map(|line| {
        let hash = blake3::hash(&((line + version * 900) % 8_000).to_le_bytes()).to_hex();
        format!("{hash}\n")
    });
    let script: String = lines.collect();
    write(&store.folder().join(folder).join("app.js"), script.as_bytes());
}

/// Publishes version 1 of the tree, and lets the store forget all but the release.
fn published_once(store: &FakeStore) -> Vec<u8> {
    large_tree(store, "tree", 1);
    let said = store.run(&["publish", "tree", "-a", "web", "-o", "json"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.json()["delta_from"].is_null(), "{said:?}");
    let mut script = store.script.lock().unwrap();
    let id = Manifest::id_of(&script.published.take().unwrap().manifest);
    let release = Some(Target {
        number: 3,
        id: id.as_bytes().to_vec(),
    });
    script.releases = vec![ReleaseLine {
        record: Some(ReleaseRecord {
            app: "web".to_owned(),
            release,
            ..ReleaseRecord::default()
        }),
        ..ReleaseLine::default()
    }];
    id.as_bytes().to_vec()
}

fn publish_again(store: &FakeStore, options: &[&str]) -> crate::fake::Said {
    large_tree(store, "tree", 2);
    let said = store.run(&[&["publish", "tree", "-a", "web", "-o", "json"], options].concat());
    assert_eq!(said.code, 0, "{said:?}");
    said
}

#[test]
fn what_changed_is_sent_as_a_delta_against_what_was_published_last() {
    let store = FakeStore::start(Script {
        takes_deltas: Some(Ok(())),
        lost_deltas: 1,
        ..Script::default()
    });
    let base = published_once(&store);
    let said = publish_again(&store, &[]);
    let (json, script) = (said.json(), store.script.lock().unwrap());
    assert_eq!(
        (&json["delta_from"], &json["no_delta"]),
        (&3.into(), &().into()),
        "{json}"
    );
    assert_eq!(
        (script.uploads, script.deltas.len()),
        (1, 2),
        "a lost one is sent again"
    );
    assert!(script.deltas[0] == script.deltas[1]);
    let (offer, bytes) = &script.deltas[0];
    let target = Manifest::id_of(&script.published.clone().unwrap().manifest);
    assert_eq!((&*offer.app, &offer.base), ("web", &base));
    assert_eq!(offer.release, target.as_bytes());
    assert_eq!(offer.delta, blake3::hash(bytes).as_bytes());
    let footer = DeltaFooter::from_tail(bytes, bytes.len() as u64).unwrap();
    assert_eq!((footer.base.as_bytes().to_vec(), footer.target), (base, target));
    assert_eq!(json["uploaded_bytes"], 2 * bytes.len());
    let made = BundleDigest::of(b"made here").as_bytes().to_vec();
    assert_eq!(script.commits.last().unwrap().bundle, Some(made));
}

/// Whatever keeps a delta away, there is a release, and one line says why it took more bytes.
#[test]
fn without_a_delta_files_are_sent_whole_and_it_is_said_why() {
    type Change = fn(&mut Script);
    let refused = || Some(Err(Status::data_loss("blob 3f comes out with other bytes")));
    let cases: [(&str, Change, &[&str], &str); 7] = [
        (
            "an old store",
            |script| script.takes_deltas = None,
            &[],
            "this store takes none: update it",
        ),
        ("a refusal", |_| {}, &[], "blob 3f comes out with other bytes"),
        (
            "a store that breaks off",
            |script| (script.takes_deltas, script.lost_deltas) = (Some(Ok(())), u32::MAX),
            &[],
            "it broke off 3 times",
        ),
        (
            "another store",
            |script| script.releases.clear(),
            &[],
            "the store has not the release that was published last from here among the newest 200 releases of web",
        ),
        (
            "a release without content",
            |script| script.releases[0].flags = vec!["collected".to_owned()],
            &[],
            "is web@3, whose content was collected",
        ),
        (
            "no such folder",
            |_| {},
            &["--base", "gone"],
            "gone is no earlier release",
        ),
        (
            "a folder that is none",
            |_| {},
            &["--base", "other"],
            "the store has not other among",
        ),
    ];
    for (what, change, options, why) in cases {
        let store = FakeStore::start(Script {
            takes_deltas: refused(),
            ..Script::default()
        });
        published_once(&store);
        large_tree(&store, "other", 5);
        change(&mut store.script.lock().unwrap());
        let said = publish_again(&store, options);
        let line = said
            .stderr
            .lines()
            .filter(|line| line.contains("files are sent whole, not as a delta: "));
        let lines: Vec<_> = line.collect();
        assert!(lines.len() == 1 && lines[0].contains(why), "{what}: {said:?}");
        let json = said.json();
        assert!(json["delta_from"].is_null(), "{what}: {json}");
        assert!(json["no_delta"].as_str().unwrap().contains(why), "{what}: {json}");
        let script = store.script.lock().unwrap();
        let bundle = script.published.clone().unwrap().bundle;
        assert!(
            verify_bundle(bundle.as_slice(), &Expected::default()).is_ok(),
            "{what}"
        );
    }
}

#[test]
fn a_folder_with_the_earlier_release_serves_where_nothing_is_kept() {
    let store = FakeStore::start(Script {
        takes_deltas: Some(Ok(())),
        ..Script::default()
    });
    let base = published_once(&store);
    ship_durable::remove_tree(&store.folder().join("cache")).unwrap();
    large_tree(&store, "old", 1);
    let said = publish_again(&store, &["--base", "old"]);
    assert_eq!(said.json()["delta_from"], 3, "{said:?}");
    assert_eq!(store.script.lock().unwrap().deltas[0].0.base, base);
}

/// What is kept is a saving: damaged, it costs a delta once.
#[test]
fn what_is_kept_of_the_last_release_is_not_believed() {
    let store = FakeStore::start(Script {
        takes_deltas: Some(Ok(())),
        ..Script::default()
    });
    published_once(&store);
    let last = store.folder().join("cache/ship/last");
    let app = std::fs::read_dir(&last).unwrap().next().unwrap().unwrap().path();
    let blob = std::fs::read_dir(app.join("blobs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[7] ^= 1;
    write(&blob, &bytes);
    let said = publish_again(&store, &[]);
    assert!(
        said.stderr.contains("other bytes than its digest says"),
        "{said:?}"
    );
    assert_eq!(store.script.lock().unwrap().deltas.len(), 0);
    // Kept anew; private, as what is published may be.
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&app), 0o700);
    for file in std::fs::read_dir(app.join("blobs")).unwrap().flatten() {
        assert_eq!(mode(&file.path()), 0o600);
        let hash = blake3::hash(&std::fs::read(file.path()).unwrap()).to_hex();
        assert_eq!(file.file_name().to_str(), Some(&*hash));
    }
    // A manifest that is none is nothing.
    write(&app.join("manifest"), b"none");
    let mut script = store.script.lock().unwrap();
    script.published = None;
    drop(script);
    let said = publish_again(&store, &[]);
    let reason = said.json()["no_delta"].clone();
    assert!(
        reason
            .as_str()
            .unwrap()
            .starts_with("no earlier release of it lies here"),
        "{said:?}"
    );
    assert!(!said.stderr.contains("files are sent whole"), "{said:?}");
}
