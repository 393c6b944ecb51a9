//! Pins, and what is collected, over the wire and beside it.

use ship_proto::failure_of;
use ship_proto::v1::{self, FailureKind, OutcomeKind};

use crate::agent::Agent;
use crate::fleet::{Clients, Store, outcome, plan, program, until};

const APP: &str = "web";

async fn page(clients: &mut Clients, text: &str) -> v1::ReleaseRecord {
    clients
        .publish(APP, &[("index.html", text.as_bytes())])
        .await
        .unwrap()
}

async fn collect(clients: &mut Clients, dry_run: bool) -> Vec<v1::CollectLine> {
    let request = v1::CollectRequest {
        dry_run,
        wait_ms: (!dry_run).then_some(0),
    };
    let mut answers = clients.releases.collect(request).await.unwrap().into_inner();
    let mut lines = Vec::new();
    while let Some(line) = answers.message().await.unwrap() {
        lines.push(line);
    }
    lines
}

fn fate(lines: &[v1::CollectLine], name: &str) -> Option<String> {
    let line = lines.iter().find(|line| line.name == name)?;
    Some(line.fate.clone())
}

fn pin(number: u64, unpin: bool) -> v1::PinRequest {
    v1::PinRequest {
        app: APP.to_owned(),
        number,
        because: "audit of May".to_owned(),
        unpin,
    }
}

async fn get(clients: &mut Clients, number: u64) -> v1::ReleaseRecord {
    let app = APP.to_owned();
    let asked = v1::GetReleaseRequest { app, number };
    clients.releases.get(asked).await.unwrap().into_inner()
}

async fn flags(clients: &mut Clients, number: u64) -> Vec<String> {
    let asked = v1::ListReleasesRequest {
        app: APP.to_owned(),
        limit: 0,
    };
    let listed = clients.releases.list(asked).await.unwrap().into_inner().releases;
    let of = listed.into_iter().find(|line| {
        let record = line.record.as_ref().and_then(|record| record.release.as_ref());
        record.is_some_and(|release| release.number == number)
    });
    of.unwrap().flags
}

#[tokio::test]
async fn a_release_is_pinned_unpinned_collected_and_published_again() {
    let mut store = Store::start_with(|settings| {
        settings.content.releases = 1;
        settings.content.min_age_ms = 1_000;
        settings.content.ran = 0;
    })
    .await;
    let _agent = Agent::start(&store, "h1", &["web", "assets"]);
    let mut clients = store.operator().await;
    for text in ["one", "two", "three", "four"] {
        page(&mut clients, text).await;
    }
    clients.hosts(&[("h1", "available")]).await;
    for number in [2, 3] {
        assert_eq!(outcome(&clients.promote(number).await), OutcomeKind::Done);
    }
    let pinned = clients.releases.pin(pin(1, false)).await.unwrap().into_inner();
    assert!(pinned.pinned.ends_with(": audit of May"), "{pinned:?}");
    assert_eq!(flags(&mut clients, 1).await, ["pinned"]);
    let nothing = v1::PinRequest {
        because: " ".to_owned(),
        ..pin(1, false)
    };
    let refused = clients.releases.pin(nothing).await.unwrap_err();
    assert_eq!(failure_of(&refused).unwrap().kind(), FailureKind::Invalid);
    let refused = clients.releases.pin(pin(99, false)).await.unwrap_err();
    assert_eq!(failure_of(&refused).unwrap().kind(), FailureKind::NotFound);

    let looked = collect(&mut clients, true).await;
    assert_eq!(fate(&looked, "web@1").unwrap(), "kept");
    let line = looked.iter().find(|line| line.name == "web@2").unwrap();
    assert!(
        line.reasons.iter().all(|reason| !reason.words.is_empty()),
        "{line:?}"
    );
    clients.releases.pin(pin(1, true)).await.unwrap();
    // As soon as it is a second old.
    until("web@1 is collected", || async {
        let lines = collect(&mut store.operator().await, false).await;
        (fate(&lines, "web@1")? == "gone").then_some(())
    })
    .await;
    let looked = collect(&mut clients, true).await;
    assert_eq!(fate(&looked, "web@1"), None, "there is nothing to tell of it");
    for number in [2, 3, 4] {
        assert_eq!(fate(&looked, &format!("web@{number}")).unwrap(), "kept");
    }
    assert_eq!(flags(&mut clients, 1).await, ["collected"]);
    let record = get(&mut clients, 1).await;
    assert!(record.collected_at_ms > 0, "{record:?}");

    let id = record.release.unwrap().id;
    let manifest = clients.releases.manifest(v1::ManifestRequest { id }).await;
    for refused in [
        manifest.err().unwrap(),
        clients.rollouts.promote(plan(1)).await.unwrap_err(),
        clients.rollouts.plan(plan(1)).await.unwrap_err(),
        clients.rollouts.revert(plan(1)).await.unwrap_err(),
        clients.releases.pin(pin(1, false)).await.unwrap_err(),
    ] {
        let failure = failure_of(&refused).unwrap();
        assert_eq!(failure.kind(), FailureKind::Refused, "{refused:?}");
        assert!(refused.message().contains("collected"), "{refused:?}");
    }
    // What a revert goes to was kept.
    assert_eq!(outcome(&clients.revert(0).await), OutcomeKind::Done);
    let again = page(&mut clients, "one").await;
    assert_eq!(again.release.unwrap().number, 5);
    let refused = clients.rollouts.promote(plan(1)).await.unwrap_err();
    assert!(
        refused.message().contains("the same tree is release 5"),
        "{refused:?}"
    );
    assert_eq!(outcome(&clients.promote(5).await), OutcomeKind::Done);

    assert!(store.stop().success());
    let run = |words: &[&str]| {
        let output = program()
            .args(words)
            .arg("--dir")
            .arg(store.folder())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let (ok, said) = run(&["gc", "--dry-run"]);
    // Also while it does not serve it knows what hosts have.
    assert!(ok && said.contains("h1 in dev has it"), "{said}");
    let (ok, said) = run(&["gc", "--wait", "0s"]);
    assert!(ok && said.contains("releases collected"), "{said}");
    let (ok, said) = run(&["verify"]);
    assert!(ok && said.contains("collected"), "{said}");
}
