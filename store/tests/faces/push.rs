//! Assets pushed to a folder: an asset host of its own, which the barrier waits for.

use std::fs;
use std::path::PathBuf;

use ship_model::name::HostName;
use ship_proto::v1::OutcomeKind;
use ship_store::push::PushSettings;
use tempfile::TempDir;

use crate::agent::Agent;
use crate::fleet::{Clients, Store, outcome, plan, until};

fn push(folder: PathBuf) -> PushSettings {
    PushSettings {
        name: HostName::new("cdn").unwrap(),
        env: "dev".parse().unwrap(),
        apps: Vec::new(),
        url: Some("https://cdn.example.com".to_owned()),
        folder: Some(folder),
        keep: false,
        s3: None,
    }
}

/// The name of the one asset of `publish_page(text)`.
pub fn asset(text: &str) -> String {
    format!("static/app.{}.js", &blake3::hash(text.as_bytes()).to_hex()[..16])
}

/// A store that pushes, a host that runs web, and web@1 published.
pub async fn begin(settings: PushSettings) -> (Store, Clients, Agent) {
    let store = Store::start_with(|all| all.push = vec![settings]).await;
    let web = Agent::start(&store, "h1", &["web"]);
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    clients.hosts(&[("cdn", "available"), ("h1", "available")]).await;
    (store, clients, web)
}

/// Waits until the push says that of what it cannot do.
pub async fn refusal(clients: &Clients, part: &str) -> String {
    let found = || {
        let mut clients = clients.clone();
        async move {
            let status = clients.status().await;
            let cdn = status.hosts.iter().find(|host| host.host == "cdn")?.clone();
            let failure = cdn.report?.apps.first()?.failure.clone()?;
            Some(failure.reason).filter(|reason| reason.contains(part))
        }
    };
    until(&format!("the push to say {part:?}"), found).await
}

#[tokio::test]
async fn no_host_is_switched_before_the_folder_has_all() {
    let place = TempDir::new().unwrap();
    let (folder, away) = (place.path().join("cdn"), place.path().join("away"));
    fs::create_dir(&folder).unwrap();
    let (mut store, mut clients, web) = begin(push(folder.clone())).await;
    assert_eq!(outcome(&clients.promote(1).await), OutcomeKind::Done);
    assert_eq!(fs::read(folder.join(asset("one"))).unwrap(), b"one");

    // The mount is gone: nothing is written below it, and nothing is switched.
    ship_durable::rename(&folder, &away).unwrap();
    clients.publish_page("two").await;
    let started = clients.rollouts.promote(plan(2)).await.unwrap().into_inner();
    refusal(&clients, "is not there: mount it or make it").await;
    assert!(!folder.exists());
    assert_eq!(web.running(), Some(1));
    ship_durable::rename(&away, &folder).unwrap();
    assert_eq!(outcome(&clients.end(&started).await), OutcomeKind::Done);
    assert_eq!(web.running(), Some(2));
    for text in ["one", "two"] {
        assert_eq!(fs::read(folder.join(asset(text))).unwrap(), text.as_bytes());
    }

    // A store that was killed goes on where it was: what is there is not brought again.
    let before = fs::metadata(folder.join(asset("one")))
        .unwrap()
        .modified()
        .unwrap();
    store.kill();
    store.serve().await;
    let mut clients = store.operator().await;
    clients.hosts(&[("cdn", "available"), ("h1", "available")]).await;
    clients.publish_page("three").await;
    assert_eq!(outcome(&clients.promote(3).await), OutcomeKind::Done);
    let after = fs::metadata(folder.join(asset("one")))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(
        (before, fs::read(folder.join(asset("three"))).unwrap()),
        (after, b"three".to_vec())
    );
}
