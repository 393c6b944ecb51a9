//! A rollout at its gates, with a store that runs programs and asks servers for it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ship_proto::failure_of;
use ship_proto::v1::{self, FailureKind, OutcomeKind, answer_request::Word};
use ship_store::settings::GateSite;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tonic::Status;

use crate::agent::Agent;
use crate::fleet::{Clients, Store, outcome, plan, until};

const STEP: &str = "version = 1\nenv = \"dev\"\n[[step]]\nname = \"one\"\nhosts = 1\nsoak = \"50ms\"\n";

fn kind(status: &Status) -> FailureKind {
    failure_of(status).unwrap().kind()
}

fn write(path: &Path, text: &str, mode: u32) {
    let made = path.with_extension("made");
    ship_durable::write_file(&made, text.as_bytes()).unwrap();
    fs::set_permissions(&made, Permissions::from_mode(mode)).unwrap();
    ship_durable::rename(&made, path).unwrap();
}

/// A program that prints a line and exits with what stands in the file beside it.
fn program(store: &Store) -> PathBuf {
    let folder = store.folder().join("programs");
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let verdict = store.dir.path().join("verdict");
    let text = format!(
        "#!/bin/sh\necho \"$SHIP_APP@$SHIP_RELEASE $1\"\nexit $(cat {})\n",
        verdict.display()
    );
    write(&folder.join("smoke"), &text, 0o755);
    write(&verdict, "3", 0o644);
    verdict
}

/// Three hosts run release 1; release 2 is there, and the environment has these gates after its first host.
async fn gated(store: &Store, gates: &str) -> (Clients, [Agent; 3]) {
    let agents = ["h1", "h2", "h3"].map(|name| Agent::start(store, name, &["web", "assets"]));
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    clients.publish_page("two").await;
    clients
        .hosts(&[("h1", "available"), ("h2", "available"), ("h3", "available")])
        .await;
    clients.promote(1).await;
    let request = v1::ApplyRequest {
        env: "dev".to_owned(),
        text: format!("{STEP}{gates}"),
        apply: true,
        parent: 0,
        message: String::new(),
    };
    clients.environments.apply(request).await.unwrap();
    (clients, agents)
}

fn running(agents: &[Agent]) -> Vec<Option<u64>> {
    agents.iter().map(Agent::running).collect()
}

fn word(word: Word, gate: &str) -> v1::AnswerRequest {
    v1::AnswerRequest {
        app: "web".to_owned(),
        env: "dev".to_owned(),
        word: word.into(),
        gate: gate.to_owned(),
        note: "seen".to_owned(),
        ..v1::AnswerRequest::default()
    }
}

/// The gates of the step under way.
async fn gates(clients: &mut Clients) -> Vec<v1::GateLine> {
    let status = clients.status().await;
    let rollout = status.apps.into_iter().find_map(|app| app.rollout);
    let mut steps = rollout
        .map(|rollout| rollout.steps)
        .unwrap_or_default()
        .into_iter();
    steps
        .find(|step| step.state == "running")
        .map(|step| step.gates)
        .unwrap_or_default()
}

async fn gate_is(clients: &Clients, name: &str, state: &str) -> v1::GateLine {
    until(&format!("gate {name} {state}"), || {
        let mut clients = clients.clone();
        async move {
            let gates = gates(&mut clients).await;
            gates
                .into_iter()
                .find(|gate| gate.gate == name && gate.state == state)
        }
    })
    .await
}

