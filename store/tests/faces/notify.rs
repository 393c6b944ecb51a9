//! Routes of `[[notify]]`: whoever is told of what is done, by a program or a web server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use ship_proto::v1;
use ship_store::notify::{NotifySettings, SinkSettings};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::fleet::{Store, http, program, until};

fn command(script: &str) -> SinkSettings {
    let words = ["/bin/sh", "-c", script].map(str::to_owned);
    SinkSettings {
        webhook: None,
        plain_http: false,
        token: None,
        ca: None,
        command: Some(words.to_vec()),
        seconds: 10,
    }
}

fn webhook(url: String) -> SinkSettings {
    SinkSettings {
        webhook: Some(url),
        command: None,
        ..command("")
    }
}

fn route(what: &[&str], sinks: Vec<SinkSettings>) -> NotifySettings {
    NotifySettings {
        name: "pager".parse().unwrap(),
        what: what.iter().map(|&what| what.to_owned()).collect(),
        subject: Vec::new(),
        sinks,
    }
}

/// Appends the message to a file, whole or not at all, unless a file `down` lies beside it.
fn appends(place: &Path) -> SinkSettings {
    let place = place.display();
    command(&format!(
        "test ! -e {place}/down || {{ echo down >&2; exit 1; }}; cat >> {place}/told"
    ))
}

fn told(place: &Path) -> Vec<Value> {
    let text = fs::read_to_string(place.join("told")).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn until_told(place: &Path, count: usize) -> Vec<Value> {
    until(&format!("{count} messages"), || async {
        Some(told(place)).filter(|told| told.len() >= count)
    })
    .await
}

fn subjects(told: &[Value]) -> Vec<&str> {
    told.iter().map(|one| one["subject"].as_str().unwrap()).collect()
}

fn set_down(place: &Path, down: bool) {
    if down {
        fs::File::create(place.join("down")).unwrap();
    } else {
        fs::remove_file(place.join("down")).unwrap();
    }
}

/// Until the store says what is wrong with its one route, or that nothing is.
async fn until_trouble(store: &Store, part: Option<&str>) -> v1::NotifyRoute {
    let clients = store.operator().await;
    until(&format!("trouble: {part:?}"), || {
        let mut clients = clients.clone();
        async move {
            let route = clients.status().await.notify.into_iter().next()?;
            let is_so = match part {
                Some(part) => route.trouble.contains(part) && route.trouble_since_ms > 0,
                None => route.trouble.is_empty() && route.told > 0,
            };
            is_so.then_some(route)
        }
    })
    .await
}

#[tokio::test]
async fn what_is_done_is_told_in_order_and_waits_while_nobody_listens() {
    let place = TempDir::new().unwrap();
    let at = place.path();
    let mut store = Store::start_with(|all| all.notify = vec![route(&["publish"], vec![appends(at)])]).await;
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    clients.publish_page("two").await;
    let first = until_told(at, 2).await;
    assert_eq!(subjects(&first), ["web@1", "web@2"]);
    assert_eq!(first[0]["what"], "publish");
    assert!(
        first[0]["who"].as_str().unwrap().starts_with("operator/"),
        "{first:?}"
    );
    assert!(first[0]["seq"].as_u64() < first[1]["seq"].as_u64());

    set_down(at, true);
    clients.publish_page("three").await;
    let trouble = until_trouble(&store, Some("down")).await;
    assert!(trouble.failed > 0 && trouble.seq > 0, "{trouble:?}");
    clients.publish_page("four").await;
    // The chain is the spool: a store that is killed tells later what it could not.
    store.kill();
    set_down(at, false);
    store.serve().await;
    let all = until_told(at, 4).await;
    assert_eq!(subjects(&all), ["web@1", "web@2", "web@3", "web@4"]);
    until_trouble(&store, None).await;
}

#[tokio::test]
async fn only_what_a_route_is_about_is_told_and_nothing_from_before_it_was_there() {
    let place = TempDir::new().unwrap();
    let at = place.path();
    let mut store = Store::start().await;
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    assert!(store.stop().success());
    let with = |subject: &str| {
        let mut settings = ship_store::settings::Settings::read(&store.folder()).unwrap();
        let mut route = route(&["publish", "pin"], vec![appends(at)]);
        route.subject = vec![subject.to_owned()];
        settings.notify = vec![route];
        settings.write(&store.folder()).unwrap();
    };
    with("web@*");
    store.serve().await;
    let mut clients = store.operator().await;
    clients.publish("docs", &[("index.html", b"one")]).await.unwrap();
    clients.publish_page("two").await;
    assert_eq!(subjects(&until_told(at, 1).await), ["web@2"]);
    clients.publish_page("three").await;
    assert_eq!(subjects(&until_told(at, 2).await), ["web@2", "web@3"]);
}

#[tokio::test]
async fn a_store_that_dies_before_it_knows_that_a_message_was_taken_tells_it_again() {
    let place = TempDir::new().unwrap();
    let at = place.path();
    // Takes the message and keeps the store waiting until it is killed.
    let holds = command(&format!(
        "cat >> {0}/told; while test ! -e {0}/go; do sleep 0.02; done",
        at.display()
    ));
    let mut store = Store::start_with(|all| all.notify = vec![route(&["publish"], vec![holds])]).await;
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    until_told(at, 1).await;
    store.kill();
    fs::File::create(at.join("go")).unwrap();
    store.serve().await;
    let all = until_told(at, 2).await;
    assert_eq!(all[0], all[1], "its number tells that it is the same");
    let mut clients = store.operator().await;
    clients.publish_page("two").await;
    assert_eq!(subjects(&until_told(at, 3).await), ["web@1", "web@1", "web@2"]);
}

/// `Authorization`, and the body.
type Post = (Option<String>, Value);

/// What a web server was asked.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Post>>>);

async fn answer(State(asked): State<Asked>, headers: HeaderMap, body: String) -> StatusCode {
    let token = headers.get("authorization");
    let token = token.map(|token| token.to_str().unwrap().to_owned());
    let mut asked = asked.0.lock().unwrap();
    asked.push((token, serde_json::from_str(&body).unwrap()));
    StatusCode::NO_CONTENT
}

fn server(asked: &Asked) -> axum::Router {
    axum::Router::new()
        .route("/hook", axum::routing::post(answer))
        .route(
            "/elsewhere",
            axum::routing::post(|| async { axum::response::Redirect::temporary("/hook") }),
        )
        .route(
            "/angry",
            axum::routing::post(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "not\ttoday") }),
        )
        .with_state(asked.clone())
}

