//! How long assets are kept, and what is done when one is missing: asked of a real store.

use ship_model::digest::BlobDigest;
use ship_proto::v1::{self, agent_message, store_message, sweep_progress};
use ship_store::settings::Settings;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::agent::Agent;
use crate::fleet::{Clients, Store, http, plan, until};

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

/// Starts to give up what web does not need, and waits for the first look.
pub async fn begin_sweep(
    clients: &mut Clients,
) -> Result<(v1::SweepMarked, tonic::Streaming<v1::SweepProgress>), tonic::Status> {
    let request = v1::SweepAssetsRequest {
        app: "web".to_owned(),
    };
    let mut progress = clients.assets.sweep(request).await?.into_inner();
    match progress.message().await?.unwrap().progress.unwrap() {
        sweep_progress::Progress::Marked(marked) => Ok((marked, progress)),
        other => panic!("without a second look: {other:?}"),
    }
}

pub async fn end_sweep(
    progress: &mut tonic::Streaming<v1::SweepProgress>,
) -> Result<v1::Swept, tonic::Status> {
    match progress.message().await?.unwrap().progress.unwrap() {
        sweep_progress::Progress::Swept(swept) => Ok(swept),
        other => panic!("not swept: {other:?}"),
    }
}

/// What followed a sweep, until all have that are there.
pub async fn followed(mut progress: tonic::Streaming<v1::SweepProgress>) -> v1::SweepFollowed {
    let mut last = v1::SweepFollowed::default();
    while let Some(message) = progress.message().await.unwrap() {
        if let Some(sweep_progress::Progress::Followed(followed)) = message.progress {
            last = followed;
        }
    }
    last
}

/// Gives up what has expired, and waits until everybody there has followed.
pub async fn sweep(clients: &mut Clients) -> v1::SweepFollowed {
    let (_, mut progress) = begin_sweep(clients).await.unwrap();
    let swept = end_sweep(&mut progress).await.unwrap();
    assert!(swept.assets >= 2, "{swept:?}");
    followed(progress).await
}

async fn status_of(store: &Store, path: &str) -> u16 {
    http(store.addresses().assets, None, "GET", path, "").await.0
}

/// Between the two looks of a sweep, for what a test does there: a loaded machine takes its time for it.
const BETWEEN_LOOKS: u64 = 10_000;

/// A store whose assets expire soon, with seven releases promoted on one host, which keeps five of them.
async fn store_with_old_releases() -> (Store, Clients, Agent) {
    store_of_old_releases(|settings| settings.retention.grace_ms = BETWEEN_LOOKS).await
}

/// The same, with settings of its own.
pub async fn store_of_old_releases(change: impl FnOnce(&mut Settings)) -> (Store, Clients, Agent) {
    let mut names = vec!["h1".to_owned()];
    let store = Store::start_with(|settings| {
        settings.retention.min_age_ms = 1_000;
        settings.retention.idle_ms = 2_000;
        settings.retention.grace_ms = 1_000;
        settings.retention.uncounted = ship_store::settings::Uncounted::Ignore;
        change(settings);
        names.splice(..0, settings.push.iter().map(|push| push.name.to_string()));
    })
    .await;
    let mut clients = store.operator().await;
    for text in ["one", "two", "three", "four", "five", "six", "seven"] {
        clients.publish_page(text).await;
    }
    let host = Agent::start(&store, "h1", &["web"]);
    let known: Vec<_> = names.iter().map(|name| (&**name, "available")).collect();
    clients.hosts(&known).await;
    for number in 1..=7 {
        clients.promote(number).await;
    }
    until("the first two to expire", || {
        let mut clients = clients.clone();
        async move {
            let mut all = Vec::new();
            for text in ["one", "two"] {
                all.push(look(&mut clients, &url(text)).await.pop()?.reasons.is_empty());
            }
            all.into_iter().all(|gone| gone).then_some(())
        }
    })
    .await;
    (store, clients, host)
}

