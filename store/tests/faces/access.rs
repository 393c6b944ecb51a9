//! Who may do what, and how a refusal sounds.

use std::path::Path;

use futures::stream;
use ship_proto::failure_of;
use ship_proto::v1::{self, FailureKind};
use tonic::{Code, Status};

use crate::fleet::{Clients, Store, channel, http, own_ip, plan, program, until};

fn kind(status: &Status) -> FailureKind {
    failure_of(status).expect("a reason beside the status").kind()
}

/// Makes every call with one certificate; for each whether its role let it through.
async fn calls(clients: &mut Clients) -> Vec<(&'static str, Result<(), Status>)> {
    let begin = stream::iter([v1::BeginChunk::default()]);
    let upload = stream::iter([v1::UploadChunk::default()]);
    let delta = stream::iter([v1::UploadDeltaChunk::default()]);
    let locate = stream::iter([v1::LocateRequest::default()]);
    let missing = stream::iter([v1::MissingRequest::default()]);
    let (releases, rollouts, fleet) = (&mut clients.releases, &mut clients.rollouts, &mut clients.fleet);
    let assets = &mut clients.assets;
    vec![
        ("Begin", releases.begin(begin).await.map(drop)),
        ("Missing", releases.missing(missing).await.map(drop)),
        ("Upload", releases.upload(upload).await.map(drop)),
        ("UploadDelta", releases.upload_delta(delta).await.map(drop)),
        (
            "Commit",
            releases.commit(v1::CommitRequest::default()).await.map(drop),
        ),
        (
            "List",
            releases.list(v1::ListReleasesRequest::default()).await.map(drop),
        ),
        (
            "Get",
            releases.get(v1::GetReleaseRequest::default()).await.map(drop),
        ),
        (
            "Manifest",
            releases.manifest(v1::ManifestRequest::default()).await.map(drop),
        ),
        ("Locate", releases.locate(locate).await.map(drop)),
        (
            "Deltas",
            releases.deltas(v1::DeltasRequest::default()).await.map(drop),
        ),
        (
            "Leaves",
            releases.leaves(v1::LeavesRequest::default()).await.map(drop),
        ),
        ("Pin", releases.pin(v1::PinRequest::default()).await.map(drop)),
        (
            "Collect",
            releases.collect(v1::CollectRequest::default()).await.map(drop),
        ),
        ("Plan", rollouts.plan(plan(1)).await.map(drop)),
        ("Promote", rollouts.promote(plan(1)).await.map(drop)),
        ("Revert", rollouts.revert(plan(1)).await.map(drop)),
        (
            "Watch",
            rollouts.watch(v1::WatchRequest::default()).await.map(drop),
        ),
        (
            "Control",
            rollouts.control(v1::ControlRequest::default()).await.map(drop),
        ),
        (
            "Answer",
            rollouts.answer(v1::AnswerRequest::default()).await.map(drop),
        ),
        (
            "Apply",
            clients
                .environments
                .apply(v1::ApplyRequest::default())
                .await
                .map(drop),
        ),
        (
            "Show",
            clients
                .environments
                .show(v1::ShowEnvironmentRequest::default())
                .await
                .map(drop),
        ),
        (
            "Status",
            fleet.status(v1::StatusRequest::default()).await.map(drop),
        ),
        ("Logs", fleet.logs(v1::LogsRequest::default()).await.map(drop)),
        (
            "Events",
            fleet.events(v1::EventsRequest::default()).await.map(drop),
        ),
        ("Host", fleet.host(v1::HostRequest::default()).await.map(drop)),
        (
            "Look",
            assets.look(v1::LookAssetsRequest::default()).await.map(drop),
        ),
        (
            "Find",
            assets.find(v1::FindAssetRequest::default()).await.map(drop),
        ),
        (
            "Sweep",
            assets.sweep(v1::SweepAssetsRequest::default()).await.map(drop),
        ),
        (
            "Expired",
            assets.expired(v1::ExpiredRequest::default()).await.map(drop),
        ),
        (
            "Push",
            assets.push(v1::PushAssetsRequest::default()).await.map(drop),
        ),
        (
            "Session",
            clients
                .agents
                .session(stream::iter([v1::AgentMessage::default()]))
                .await
                .map(drop),
        ),
        (
            "Give",
            clients
                .agents
                .give(stream::iter([v1::GiveChunk::default()]))
                .await
                .map(drop),
        ),
    ]
}

