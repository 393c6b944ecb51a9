//! The store's faces as an agent sees them, over real TLS on a real port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use ship_model::desired::{DeployNumber, DesiredApp, DesiredHost, Epoch};
use ship_model::digest::{BlobDigest, BundleDigest, ExpiredDigest, ReleaseId};
use ship_model::name::AppName;
use ship_model::release::Target;
use ship_model::report::{AppReport, HostReport};
use ship_model::retention::{Expired, ExpiredList, UrlHash};
use ship_proto::v1;
use ship_proto::v1::agents_server::{Agents, AgentsServer};
use ship_proto::v1::assets_server::AssetsServer;
use ship_proto::v1::releases_server::{Releases, ReleasesServer};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response as Answer, Status, Streaming};

use super::certificates::Authority;
use super::ranges;
use super::release::{Offer, Shelf, site, static_spec};

pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub struct Inner {
    pub shelf: Mutex<Shelf>,
    pub desired: watch::Sender<Option<DesiredHost>>,
    pub report: watch::Sender<HostReport>,
    /// How often what was reported was forgotten: sessions that began before are of agents that have ended since.
    forgotten: Arc<AtomicUsize>,
    /// Ends every transfer of a bundle after so many bytes; 0: never.
    pub cut_after: AtomicUsize,
    pub transfers: AtomicUsize,
    /// Of these, of deltas.
    /// After so many transfers the bundle that is asked for next is let go; 0: none is.
    pub goes_at: AtomicUsize,
    pub delta_transfers: AtomicUsize,
    /// Answers every call and transfer with "unavailable".
    pub sick: AtomicBool,
    /// What has expired of web; none: an older store, which does not say.
    pub expired: Mutex<Option<ExpiredList>>,
    /// From the next wish on the host is to stay out of rotation.
    pub drained: AtomicBool,
    /// Tells places of blobs that nobody asked for, without end.
    pub flood: AtomicBool,
    /// Answers transfers with "unavailable", calls as usual.
    pub no_bytes: AtomicBool,
    /// Does not know what leaves are.
    pub old: AtomicBool,
    /// Where else content is, as it is told.
    pub sources: watch::Sender<v1::Sources>,
    /// What hosts are asked to give back, and what the last one gave.
    pub wanted: watch::Sender<Option<v1::Wanted>>,
    pub given: watch::Sender<Vec<v1::GiveChunk>>,
    logs: Arc<Mutex<HashMap<u64, mpsc::Sender<v1::LogsReply>>>>,
    questions: watch::Sender<Option<v1::LogsQuery>>,
}

