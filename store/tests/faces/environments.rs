//! What environments are told by their files, and plans that are brought back.

use ship_proto::failure_of;
use ship_proto::v1::{self, FailureKind};

use crate::agent::Agent;
use crate::fleet::{Clients, Store, outcome, plan, until};

const FILE: &str = "version = 1\nenv = \"dev\"\n[policy]\nsoak = \"50ms\"\nwave = 1\n";

fn kind(status: &tonic::Status) -> FailureKind {
    failure_of(status).unwrap().kind()
}

fn file(text: &str, apply: bool, parent: u64) -> v1::ApplyRequest {
    v1::ApplyRequest {
        env: "dev".to_owned(),
        text: text.to_owned(),
        apply,
        parent,
        message: String::new(),
    }
}

async fn apply(clients: &mut Clients, request: v1::ApplyRequest) -> Result<v1::ApplyReply, tonic::Status> {
    Ok(clients.environments.apply(request).await?.into_inner())
}

async fn show(clients: &mut Clients, version: u64) -> Result<v1::ShowEnvironmentReply, tonic::Status> {
    let request = v1::ShowEnvironmentRequest {
        env: "dev".to_owned(),
        version,
    };
    Ok(clients.environments.show(request).await?.into_inner())
}

async fn one_host(store: &Store) -> (Clients, Agent) {
    let agent = Agent::start(store, "h1", &["web", "assets"]);
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    clients.hosts(&[("h1", "available")]).await;
    (clients, agent)
}

#[tokio::test]
async fn every_version_is_kept_and_the_last_one_stands_after_a_kill() {
    let mut store = Store::start().await;
    let (mut clients, agent) = one_host(&store).await;
    assert!(show(&mut clients, 0).await.unwrap().environment.is_none());
    let tried = apply(&mut clients, file(FILE, false, 0)).await.unwrap();
    assert_eq!((tried.version, tried.differences.len()), (0, 2));
    assert!(
        show(&mut clients, 0).await.unwrap().environment.is_none(),
        "only looked at"
    );
    assert_eq!(apply(&mut clients, file(FILE, true, 0)).await.unwrap().version, 1);
    // The answer was lost, so it is asked again.
    let again = apply(&mut clients, file(FILE, true, 0)).await.unwrap();
    assert_eq!((again.version, again.differences.len()), (1, 0));
    let slower = FILE.replace("50ms", "60ms");
    let late = apply(&mut clients, file(&slower, true, 0)).await.unwrap_err();
    assert_eq!(kind(&late), FailureKind::Busy);
    assert!(
        late.message().contains("version 1 of dev by operator/alice"),
        "{late}"
    );
    assert_eq!(
        apply(&mut clients, file(&slower, true, 1)).await.unwrap().version,
        2
    );

    drop(agent);
    store.kill();
    store.serve().await;
    let mut clients = store.operator().await;
    let stands = show(&mut clients, 0).await.unwrap();
    let file = stands.environment.unwrap();
    assert_eq!(
        (file.version, file.who.as_str(), file.text),
        (2, "operator/alice", slower)
    );
    let numbers: Vec<_> = stands.versions.iter().map(|file| file.version).collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(
        show(&mut clients, 1).await.unwrap().environment.unwrap().text,
        FILE
    );
    let unknown = show(&mut clients, 3).await.unwrap_err();
    assert_eq!(kind(&unknown), FailureKind::NotFound);
    let events = clients.fleet.events(v1::EventsRequest::default()).await.unwrap();
    let mut events = events.into_inner();
    let mut applied = 0;
    while let Some(event) = events.message().await.unwrap() {
        applied += usize::from(event.what == "env apply");
    }
    assert_eq!(applied, 2);
}

