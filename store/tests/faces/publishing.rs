//! Publishing over the wire, and fetching what was published.

use std::collections::HashSet;

use futures::stream;
use ship_proto::failure_of;
use ship_proto::v1::{self, FailureKind};

use crate::fleet::{Clients, Store, Tree, http, request_id};

fn kind(status: &tonic::Status) -> FailureKind {
    failure_of(status).unwrap().kind()
}

const LARGE: usize = 3 << 20;

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

#[tokio::test]
async fn a_release_comes_in_and_its_parts_can_be_fetched() {
    let mut store = Store::start().await;
    let mut clients = Clients::new(store.channel("publisher", "ci").await);
    let large = noise(LARGE);
    let files: [(&str, &[u8]); 4] = [
        ("index.html", b"<script src=/static/app.0123456789abcdef.js>"),
        ("static/app.0123456789abcdef.js", b"one"),
        ("static/twin.0123456789abcdef.js", b"one"),
        ("static/film.fedcba9876543210.mp4", &large),
    ];
    let record = clients.publish("web", &files).await.unwrap();
    assert_eq!((record.release.as_ref().unwrap().number, record.files), (1, 4));
    assert_eq!(record.publisher, "publisher/ci");
    let again = clients.publish("web", &files).await.unwrap();
    assert_eq!((again.release.as_ref().unwrap().number, again.new_bytes), (2, 0));

    let id = record.release.unwrap().id;
    let mut pieces = clients
        .releases
        .manifest(v1::ManifestRequest { id })
        .await
        .unwrap()
        .into_inner();
    let mut manifest = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        manifest.extend_from_slice(&piece.data);
    }
    let tree = Tree::new("web", &files);
    assert_eq!(manifest, tree.manifest.encoded().to_vec());

    let blobs: Vec<_> = tree.blobs().iter().map(|blob| blob.as_bytes().to_vec()).collect();
    let question = v1::LocateRequest {
        blobs,
        avoid: Vec::new(),
    };
    let mut located = clients
        .releases
        .locate(stream::iter([question]))
        .await
        .unwrap()
        .into_inner();
    let found = located.message().await.unwrap().unwrap();
    assert_eq!(
        (found.blobs.len(), found.bundle.clone()),
        (3, record.bundle.unwrap())
    );
    ranges(&store, &found).await;
    served(&store, &large).await;
    // What a crash left undone is done at the next start.
    store.kill();
    ship_durable::remove_tree(&store.folder().join("assets")).unwrap();
    store.serve().await;
    crate::fleet::until("the assets", || async {
        let asked = http(
            store.addresses().assets,
            None,
            "HEAD",
            "/static/twin.0123456789abcdef.js",
            "",
        )
        .await;
        (asked.0 == 200).then_some(())
    })
    .await;
}

/// Two bundles carry the same content when two publishes of it overlap: the one that was found to be wrong is not named again.
#[tokio::test]
async fn a_bundle_that_was_found_wrong_is_avoided() {
    let store = Store::start().await;
    let mut clients = Clients::new(store.channel("publisher", "ci").await);
    let files: [(&str, &[u8]); 2] = [("index.html", b"a page"), ("more.txt", b"more")];
    let first = clients.publish("web", &files[..1]).await.unwrap();
    let tree = Tree::new("web", &files);
    let second = clients.publish_all("web", &tree).await.unwrap();
    let (first, second) = (first.bundle.unwrap(), second.bundle.unwrap());
    assert_ne!(first, second);

    let page = blake3::hash(b"a page").as_bytes().to_vec();
    let mut ask = async |avoid: &[&[u8]]| {
        let question = v1::LocateRequest {
            blobs: vec![page.clone()],
            avoid: avoid.iter().map(|bundle| bundle.to_vec()).collect(),
        };
        let mut located = clients
            .releases
            .locate(stream::iter([question]))
            .await?
            .into_inner();
        let found = located.message().await?;
        Ok::<_, tonic::Status>(found.map(|found| found.bundle))
    };
    assert!([&first, &second].contains(&&ask(&[]).await.unwrap().unwrap()));
    assert_eq!(ask(&[&first]).await.unwrap().as_ref(), Some(&second));
    assert_eq!(ask(&[&second]).await.unwrap().as_ref(), Some(&first));
    assert_eq!(ask(&[&first, &second]).await.unwrap(), None);
    assert_eq!(kind(&ask(&[b"short"]).await.unwrap_err()), FailureKind::Invalid);
    let many = vec![&first[..]; 65];
    assert_eq!(kind(&ask(&many).await.unwrap_err()), FailureKind::Invalid);
}