#[tokio::test]
async fn each_role_may_do_its_part_and_nothing_else() {
    let store = Store::start().await;
    let look = [
        "List", "Get", "Manifest", "Locate", "Deltas", "Leaves", "Plan", "Watch", "Status", "Logs", "Events",
        "Look", "Find", "Expired", "Show",
    ];
    let publish = ["Begin", "Missing", "Upload", "UploadDelta", "Commit"];
    let operate = [
        "Promote", "Revert", "Control", "Answer", "Sweep", "Push", "Pin", "Collect", "Apply", "Host",
    ];
    let fetch = [
        "Get", "Manifest", "Locate", "Deltas", "Leaves", "Find", "Expired", "Session", "Give",
    ];
    for (role, allowed) in [
        ("viewer", look.to_vec()),
        ("publisher", [&look[..], &publish].concat()),
        ("operator", [&look[..], &publish, &operate].concat()),
        ("agent/dev", fetch.to_vec()),
    ] {
        let mut clients = Clients::new(store.channel(role, "someone").await);
        let calls = calls(&mut clients).await;
        assert_eq!(
            calls.len(),
            ship_store::grpc::access::TABLE.len(),
            "a call is missing here"
        );
        for (call, done) in calls {
            let denied = done
                .as_ref()
                .err()
                .filter(|status| status.code() == Code::PermissionDenied);
            assert_eq!(
                denied.is_none(),
                allowed.contains(&call),
                "{role} {call}: {done:?}"
            );
            if let Some(status) = denied {
                assert_eq!(kind(status), FailureKind::Denied);
                let who = format!("{role}/someone");
                assert!(status.message().contains(&who), "{}", status.message());
                assert!(
                    status.message().contains("needs the role"),
                    "{}",
                    status.message()
                );
            }
        }
    }
}

#[tokio::test]
async fn without_a_certificate_only_health_is_answered() {
    let store = Store::start().await;
    let nobody = store.dir.path().join("nobody");
    std::fs::create_dir(&nobody).unwrap();
    std::fs::copy(store.folder().join("tls/ca.pem"), nobody.join("ca.pem")).unwrap();
    let mut clients = Clients::new(channel(store.addresses().grpc, &nobody).await.unwrap());
    for (call, done) in calls(&mut clients).await {
        let status = done.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{call}");
        assert!(
            status.message().contains("no client certificate"),
            "{call}: {}",
            status.message()
        );
    }
    let grpc = store.addresses().grpc;
    assert_eq!(http(grpc, Some(&nobody), "GET", "/healthz", "").await.0, 200);
    let digest = "a".repeat(64);
    let bundle = http(grpc, Some(&nobody), "GET", &format!("/bundles/{digest}"), "").await;
    assert_eq!(bundle.0, 401);
}

/// What a client with this certificate gets from the store.
async fn greeted(store: &Store, folder: &Path) -> Result<(), String> {
    let channel = channel(store.addresses().grpc, folder)
        .await
        .map_err(|error| format!("{error:?}"))?;
    let status = Clients::new(channel)
        .fleet
        .status(v1::StatusRequest::default())
        .await;
    status.map(drop).map_err(|status| format!("{status:?}"))
}