/// A running store. It ends with this.
pub struct Store {
    pub authority: Authority,
    pub inner: Arc<Inner>,
    pub address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Store {
    pub fn start() -> Self {
        let authority = Authority::new();
        let inner = Arc::new(Inner {
            shelf: Mutex::default(),
            desired: watch::channel(None).0,
            report: watch::channel(HostReport::default()).0,
            forgotten: Arc::default(),
            cut_after: AtomicUsize::new(0),
            transfers: AtomicUsize::new(0),
            goes_at: AtomicUsize::new(0),
            delta_transfers: AtomicUsize::new(0),
            sick: AtomicBool::new(false),
            expired: Mutex::default(),
            drained: AtomicBool::new(false),
            flood: AtomicBool::new(false),
            no_bytes: AtomicBool::new(false),
            old: AtomicBool::new(false),
            sources: watch::channel(v1::Sources::default()).0,
            wanted: watch::channel(None).0,
            given: watch::channel(Vec::new()).0,
            logs: Arc::default(),
            questions: watch::channel(None).0,
        });
        let mut store = Self {
            authority,
            inner,
            address: own_address(),
            runtime: None,
        };
        store.listen();
        store
    }

    /// Serves at the address it has.
    pub fn listen(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        // A process that another test is just starting may still hold the listener that was there.
        let listener = super::until("the store's port", || {
            std::net::TcpListener::bind(self.address).ok()
        });
        listener.set_nonblocking(true).unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(self.authority.server());
        let router = router(Arc::clone(&self.inner));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, router) = (tls.clone(), router.clone());
                tokio::spawn(async move {
                    let stream = tls.accept(stream).await?;
                    let service = TowerToHyperService::new(router);
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    server
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .map_err(std::io::Error::other)
                });
            }
        });
        self.runtime = Some(runtime);
    }

    /// Every connection breaks and no new one is taken.
    pub fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        super::until("the store's port is free", || {
            std::net::TcpListener::bind(self.address).ok()
        });
    }

    /// Publishes version `number` of the site.
    pub fn publish(&self, number: u64) -> Target {
        let files = site(number);
        let files: Vec<_> = files
            .iter()
            .map(|(path, bytes)| (path.as_str(), &bytes[..]))
            .collect();
        self.inner
            .shelf
            .lock()
            .unwrap()
            .publish(number, &static_spec(), &files)
    }

    /// What was reported until now does not count any more, nor does what an agent that has ended said and nobody has read yet.
    pub fn forget_report(&self) {
        self.inner.report.send_modify(|report| {
            self.inner.forgotten.fetch_add(1, Ordering::Relaxed);
            *report = HostReport::default();
        });
    }

    pub fn desire(&self, apps: Vec<DesiredApp>) {
        let expired = self.inner.expired.lock().unwrap().clone();
        let told = expired.iter().map(|list| Expired {
            app: web_app(),
            list: list.digest(&web_app()),
            paths: list.len() as u64,
        });
        self.inner.desired.send_replace(Some(DesiredHost {
            apps,
            expired: told.collect(),
            drained: self.inner.drained.load(Ordering::Relaxed),
        }));
    }

    /// From the next wish on, `urls` have expired; gives the list's name.
    pub fn expire(&self, urls: &[String]) -> ExpiredDigest {
        let list: ExpiredList = urls.iter().map(|url| UrlHash::of(url)).collect();
        let digest = list.digest(&web_app());
        *self.inner.expired.lock().unwrap() = Some(list);
        digest
    }

    /// The newest report of app `web`, once it is as wanted.
    pub fn wait(&self, what: &str, wanted: impl Fn(&AppReport) -> bool) -> AppReport {
        let mut last = None;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            super::until(what, || {
                let report = self.inner.report.borrow().clone();
                last = report.apps.iter().find(|app| app.app.as_str() == "web").cloned();
                last.clone().filter(|app| wanted(app))
            })
        }));
        found.unwrap_or_else(|_| panic!("never came: {what}; the last report was {last:#?}"))
    }

    /// Asks the agent for log lines and waits for the end of its answer.
    pub fn ask_logs(&self, request: u64, app: &str) -> (Vec<v1::LogLine>, String) {
        let (tx, mut rx) = mpsc::channel(64);
        self.inner.logs.lock().unwrap().insert(request, tx);
        self.inner.questions.send_replace(Some(v1::LogsQuery {
            request,
            app: app.to_owned(),
            lines: 1000,
            ..v1::LogsQuery::default()
        }));
        let mut lines = Vec::new();
        loop {
            let reply = rx.blocking_recv().unwrap();
            lines.extend(reply.lines);
            if reply.done {
                return (lines, reply.error);
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An address of the loopback net that nobody else takes while nobody listens there: of this process's own, and with none of
/// the ports that the kernel gives away.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(11_000);
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 128 | a, b, c.max(1)], port))
}

fn web_app() -> AppName {
    "web".parse().unwrap()
}

/// App `web` runs `run`, which is staged, and serves the assets of `assets`.
pub fn web(epoch: u64, run: Option<Target>, assets: &[Target]) -> DesiredApp {
    DesiredApp {
        app: "web".parse().unwrap(),
        env: "dev".parse().unwrap(),
        epoch: Epoch(epoch),
        deploy: DeployNumber(epoch * 10),
        run,
        runs_app: true,
        stage: run.into_iter().collect(),
        assets: assets.to_vec(),
    }
}

fn router(inner: Arc<Inner>) -> axum::Router {
    let grpc = tonic::service::Routes::new(ReleasesServer::from_arc(Arc::clone(&inner)))
        .add_service(AgentsServer::from_arc(Arc::clone(&inner)))
        .add_service(AssetsServer::from_arc(Arc::clone(&inner)));
    let bundles = axum::Router::new()
        .route("/bundles/{digest}", axum::routing::get(ranges::bundle))
        .route("/deltas/{digest}", axum::routing::get(ranges::delta))
        .with_state(inner);
    grpc.into_axum_router().merge(bundles)
}

