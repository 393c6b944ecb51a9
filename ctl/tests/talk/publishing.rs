//! publish: what is sent, and what is said.

use ship_bundle::{Expected, verify_bundle};
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_proto::v1::Located;

use crate::fake::{FakeStore, Script, write};

fn tree(store: &FakeStore) {
    write(&store.folder().join("tree/index.html"), b"<p>hi");
    write(&store.folder().join("tree/a/app.js"), b"1 + 1");
}

#[test]
fn a_tree_arrives_whole() {
    let store = FakeStore::start(Script {
        lost_commits: 2,
        ..Script::default()
    });
    tree(&store);
    let said = store.run(&["publish", "tree", "-a", "web", "--label", "first", "-o", "json"]);
    assert_eq!(said.code, 0, "{said:?}");
    let json = said.json();
    for key in [
        "app",
        "release",
        "id",
        "files",
        "bytes",
        "new_bytes",
        "stored_bytes",
    ] {
        assert!(!json[key].is_null(), "{key}: {json}");
    }
    assert_eq!((&json["app"], &json["release"]), (&"web".into(), &4.into()));
    let script = store.script.lock().unwrap();
    let published = script.published.clone().unwrap();
    let manifest = Manifest::decode(&published.manifest).unwrap();
    assert_eq!(manifest.entries().len(), 2);
    let verified = verify_bundle(published.bundle.as_slice(), &Expected::default()).unwrap();
    assert_eq!(verified.index.blobs().count(), 2);
    let ids: Vec<_> = script.commits.iter().map(|commit| &commit.request_id).collect();
    assert_eq!(ids.len(), 3, "a lost commit is asked for again");
    assert!(ids.iter().all(|id| *id == ids[0]), "as the same request");
    assert_eq!(script.commits[0].label.as_deref(), Some("first"));
}

/// Of a large file, segments that the store has not; all of it to a store that does not know of segments.
#[test]
fn large_files_are_sent_by_the_segment() {
    let sent = |knows: Option<bool>| {
        let store = FakeStore::start(Script {
            knows_segments: knows,
            ..Script::default()
        });
        let mut large = vec![0; 20 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut large);
        write(&store.folder().join("tree/large"), &large);
        let said = store.run(&["publish", "tree", "-a", "web"]);
        assert_eq!(said.code, 0, "{said:?}");
        let script = store.script.lock().unwrap();
        script.published.clone().unwrap().bundle
    };
    let verified = |bundle: &[u8]| verify_bundle(bundle, &Expected::default()).unwrap();
    let whole = sent(Some(false));
    assert_eq!(verified(&whole).index.lists().len(), 0);
    let cut = sent(None);
    let read = verified(&cut);
    assert_eq!((read.index.lists().len(), read.unproven.len()), (1, 0));
    let rest = sent(Some(true));
    let read = verified(&rest);
    assert_eq!((read.index.lists().len(), read.unproven.len()), (1, 1));
    assert!(
        rest.len() < cut.len() - (2 << 20),
        "{} of {}",
        rest.len(),
        cut.len()
    );
}

#[test]
fn nothing_new_sends_nothing() {
    let store = FakeStore::start(Script {
        knows_everything: true,
        ..Script::default()
    });
    tree(&store);
    let said = store.run(&["publish", "tree", "-a", "web"]);
    assert_eq!(said.code, 0, "{said:?}");
    let script = store.script.lock().unwrap();
    assert!(script.published.clone().unwrap().bundle.is_empty());
    assert_eq!(script.commits[0].bundle, None);
}

#[test]
fn secrets_are_warned_of_and_bad_trees_refused() {
    let store = FakeStore::start(Script::default());
    tree(&store);
    write(&store.folder().join("tree/.env"), b"TOKEN=1");
    let said = store.run(&["publish", "tree", "-a", "web"]);
    assert_eq!(said.code, 0);
    assert!(
        said.stderr.contains("warning:") && said.stderr.contains(".env"),
        "{said:?}"
    );
    std::os::unix::net::UnixListener::bind(store.folder().join("tree/s")).unwrap();
    let said = store.run(&["publish", "tree", "-a", "web"]);
    assert_eq!(said.code, 1, "{said:?}");
    let said = store.run(&["publish", "tree"]);
    assert_eq!(said.code, 2, "{said:?}");
}