#[tokio::test]
async fn another_fleets_certificate_fails_the_handshake() {
    let (ours, theirs) = tokio::join!(Store::start(), Store::start());
    let stranger = theirs.certificate("operator", "mallory");
    // The stranger trusts our store, and shows its own certificate.
    std::fs::copy(ours.folder().join("tls/ca.pem"), stranger.join("ca.pem")).unwrap();
    let refused = greeted(&ours, &stranger).await.unwrap_err();
    // What the client sees of it depends on what it wrote when the store hung up; the store knows.
    assert!(
        !refused.contains("Denied") && !refused.contains("Unauthenticated"),
        "{refused}"
    );
    // It counts after it has hung up.
    let figures = until("the refusal to be counted", || async {
        let answer = http(ours.addresses().assets, None, "GET", "/metrics", "").await;
        let figures = String::from_utf8(answer.2).unwrap();
        (!figures.contains("\nship_handshakes_refused_total 0\n")).then_some(figures)
    })
    .await;
    assert!(figures.contains("\nship_connections_total 0\n"), "{figures}");
    assert_eq!(greeted(&ours, &ours.certificate("viewer", "bob")).await, Ok(()));
    // And a client does not speak to a store of another fleet.
    let fooled = channel(theirs.addresses().grpc, &ours.certificate("viewer", "bob")).await;
    assert!(format!("{:?}", fooled.unwrap_err()).contains("BadSignature"));
}

#[tokio::test]
async fn certificates_are_reloaded_while_connections_stay() {
    let store = Store::start().await;
    let viewer = store.certificate("viewer", "bob");
    let mut old = Clients::new(channel(store.addresses().grpc, &viewer).await.unwrap());
    old.status().await;
    // A wholly new fleet takes the old one's place: its CA, the store's certificate, a viewer's.
    let next = Store::start().await;
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        let (from, to) = (
            next.folder().join("tls").join(file),
            store.folder().join("tls").join(file),
        );
        let content = std::fs::read(from).unwrap();
        ship_durable::write_private_file(&to, &content).unwrap();
    }
    crate::fleet::signal(store.pid(), rustix::process::Signal::HUP);
    let new = next.certificate("viewer", "carol");
    until("the new certificates to count", || async {
        greeted(&store, &new).await.ok()
    })
    .await;
    assert!(greeted(&store, &viewer).await.is_err(), "the old CA still counts");
    old.status().await;
    // What cannot be read changes nothing.
    ship_durable::write_file(&store.folder().join("tls/cert.pem"), b"no certificate").unwrap();
    crate::fleet::signal(store.pid(), rustix::process::Signal::HUP);
    until("the refusal", || async {
        store
            .log()
            .contains("certificates cannot be reloaded")
            .then_some(())
    })
    .await;
    assert_eq!(greeted(&store, &new).await, Ok(()));
}

#[tokio::test]
async fn a_store_folder_is_guarded() {
    let mut store = Store::start_with(|settings| {
        settings.listen.set_ip(own_ip().into());
        settings.assets_listen.set_ip(own_ip().into());
    })
    .await;
    let second = program()
        .args(["serve", "--dir"])
        .arg(store.folder())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1));
    assert!(said.contains(&format!("process {}", store.pid())), "{said}");
    // A port that somebody else has.
    let taken = store.addresses().grpc;
    let mut other = Store::start().await;
    let folder = other.folder();
    assert!(other.stop().success());
    let listen = taken.to_string();
    let output = program()
        .args(["serve", "--listen", &listen, "--dir"])
        .arg(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&listen) && said.contains("--listen"), "{said}");
    // A damaged index heals by itself; the same addresses are taken again.
    let before = store.addresses();
    store.operator().await.publish_page("one").await;
    store.kill();
    for file in ["db", "conf"] {
        let path = store.folder().join("catalog/index").join(file);
        ship_durable::write_file(&path, b"no longer what it was").unwrap();
    }
    store.serve().await;
    assert!(store.log().contains("was made anew"), "{}", store.log());
    let after = store.addresses();
    assert_eq!((after.grpc, after.assets), (before.grpc, before.assets));
    let list = store
        .operator()
        .await
        .releases
        .list(v1::ListReleasesRequest::default())
        .await
        .unwrap();
    assert_eq!(list.into_inner().releases.len(), 1);
    let nothing = program().args(["serve", "--dir", "/nowhere"]).output().unwrap();
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("shipstore init"));
}