#[tokio::test]
async fn hostile_files_are_refused_and_nothing_is_kept() {
    let store = Store::start().await;
    let (mut clients, _agent) = one_host(&store).await;
    let many = format!("{FILE}{}", "[[step]]\nname = \"x\"\nhosts = 1\n".repeat(1000));
    let deep = format!("version = {}", "[".repeat(30_000));
    let other = FILE.replace("dev", "prod");
    for text in [
        "",
        "version = 2",
        &format!("{FILE}{}", "#".repeat(65 << 10)),
        &many,
        &deep,
        &other,
    ] {
        let refused = apply(&mut clients, file(text, true, 0)).await.unwrap_err();
        assert_eq!(kind(&refused), FailureKind::Invalid, "{refused}");
    }
    let long = v1::ApplyRequest {
        message: "m".repeat(1001),
        ..file(FILE, true, 0)
    };
    assert_eq!(
        kind(&apply(&mut clients, long).await.unwrap_err()),
        FailureKind::Invalid
    );
    let nowhere = v1::ApplyRequest {
        env: "prod".to_owned(),
        ..file(&other, true, 0)
    };
    assert_eq!(
        kind(&apply(&mut clients, nowhere).await.unwrap_err()),
        FailureKind::NotFound
    );
    assert!(show(&mut clients, 0).await.unwrap().versions.is_empty());
}

#[tokio::test]
async fn a_plan_of_something_else_is_refused() {
    let store = Store::start().await;
    let (mut clients, agent) = one_host(&store).await;
    let planned = clients.rollouts.plan(plan(1)).await.unwrap().into_inner();
    assert!(
        planned
            .no_return
            .iter()
            .any(|point| point.why.contains("nothing to go back to"))
    );
    let saved = |request: v1::PlanRequest| v1::PlanRequest {
        plan: planned.plan.clone(),
        ..request
    };
    let cut = v1::PlanRequest {
        plan: planned.plan[..planned.plan.len() / 2].to_vec(),
        ..plan(1)
    };
    let strange = v1::PlanRequest {
        profile: "hasty".to_owned(),
        ..plan(1)
    };
    for request in [cut, strange] {
        let refused = clients.rollouts.promote(request).await.unwrap_err();
        assert_eq!(kind(&refused), FailureKind::Invalid, "{refused}");
    }
    let back = clients.rollouts.revert(saved(plan(0))).await.unwrap_err();
    assert_eq!(kind(&back), FailureKind::Invalid, "{back}");
    // What is asked besides the plan does not count.
    let started = clients
        .rollouts
        .promote(saved(plan(9)))
        .await
        .unwrap()
        .into_inner();
    let view = clients.end(&started).await;
    assert_eq!(outcome(&view), v1::OutcomeKind::Done, "{view:?}");
    assert_eq!(Some(view.plan_id), planned.view.map(|view| view.plan_id));
    assert_eq!(agent.running(), Some(1));
    let again = clients.rollouts.promote(saved(plan(1))).await.unwrap_err();
    assert_eq!(kind(&again), FailureKind::Refused);
    assert!(
        again.message().contains("h1 ran nothing, now release 1"),
        "{again}"
    );
}

/// Where operators decide about going back, the view says what they are to decide about, through a kill of the store too.
#[tokio::test]
async fn a_failure_waits_for_an_operator_and_is_told() {
    let mut store = Store::start().await;
    let (mut clients, agent) = one_host(&store).await;
    assert_eq!(outcome(&clients.promote(1).await), v1::OutcomeKind::Done);
    clients.publish_page("two").await;
    let text = format!("{FILE}auto_revert = false\n");
    apply(&mut clients, file(&text, true, 0)).await.unwrap();
    agent.change(|host| {
        host.broken.insert(2);
    });
    let started = clients.rollouts.promote(plan(2)).await.unwrap().into_inner();
    for restart in [true, false] {
        let waits = until("the rollout to wait", || {
            let mut clients = clients.clone();
            async move {
                let rollout = clients.status().await.apps[0].rollout.clone()?;
                rollout.paused.then_some(rollout)
            }
        });
        let waits = waits.await;
        assert!(waits.reason.starts_with("h1: "), "{waits:?}");
        if restart {
            store.kill();
            store.serve().await;
            clients = store.operator().await;
        }
    }
    let abort = v1::ControlRequest {
        app: "web".to_owned(),
        env: "dev".to_owned(),
        verb: v1::control_request::Verb::Abort.into(),
        message: String::new(),
    };
    clients.rollouts.control(abort).await.unwrap();
    let view = clients.end(&started).await;
    assert_eq!(outcome(&view), v1::OutcomeKind::Aborted, "{view:?}");
    assert_eq!(agent.running(), Some(1));
}