impl Inner {
    pub(super) fn well(&self) -> Result<(), Status> {
        match self.sick.load(Ordering::Relaxed) {
            true => Err(Status::unavailable("the store is sick")),
            false => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Agents for Inner {
    async fn give(
        &self,
        request: Request<Streaming<v1::GiveChunk>>,
    ) -> Result<Answer<v1::GiveReply>, Status> {
        let (mut chunks, mut given) = (request.into_inner(), Vec::new());
        while let Some(chunk) = chunks.message().await? {
            given.push(chunk);
        }
        self.given.send_replace(given);
        Ok(Answer::new(v1::GiveReply::default()))
    }

    type SessionStream = Replies<v1::StoreMessage>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Answer<Self::SessionStream>, Status> {
        self.well()?;
        let mut heard = request.into_inner();
        let first = heard.message().await?.and_then(|message| message.message);
        let Some(v1::agent_message::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the agent did not say hello"));
        };
        assert_eq!((hello.env.as_str(), hello.host.as_str()), ("dev", "h1"));
        let (tx, rx) = mpsc::channel(8);
        let (mut desired, mut questions) = (self.desired.subscribe(), self.questions.subscribe());
        desired.mark_changed();
        let report = self.report.clone();
        let forgotten = Arc::clone(&self.forgotten);
        let begun = forgotten.load(Ordering::Relaxed);
        let logs = Arc::clone(&self.logs);
        let (mut sources, mut wanted) = (self.sources.subscribe(), self.wanted.subscribe());
        sources.mark_changed();
        let welcome = v1::Welcome {
            heartbeat_ms: 200,
            store_version: "test".to_owned(),
            hears_asked: false,
        };
        send(&tx, v1::store_message::Message::Welcome(welcome)).await;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    // Where to ask is told before what to ask for.
                    biased;
                    _ = sources.changed() => {
                        let now = sources.borrow_and_update().clone();
                        send(&tx, v1::store_message::Message::Sources(now)).await;
                    }
                    _ = desired.changed() => {
                        let now = desired.borrow_and_update().clone();
                        if let Some(now) = now {
                            send(&tx, v1::store_message::Message::Desired(now.into())).await;
                        }
                    }
                    _ = wanted.changed() => {
                        let now = wanted.borrow_and_update().clone();
                        if let Some(now) = now {
                            send(&tx, v1::store_message::Message::Wanted(now)).await;
                        }
                    }
                    _ = questions.changed() => {
                        let now = questions.borrow_and_update().clone();
                        if let Some(query) = now {
                            send(&tx, v1::store_message::Message::Logs(query)).await;
                        }
                    }
                    message = heard.message() => match message {
                        Ok(Some(message)) => match message.message {
                            Some(v1::agent_message::Message::Report(said)) => {
                                let said = HostReport::try_from(said).unwrap();
                                report.send_if_modified(|report| {
                                    let counts = forgotten.load(Ordering::Relaxed) == begun;
                                    if counts {
                                        *report = said;
                                    }
                                    counts
                                });
                            }
                            Some(v1::agent_message::Message::Logs(reply)) => {
                                let asker = logs.lock().unwrap().get(&reply.request).cloned();
                                if let Some(asker) = asker {
                                    asker.send(reply).await.ok();
                                }
                            }
                            _ => {}
                        },
                        _ => return,
                    }
                }
            }
        });
        Ok(Answer::new(Box::pin(ReceiverStream::new(rx))))
    }
}

async fn send(tx: &mpsc::Sender<Result<v1::StoreMessage, Status>>, message: v1::store_message::Message) {
    tx.send(Ok(v1::StoreMessage {
        message: Some(message),
    }))
    .await
    .ok();
}

#[tonic::async_trait]
impl Releases for Inner {
    type BeginStream = Replies<v1::MissingBlobs>;
    type MissingStream = Replies<v1::MissingBlobs>;
    type ManifestStream = Replies<v1::Piece>;
    type LocateStream = Replies<v1::Located>;

