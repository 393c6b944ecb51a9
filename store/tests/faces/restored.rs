//! A store that was put back from a backup, among hosts that remember more than it does.

use ship_proto::failure_of;
use ship_proto::v1::{self, FailureKind, OutcomeKind};

use crate::agent::Agent;
use crate::fleet::{Store, outcome, plan, program};

fn run(words: &[&str], store: &Store) -> (bool, String) {
    let mut command = program();
    command.args(words).arg("--dir").arg(store.folder());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_restored_store_leads_only_after_it_was_accepted() {
    let mut store = Store::start().await;
    let agent = Agent::start(&store, "h1", &["web", "assets"]);
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    clients.publish_page("two").await;
    clients.hosts(&[("h1", "available")]).await;
    clients.promote(1).await;
    let copy = store.dir.path().join("copy");
    let (ok, said) = run(&["backup", "--out", copy.to_str().unwrap()], &store);
    assert!(ok, "{said}");
    assert_eq!(outcome(&clients.promote(2).await), OutcomeKind::Done);
    assert!(store.stop().success());
    let (ok, said) = run(&["accept-restore", "--because", "no need"], &store);
    assert!(!ok && said.contains("not put back"), "{said}");

    #[allow(clippy::disallowed_methods, reason = "nothing needs to last here")]
    std::fs::rename(store.folder(), store.dir.path().join("lost")).unwrap();
    let (ok, said) = run(&["restore", "--from", copy.to_str().unwrap()], &store);
    assert!(ok && said.contains("accept-restore"), "{said}");
    store.serve().await;
    let mut clients = store.operator().await;
    until_heard(&mut clients).await;
    let page = clients
        .publish("web", &[("index.html", b"three")])
        .await
        .unwrap_err();
    for refused in [
        page,
        clients.rollouts.promote(plan(2)).await.unwrap_err(),
        clients.rollouts.revert(plan(1)).await.unwrap_err(),
    ] {
        let failure = failure_of(&refused).unwrap();
        if failure.kind() == FailureKind::Fenced {
            assert!(failure.hint.contains("accept-restore"), "{failure:?}");
        } else {
            panic!("not fenced: {refused:?}");
        }
    }
    let (ok, said) = run(&["accept-restore", "--because", "too early"], &store);
    assert!(!ok && said.contains("in use"), "{said}");
    assert_eq!(agent.running(), Some(2), "it keeps what it runs");
    let (ok, said) = run(&["verify"], &store);
    assert!(!ok && said.contains("in use"), "{said}");

    assert!(store.stop().success());
    let (ok, said) = run(&["accept-restore", "--because", "the disk died"], &store);
    assert!(ok, "{said}");
    store.serve().await;
    let mut clients = store.operator().await;
    until_heard(&mut clients).await;
    assert_eq!(agent.running(), Some(2), "nothing moves before somebody says so");
    let again = v1::PlanRequest {
        force: true,
        ..plan(1)
    };
    let started = clients.rollouts.promote(again).await.unwrap().into_inner();
    assert_eq!(outcome(&clients.end(&started).await), OutcomeKind::Done);
    assert_eq!(agent.running(), Some(1));
    let next = clients.publish_page("three").await;
    assert!(
        next.release.unwrap().number > 1_000,
        "a number is never used twice"
    );
    let mut events = clients
        .fleet
        .events(v1::EventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut told = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        told.push((event.what, event.detail));
    }
    assert!(
        told.iter()
            .any(|(what, detail)| what == "accept-restore" && detail.starts_with("the disk died")),
        "{told:?}"
    );
}

/// Until the host has told this store which epoch it has seen.
async fn until_heard(clients: &mut crate::fleet::Clients) {
    crate::fleet::until("the host's report", || {
        let mut clients = clients.clone();
        async move {
            let status = clients.status().await;
            let hosts = status.apps.iter().flat_map(|app| &app.hosts);
            let mut seen = hosts.filter_map(|host| host.report.as_ref().map(|report| report.epoch));
            seen.any(|epoch| epoch > 0).then_some(())
        }
    })
    .await;
}