#[tokio::test]
async fn people_and_programs_hold_a_promote_through_a_kill() {
    let mut store = Store::start_with(|settings| settings.gates.programs = Some("programs".into())).await;
    let verdict = program(&store);
    let text = "gates = [\"smoke\", \"go\"]\n[gate.go]\napproval = 1\nothers = true\n\
                [gate.smoke]\ncommand = [\"smoke\", \"fast\"]\nevery = \"1s\"\n";
    let (mut clients, agents) = gated(&store, text).await;
    let started = clients.rollouts.promote(plan(2)).await.unwrap().into_inner();
    let smoke = gate_is(&clients, "smoke", "unknown").await;
    assert_eq!(smoke.detail, "exit status: 3\nweb@2 fast");
    assert_eq!(
        running(&agents).iter().filter(|runs| **runs == Some(2)).count(),
        1
    );

    let own = clients
        .rollouts
        .answer(word(Word::Approve, ""))
        .await
        .unwrap_err();
    assert_eq!(kind(&own), FailureKind::Refused);
    assert!(own.message().contains("operator/alice promoted it"), "{own}");
    let mut viewer = Clients::new(store.channel("viewer", "eve").await);
    let seen = viewer.rollouts.answer(word(Word::Approve, "")).await.unwrap_err();
    assert_eq!(kind(&seen), FailureKind::Denied);
    assert!(seen.message().contains("needs the role operator"), "{seen}");
    let mut bob = Clients::new(store.channel("operator", "bob").await);
    let other = v1::AnswerRequest {
        step: 2,
        ..word(Word::Approve, "")
    };
    let other = bob.rollouts.answer(other).await.unwrap_err();
    assert!(other.message().contains("step 5 waits"), "{other}");
    for _ in 0..2 {
        bob.rollouts.answer(word(Word::Approve, "")).await.unwrap();
    }

    store.kill();
    store.serve().await;
    let mut clients = store.operator().await;
    let go = gate_is(&clients, "go", "passes").await;
    assert_eq!(go.by, ["operator/bob: seen"]);
    gate_is(&clients, "smoke", "unknown").await;
    write(&verdict, "0", 0o644);
    let view = clients.end(&started).await;
    assert_eq!(outcome(&view), OutcomeKind::Done, "{view:?}");
    assert_eq!(running(&agents), [Some(2); 3]);
    let mut events = clients
        .fleet
        .events(v1::EventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut yes = 0;
    while let Some(event) = events.message().await.unwrap() {
        yes += usize::from(event.who == "operator/bob" && event.what == "gate go of deploy 2: yes");
    }
    assert_eq!(yes, 1);
}

#[tokio::test]
async fn a_program_that_fails_turns_the_promote_back() {
    let store = Store::start_with(|settings| settings.gates.programs = Some("programs".into())).await;
    let verdict = program(&store);
    write(&verdict, "1", 0o644);
    let text = "gates = [\"smoke\"]\n[gate.smoke]\ncommand = [\"smoke\", \"slow\"]\nevery = \"1s\"\n";
    let (mut clients, agents) = gated(&store, text).await;
    let view = clients.promote(2).await;
    assert_eq!(outcome(&view), OutcomeKind::Reverted, "{view:?}");
    assert!(
        view.reason.contains("gate smoke: exit status: 1"),
        "{}",
        view.reason
    );
    assert_eq!(view.last_lines, ["exit status: 1", "web@2 slow"]);
    assert_eq!(running(&agents), [Some(1); 3]);
    let bad = clients.rollouts.promote(plan(2)).await.unwrap_err();
    assert_eq!(kind(&bad), FailureKind::Refused);
}

#[tokio::test]
async fn who_rejects_takes_it_back_and_an_emergency_skips_only_what_it_may() {
    let store = Store::start().await;
    let text = "gates = [\"dns\"]\n[gate.dns]\nmanual = \"Move the weight\"\n";
    let (mut clients, agents) = gated(&store, text).await;
    let none = clients
        .rollouts
        .answer(word(Word::Acknowledge, "dns"))
        .await
        .unwrap_err();
    assert_eq!(kind(&none), FailureKind::Refused);
    let emergency = || v1::PlanRequest {
        profile: "emergency".to_owned(),
        force: true,
        ..plan(2)
    };
    let planned = clients
        .rollouts
        .plan(emergency())
        .await
        .unwrap()
        .into_inner()
        .view
        .unwrap();
    assert!(
        planned.steps.iter().any(|step| step.name == "one: gates"),
        "{planned:?}"
    );
    let started = clients.rollouts.promote(emergency()).await.unwrap().into_inner();
    gate_is(&clients, "dns", "waiting").await;
    clients.rollouts.answer(word(Word::Reject, "")).await.unwrap();
    let view = clients.end(&started).await;
    assert_eq!(outcome(&view), OutcomeKind::Aborted, "{view:?}");
    assert!(
        view.reason.contains("rejected by operator/alice: seen"),
        "{}",
        view.reason
    );
    assert_eq!(running(&agents), [Some(1); 3]);

    let request = v1::ApplyRequest {
        env: "dev".to_owned(),
        text: format!("{STEP}{text}[profile.emergency]\ngates = false\n"),
        apply: true,
        parent: 1,
        message: String::new(),
    };
    clients.environments.apply(request).await.unwrap();
    let started = clients.rollouts.promote(emergency()).await.unwrap().into_inner();
    let view = clients.end(&started).await;
    assert_eq!(
        (outcome(&view), &*view.skipped_gates),
        (OutcomeKind::Done, &["dns".to_owned()][..])
    );
    let mut events = clients
        .fleet
        .events(v1::EventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut told = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        told.push((event.who, event.what));
    }
    let skipped = "skip gates dns of deploy 3, profile emergency";
    assert!(
        told.contains(&("operator/alice".to_owned(), skipped.to_owned())),
        "{told:?}"
    );
}

/// Answers with what stands in it, and keeps the last request's head.
#[derive(Debug, Default)]
struct Site {
    answer: Mutex<String>,
    asked: Mutex<String>,
}

async fn serve(listener: TcpListener, site: Arc<Site>) {
    while let Ok((mut line, _)) = listener.accept().await {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && matches!(line.read(&mut byte).await, Ok(1)) {
            head.push(byte[0]);
        }
        *site.asked.lock().unwrap() = String::from_utf8_lossy(&head).into_owned();
        let answer = site.answer.lock().unwrap().clone();
        // Who asked may be gone.
        let _ = line.write_all(answer.as_bytes()).await;
    }
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn servers_are_asked_with_their_secret_and_only_those_that_are_offered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}/", listener.local_addr().unwrap());
    let site = Arc::new(Site::default());
    *site.answer.lock().unwrap() = answer("503 Service Unavailable", "");
    let serving = tokio::spawn(serve(listener, Arc::clone(&site)));
    let store = Store::start_with(|settings| {
        settings.gates.site = vec![GateSite {
            url: format!("{origin}metrics/"),
            headers: Some("metrics.headers".into()),
        }];
    })
    .await;
    let headers = store.folder().join("metrics.headers");
    write(&headers, "Authorization: Bearer hush\n", 0o644);
    let text = format!(
        "gates = [\"errors\", \"other\"]\n\
         [gate.errors]\nhttp = \"{origin}metrics/errors\"\njson = \"/rate\"\nat_most = 0.01\nevery = \"1s\"\n\
         [gate.other]\nhttp = \"{origin}metrics/../other\"\nevery = \"1s\"\n"
    );
    let (mut clients, agents) = gated(&store, &text).await;
    let started = clients.rollouts.promote(plan(2)).await.unwrap().into_inner();
    let said = |words: &'static str| {
        let clients = clients.clone();
        async move {
            until(words, || {
                let mut clients = clients.clone();
                async move {
                    let gates = gates(&mut clients).await;
                    gates.into_iter().find(|gate| gate.detail.contains(words))
                }
            })
            .await
        }
    };
    assert_eq!(said("may be read by others").await.state, "unknown");
    assert_eq!(said("the store offers no site for").await.gate, "other");
    write(&headers, "Authorization: Bearer hush\n", 0o600);
    assert_eq!(said("answered 503").await.state, "unknown");
    *site.answer.lock().unwrap() = answer("302 Found", "");
    assert_eq!(said("answered 302").await.state, "unknown");
    *site.answer.lock().unwrap() = answer(
        "200 OK",
        &format!("{{\"rate\":0.001,\"x\":\"{}\"}}", "x".repeat(300 << 10)),
    );
    assert_eq!(said("longer than 256 KiB").await.state, "unknown");
    *site.answer.lock().unwrap() = answer("200 OK", "{\"rate\":0.001}");
    assert_eq!(said("/rate is 0.001").await.state, "passes");
    let asked = site.asked.lock().unwrap().clone();
    assert!(asked.starts_with("GET /metrics/errors HTTP/1.1"), "{asked}");
    assert!(
        asked.to_lowercase().contains("authorization: bearer hush"),
        "{asked}"
    );
    assert_eq!(
        running(&agents).iter().filter(|runs| **runs == Some(2)).count(),
        1
    );

    *site.answer.lock().unwrap() = answer("200 OK", "{\"rate\":0.5}");
    let view = clients.end(&started).await;
    assert_eq!(outcome(&view), OutcomeKind::Reverted, "{view:?}");
    assert!(
        view.reason.contains("gate errors: /rate is 0.5, more than 0.01"),
        "{}",
        view.reason
    );
    serving.abort();
}
