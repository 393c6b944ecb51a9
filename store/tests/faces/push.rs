//! Assets pushed to a folder and to a bucket: an asset host of its own, which the barrier waits for.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ship_model::name::HostName;
use ship_proto::v1::{self, OutcomeKind};
use ship_store::push::{BucketSettings, PushSettings};
use tempfile::TempDir;

use crate::agent::Agent;
use crate::fleet::{Clients, Store, http, outcome, plan, until};

fn push(folder: Option<PathBuf>, s3: Option<BucketSettings>) -> PushSettings {
    PushSettings {
        name: HostName::new("cdn").unwrap(),
        env: "dev".parse().unwrap(),
        apps: Vec::new(),
        url: Some("https://cdn.example.com".to_owned()),
        folder,
        s3,
    }
}

/// The name of the one asset of `publish_page(text)`.
fn asset(text: &str) -> String {
    format!("static/app.{}.js", &blake3::hash(text.as_bytes()).to_hex()[..16])
}

/// A store that pushes, a host that runs web, and web@1 published.
async fn begin(settings: PushSettings) -> (Store, Clients, Agent) {
    let store = Store::start_with(|all| all.push = vec![settings]).await;
    let web = Agent::start(&store, "h1", &["web"]);
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    clients.hosts(&[("cdn", "available"), ("h1", "available")]).await;
    (store, clients, web)
}

/// What the push says that it cannot do.
async fn refusal(clients: &Clients) -> String {
    let found = || {
        let mut clients = clients.clone();
        async move {
            let status = clients.status().await;
            let cdn = status.hosts.iter().find(|host| host.host == "cdn")?.clone();
            let failure = cdn.report?.apps.first()?.failure.clone()?;
            Some(failure.reason)
        }
    };
    until("the push to say what is wrong", found).await
}

#[tokio::test]
async fn no_host_is_switched_before_the_folder_has_all() {
    let place = TempDir::new().unwrap();
    let (folder, away) = (place.path().join("cdn"), place.path().join("away"));
    fs::create_dir(&folder).unwrap();
    let (mut store, mut clients, web) = begin(push(Some(folder.clone()), None)).await;
    assert_eq!(outcome(&clients.promote(1).await), OutcomeKind::Done);
    assert_eq!(fs::read(folder.join(asset("one"))).unwrap(), b"one");

    // The mount is gone: nothing is written below it, and nothing is switched.
    ship_durable::rename(&folder, &away).unwrap();
    clients.publish_page("two").await;
    let started = clients.rollouts.promote(plan(2)).await.unwrap().into_inner();
    let said = refusal(&clients).await;
    assert!(said.contains("is not there: mount it or make it"), "{said}");
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

/// A file of the same name with other bytes is never replaced, and nobody is switched to a page that would get it.
#[tokio::test]
async fn other_bytes_in_the_folder_are_never_replaced() {
    let place = TempDir::new().unwrap();
    let taken = place.path().join(asset("one"));
    fs::create_dir(place.path().join("static")).unwrap();
    ship_durable::write_file(&taken, b"another's").unwrap();
    let (_store, mut clients, web) = begin(push(Some(place.path().to_owned()), None)).await;
    clients.rollouts.promote(plan(1)).await.unwrap();
    let said = refusal(&clients).await;
    assert!(said.contains(&asset("one")), "{said}");
    assert_eq!(fs::read(&taken).unwrap(), b"another's");
    assert_eq!(web.running(), None);
}

/// An S3 server, ended with its test.
struct Moto {
    child: Child,
    addr: SocketAddr,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    /// None when it is not installed, which is said.
    async fn start() -> Option<Self> {
        let cache = std::env::var_os("SHIP_TESTS_CACHE").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache"));
        let program = cache.join("moto/bin/moto_server");
        if !program.exists() {
            skipped("push to a bucket", "moto is not installed: run tests/setup");
            return None;
        }
        let addr = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &addr.port().to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let moto = Self {
            child: command.spawn().unwrap(),
            addr,
        };
        until("the S3 server", || async {
            tokio::net::TcpStream::connect(addr).await.ok()
        })
        .await;
        assert_eq!(
            http(addr, None, "PUT", "/assets", "content-length: 0\r\n")
                .await
                .0,
            200
        );
        Some(moto)
    }
}

fn skipped(test: &str, why: &str) {
    use std::io::Write as _;
    eprintln!("SKIPPED {test}: {why}");
    if let Some(path) = std::env::var_os("SHIP_TESTS_SKIPPED") {
        let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {why}").unwrap();
    }
}

#[tokio::test]
async fn a_bucket_is_filled_and_never_written_twice() {
    let Some(moto) = Moto::start().await else { return };
    let keys = TempDir::new().unwrap();
    let credentials = keys.path().join("s3.toml");
    let settings = BucketSettings {
        bucket: "assets".to_owned(),
        endpoint: Some(format!("http://{}", moto.addr)),
        region: "us-east-1".to_owned(),
        prefix: "web".to_owned(),
        credentials: credentials.clone(),
        plain_http: true,
    };
    let (_store, mut clients, web) = begin(push(None, Some(settings))).await;
    let started = clients.rollouts.promote(plan(1)).await.unwrap().into_inner();
    let said = refusal(&clients).await;
    assert!(said.contains("s3.toml"), "{said}");
    ship_durable::write_file(
        &credentials,
        b"access_key_id = \"a\"\nsecret_access_key = \"s\"\n",
    )
    .unwrap();
    assert_eq!(outcome(&clients.end(&started).await), OutcomeKind::Done);
    let path = format!("/assets/web/{}", asset("one"));
    let (status, head, body) = http(moto.addr, None, "GET", &path, "").await;
    assert_eq!((status, &body[..]), (200, &b"one"[..]));
    for header in ["immutable", "text/javascript", &blake3::hash(b"one").to_hex()] {
        assert!(head.contains(header), "{head}");
    }

    // What somebody else put there: the same bytes are as good, others are refused.
    let there = format!("/assets/web/{}", asset("two"));
    put(moto.addr, &there, "two").await;
    clients.publish_page("two").await;
    assert_eq!(outcome(&clients.promote(2).await), OutcomeKind::Done);
    let there = format!("/assets/web/{}", asset("three"));
    put(moto.addr, &there, "THREE").await;
    clients.publish_page("three").await;
    clients.rollouts.promote(plan(3)).await.unwrap();
    let said = refusal(&clients).await;
    assert!(said.contains("other bytes"), "{said}");
    assert_eq!(http(moto.addr, None, "GET", &there, "").await.2, b"THREE");
    assert_eq!(web.running(), Some(2));
}

async fn put(addr: SocketAddr, path: &str, body: &str) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "PUT {path} HTTP/1.1\r\nhost: s3\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
