//! Deltas as hosts get them: asked for, waited for, and read in ranges.

use std::time::{Duration, Instant};

use futures::stream;
use ship_bundle::delta::{Effort, TreeBlobs, make_delta};
use ship_proto::v1::{self, FailureKind};
use ship_proto::{MAX_PIECE, failure_of};

use crate::fleet::{Clients, Store, Tree, http, request_id, until};

/// It waits until nothing is wished for in a while.
const PATIENCE: Duration = Duration::from_secs(300);

fn script(version: u64) -> Vec<u8> {
    let lines = (0..2_000_u64).map(|line| {
        let hash = blake3::hash(&((line + version * 700) % 2_000).to_le_bytes()).to_hex();
        format!("{hash}\n")
    });
    lines.collect::<String>().into_bytes()
}

async fn publish(clients: &mut Clients, version: u64) -> Vec<u8> {
    published(clients, &script(version)).await
}

async fn published(clients: &mut Clients, script: &[u8]) -> Vec<u8> {
    let record = clients.publish("web", &[("app.js", script)]).await.unwrap();
    record.release.unwrap().id
}

/// A script that a bundler made again: more work makes a smaller delta of it.
fn bundled(version: u64) -> Vec<u8> {
    let lines = (0..4_000).map(|line| {
        let number: u64 = (line + version * 700) % 4_000 + version * 100;
        let hash = blake3::hash(&number.to_le_bytes()).to_hex();
        format!(
            "export function f{number}(request) {{ return handled(request, 0x{}) }}\n",
            &hash[..8]
        )
    });
    lines.collect::<String>().into_bytes()
}

fn asked(release: &[u8], bases: &[&[u8]], avoid: &[&[u8]]) -> v1::DeltasRequest {
    let owned = |digests: &[&[u8]]| digests.iter().map(|digest| digest.to_vec()).collect();
    v1::DeltasRequest {
        release: release.to_vec(),
        bases: owned(bases),
        avoid: owned(avoid),
    }
}

/// What the store tells once it has one: it waits for one that is being made, and a host asks again when that takes too long.
async fn told(agent: &Clients, request: v1::DeltasRequest) -> Vec<v1::Delta> {
    until("a delta", || {
        let (mut agent, request) = (agent.clone(), request.clone());
        async move {
            let reply = agent.releases.deltas(request).await.unwrap().into_inner();
            (!reply.deltas.is_empty()).then_some(reply.deltas)
        }
    })
    .await
}

