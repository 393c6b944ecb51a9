//! Assets pushed to a bucket of a real S3 server, through a front that counts requests and stands in their way.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ship_model::name::HostName;
use ship_proto::v1::OutcomeKind;
use ship_store::push::{BucketSettings, PushSettings};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::assets::{begin_sweep, end_sweep, store_of_old_releases, sweep};
use crate::fleet::{PATIENCE, http, outcome, own_ip, plan, until, until_within};
use crate::push::{asset, begin, pushed, refusal};

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
        // None of the ports that the kernel gives away; and nobody has bound it to find it free, so that no process that another
        // test is just starting holds it.
        static NEXT: AtomicU16 = AtomicU16::new(10_000);
        let addr = SocketAddr::from((own_ip(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut command = Command::new(program);
        command.args(["-H", &addr.ip().to_string(), "-p", &addr.port().to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let moto = Self { child, addr };
        until_within(PATIENCE * 3, "the S3 server", || async {
            TcpStream::connect(addr).await.ok()
        })
        .await;
        Some(moto)
    }

    async fn put(&self, path: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "PUT {path} HTTP/1.1\r\nhost: s3\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let answer = exchange(self.addr, request.as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    }

    /// The head and the body of an object.
    async fn object(&self, name: &str) -> (u16, String, Vec<u8>) {
        // Objects are private; this server takes any signature.
        let signed = "authorization: AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, \
                      SignedHeaders=host, Signature=00\r\n";
        http(self.addr, None, "GET", &format!("/assets/web/{name}"), signed).await
    }
}

#[expect(clippy::print_stderr, reason = "a test that was not run must be seen")]
fn skipped(test: &str, why: &str) {
    use std::io::Write as _;
    eprintln!("SKIPPED {test}: {why}");
    if let Some(path) = std::env::var_os("SHIP_TESTS_SKIPPED") {
        let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {why}").unwrap();
    }
}

async fn exchange(addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

/// What the front does with requests that write.
#[derive(Debug, Clone, Copy)]
enum Way {
    Open,
    /// Answers with this status.
    Refuse(&'static str),
    /// Lets so many through, and answers no more.
    Hang {
        after: usize,
    },
}

#[derive(Clone)]
struct Front {
    addr: SocketAddr,
    way: Arc<Mutex<Way>>,
    /// The first lines of the requests that were let through and write.
    written: Arc<Mutex<Vec<String>>>,
    /// How many of them were answered.
    answered: Arc<AtomicUsize>,
    /// Connections that were taken and have not ended.
    open: Arc<AtomicUsize>,
}

impl Front {
    async fn start(of: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let front = Self {
            addr: listener.local_addr().unwrap(),
            way: Arc::new(Mutex::new(Way::Open)),
            written: Arc::default(),
            answered: Arc::default(),
            open: Arc::default(),
        };
        let serving = front.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                serving.open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let open = Arc::clone(&serving.open);
                    serving.serve(stream, of).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        front
    }

    /// Waits until nothing is left of a store that is dead: what it had sent before is met by the way that was told then.
    async fn quiet(&self) {
        // Taken after all that were there before.
        let mut last = TcpStream::connect(self.addr).await.unwrap();
        last.shutdown().await.unwrap();
        last.read_to_end(&mut Vec::new()).await.unwrap();
        until("all connections of the dead store to end", || async {
            (self.open.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await;
    }

    fn goes(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    fn written(&self) -> Vec<String> {
        self.written.lock().unwrap().clone()
    }

    /// One request for each connection.
    async fn serve(self, mut stream: TcpStream, of: SocketAddr) -> Option<()> {
        let request = read(&mut stream).await?;
        let first = request.split(|byte| *byte == b'\r').next().unwrap();
        let first = String::from_utf8(first.to_vec()).unwrap();
        if !first.starts_with("PUT") && !first.starts_with("POST") {
            return stream.write_all(&exchange(of, &request).await).await.ok();
        }
        match self.enter(first) {
            Ok(()) => {
                let answer = exchange(of, &request).await;
                self.answered.fetch_add(1, Ordering::SeqCst);
                stream.write_all(&answer).await.ok()
            }
            Err(Some(status)) => {
                let (body, end) = ("<Error><Key>the-secret</Key></Error>", "connection: close");
                let length = body.len();
                let answer = format!("HTTP/1.1 {status}\r\n{end}\r\ncontent-length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.ok()
            }
            // Until whoever asked has gone.
            Err(None) => stream.read_u8().await.ok().map(drop),
        }
    }

    /// Notes a request that writes if it may pass; else the status to answer with, if any.
    fn enter(&self, first: String) -> Result<(), Option<&'static str>> {
        let way = *self.way.lock().unwrap();
        let mut written = self.written.lock().unwrap();
        match way {
            Way::Refuse(status) => return Err(Some(status)),
            Way::Hang { after } if written.len() >= after => return Err(None),
            Way::Open | Way::Hang { .. } => written.push(first),
        }
        Ok(())
    }
}

/// A whole request, changed so that its connection ends with it.
async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut bytes, end) = (Vec::new(), b"\r\n\r\n");
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == end) {
            break at;
        }
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.eq_ignore_ascii_case("content-length")).then(|| value.trim().parse::<usize>().unwrap())
    });
    while bytes.len() < head + end.len() + length.unwrap_or(0) {
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    }
    let mut request = format!("{text}\r\nconnection: close\r\n\r\n").into_bytes();
    request.extend_from_slice(&bytes[head + end.len()..]);
    Some(request)
}

fn push(front: &Front, credentials: &Path) -> PushSettings {
    PushSettings {
        name: HostName::new("cdn").unwrap(),
        env: "dev".parse().unwrap(),
        apps: Vec::new(),
        url: Some("https://cdn.example.com".to_owned()),
        folder: None,
        keep: false,
        s3: Some(BucketSettings {
            endpoint: Some(format!("http://{}", front.addr)),
            prefix: "web".to_owned(),
            credentials: Some(credentials.to_owned()),
            plain_http: true,
            ..BucketSettings::of("assets")
        }),
    }
}

const KEYS: &str = "s3.toml";

/// A server with an empty bucket, what stands before it, and a folder with the keys; none where there is no server.
async fn bucket() -> Option<(Moto, Front, TempDir)> {
    let moto = Moto::start().await?;
    let front = Front::start(moto.addr).await;
    moto.put("/assets", "").await;
    let place = TempDir::new().unwrap();
    write_keys(&place.path().join(KEYS));
    Some((moto, front, place))
}

fn write_keys(path: &Path) {
    let keys = b"access_key_id = \"a\"\nsecret_access_key = \"the-secret\"\n";
    ship_durable::write_file(path, keys).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Keys, bucket and answers that are wrong are named, hold the barrier, and are tried again.
#[tokio::test]
async fn no_host_is_switched_before_the_bucket_has_all() {
    let Some(moto) = Moto::start().await else { return };
    let front = Front::start(moto.addr).await;
    let place = TempDir::new().unwrap();
    let keys = place.path().join(KEYS);
    let (store, mut clients, web) = begin(push(&front, &keys)).await;
    let started = clients.rollouts.promote(plan(1)).await.unwrap().into_inner();
    refusal(&clients, "s3.toml").await;
    write_keys(&keys);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    refusal(&clients, "everybody may read the keys").await;
    ship_durable::write_file(&keys, b"secret_access_key = \"the-secret\" \"\n").unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    refusal(&clients, "is no TOML file with access_key_id").await;
    write_keys(&keys);
    let bucket = format!("there is no bucket assets at http://{}", front.addr);
    refusal(&clients, &bucket).await;
    moto.put("/assets", "").await;
    front.goes(Way::Refuse("403 Forbidden"));
    refusal(&clients, "refused the keys in").await;
    front.goes(Way::Refuse("503 Slow Down"));
    refusal(&clients, "is asked again by itself").await;
    assert_eq!(web.running(), None);
    assert_eq!(moto.object(&asset("one")).await.0, 404);
    front.goes(Way::Open);
    assert_eq!(outcome(&clients.end(&started).await), OutcomeKind::Done);
    assert_eq!(web.running(), Some(1));
    let (status, head, body) = moto.object(&asset("one")).await;
    assert_eq!((status, &body[..]), (200, &b"one"[..]));
    let head = head.to_ascii_lowercase();
    let digest = blake3::hash(b"one").to_hex();
    for words in [
        "cache-control: public, max-age=31536000, immutable",
        "content-type: text/javascript",
        digest.as_str(),
    ] {
        assert!(head.contains(words), "{head}");
    }
    assert!(!head.contains("content-encoding"), "{head}");
    assert!(!store.log().contains("the-secret"), "{}", store.log());
}

/// What somebody else put there is as good when its bytes are the same, and never replaced.
#[tokio::test]
async fn other_bytes_in_the_bucket_are_never_replaced() {
    let Some((moto, front, keys)) = bucket().await else {
        return;
    };
    let (_store, mut clients, web) = begin(push(&front, &keys.path().join(KEYS))).await;
    moto.put(&format!("/assets/web/{}", asset("one")), "one").await;
    assert_eq!(outcome(&clients.promote(1).await), OutcomeKind::Done);
    assert_eq!(front.written(), [""; 0]);

    moto.put(&format!("/assets/web/{}", asset("two")), "TWO").await;
    clients.publish_page("two").await;
    clients.rollouts.promote(plan(2)).await.unwrap();
    let said = refusal(&clients, "other bytes").await;
    assert!(said.contains(&asset("two")), "{said}");
    assert_eq!(moto.object(&asset("two")).await.2, b"TWO");
    assert_eq!(web.running(), Some(1));
}

/// A store that is killed in the middle sends only what lacks when it is back; also of an asset that goes in parts.
#[tokio::test]
async fn a_push_that_was_killed_sends_only_what_lacks() {
    let Some((moto, front, keys)) = bucket().await else {
        return;
    };
    let (mut store, mut clients, web) = begin(push(&front, &keys.path().join(KEYS))).await;
    assert_eq!(outcome(&clients.promote(1).await), OutcomeKind::Done);
    let large = vec![b'x'; 11 << 20];
    let mut files: Vec<(String, Vec<u8>)> = (0..6u8)
        .map(|n| (asset(&n.to_string()), n.to_string().into_bytes()))
        .collect();
    files.push((
        format!("static/large.{}.js", &blake3::hash(&large).to_hex()[..16]),
        large,
    ));
    let named: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), &bytes[..]))
        .collect();
    clients.publish("web", &named).await.unwrap();
    let before = front.written().len();
    front.goes(Way::Hang { after: before + 3 });
    let started = clients.rollouts.promote(plan(2)).await.unwrap().into_inner();
    until("three to be there", || async {
        (front.answered.load(Ordering::SeqCst) == before + 3).then_some(())
    })
    .await;
    assert_eq!(web.running(), Some(1));
    store.kill();
    front.quiet().await;
    front.goes(Way::Open);
    store.serve().await;
    let mut clients = store.operator().await;
    assert_eq!(outcome(&clients.end(&started).await), OutcomeKind::Done);
    for (name, bytes) in &files {
        assert_eq!(moto.object(name).await.2, *bytes, "{name}");
    }
    let written = front.written();
    for (name, _) in &files[..6] {
        let times = written.iter().filter(|line| line.contains(name)).count();
        assert_eq!(times, 1, "{name}: {written:#?}");
    }
    let parts = written.iter().filter(|line| line.contains("partNumber=")).count();
    assert_eq!(parts, 3, "{written:#?}");
}

const PAGES: [&str; 7] = ["one", "two", "three", "four", "five", "six", "seven"];

impl Moto {
    /// Which of the pages' assets are there.
    async fn standing(&self) -> Vec<&'static str> {
        let mut standing = Vec::new();
        for text in PAGES {
            let (status, _, body) = self.object(&asset(text)).await;
            if status == 200 {
                assert_eq!(body, text.as_bytes());
                standing.push(text);
            }
        }
        standing
    }
}

impl Front {
    fn deleted(&self) -> usize {
        let written = self.written();
        written.iter().filter(|line| line.contains("?delete")).count()
    }
}

#[tokio::test]
async fn what_expired_goes_from_the_bucket_and_comes_back_before_any_host_is_switched() {
    let Some((moto, front, keys)) = bucket().await else {
        return;
    };
    // Of these bytes somebody else says that they are theirs.
    moto.put(&format!("/assets/web/{}", asset("two")), "two").await;
    let settings = push(&front, &keys.path().join(KEYS));
    let (mut store, mut clients, web) = store_of_old_releases(|all| all.push = vec![settings]).await;
    assert_eq!(moto.standing().await, PAGES);
    let followed = sweep(&mut clients).await;
    assert!(followed.done.contains(&"dev/cdn".to_owned()), "{followed:?}");
    assert_eq!(
        moto.standing().await,
        ["two", "three", "four", "five", "six", "seven"]
    );
    assert_eq!(front.deleted(), 1);
    // Neither a restart brings it back, nor what else is promoted.
    store.kill();
    store.serve().await;
    let mut clients = store.operator().await;
    clients.hosts(&[("cdn", "available"), ("h1", "available")]).await;
    clients.promote(6).await;
    assert_eq!(moto.standing().await.len(), 6);
    // The barrier waits for what is wanted again.
    front.goes(Way::Refuse("503 Slow Down"));
    let started = clients.rollouts.promote(plan(1)).await.unwrap().into_inner();
    refusal(&clients, "is asked again by itself").await;
    assert_eq!(web.running(), Some(6));
    front.goes(Way::Open);
    assert_eq!(outcome(&clients.end(&started).await), OutcomeKind::Done);
    assert_eq!(moto.standing().await, PAGES);
    assert_eq!(front.deleted(), 1, "{:#?}", front.written());
}

/// Killed between two objects, and then nobody answers: what is left goes when it can, and what is wanted meanwhile stays.
#[tokio::test]
async fn a_bucket_that_gives_up_half_ends_it_or_takes_it_back() {
    let Some((moto, front, keys)) = bucket().await else {
        return;
    };
    let settings = push(&front, &keys.path().join(KEYS));
    let (mut store, mut clients, _web) = store_of_old_releases(|all| all.push = vec![settings]).await;
    let before = front.written().len();
    front.goes(Way::Hang { after: before + 1 });
    let (_, mut progress) = begin_sweep(&mut clients).await.unwrap();
    end_sweep(&mut progress).await.unwrap();
    until("one to go", || async { (front.deleted() == 1).then_some(()) }).await;
    store.kill();
    front.quiet().await;
    front.goes(Way::Refuse("503 Slow Down"));
    store.serve().await;
    let mut clients = store.operator().await;
    clients.hosts(&[("cdn", "available"), ("h1", "available")]).await;
    // What nobody can delete holds no rollout up, and is told.
    clients.promote(6).await;
    let remark = || {
        let mut clients = clients.clone();
        async move {
            let status = clients.status().await;
            let cdn = status.hosts.iter().find(|host| host.host == "cdn")?.clone();
            let remarks = cdn.report?.apps.first()?.remarks.clone();
            let told = remarks
                .iter()
                .any(|remark| remark.contains("expired assets stay"));
            told.then_some(())
        }
    };
    until("the remark", remark).await;
    front.goes(Way::Open);
    let started = clients.rollouts.promote(plan(1)).await.unwrap().into_inner();
    assert_eq!(outcome(&clients.end(&started).await), OutcomeKind::Done);
    let (status, _, body) = moto.object(&asset("one")).await;
    assert_eq!((status, &body[..]), (200, &b"one"[..]));
    until("the other to go", || async {
        (moto.object(&asset("two")).await.0 == 404).then_some(())
    })
    .await;
    assert_eq!(
        moto.standing().await,
        ["one", "three", "four", "five", "six", "seven"]
    );
}

#[tokio::test]
async fn what_lacks_in_the_bucket_is_brought_by_a_word_and_goes_on_where_it_was() {
    let Some((moto, front, keys)) = bucket().await else {
        return;
    };
    let (_store, mut clients, _web) = begin(push(&front, &keys.path().join(KEYS))).await;
    for text in ["two", "three"] {
        clients.publish_page(text).await;
    }
    // It takes the newest, and then no more.
    let before = front.written().len();
    assert_eq!(before, 0);
    let told = pushed(&mut clients, 3, "").await.unwrap();
    assert_eq!((told[0].sent, told[0].sent_bytes, told[0].there), (1, 5, 0));
    front.goes(Way::Refuse("403 Forbidden"));
    let told = pushed(&mut clients, 0, "").await.unwrap();
    let last = told.last().unwrap();
    assert_eq!((last.release, last.releases, last.done), (2, 3, false));
    assert!(last.error.contains("refused the keys in"), "{last:?}");
    front.goes(Way::Open);
    let told = pushed(&mut clients, 0, "").await.unwrap();
    let counts: Vec<_> = told.iter().map(|said| (said.sent, said.there)).collect();
    assert_eq!(counts, [(0, 1), (1, 0), (1, 0)]);
    for text in ["one", "two", "three"] {
        assert_eq!(moto.object(&asset(text)).await.2, text.as_bytes());
    }
}
