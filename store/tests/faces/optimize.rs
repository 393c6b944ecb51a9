//! A store that makes itself smaller: by itself, while hosts read from it, and by hand.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::stream;
use ship_bundle::{Expected, verify_bundle};
use ship_model::digest::BlobDigest;
use ship_model::name::AppName;
use ship_model::release::Provenance;
use ship_proto::v1;
use ship_store::admin::optimize;
use ship_store::clock::Clock;
use ship_store::folder::StoreFolder;
use ship_store::keeping::MOST_DEPTH;
use ship_store::ledger::RequestId;
use ship_store::publish::{Commit, Limits};

use crate::fleet::{Clients, Store, Tree, http, program, until};

/// It waits until nothing is wished for in a while, and then takes step after step.
const PATIENCE: Duration = Duration::from_secs(300);

fn script(version: u64) -> Vec<u8> {
    let lines = (0..2_000_u64).map(|line| {
        let hash = blake3::hash(&((line + version * 700) % 2_000).to_le_bytes()).to_hex();
        format!("{hash} of {version}\n")
    });
    lines.collect::<String>().into_bytes()
}

fn tree(version: u64) -> Tree {
    Tree::new("web", &[("app.js", &script(version)), ("same", b"same")])
}

async fn published(store: &Store, versions: u64) -> Clients {
    let mut clients = Clients::new(store.channel("publisher", "ci").await);
    for version in 1..=versions {
        let files: &[(&str, &[u8])] = &[("app.js", &script(version)), ("same", b"same")];
        clients.publish("web", files).await.unwrap();
    }
    clients
}

/// Reads the bundles that the store tells of for a release, as a host does; gives their names.
async fn read(store: &Store, tree: &Tree) -> HashSet<String> {
    let mut agent = Clients::new(store.channel("agent/dev", "h1").await);
    let mut left = tree.blobs();
    let asked = v1::LocateRequest {
        blobs: left.iter().map(|blob| blob.as_bytes().to_vec()).collect(),
        avoid: Vec::new(),
    };
    let mut told = agent
        .releases
        .locate(stream::iter([asked]))
        .await
        .unwrap()
        .into_inner();
    let mut names = HashSet::new();
    while let Some(found) = told.message().await.unwrap() {
        let hex = blake3::Hash::from_slice(&found.bundle)
            .unwrap()
            .to_hex()
            .to_string();
        let whole = bundle(store, &hex).await.expect("what was told of is there");
        let index = verify_bundle(&whole[..], &Expected::default()).unwrap().index;
        let held: HashSet<BlobDigest> = index.blobs().map(|place| place.digest).collect();
        for blob in found.blobs {
            let blob = BlobDigest::from_slice(&blob).unwrap();
            assert!(held.contains(&blob) && left.remove(&blob));
        }
        names.insert(hex);
    }
    assert_eq!(left.len(), 0, "every blob was told of");
    names
}

async fn bundle(store: &Store, hex: &str) -> Option<Vec<u8>> {
    let agent = store.certificate("agent/dev", "h1");
    let path = format!("/bundles/{hex}");
    let (status, _, whole) = http(store.addresses().grpc, Some(&agent), "GET", &path, "").await;
    (status == 200).then_some(whole)
}

async fn figure(store: &Store, name: &str) -> u64 {
    let (_, _, page) = http(store.addresses().assets, None, "GET", "/metrics", "").await;
    let page = String::from_utf8(page).unwrap();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect(name).parse().unwrap()
}

