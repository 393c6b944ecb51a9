//! Assets pushed to a folder: an asset host of its own, which the barrier waits for.

use std::fs;
use std::path::{Path, PathBuf};

use ship_model::name::HostName;
use ship_proto::v1::{self, OutcomeKind};
use ship_store::push::PushSettings;
use tempfile::TempDir;

use crate::agent::Agent;
use crate::assets::{store_of_old_releases, sweep};
use crate::fleet::{Clients, Store, outcome, plan, until};

pub fn push(folder: PathBuf) -> PushSettings {
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

/// Which of the pages' assets stand in the folder.
fn standing(folder: &Path) -> Vec<&'static str> {
    let pages = ["one", "two", "three", "four", "five", "six", "seven"];
    let stands = |text: &&str| {
        let found = fs::read(folder.join(asset(text))).ok();
        found.is_some_and(|bytes| bytes == text.as_bytes())
    };
    pages.into_iter().filter(stands).collect()
}

#[tokio::test]
async fn what_expired_goes_from_the_folder_and_comes_back_before_any_host_is_switched() {
    let place = TempDir::new().unwrap();
    let folder = place.path().join("cdn");
    fs::create_dir(&folder).unwrap();
    // Another push goes there as well: it must know what the first has taken away.
    let other = PushSettings {
        name: HostName::new("cdn2").unwrap(),
        ..push(folder.clone())
    };
    let pushes = vec![push(folder.clone()), other];
    let (mut store, mut clients, web) = store_of_old_releases(|all| all.push = pushes).await;
    assert_eq!(standing(&folder).len(), 7);
    let followed = sweep(&mut clients).await;
    assert_eq!(
        (followed.done.len(), followed.behind.len()),
        (3, 0),
        "{followed:?}"
    );
    assert_eq!(standing(&folder), ["three", "four", "five", "six", "seven"]);
    // A restart brings nothing back, and takes nothing more.
    store.kill();
    store.serve().await;
    let mut clients = store.operator().await;
    clients
        .hosts(&[("cdn", "available"), ("cdn2", "available"), ("h1", "available")])
        .await;
    clients.promote(6).await;
    assert_eq!(standing(&folder), ["three", "four", "five", "six", "seven"]);
    // The barrier waits for what is wanted again.
    let away = place.path().join("away");
    ship_durable::rename(&folder, &away).unwrap();
    let started = clients.rollouts.promote(plan(1)).await.unwrap().into_inner();
    refusal(&clients, "is not there: mount it or make it").await;
    assert_eq!(web.running(), Some(6));
    ship_durable::rename(&away, &folder).unwrap();
    assert_eq!(outcome(&clients.end(&started).await), OutcomeKind::Done);
    assert_eq!(web.running(), Some(1));
    assert_eq!(
        standing(&folder),
        ["one", "three", "four", "five", "six", "seven"]
    );
}

#[tokio::test]
async fn a_folder_that_others_rely_on_keeps_all() {
    let place = TempDir::new().unwrap();
    let keeping = PushSettings {
        keep: true,
        ..push(place.path().to_owned())
    };
    let (_store, mut clients, _web) = store_of_old_releases(|all| all.push = vec![keeping]).await;
    let followed = sweep(&mut clients).await;
    assert_eq!(followed.behind, [""; 0], "{followed:?}");
    assert_eq!(standing(place.path()).len(), 7);
}

/// Everything that is told of a push by a word.
pub async fn pushed(
    clients: &mut Clients,
    number: u64,
    to: &str,
) -> Result<Vec<v1::PushProgress>, tonic::Status> {
    let request = v1::PushAssetsRequest {
        app: "web".to_owned(),
        env: "dev".to_owned(),
        push: to.to_owned(),
        number,
    };
    let mut words = clients.assets.push(request).await?.into_inner();
    let mut told: Vec<v1::PushProgress> = Vec::new();
    while let Some(said) = words.message().await? {
        // The last of each release.
        told.retain(|known| (&known.push, known.release) != (&said.push, said.release));
        told.push(said);
    }
    Ok(told)
}

#[tokio::test]
async fn what_lacks_in_the_folder_is_brought_by_a_word() {
    let place = TempDir::new().unwrap();
    let (_store, mut clients, _web) = begin(push(place.path().to_owned())).await;
    clients.publish_page("two").await;
    // Nobody promotes these, so nothing brings them.
    let told = pushed(&mut clients, 0, "").await.unwrap();
    let counts = |told: &[v1::PushProgress]| -> Vec<(u64, u64, u64, bool)> {
        let count = |said: &v1::PushProgress| (said.release, said.sent, said.there, said.done);
        told.iter().map(count).collect()
    };
    assert_eq!(counts(&told), [(2, 1, 0, true), (1, 1, 0, true)]);
    assert_eq!(standing(place.path()), ["one", "two"]);
    // Somebody removes one.
    fs::remove_file(place.path().join(asset("one"))).unwrap();
    let told = pushed(&mut clients, 0, "cdn").await.unwrap();
    assert_eq!(counts(&told), [(2, 0, 1, true), (1, 1, 0, true)]);
    assert_eq!(standing(place.path()), ["one", "two"]);
    assert_eq!(
        counts(&pushed(&mut clients, 1, "").await.unwrap()),
        [(1, 0, 1, true)]
    );
    for (number, to, part) in [(9, "", "no release \"9\""), (0, "cnd", "there is cdn")] {
        let refused = pushed(&mut clients, number, to).await.unwrap_err();
        assert!(refused.message().contains(part), "{refused:?}");
    }
}
