//! How long assets are kept, and what is done when one is missing: asked of a real store.

use ship_model::digest::BlobDigest;
use ship_proto::v1::{self, agent_message, store_message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::agent::Agent;
use crate::fleet::{Clients, Store, http, until};

fn url(text: &str) -> String {
    format!("/static/app.{}.js", &blake3::hash(text.as_bytes()).to_hex()[..16])
}

async fn look(clients: &mut Clients, path: &str) -> Vec<v1::AssetLine> {
    let request = v1::LookAssetsRequest {
        app: "web".to_owned(),
        path: path.to_owned(),
        collectable: false,
    };
    let mut lines = clients.assets.look(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    // Until the assets of all releases are there the store says that it cannot tell yet.
    while let Ok(Some(line)) = lines.message().await {
        found.push(line);
    }
    found
}

fn kinds(line: &v1::AssetLine) -> Vec<&str> {
    line.reasons.iter().map(|reason| &*reason.kind).collect()
}

/// Waits until the reasons of an asset are these; every one of them must be there, others may be too.
async fn kept_for(clients: &Clients, path: &str, wanted: &[&str]) -> v1::AssetLine {
    until(&format!("{path} kept for {wanted:?}"), || {
        let mut clients = clients.clone();
        async move {
            let line = look(&mut clients, path).await.pop()?;
            let kinds = kinds(&line);
            wanted
                .iter()
                .all(|kind| kinds.contains(kind))
                .then_some(line.clone())
        }
    })
    .await
}

#[tokio::test]
async fn every_reason_to_keep_an_asset_is_told() {
    let store = Store::start_with(|settings| {
        settings.retention.min_age_ms = 1_000;
        settings.retention.idle_ms = 2_000;
    })
    .await;
    let mut clients = store.operator().await;
    for text in ["one", "two", "three", "four"] {
        clients.publish_page(text).await;
    }
    let _host = Agent::start(&store, "h1", &["web"]);
    clients.hosts(&[("h1", "available")]).await;
    // Promoted one after another, the first is neither run nor what a revert goes to.
    for number in 1..=4 {
        clients.promote(number).await;
    }
    let now = kept_for(&clients, &url("four"), &["reachable"]).await;
    assert_eq!(now.releases, [4]);
    assert_eq!(now.digest, BlobDigest::of(b"four").as_bytes());
    assert!(now.stands_on.contains(&"store".to_owned()), "{now:?}");
    assert!(now.stands_on.contains(&"dev/h1".to_owned()), "{now:?}");
    // A host that serves it and counts nothing keeps all.
    let old = kept_for(&clients, &url("one"), &["uncounted"]).await;
    let words = &old
        .reasons
        .iter()
        .find(|reason| reason.kind == "uncounted")
        .unwrap()
        .words;
    assert!(words.contains("dev/h1"), "{words}");
    let all = look(&mut clients, "").await;
    let urls: Vec<_> = all.iter().map(|line| line.url.clone()).collect();
    assert_eq!(urls.len(), 4);
    assert!(urls.is_sorted(), "{urls:?}");
    assert!(look(&mut clients, "/static/none.js").await.is_empty());
}

/// A host's session that says which contents it was asked for.
async fn told(store: &Store, run: u64, digests: &[BlobDigest]) {
    let mut clients = Clients::new(store.channel("agent/dev", "h9").await);
    let (out, messages) = mpsc::channel(8);
    let say = async |message| {
        let message = v1::AgentMessage {
            message: Some(message),
        };
        out.send(message).await.unwrap();
    };
    say(agent_message::Message::Hello(v1::Hello {
        env: "dev".to_owned(),
        host: "h9".to_owned(),
        agent_version: "test".to_owned(),
    }))
    .await;
    let mut answers = clients
        .agents
        .session(ReceiverStream::new(messages))
        .await
        .unwrap()
        .into_inner();
    say(agent_message::Message::Asked(v1::AssetsAsked {
        number: 5,
        run,
        digests: digests.iter().flat_map(|digest| *digest.as_bytes()).collect(),
    }))
    .await;
    loop {
        match answers.message().await.unwrap().unwrap().message {
            Some(store_message::Message::Welcome(welcome)) => assert!(welcome.hears_asked),
            Some(store_message::Message::Taken(taken)) => {
                assert_eq!(taken.number, 5);
                return;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_hosts_were_asked_for_is_remembered_by_the_store() {
    let mut store = Store::start_with(|settings| {
        settings.retention.uncounted = ship_store::settings::Uncounted::Ignore;
    })
    .await;
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    told(&store, 1, &[BlobDigest::of(b"one")]).await;
    let line = kept_for(&clients, &url("one"), &["requested"]).await;
    assert_eq!(line.asked_of, "dev/h9");
    assert!(line.asked_ms > 0);
    // A store that ends by itself forgets nothing of it.
    assert!(store.stop().success());
    store.serve().await;
    let mut clients = store.operator().await;
    let again = look(&mut clients, &url("one")).await.pop().unwrap();
    assert_eq!((again.asked_ms, &*again.asked_of), (line.asked_ms, "dev/h9"));
}

#[tokio::test]
async fn a_file_that_is_gone_from_the_stores_folder_is_made_anew_from_its_bundle() {
    let mut store = Store::start().await;
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    let path = url("one");
    let asked = store.addresses().assets;
    until("the asset", || async {
        (http(asked, None, "GET", &path, "").await.0 == 200).then_some(())
    })
    .await;
    // What was asked for once is answered from memory: the next store has none of it.
    store.kill();
    let file = store.folder().join("assets/web.files").join(&path[1..]);
    std::fs::remove_file(&file).unwrap();
    store.serve().await;
    let assets = store.addresses().assets;
    let get = async || http(assets, None, "GET", &path, "").await;
    until("the shelf", || async { (get().await.0 == 200).then_some(()) }).await;
    let (status, _, body) = get().await;
    assert_eq!((status, &body[..]), (200, &b"one"[..]));
    assert!(file.exists());
    let (_, _, figures) = http(assets, None, "GET", "/metrics", "").await;
    let figures = String::from_utf8(figures.to_vec()).unwrap();
    assert!(figures.contains("ship_asset_healed_total 1"), "{figures}");
    assert!(!figures.contains("ship_asset_incidents_total{"), "{figures}");
}