#[tokio::test]
async fn in_idle_time_older_releases_become_deltas_and_are_given_when_asked_for() {
    let store = Store::start().await;
    let mut clients = published(&store, 3).await;
    let before = read(&store, &tree(1)).await;
    assert_eq!(figure(&store, "ship_store_bundles").await, 3);
    let deadline = Instant::now() + PATIENCE;
    // The last step lets the bundles go.
    while figure(&store, "ship_store_bundles").await != 1 {
        assert!(Instant::now() < deadline, "{}", store.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(figure(&store, "ship_store_kept").await, 2);
    // A host that was told of them may be reading them.
    for hex in &before {
        assert!(bundle(&store, hex).await.is_some());
    }
    let after = read(&store, &tree(1)).await;
    assert!(after.is_disjoint(&before) || after.len() > 1, "{after:?}");
    assert_eq!(read(&store, &tree(3)).await.len(), 1);
    assert_eq!(read(&store, &tree(2)).await.len(), 2);
    // Nothing is missing of what comes again.
    let again = clients
        .publish("web", &[("app.js", &script(2)), ("same", b"same")])
        .await;
    assert_eq!(again.unwrap().new_bytes, 0);
    assert_eq!(figure(&store, "ship_store_kept_broken").await, 0);
}

#[tokio::test]
async fn by_hand_it_tells_what_it_does() {
    let mut store = Store::start_with(|settings| settings.optimize_when_idle = false).await;
    published(&store, 3).await;
    let ran = |more: &[&str]| {
        let ran = program()
            .args(["optimize", "--dir"])
            .arg(store.folder())
            .args(more)
            .output();
        let ran = ran.unwrap();
        let text = String::from_utf8(ran.stdout).unwrap() + &String::from_utf8(ran.stderr).unwrap();
        (ran.status.code(), text)
    };
    let (code, text) = ran(&[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("in use by another store process"), "{text}");
    store.stop();
    let ran = |more: &[&str]| {
        let ran = program()
            .args(["optimize", "--dir"])
            .arg(store.folder())
            .args(more)
            .output();
        let ran = ran.unwrap();
        assert_eq!(
            ran.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        String::from_utf8(ran.stdout).unwrap()
    };
    let told = ran(&["--dry-run"]);
    assert!(told.contains("web: 3 releases, 0 of them as deltas"), "{told}");
    assert!(told.contains("2 more can be kept as deltas"), "{told}");
    let told = ran(&[]);
    for part in [
        "web@3 in one bundle",
        "web@1 kept as a delta",
        "2 of them as deltas",
        "3 bundles removed",
    ] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
    assert!(ran(&["--dry-run"]).ends_with("in kept deltas\n"));
    store.serve().await;
    for version in 1..=3 {
        read(&store, &tree(version)).await;
    }
}

/// A script of about a megabyte, of which each version is partly new.
fn long_script(version: u64) -> Vec<u8> {
    let lines = (0..16_000_u64).map(|line| {
        let age = version.saturating_sub(line % 64);
        format!("{}\n", blake3::hash(&(line * 1_000 + age).to_le_bytes()).to_hex())
    });
    lines.collect::<String>().into_bytes()
}

fn publish(folder: &StoreFolder, tree: &Tree, number: u64) {
    let app: AppName = "web".parse().unwrap();
    let begun = folder.publisher.begin(&app, tree.manifest.encoded()).unwrap();
    let mut upload = folder.publisher.upload().unwrap();
    upload
        .push(&tree.pack(&begun.missing.iter().copied().collect()))
        .unwrap();
    let mut request = [0; 16];
    request[..8].copy_from_slice(&number.to_le_bytes());
    let commit = Commit {
        app,
        id: begun.id,
        bundle: Some(upload.finish(None).unwrap().digest),
        provenance: Provenance::default(),
        request: RequestId(request),
        who: "publisher/ci".to_owned(),
        at_ms: 1_700_000_000_000 + number,
    };
    folder.publisher.commit(&commit).unwrap();
}

fn peak_memory(store: &Store) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", store.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

#[tokio::test]
async fn the_end_of_the_longest_chain_is_read_in_bounded_memory() {
    let mut store = Store::start_with(|settings| settings.optimize_when_idle = false).await;
    store.stop();
    let made = |version| Tree::new("web", &[("app.js", &long_script(version)), ("same", b"same")]);
    {
        let (folder, _) = StoreFolder::open(&store.folder(), Limits::default()).unwrap();
        for version in 1..=MOST_DEPTH as u64 + 1 {
            publish(&folder, &made(version), version);
        }
        let report = optimize(&folder, &Clock::system(), |_| {}).unwrap();
        assert_eq!((report.failed, report.after[0].deepest), (0, MOST_DEPTH));
    }
    // A process that another test was just starting holds the lock that this one held, until it executes.
    until("the store's lock to be let go", || async {
        let mut look = program();
        look.args(["optimize", "--dry-run", "--dir"]).arg(store.folder());
        look.output().unwrap().status.success().then_some(())
    })
    .await;
    store.serve().await;
    read(&store, &made(MOST_DEPTH as u64 + 1)).await;
    let before = peak_memory(&store);
    read(&store, &made(1)).await;
    let grown = peak_memory(&store) - before;
    assert!(grown <= 128 << 20, "{grown} bytes");
}
