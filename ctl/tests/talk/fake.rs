//! A store in this process: real TLS in both directions, scripted answers.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use ship_proto::v1::fleet_server::{Fleet, FleetServer};
use ship_proto::v1::releases_server::ReleasesServer;
use ship_proto::v1::rollouts_server::{Rollouts, RolloutsServer};
use ship_proto::v1::*;
use tokio::net::{TcpListener, TcpSocket};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

mod releases;

type Answer<T> = Result<Response<T>, Status>;
type Items<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

/// What the store answers, and what it was asked.
#[derive(Default)]
pub struct Script {
    pub plan: Option<Result<PlanReply, Status>>,
    /// One for each Promote or Revert; the last one again and again.
    pub started: VecDeque<Result<Started, Status>>,
    /// One list for each Watch; after the last view the stream ends, or stays open for ever.
    pub watches: VecDeque<Watched>,
    pub control: Option<Result<RolloutView, Status>>,
    pub answer: Option<Result<RolloutView, Status>>,
    /// What was answered at gates.
    pub answered: Vec<AnswerRequest>,
    pub status: StatusReply,
    pub asked: Vec<PlanRequest>,
    pub published: Option<Published>,
    /// Blobs that Begin calls missing: all, or none.
    pub knows_everything: bool,
    /// Whether Missing is answered, and whether the store has half of the segments; otherwise it has none.
    pub knows_segments: Option<bool>,
    /// Commits that are lost on their way before one is answered.
    pub lost_commits: u32,
    pub commits: Vec<CommitRequest>,
    /// What Locate tells of what was published; with it, the release can be had.
    pub located: Option<Vec<Located>>,
    /// Calls that the store does not live to carry out.
    pub lost_plans: u32,
    pub lost_begins: u32,
    pub lost_uploads: u32,
    /// Uploads that are kept though their answer is lost.
    pub unanswered_uploads: u32,
    pub uploads: u32,
    /// The releases of the app, as List tells them.
    pub releases: Vec<ReleaseLine>,
    /// What UploadDelta answers, and lost ones before that; without an answer there is no such call.
    pub takes_deltas: Option<Result<(), Status>>,
    pub lost_deltas: u32,
    /// What each brought.
    pub deltas: Vec<(DeltaOffer, Vec<u8>)>,
}

/// Whether one more of `lost` is to be lost.
fn lose(lost: &mut u32) -> Result<(), Status> {
    if *lost == 0 {
        return Ok(());
    }
    *lost -= 1;
    Err(Status::unavailable("connection reset"))
}

pub enum Watched {
    Views(Vec<RolloutView>),
    ThenBreak(Vec<RolloutView>),
    ThenHang(Vec<RolloutView>),
}

#[derive(Default, Clone)]
pub struct Published {
    pub manifest: Vec<u8>,
    pub bundle: Vec<u8>,
}

#[derive(Clone)]
struct Face(Arc<Mutex<Script>>);

/// The store and a context that names it; all of it is gone when this is dropped.
pub struct FakeStore {
    pub script: Arc<Mutex<Script>>,
    folder: tempfile::TempDir,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl FakeStore {
    pub fn start(script: Script) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let server = certificates(folder.path());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let script = Arc::new(Mutex::new(script));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, server, Face(Arc::clone(&script))));
        let store = Self {
            script,
            folder,
            address,
            _runtime: runtime,
        };
        store.write_context("context.toml", "");
        store
    }

    /// Writes a context, with changed or added lines at its end.
    pub fn write_context(&self, name: &str, more: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let text = format!(
            "version = 1\nstore = \"https://{}\"\nenv = \"dev\"\ncert = \"cert.pem\"\nkey = \"key.pem\"\n{}{more}",
            self.address,
            if more.contains("ca =") {
                ""
            } else {
                "ca = \"ca.pem\"\n"
            },
        );
        write(&path, text.as_bytes());
        path
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shipctl"));
        command
            .args(words)
            .current_dir(self.folder.path())
            .env_remove("SHIP_APP")
            .env_remove("SHIP_ENV")
            .env("SHIP_CONTEXT", self.folder.path().join("context.toml"))
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .env("GIT_CEILING_DIRECTORIES", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Said {
        Said::of(self.command(words).output().unwrap())
    }
}

/// What a command answered.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// An address that refuses connections as long as the socket is held: nobody listens there, and nobody else can.
pub fn closed() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

pub fn write(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

/// A fleet's CA with an operator's certificate in `folder`; returns what the store serves with.
fn certificates(folder: &Path) -> rustls::ServerConfig {
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let other = CertificateParams::new(vec!["other".to_owned()]).unwrap();
    let other = other.self_signed(&KeyPair::generate().unwrap()).unwrap();
    write(&folder.join("other.pem"), other.pem().as_bytes());
    let leaf = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &ca).unwrap(), key)
    };
    let (operator, operator_key) = leaf("operator");
    write(&folder.join("ca.pem"), ca.pem().as_bytes());
    write(&folder.join("cert.pem"), operator.pem().as_bytes());
    write(&folder.join("key.pem"), operator_key.serialize_pem().as_bytes());
    let (store, store_key) = leaf("store.ship.internal");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![store.der().clone()],
            PrivateKeyDer::try_from(store_key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn serve(listener: TcpListener, config: rustls::ServerConfig, face: Face) {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (push, connections) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await
                && push.send(Ok::<_, std::io::Error>(stream)).await.is_err()
            {
                return;
            }
        }
    });
    tonic::transport::Server::builder()
        .add_service(ReleasesServer::new(face.clone()))
        .add_service(RolloutsServer::new(face.clone()))
        .add_service(FleetServer::new(face))
        .serve_with_incoming(ReceiverStream::new(connections))
        .await
        .unwrap();
}