#[tokio::test]
async fn a_host_gets_a_delta_from_what_it_has_be_it_the_last_release_or_an_old_one() {
    let store = Store::start().await;
    let mut clients = Clients::new(store.channel("publisher", "ci").await);
    let mut ids = Vec::new();
    for version in 1..=3 {
        ids.push(publish(&mut clients, version).await);
    }
    let mut agent = Clients::new(store.channel("agent/dev", "h1").await);
    // Made at publish, and made because it is asked for: the answer waits for both.
    for base in [1, 0] {
        let request = asked(&ids[2], &[&ids[base]], &[]);
        let found = told(&agent, request).await;
        assert_eq!(found.len(), 1, "from release {}", base + 1);
        assert_eq!(found[0].base, ids[base]);
        read(&store, &found[0]).await;
        let avoiding = asked(&ids[2], &[&ids[base]], &[&found[0].delta]);
        assert!(
            agent
                .releases
                .deltas(avoiding)
                .await
                .unwrap()
                .into_inner()
                .deltas
                .is_empty()
        );
    }
    // Whichever is known is told at once, and nothing is made of what is unknown.
    let both = agent
        .releases
        .deltas(asked(&ids[2], &[&ids[0], &ids[1], &[9; 32]], &[]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(both.deltas.len(), 2);
    assert!(both.deltas[0].bytes <= both.deltas[1].bytes);
    let unknown = agent
        .releases
        .deltas(asked(&[8; 32], &[&ids[0]], &[]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(unknown.deltas, []);
    let same = agent
        .releases
        .deltas(asked(&ids[1], &[&ids[1]], &[]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(same.deltas, []);
}

async fn read(store: &Store, delta: &v1::Delta) {
    let hex = blake3::Hash::from_slice(&delta.delta).unwrap().to_hex();
    let path = format!("/deltas/{hex}");
    let agent = store.certificate("agent/dev", "h1");
    let port = store.addresses().grpc;
    let (status, head, whole) = http(port, Some(&agent), "GET", &path, "").await;
    assert_eq!((status, whole.len() as u64), (200, delta.bytes), "{head}");
    assert_eq!(blake3::hash(&whole).to_hex(), hex);
    let (status, _, part) = http(port, Some(&agent), "GET", &path, "range: bytes=5-24\r\n").await;
    assert_eq!((status, &part[..]), (206, &whole[5..25]));
    // Not where everybody may read.
    assert_eq!(
        http(store.addresses().assets, None, "GET", &path, "").await.0,
        404
    );
}

#[tokio::test]
async fn a_question_is_bounded_and_well_formed() {
    let store = Store::start().await;
    let mut agent = Clients::new(store.channel("agent/dev", "h1").await);
    let id: &[u8] = &[1; 32];
    let many = [id; 65];
    for wrong in [
        asked(b"short", &[], &[]),
        asked(id, &[b"short"], &[]),
        asked(id, &[], &[b"short"]),
        asked(id, &many[..17], &[]),
        asked(id, &[], &many),
    ] {
        let refused = agent.releases.deltas(wrong.clone()).await.unwrap_err();
        assert_eq!(
            failure_of(&refused).unwrap().kind(),
            FailureKind::Invalid,
            "{wrong:?}"
        );
    }
}

/// As a publisher does it: begun, told by what changed, and made a release.
#[tokio::test]
async fn what_a_publisher_sends_is_what_hosts_get() {
    let store = Store::start().await;
    let mut clients = Clients::new(store.channel("publisher", "ci").await);
    let trees = [1, 2].map(|version| Tree::new("web", &[("app.js", &script(version))]));
    let first = clients.publish_all("web", &trees[0]).await.unwrap();
    let chunk = v1::BeginChunk {
        app: "web".to_owned(),
        manifest: trees[1].manifest.encoded().to_vec().into(),
        check_only: false,
    };
    clients.releases.begin(stream::iter([chunk])).await.unwrap();
    let [from, to] = [&trees[0], &trees[1]].map(|tree| TreeBlobs::open(tree.dir(), &tree.manifest).unwrap());
    let (old, new) = ((&trees[0].manifest, &from as _), (&trees[1].manifest, &to as _));
    let mut delta = Vec::new();
    make_delta(old, new, Effort::AT_ONCE, &mut delta, &()).unwrap();
    let offer = v1::DeltaOffer {
        app: "web".to_owned(),
        base: first.release.unwrap().id,
        release: trees[1].manifest.id().as_bytes().to_vec(),
        delta: blake3::hash(&delta).as_bytes().to_vec(),
    };
    refusals(&mut clients, &offer, &delta).await;

    let uploaded = send(&mut clients, Some(&offer), &delta).await.unwrap();
    let commit = v1::CommitRequest {
        app: "web".to_owned(),
        id: offer.release.clone(),
        bundle: Some(uploaded.bundle.clone()),
        request_id: request_id(),
        ..v1::CommitRequest::default()
    };
    let record = clients.releases.commit(commit).await.unwrap().into_inner();
    assert_eq!(
        (record.stored_bytes, record.bundle),
        (uploaded.stored_bytes, Some(uploaded.bundle))
    );
    let again = send(&mut clients, Some(&offer), &delta).await.unwrap();
    assert!(again.bundle.is_empty(), "nothing was missing: {again:?}");
    let mut agent = Clients::new(store.channel("agent/dev", "h1").await);
    let request = asked(&offer.release, &[&offer.base], &[]);
    let found = agent.releases.deltas(request).await.unwrap().into_inner().deltas;
    assert_eq!(found[0].delta, offer.delta);
    read(&store, &found[0]).await;
}

async fn send(
    clients: &mut Clients,
    offer: Option<&v1::DeltaOffer>,
    delta: &[u8],
) -> Result<v1::Uploaded, tonic::Status> {
    let mut offer = offer.cloned();
    let mut chunks: Vec<_> = delta.chunks(5000).map(<[u8]>::to_vec).collect();
    if chunks.is_empty() {
        chunks.push(Vec::new());
    }
    let chunks: Vec<_> = chunks
        .into_iter()
        .map(|data| v1::UploadDeltaChunk {
            offer: offer.take(),
            data: data.into(),
        })
        .collect();
    let uploaded = clients.releases.upload_delta(stream::iter(chunks)).await?;
    Ok(uploaded.into_inner())
}

async fn refusals(clients: &mut Clients, good: &v1::DeltaOffer, delta: &[u8]) {
    let with = |change: &dyn Fn(&mut v1::DeltaOffer)| {
        let mut offer = good.clone();
        change(&mut offer);
        Some(offer)
    };
    let other = blake3::hash(b"other").as_bytes().to_vec();
    for (offer, kind) in [
        (None, FailureKind::Invalid),
        (with(&|offer| offer.app = "a b".to_owned()), FailureKind::Invalid),
        (with(&|offer| offer.base = vec![1]), FailureKind::Invalid),
        (with(&|offer| offer.release = vec![1]), FailureKind::Invalid),
        (with(&|offer| offer.delta = vec![1]), FailureKind::Invalid),
        (
            with(&|offer| offer.app = "shop".to_owned()),
            FailureKind::NotFound,
        ),
        (
            with(&|offer| offer.base.clone_from(&other)),
            FailureKind::NotFound,
        ),
        (
            with(&|offer| offer.release.clone_from(&other)),
            FailureKind::NotFound,
        ),
        (
            with(&|offer| offer.delta.clone_from(&other)),
            FailureKind::Damaged,
        ),
    ] {
        let refused = send(clients, offer.as_ref(), delta).await.unwrap_err();
        assert_eq!(failure_of(&refused).unwrap().kind(), kind, "{offer:?}: {refused}");
    }
    let refused = send(clients, Some(good), &delta[..delta.len() / 2])
        .await
        .unwrap_err();
    assert_eq!(failure_of(&refused).unwrap().kind(), FailureKind::Damaged);
    let large = v1::UploadDeltaChunk {
        offer: Some(good.clone()),
        data: vec![0; MAX_PIECE + 1].into(),
    };
    let none: [v1::UploadDeltaChunk; 0] = [];
    for chunks in [vec![large], none.to_vec()] {
        let refused = clients
            .releases
            .upload_delta(stream::iter(chunks))
            .await
            .unwrap_err();
        assert_eq!(failure_of(&refused).unwrap().kind(), FailureKind::Invalid);
    }
}

/// Nothing is promoted: it is the newest release of its app.
#[tokio::test]
async fn a_store_that_is_started_again_puts_the_work_into_deltas_that_it_had_not_come_to() {
    let mut store = Store::start_with(|settings| settings.optimize_when_idle = false).await;
    let mut clients = Clients::new(store.channel("publisher", "ci").await);
    let one = published(&mut clients, &bundled(1)).await;
    let two = published(&mut clients, &bundled(2)).await;
    let hasty = {
        let agent = Clients::new(store.channel("agent/dev", "h1").await);
        told(&agent, asked(&two, &[&one], &[])).await.remove(0)
    };
    store.kill();
    store.serve().await;
    let mut agent = Clients::new(store.channel("agent/dev", "h1").await);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = agent.releases.deltas(asked(&two, &[&one], &[])).await.unwrap();
        let found = found.into_inner().deltas;
        assert_eq!(found.len(), 1, "there is one all the time");
        if found[0].delta != hasty.delta {
            assert!(
                found[0].bytes < hasty.bytes,
                "{} of {}",
                found[0].bytes,
                hasty.bytes
            );
            read(&store, &found[0]).await;
            return;
        }
        assert!(Instant::now() < deadline, "{}", store.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
