//! Agents and what they hear.

use futures::stream;
use ship_proto::failure_of;
use ship_proto::v1::{self, FailureKind, agent_message};
use tokio_stream::wrappers::ReceiverStream;

use crate::agent::Agent;
use crate::fleet::{Clients, PATIENCE, Store, until};

fn hello(env: &str, host: &str) -> v1::AgentMessage {
    let hello = v1::Hello {
        env: env.to_owned(),
        host: host.to_owned(),
        agent_version: "test".to_owned(),
    };
    v1::AgentMessage {
        message: Some(agent_message::Message::Hello(hello)),
    }
}

/// How a session ends that begins with these messages.
async fn ended(store: &Store, messages: Vec<v1::AgentMessage>) -> tonic::Status {
    let mut clients = Clients::new(store.channel("agent/dev", "h1").await);
    let (keep, rest) = tokio::sync::mpsc::channel(8);
    for message in messages {
        keep.send(message).await.unwrap();
    }
    let mut answers = clients
        .agents
        .session(ReceiverStream::new(rest))
        .await
        .unwrap()
        .into_inner();
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the session ended without a reason"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_host_only() {
    let store = Store::start().await;
    for (env, host) in [("dev", "h2"), ("production", "h1"), ("", "")] {
        let status = ended(&store, vec![hello(env, host)]).await;
        let failure = failure_of(&status).unwrap();
        assert_eq!(failure.kind(), FailureKind::Denied);
        let said = status.message();
        assert!(
            said.contains("dev/h1") && said.contains(&format!("{env}/{host}")),
            "{said}"
        );
    }
    let silent = ended(&store, vec![v1::AgentMessage::default()]).await;
    assert!(silent.message().contains("hello"), "{silent:?}");
    let report = v1::HostReport {
        classes: vec!["x".repeat(600 << 10)],
        ..v1::HostReport::default()
    };
    let report = v1::AgentMessage {
        message: Some(agent_message::Message::Report(report)),
    };
    let large = ended(&store, vec![hello("dev", "h1"), report]).await;
    assert!(large.message().contains("report of"), "{large:?}");
    let report = v1::HostReport {
        classes: vec!["../etc".to_owned()],
        ..v1::HostReport::default()
    };
    let report = v1::AgentMessage {
        message: Some(agent_message::Message::Report(report)),
    };
    let odd = ended(&store, vec![hello("dev", "h1"), report]).await;
    assert!(odd.message().contains("class"), "{odd:?}");
}

#[tokio::test]
async fn an_over_long_message_is_refused() {
    let store = Store::start().await;
    let mut clients = Clients::new(store.channel("publisher", "ci").await);
    let chunk = |len| v1::BeginChunk {
        app: "web".to_owned(),
        manifest: vec![0; len].into(),
        check_only: false,
    };
    let status = clients
        .releases
        .begin(stream::iter([chunk(5 << 20)]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");
    let status = clients
        .releases
        .begin(stream::iter([chunk(2 << 20)]))
        .await
        .unwrap_err();
    assert!(status.message().contains("piece of 2097152 bytes"), "{status:?}");
    let many = stream::iter(vec![chunk(1 << 20); 65]);
    let status = clients.releases.begin(many).await.unwrap_err();
    assert!(status.message().contains("manifest is larger"), "{status:?}");
}

#[tokio::test]
async fn the_newest_session_of_a_host_wins() {
    let store = Store::start().await;
    let mut clients = store.operator().await;
    let first = Agent::start(&store, "h1", &["web"]);
    clients.hosts(&[("h1", "available")]).await;
    let mut rival = Clients::new(store.channel("agent/dev", "h1").await);
    let (keep, rest) = tokio::sync::mpsc::channel(8);
    keep.send(hello("dev", "h1")).await.unwrap();
    let mut answers = rival
        .agents
        .session(ReceiverStream::new(rest))
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().is_some());
    until("the first to be told", || async {
        first.see(|host| {
            host.refusals
                .iter()
                .any(|said| said.contains("newer session"))
                .then_some(())
        })
    })
    .await;
    drop(keep);
}

/// Each in a store of its own, in which it lasts: between the two a test that is made to wait would see only the second.
#[tokio::test]
async fn silence_is_seen_and_a_word_mends_it() {
    for (silent, unavailable_after_ms) in [("uncertain", 3_600_000), ("unavailable", 4_000)] {
        let store = Store::start_with(|settings| {
            settings.uncertain_after_ms = 2_000;
            settings.unavailable_after_ms = unavailable_after_ms;
        })
        .await;
        let mut clients = store.operator().await;
        let (h1, _h2) = (
            Agent::start(&store, "h1", &["web"]),
            Agent::start(&store, "h2", &["web"]),
        );
        clients.hosts(&[("h1", "available"), ("h2", "available")]).await;
        h1.change(|host| host.mute = true);
        clients.hosts(&[("h1", silent), ("h2", "available")]).await;
        h1.change(|host| host.mute = false);
        clients.hosts(&[("h1", "available"), ("h2", "available")]).await;
    }
}

#[tokio::test]
async fn lines_come_from_every_host_in_order_of_time() {
    let store = Store::start().await;
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    let (_h1, h2) = (
        Agent::start(&store, "h1", &["web"]),
        Agent::start(&store, "h2", &["web"]),
    );
    clients.hosts(&[("h1", "available"), ("h2", "available")]).await;
    clients.promote(1).await;
    let mut request = v1::LogsRequest {
        env: "dev".to_owned(),
        app: "web".to_owned(),
        lines: 4,
        ..v1::LogsRequest::default()
    };
    let mut stream = clients.fleet.logs(request.clone()).await.unwrap().into_inner();
    let mut lines = Vec::new();
    while let Some(line) = stream.message().await.unwrap() {
        lines.push(line.line);
    }
    assert_eq!(
        lines,
        ["line 3 of h1", "line 3 of h2", "line 4 of h1", "line 4 of h2"]
    );
    request.host = "h3".to_owned();
    let status = clients.fleet.logs(request.clone()).await.unwrap_err();
    assert!(status.message().contains("h1, h2"), "{}", status.message());
    // A follower sees what comes, and is told when its host is gone.
    request.host = "h2".to_owned();
    request.follow = true;
    let mut stream = clients.fleet.logs(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().line, "line 1 of h2");
    drop(h2);
    loop {
        let line = tokio::time::timeout(PATIENCE, stream.message())
            .await
            .unwrap()
            .unwrap();
        if line.unwrap().line.contains("connection was lost") {
            break;
        }
    }
    // Its lines go on when it is back.
    let _h2 = Agent::start(&store, "h2", &["web"]);
    let line = tokio::time::timeout(PATIENCE, stream.message()).await;
    let line = line.unwrap().unwrap().unwrap().line;
    assert_eq!(line, "line 5 of h2", "not one that was shown, and none left out");
}
