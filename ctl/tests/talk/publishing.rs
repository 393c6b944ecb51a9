//! publish: what is sent, and what is said.

use ship_bundle::{Expected, verify_bundle};
use ship_model::manifest::Manifest;

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
