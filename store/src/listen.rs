//! A port of the store: connections from strangers to requests with a known caller.
//!
//! Every connection is a task of its own, so one that is slow hurts nobody else. What a connection may cost is
//! bounded: the handshake has a deadline, one that never sends a request is closed, streams and header lists are
//! limited, silent HTTP/2 peers are pinged, and every connection has a greatest age so that an expired or withdrawn
//! certificate does not live on in an old connection. A failing `accept` (no descriptors left) is waited out, never
//! a reason to end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::identity::{Caller, IdentityError, caller_of};
use crate::tls::Tls;

/// What a connection may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub handshake: Duration,
    /// From the handshake to the first request.
    pub first_request: Duration,
    /// After this a connection takes no new requests.
    pub age: Duration,
    /// What is under way may go on for so long after that.
    pub age_grace: Duration,
    pub connections: usize,
    /// Requests at once on one connection.
    pub streams: u32,
    /// Bytes of all headers of one request.
    pub headers: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(30),
            age: Duration::from_secs(3600),
            age_grace: Duration::from_secs(900),
            connections: 20_000,
            streams: 128,
            headers: 32 << 10,
        }
    }
}

/// Who is at the other end of a connection; an extension of every request.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// None: it showed no certificate.
    pub caller: Option<Result<Caller, IdentityError>>,
}

/// Counts what the port has seen.
#[derive(Debug, Default)]
pub struct PortFigures {
    pub connections: AtomicU64,
    pub refused_handshakes: AtomicU64,
    pub requests: AtomicU64,
    /// Bytes of bundles and deltas sent.
    pub bundle_bytes: AtomicU64,
}

/// Everything a connection needs.
#[derive(Debug)]
pub struct Port {
    pub tls: Arc<Tls>,
    pub fleet: String,
    pub limits: Limits,
    pub router: Router,
    pub figures: Arc<PortFigures>,
}

impl Port {
    /// Serves until `stop`; then lets requests under way go on until their ends or `drain` has passed.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken, drain: Duration) {
        let port = Arc::new(self);
        let places = Arc::new(Semaphore::new(port.limits.connections));
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        while let Some((stream, address)) = next(&listener, &stop).await {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                // Over the limit: closing at once tells the client to try again later.
                tracing::warn!(%address, limit = port.limits.connections, "too many connections");
                continue;
            };
            let (port, stop, cut) = (Arc::clone(&port), stop.clone(), cut.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = connection(port, stream, address, stop) => {}
                    () = cut.cancelled() => {}
                }
                drop(place);
            });
        }
        drop(listener);
        tasks.close();
        if timeout(drain, tasks.wait()).await.is_err() {
            tracing::warn!(left = tasks.len(), "connections were cut at the deadline");
            cut.cancel();
            tasks.wait().await;
        }
    }
}

async fn next(listener: &TcpListener, stop: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return None,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(port: Arc<Port>, stream: TcpStream, address: SocketAddr, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let acceptor = TlsAcceptor::from(port.tls.current());
    let shaken = tokio::select! {
        shaken = timeout(port.limits.handshake, acceptor.accept(stream)) => shaken,
        () = stop.cancelled() => return,
    };
    let refused = match shaken {
        Ok(Ok(stream)) => return named(port, stream, address, stop).await,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    port.figures.refused_handshakes.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(%address, refused, "handshake failed");
}

/// A connection whose certificate, if it showed one, was verified.
async fn named(port: Arc<Port>, stream: TlsStream<TcpStream>, address: SocketAddr, stop: CancellationToken) {
    port.figures.connections.fetch_add(1, Ordering::Relaxed);
    let (_, session) = stream.get_ref();
    let leaf = session
        .peer_certificates()
        .and_then(<[CertificateDer<'_>]>::first);
    let peer = Peer {
        address,
        caller: leaf.map(|leaf| caller_of(leaf, &port.fleet)),
    };
    if session.alpn_protocol() == Some(b"h2") {
        speak_h2(port, stream, peer, stop).await;
    } else {
        speak_http1(port, stream, peer, stop).await;
    }
}

type Answered = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// The router, told who calls, counting requests of this connection.
fn answer(
    port: &Arc<Port>,
    peer: Peer,
    seen: Arc<AtomicU64>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = Infallible,
    Future = Answered,
> + Clone {
    let (router, figures) = (port.router.clone(), Arc::clone(&port.figures));
    hyper::service::service_fn(move |mut request: Request<Incoming>| {
        seen.fetch_add(1, Ordering::Relaxed);
        figures.requests.fetch_add(1, Ordering::Relaxed);
        request.extensions_mut().insert(peer.clone());
        let answered: Answered = Box::pin(router.clone().oneshot(request.map(Body::new)));
        answered
    })
}

async fn speak_h2(port: Arc<Port>, stream: TlsStream<TcpStream>, peer: Peer, stop: CancellationToken) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(port.limits.streams)
        .max_header_list_size(port.limits.headers)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .max_send_buf_size(256 << 10)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let seen = Arc::new(AtomicU64::new(0));
    let service = answer(&port, peer, Arc::clone(&seen));
    let connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    drive(
        connection,
        http2::Connection::graceful_shutdown,
        &port.limits,
        &seen,
        &stop,
    )
    .await;
}

async fn speak_http1(port: Arc<Port>, stream: TlsStream<TcpStream>, peer: Peer, stop: CancellationToken) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(port.limits.first_request)
        .max_buf_size(port.limits.headers as usize);
    let seen = Arc::new(AtomicU64::new(0));
    let service = answer(&port, peer, Arc::clone(&seen));
    let connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    drive(
        connection,
        http1::Connection::graceful_shutdown,
        &port.limits,
        &seen,
        &stop,
    )
    .await;
}

/// Runs a connection to its end: its own, the end of its patience or its age, or the server's. Whether a peer that
/// was asked to go does so is up to it (it may never answer), so every wait here has an end.
async fn drive<C, E: std::fmt::Debug>(
    mut connection: Pin<&mut C>,
    ask_to_go: impl Fn(Pin<&mut C>),
    limits: &Limits,
    seen: &AtomicU64,
    stop: &CancellationToken,
) where
    C: Future<Output = Result<(), E>>,
{
    let begun = Instant::now();
    let old = tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => false,
        () = patience(begun + limits.first_request, seen) => return,
        () = sleep_until(begun + limits.age) => true,
    };
    ask_to_go(connection.as_mut());
    if old {
        let _ = timeout(limits.age_grace, connection).await;
    } else {
        // The server's own deadline cuts what does not end.
        let _ = connection.await;
    }
}

/// Ends at `until` if no request came; never otherwise.
async fn patience(until: Instant, seen: &AtomicU64) {
    sleep_until(until).await;
    if seen.load(Ordering::Relaxed) > 0 {
        std::future::pending::<()>().await;
    }
}