async fn ranges(store: &Store, bundle: &v1::Located) {
    let hex = blake3::Hash::from_slice(&bundle.bundle).unwrap().to_hex();
    let (path, total) = (format!("/bundles/{hex}"), bundle.bundle_bytes as usize);
    let agent = store.certificate("agent/dev", "h1");
    let get = async |method, headers: &str| {
        http(store.addresses().grpc, Some(&agent), method, &path, headers).await
    };
    let (status, head, whole) = get("GET", "").await;
    assert_eq!((status, whole.len()), (200, total));
    assert_eq!(blake3::hash(&whole).to_hex(), hex);
    let tag = format!("\"{hex}\"");
    assert!(
        head.contains(&format!("etag: {tag}")) && head.contains("immutable"),
        "{head}"
    );
    let (status, head, part) = get("GET", "range: bytes=10-1000009\r\n").await;
    assert_eq!((status, &part[..]), (206, &whole[10..1_000_010]));
    assert!(
        head.contains(&format!("content-range: bytes 10-1000009/{total}")),
        "{head}"
    );
    let (status, _, tail) = get("GET", "range: bytes=-5\r\n").await;
    assert_eq!((status, &tail[..]), (206, &whole[total - 5..]));
    let (status, head, nothing) = get("GET", &format!("range: bytes={total}-\r\n")).await;
    assert_eq!((status, nothing.len()), (416, 0));
    assert!(
        head.contains(&format!("content-range: bytes */{total}")),
        "{head}"
    );
    let (status, head, nothing) = get("HEAD", "").await;
    assert_eq!((status, nothing.len()), (200, 0));
    assert!(head.contains(&format!("content-length: {total}")), "{head}");
    assert_eq!(get("GET", &format!("if-none-match: {tag}\r\n")).await.0, 304);
    assert_eq!(
        get("GET", "if-range: \"other\"\r\nrange: bytes=0-0\r\n").await.0,
        200
    );
    for odd in [
        "/bundles/abc",
        "/bundles/..%2f..%2fstore.toml",
        "/bundles/",
        "/nothing",
    ] {
        let asked = http(store.addresses().grpc, Some(&agent), "GET", odd, "").await;
        assert_eq!(asked.0, 404, "{odd}");
    }
}

async fn served(store: &Store, large: &[u8]) {
    let assets = store.addresses().assets;
    let get = async |path| http(assets, None, "GET", path, "").await;
    for path in [
        "/static/app.0123456789abcdef.js",
        "/static/twin.0123456789abcdef.js",
    ] {
        let (status, head, body) = get(path).await;
        assert_eq!((status, &body[..]), (200, &b"one"[..]), "{path}");
        assert!(head.contains("immutable"), "{head}");
    }
    assert_eq!(get("/static/film.fedcba9876543210.mp4").await.2, large);
    assert_eq!(get("/index.html").await.0, 404);
    assert_eq!(get("/healthz").await.0, 200);
    let figures = String::from_utf8(get("/metrics").await.2).unwrap();
    assert!(
        figures.contains("ship_release_newest{app=\"web\"} 2"),
        "{figures}"
    );
    assert!(figures.contains("ship_asset_not_found_total 1"), "{figures}");
}

#[tokio::test]
async fn an_assets_name_never_changes_its_bytes() {
    let store = Store::start().await;
    let mut clients = Clients::new(store.channel("publisher", "ci").await);
    let name = "static/app.0123456789abcdef.js";
    clients.publish("web", &[(name, b"one")]).await.unwrap();
    let clash = clients.publish("web", &[(name, b"two")]).await.unwrap_err();
    assert_eq!(kind(&clash), FailureKind::Clash);
    assert!(clash.message().contains("web@1"), "{}", clash.message());
    assert_eq!(
        clients
            .publish("web", &[("a", b"b")])
            .await
            .unwrap()
            .release
            .unwrap()
            .number,
        2
    );
}