/// A web server on loopback; it ends with the test's runtime.
async fn serve(asked: &Asked) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = server(asked);
    tokio::spawn(async move { axum::serve(listener, server).await });
    format!("http://{address}")
}

#[tokio::test]
async fn the_next_sink_is_told_when_the_one_before_cannot_be() {
    let place = TempDir::new().unwrap();
    let at = place.path();
    let asked = Asked::default();
    let url = serve(&asked).await;
    for refuses in ["/elsewhere", "/angry", "/not-there"] {
        let sinks = vec![webhook(format!("{url}{refuses}")), appends(at)];
        let store = Store::start_with(|all| all.notify = vec![route(&["publish"], sinks)]).await;
        let mut clients = store.operator().await;
        clients.publish_page("one").await;
        assert_eq!(subjects(&until_told(at, 1).await), ["web@1"]);
        let route = until_trouble(&store, None).await;
        assert_eq!((route.told, route.failed), (1, 1), "{refuses}");
        fs::remove_file(at.join("told")).unwrap();
    }
    // The token is for one server: nobody was sent on.
    assert!(asked.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_webhook_gets_the_message_and_its_token() {
    let asked = Asked::default();
    let url = serve(&asked).await;
    let mut sink = webhook(format!("{url}/hook"));
    sink.token = Some("pager.token".into());
    let mut store = Store::start_with(|all| all.notify = vec![route(&["publish"], vec![sink])]).await;
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    until_trouble(&store, Some("pager.token")).await;
    let token = store.folder().join("pager.token");
    ship_durable::write_file(&token, b"s3cret\n").unwrap();
    let set = |mode| fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
    set(0o644);
    until_trouble(&store, Some("read by everybody")).await;
    set(0o600);
    until_trouble(&store, None).await;
    let got = asked.0.lock().unwrap().clone();
    let [(token, message)] = &got[..] else {
        panic!("{got:?}");
    };
    assert_eq!(token.as_deref(), Some("Bearer s3cret"));
    assert_eq!(message["subject"], "web@1");
    let (log, metrics) = (store.log(), metrics(&store).await);
    assert!(!log.contains("s3cret"), "{log}");
    assert!(
        metrics.contains("ship_notify_told_total{route=\"pager\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("ship_notify_trouble{route=\"pager\"} 0"),
        "{metrics}"
    );
    assert!(store.stop().success());
}

async fn metrics(store: &Store) -> String {
    let (_, _, page) = http(store.addresses().assets, None, "GET", "/metrics", "").await;
    String::from_utf8_lossy(&page).into_owned()
}

/// The same with TLS, and a certificate that only its own file vouches for.
async fn serve_tls(asked: &Asked, place: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    ship_durable::write_file(&place.join("ca.pem"), made.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server(asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = hyper_util::service::TowerToHyperService::new(server);
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service)
                    .await;
            });
        }
    });
    format!("https://localhost:{port}")
}

/// Runs `shipstore notify`; whether it went well, and what it said.
fn tried(store: &Store, name: &str) -> (bool, String) {
    let mut command = program();
    command.args(["notify", name, "--dir"]).arg(store.folder());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_can_be_tried() {
    let place = TempDir::new().unwrap();
    let asked = Asked::default();
    let url = serve_tls(&asked, place.path()).await;
    let mut trusted = webhook(format!("{url}/hook"));
    trusted.ca = Some(place.path().join("ca.pem"));
    let routes = vec![
        route(&[], vec![trusted.clone()]),
        NotifySettings {
            name: "others".parse().unwrap(),
            ..route(
                &[],
                vec![trusted, webhook(format!("{url}/hook")), command("exit 7")],
            )
        },
    ];
    let store = Store::start_with(|all| all.notify = routes).await;
    let (ok, said) = tried(&store, "pager");
    assert!(ok && said.contains("took it"), "{said}");
    let message = asked.0.lock().unwrap()[0].1.clone();
    assert_eq!(
        (&message["test"], &message["route"]),
        (&true.into(), &"pager".into())
    );
    let (ok, said) = tried(&store, "others");
    assert!(
        !ok && said.contains("2 of 3 sinks") && said.contains("certificate"),
        "{said}"
    );
    assert!(said.contains("7"), "{said}");
    let (ok, said) = tried(&store, "nobody");
    assert!(!ok && said.contains("pager, others"), "{said}");
}