    async fn manifest(
        &self,
        request: Request<v1::ManifestRequest>,
    ) -> Result<Answer<Self::ManifestStream>, Status> {
        self.well()?;
        assert_eq!(
            request.metadata().get("ship-protocol").unwrap(),
            ship_proto::PROTOCOL
        );
        let id = ReleaseId::from_slice(&request.into_inner().id).unwrap();
        let bytes = self.shelf.lock().unwrap().manifests.get(&id).cloned();
        let bytes = bytes.ok_or_else(|| Status::not_found("no such release"))?;
        let pieces: Vec<_> = bytes
            .chunks(1000)
            .map(|piece| {
                Ok(v1::Piece {
                    data: piece.to_vec().into(),
                })
            })
            .collect();
        Ok(Answer::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn locate(
        &self,
        request: Request<Streaming<v1::LocateRequest>>,
    ) -> Result<Answer<Self::LocateStream>, Status> {
        self.well()?;
        if self.flood.load(Ordering::Relaxed) {
            let flood = (0_u64..).map(|number| {
                let blobs = (0..1000_u64).map(|part| BlobDigest::of(&(number * 1000 + part).to_le_bytes()));
                Ok(v1::Located {
                    bundle: vec![7; 32],
                    bundle_bytes: 1 << 20,
                    blobs: blobs.map(|blob| blob.as_bytes().to_vec()).collect(),
                })
            });
            return Ok(Answer::new(Box::pin(tokio_stream::iter(flood))));
        }
        let mut asked = request.into_inner();
        let mut found: HashMap<BundleDigest, v1::Located> = HashMap::new();
        while let Some(chunk) = asked.next().await {
            let shelf = self.shelf.lock().unwrap();
            let chunk = chunk?;
            for blob in chunk.blobs {
                let digest = BlobDigest::from_slice(&blob).unwrap();
                let avoided = |(bundle, _): &&(BundleDigest, u64)| {
                    chunk.avoid.iter().any(|avoid| avoid == bundle.as_bytes())
                };
                let first = shelf.places.get(&digest).filter(|place| !avoided(place));
                if let Some((bundle, bytes)) = first.or_else(|| shelf.elsewhere.get(&digest)) {
                    let located = found.entry(*bundle).or_insert_with(|| v1::Located {
                        bundle: bundle.as_bytes().to_vec(),
                        bundle_bytes: *bytes,
                        blobs: Vec::new(),
                    });
                    located.blobs.push(blob);
                }
            }
        }
        let found: Vec<_> = found.into_values().map(Ok).collect();
        Ok(Answer::new(Box::pin(tokio_stream::iter(found))))
    }

    async fn begin(
        &self,
        _: Request<Streaming<v1::BeginChunk>>,
    ) -> Result<Answer<Self::BeginStream>, Status> {
        Err(Status::unimplemented("agents do not publish"))
    }

    async fn missing(
        &self,
        _: Request<Streaming<v1::MissingRequest>>,
    ) -> Result<Answer<Self::MissingStream>, Status> {
        Err(Status::unimplemented("agents do not publish"))
    }

    async fn upload(&self, _: Request<Streaming<v1::UploadChunk>>) -> Result<Answer<v1::Uploaded>, Status> {
        Err(Status::unimplemented("agents do not publish"))
    }

    async fn upload_delta(
        &self,
        _: Request<Streaming<v1::UploadDeltaChunk>>,
    ) -> Result<Answer<v1::Uploaded>, Status> {
        Err(Status::unimplemented("agents do not publish"))
    }

    async fn commit(&self, _: Request<v1::CommitRequest>) -> Result<Answer<v1::ReleaseRecord>, Status> {
        Err(Status::unimplemented("agents do not publish"))
    }

    async fn list(
        &self,
        _: Request<v1::ListReleasesRequest>,
    ) -> Result<Answer<v1::ListReleasesReply>, Status> {
        Err(Status::unimplemented("agents do not list"))
    }

    async fn get(&self, _: Request<v1::GetReleaseRequest>) -> Result<Answer<v1::ReleaseRecord>, Status> {
        Err(Status::unimplemented("agents do not get"))
    }

    async fn pin(&self, _: Request<v1::PinRequest>) -> Result<Answer<v1::ReleaseRecord>, Status> {
        Err(Status::unimplemented("agents do not pin"))
    }

    type CollectStream = Replies<v1::CollectLine>;

    async fn collect(&self, _: Request<v1::CollectRequest>) -> Result<Answer<Self::CollectStream>, Status> {
        Err(Status::unimplemented("agents do not collect"))
    }

    async fn leaves(&self, request: Request<v1::LeavesRequest>) -> Result<Answer<v1::LeavesReply>, Status> {
        self.well()?;
        if self.old.load(Ordering::Relaxed) {
            return Err(Status::unimplemented("what are leaves?"));
        }
        let Some(v1::leaves_request::Object::Bundle(bundle)) = request.into_inner().object else {
            return Err(Status::not_found("there are no deltas here"));
        };
        let digest = BundleDigest::from_slice(&bundle).unwrap();
        let shelf = self.shelf.lock().unwrap();
        let bytes = shelf.bundles.get(&digest);
        let bytes = bytes.ok_or_else(|| Status::not_found("no such bundle"))?;
        Ok(Answer::new(v1::LeavesReply {
            leaves: super::release::leaves(bytes).into(),
        }))
    }

    async fn deltas(&self, request: Request<v1::DeltasRequest>) -> Result<Answer<v1::DeltasReply>, Status> {
        self.well()?;
        let asked = request.into_inner();
        let shelf = self.shelf.lock().unwrap();
        let leads = |offer: &&Offer| asked.release == offer.target.as_bytes();
        let deltas = shelf.offers.iter().filter(leads).map(|offer| v1::Delta {
            delta: offer.delta.as_bytes().to_vec(),
            base: offer.base.as_bytes().to_vec(),
            bytes: offer.bytes,
        });
        Ok(Answer::new(v1::DeltasReply {
            deltas: deltas.collect(),
        }))
    }
}