#[test]
fn a_store_that_dies_at_any_step_is_waited_for() {
    for (what, script, uploads) in [
        (
            "begin",
            Script {
                lost_begins: 2,
                ..Script::default()
            },
            1,
        ),
        (
            "upload",
            Script {
                lost_uploads: 2,
                ..Script::default()
            },
            3,
        ),
        (
            "its answer",
            Script {
                unanswered_uploads: 1,
                ..Script::default()
            },
            1,
        ),
        (
            "commit",
            Script {
                lost_commits: 1,
                ..Script::default()
            },
            1,
        ),
    ] {
        let store = FakeStore::start(script);
        tree(&store);
        let said = store.run(&["publish", "tree", "-a", "web"]);
        assert_eq!(said.code, 0, "{what}: {said:?}");
        assert!(
            said.stderr.contains("store unreachable, trying again"),
            "{what}: {said:?}"
        );
        assert!(said.stderr.contains("the store is back"), "{what}: {said:?}");
        let script = store.script.lock().unwrap();
        assert_eq!(
            script.uploads, uploads,
            "{what}: what the store has is not sent again"
        );
        let first = &script.commits[0].request_id;
        assert!(
            script.commits.iter().all(|commit| commit.request_id == *first),
            "{what}"
        );
        let bundle = script.published.clone().unwrap().bundle;
        assert!(
            verify_bundle(bundle.as_slice(), &Expected::default()).is_ok(),
            "{what}"
        );
    }
}

#[test]
fn a_store_that_stays_away_is_given_up() {
    let store = FakeStore::start(Script {
        lost_begins: u32::MAX,
        ..Script::default()
    });
    tree(&store);
    let said = store.run(&["publish", "tree", "-a", "web", "--wait-timeout", "300ms"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("error: gave up after waiting"), "{said:?}");
    store.script.lock().unwrap().lost_begins = 0;
    store.script.lock().unwrap().lost_commits = u32::MAX;
    let said = store.run(&["publish", "tree", "-a", "web", "--wait-timeout", "300ms"]);
    assert_eq!(said.code, 7, "there may be a release: {said:?}");
    assert!(said.stderr.contains("shipctl releases web"), "{said:?}");
}

#[test]
fn what_the_store_tells_of_places_is_not_believed() {
    let store = FakeStore::start(Script::default());
    tree(&store);
    assert_eq!(store.run(&["publish", "tree", "-a", "web"]).code, 0);
    let place = |contents: &[&[u8]]| Located {
        bundle: vec![9; 32],
        bundle_bytes: 100,
        blobs: contents
            .iter()
            .map(|text| BlobDigest::of(text).as_bytes().to_vec())
            .collect(),
    };
    for (located, why) in [
        (vec![], "does not know where 2 of the release's blobs lie"),
        (
            vec![place(&[b"<p>hi"])],
            "does not know where 1 of the release's blobs lie",
        ),
        (
            vec![place(&[b"<p>hi", b"1 + 1", b"more"])],
            "which it was not asked",
        ),
        (vec![place(&[b"<p>hi", b"1 + 1", b"1 + 1"])], "was told before"),
        (
            vec![Located {
                bundle: vec![1],
                ..place(&[b"<p>hi"])
            }],
            "something malformed",
        ),
    ] {
        store.script.lock().unwrap().located = Some(located);
        let said = store.run(&["export", "web@4", "out"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(why), "{why}: {said:?}");
        assert!(
            said.stderr
                .contains("hint: on the store's machine: shipstore verify"),
            "{said:?}"
        );
        assert!(!store.folder().join("out").exists());
    }
}