fn items<T: Send + 'static>(list: Vec<Result<T, Status>>) -> Items<T> {
    Box::pin(futures::stream::iter(list))
}

impl Face {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    fn start(&self, request: PlanRequest) -> Answer<Started> {
        let mut script = self.script();
        script.asked.push(request);
        let answer = match script.started.len() {
            0 => panic!("nothing was to be started"),
            1 => script.started[0].clone(),
            _ => script.started.pop_front().unwrap(),
        };
        answer.map(Response::new)
    }
}

#[tonic::async_trait]
impl Rollouts for Face {
    async fn plan(&self, request: Request<PlanRequest>) -> Answer<PlanReply> {
        self.script().asked.push(request.into_inner());
        lose(&mut self.script().lost_plans)?;
        self.script().plan.clone().unwrap().map(Response::new)
    }

    async fn promote(&self, request: Request<PlanRequest>) -> Answer<Started> {
        self.start(request.into_inner())
    }

    async fn revert(&self, request: Request<PlanRequest>) -> Answer<Started> {
        self.start(request.into_inner())
    }

    type WatchStream = Items<RolloutView>;

    async fn watch(&self, _: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        let watched = self.script().watches.pop_front();
        let all = |views: Vec<RolloutView>| views.into_iter().map(Ok).collect::<Vec<_>>();
        Ok(Response::new(match watched {
            None => return Err(Status::unavailable("the store is being restarted")),
            Some(Watched::Views(views)) => items(all(views)),
            Some(Watched::ThenBreak(views)) => {
                let mut list = all(views);
                list.push(Err(Status::unavailable("connection reset")));
                items(list)
            }
            Some(Watched::ThenHang(views)) => {
                use futures::StreamExt as _;
                Box::pin(items(all(views)).chain(futures::stream::pending()))
            }
        }))
    }

    async fn answer(&self, request: Request<AnswerRequest>) -> Answer<RolloutView> {
        let mut script = self.script();
        script.answered.push(request.into_inner());
        script.answer.clone().unwrap().map(Response::new)
    }

    async fn control(&self, _: Request<ControlRequest>) -> Answer<RolloutView> {
        self.script().control.clone().unwrap().map(Response::new)
    }
}

#[tonic::async_trait]
impl Fleet for Face {
    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusReply> {
        Ok(Response::new(self.script().status.clone()))
    }

    async fn host(&self, request: Request<HostRequest>) -> Answer<HostReply> {
        let request = request.into_inner();
        let host = HostStatus {
            env: request.env,
            state: "available".into(),
            standing: Some(standing()),
            host: request.host.clone(),
            ..HostStatus::default()
        };
        Ok(Response::new(HostReply {
            host: Some(host),
            notes: vec![format!("{} knows of no balancer for web", request.host)],
        }))
    }

    type LogsStream = Items<LogLine>;

    async fn logs(&self, request: Request<LogsRequest>) -> Answer<Self::LogsStream> {
        let request = request.into_inner();
        let line = LogLine {
            at_ms: 1_700_000_000_000,
            app: request.app,
            host: "h1".into(),
            pid: 42,
            release: 3,
            deploy: 7,
            generation: 1,
            stream: "stdout".into(),
            line: "hello \x1b[31mworld".into(),
        };
        Ok(Response::new(items(vec![Ok(line)])))
    }

    type EventsStream = Items<Event>;

    async fn events(&self, _: Request<EventsRequest>) -> Answer<Self::EventsStream> {
        Ok(Response::new(items(Vec::new())))
    }
}

/// What an operator said of every host here.
pub fn standing() -> Standing {
    Standing {
        duty: "drained".into(),
        who: "operator/alice".into(),
        reason: "new memory".into(),
        at_ms: 1_700_000_000_000,
    }
}