#[tokio::test]
async fn what_is_damaged_or_unfinished_is_not_kept() {
    let store = Store::start().await;
    let mut clients = Clients::new(store.channel("publisher", "ci").await);
    let large = noise(LARGE);
    let tree = Tree::new("web", &[("a", &large)]);
    let encoded = tree.manifest.encoded().to_vec();
    let begin = |app: &str, manifest: &[u8]| {
        stream::iter([v1::BeginChunk {
            app: app.to_owned(),
            manifest: manifest.to_vec().into(),
            check_only: false,
        }])
    };
    for refused in [
        clients
            .releases
            .begin(begin("web", &encoded[..encoded.len() - 1]))
            .await,
        clients.releases.begin(begin("shop", &encoded)).await,
        clients.releases.begin(begin("../web", &encoded)).await,
        clients.releases.begin(begin("web", b"")).await,
    ] {
        assert_eq!(kind(&refused.unwrap_err()), FailureKind::Invalid);
    }
    // A manifest that is only checked is not kept, so that its release cannot be made.
    let check = v1::BeginChunk {
        app: "web".to_owned(),
        manifest: encoded.clone().into(),
        check_only: true,
    };
    let checked = clients.releases.begin(stream::iter([check])).await.unwrap();
    assert_eq!(checked.into_inner().message().await.unwrap(), None);
    let commit = v1::CommitRequest {
        app: "web".to_owned(),
        id: tree.manifest.id().as_bytes().to_vec(),
        request_id: request_id(),
        ..v1::CommitRequest::default()
    };
    let refused = clients.releases.commit(commit).await.unwrap_err();
    assert_eq!(kind(&refused), FailureKind::NotFound);
    clients.releases.begin(begin("web", &encoded)).await.unwrap();
    let bundle = tree.pack(&tree.blobs());
    let mut bent = bundle.clone();
    bent[bundle.len() / 2] ^= 1;
    assert_eq!(
        kind(&clients.upload(&bent).await.unwrap_err()),
        FailureKind::Damaged
    );
    assert_eq!(
        kind(&clients.upload(&bundle[..bundle.len() - 1]).await.unwrap_err()),
        FailureKind::Damaged
    );
    let announced = v1::UploadChunk {
        bundle: Some(vec![7; 32]),
        data: bundle.clone().into(),
    };
    let chunks = v1::UploadChunk {
        data: announced.data.slice(..1 << 20),
        ..announced
    };
    assert_eq!(
        kind(&clients.releases.upload(stream::iter([chunks])).await.unwrap_err()),
        FailureKind::Damaged
    );
    let commit = v1::CommitRequest {
        app: "web".to_owned(),
        id: ship_model::manifest::Manifest::id_of(&encoded)
            .as_bytes()
            .to_vec(),
        request_id: request_id(),
        ..v1::CommitRequest::default()
    };
    let missing = clients.releases.commit(commit.clone()).await.unwrap_err();
    assert!(
        missing.message().contains("not in the store"),
        "{}",
        missing.message()
    );
    // A publisher that dies in the middle of its upload leaves nothing either.
    let mut dying = Clients::new(store.channel("publisher", "dying").await);
    let half = v1::UploadChunk {
        bundle: None,
        data: bundle[..1 << 20].to_vec().into(),
    };
    let (keep, chunks) = tokio::sync::mpsc::channel(1);
    let uploading = tokio::spawn(async move {
        dying
            .releases
            .upload(tokio_stream::wrappers::ReceiverStream::new(chunks))
            .await
    });
    keep.send(half).await.unwrap();
    let incoming = store.folder().join("objects/incoming");
    let staged = || std::fs::read_dir(&incoming).unwrap().count();
    crate::fleet::until("the upload to begin", || async { (staged() == 1).then_some(()) }).await;
    uploading.abort();
    drop(keep);
    crate::fleet::until("the upload to be swept", || async {
        (staged() == 0).then_some(())
    })
    .await;
    let digest = clients.upload(&bundle).await.unwrap();
    let commit = v1::CommitRequest {
        bundle: Some(digest),
        ..commit
    };
    assert_eq!(
        clients
            .releases
            .commit(commit)
            .await
            .unwrap()
            .into_inner()
            .release
            .unwrap()
            .number,
        1
    );
}

#[tokio::test]
async fn fifty_publishes_at_once_get_fifty_numbers() {
    let store = Store::start().await;
    let clients = Clients::new(store.channel("publisher", "ci").await);
    let publishes = (0..50).map(|n| {
        let mut clients = clients.clone();
        async move {
            let content = format!("release {n}");
            let record = clients
                .publish("web", &[("a", content.as_bytes())])
                .await
                .unwrap();
            record.release.unwrap().number
        }
    });
    let numbers: HashSet<u64> = futures::future::join_all(publishes).await.into_iter().collect();
    assert_eq!(numbers, (1..=50).collect());
    let list = v1::ListReleasesRequest {
        app: "web".to_owned(),
        limit: 100,
    };
    let mut clients = clients;
    assert_eq!(
        clients
            .releases
            .list(list)
            .await
            .unwrap()
            .into_inner()
            .releases
            .len(),
        50
    );
}
