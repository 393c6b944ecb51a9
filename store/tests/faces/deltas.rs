//! Deltas as hosts get them: asked for, waited for, and read in ranges.

use std::time::{Duration, Instant};

use ship_proto::failure_of;
use ship_proto::v1::{self, FailureKind};

use crate::fleet::{Clients, Store, http};

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
        let found = agent.releases.deltas(request).await.unwrap().into_inner().deltas;
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

/// Nothing is promoted: it is the newest release of its app.
#[tokio::test]
async fn a_store_that_is_started_again_puts_the_work_into_deltas_that_it_had_not_come_to() {
    let mut store = Store::start_with(|settings| settings.optimize_when_idle = false).await;
    let mut clients = Clients::new(store.channel("publisher", "ci").await);
    let one = published(&mut clients, &bundled(1)).await;
    let two = published(&mut clients, &bundled(2)).await;
    let hasty = {
        let mut agent = Clients::new(store.channel("agent/dev", "h1").await);
        let found = agent.releases.deltas(asked(&two, &[&one], &[])).await;
        found.unwrap().into_inner().deltas[0].clone()
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