#[tokio::test]
async fn what_expired_is_given_up_and_comes_back_before_any_host_is_switched() {
    let (mut store, mut clients, _host) = store_with_old_releases().await;
    let (marked, mut progress) = begin_sweep(&mut clients).await.unwrap();
    assert!(
        marked.assets >= 2 && marked.wait_ms == BETWEEN_LOOKS,
        "{marked:?}"
    );
    // A publish meanwhile that names one of them.
    let named = format!("static/app.{}.js", &blake3::hash(b"two").to_hex()[..16]);
    let files: [(&str, &[u8]); 2] = [("index.html", b"again"), (&named, b"two")];
    clients.publish("web", &files).await.unwrap();
    let swept = end_sweep(&mut progress).await.unwrap();
    assert!(swept.assets >= 1 && swept.spared >= 1, "{swept:?}");
    assert_eq!(swept.files, swept.assets);
    assert_eq!(status_of(&store, &url("one")).await, 404);
    for kept in ["two", "four", "seven"] {
        assert_eq!(status_of(&store, &url(kept)).await, 200, "{kept}");
    }
    let line = look(&mut clients, &url("one")).await.pop().unwrap();
    assert!(line.expired_ms > 0 && line.stands_on.is_empty(), "{line:?}");
    assert_eq!(followed(progress).await.done, ["dev/h1"]);
    let found = clients
        .assets
        .find(v1::FindAssetRequest {
            apps: vec!["web".to_owned()],
            path: url("one"),
        })
        .await
        .unwrap()
        .into_inner();
    assert!(found.expired && found.asset.is_none(), "{found:?}");
    let (_, _, figures) = http(store.addresses().assets, None, "GET", "/metrics", "").await;
    let figures = String::from_utf8(figures.to_vec()).unwrap();
    assert!(figures.contains("ship_asset_expired_total 1"), "{figures}");
    assert!(figures.contains("ship_asset_not_found_total 0"), "{figures}");
    assert!(!figures.contains("ship_asset_incidents_total{"), "{figures}");
    let mut events = clients
        .fleet
        .events(v1::EventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut acts = Vec::new();
    while let Ok(Some(event)) = events.message().await {
        acts.push(event);
    }
    let act = acts.iter().find(|act| act.what == "sweep").unwrap();
    assert!(
        act.who.starts_with("operator/") && act.subject == "web",
        "{act:?}"
    );

    // Neither a restart brings it back, nor anybody who asks for it.
    store.kill();
    store.serve().await;
    let mut clients = store.operator().await;
    until("the shelf", || async {
        (status_of(&store, &url("seven")).await == 200).then_some(())
    })
    .await;
    assert_eq!(status_of(&store, &url("one")).await, 404);
    clients.hosts(&[("h1", "available")]).await;
    // A release that names it does.
    clients.promote(1).await;
    assert_eq!(status_of(&store, &url("one")).await, 200);
    assert_eq!(kept_for(&clients, &url("one"), &[]).await.expired_ms, 0);
}

#[tokio::test]
async fn nothing_is_given_up_while_a_rollout_runs_or_when_the_caller_hangs_up() {
    let (store, mut clients, host) = store_with_old_releases().await;
    let (_, progress) = begin_sweep(&mut clients).await.unwrap();
    drop(progress);
    clients.publish_page("eight").await;
    host.change(|host| host.holds_assets_back = true);
    // One begins between the two looks.
    let (_, mut progress) = begin_sweep(&mut clients).await.unwrap();
    let started = clients.rollouts.promote(plan(8)).await.unwrap().into_inner();
    let refused = end_sweep(&mut progress).await.unwrap_err();
    assert!(refused.message().contains("nothing was removed"), "{refused:?}");
    let refused = begin_sweep(&mut clients).await.unwrap_err();
    assert!(refused.message().contains("is under way"), "{refused:?}");
    assert_eq!(status_of(&store, &url("one")).await, 200);
    host.change(|host| host.holds_assets_back = false);
    clients.end(&started).await;
    assert_eq!(status_of(&store, &url("one")).await, 200);
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
    let clients = store.operator().await;
    let again = kept_for(&clients, &url("one"), &["requested"]).await;
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
