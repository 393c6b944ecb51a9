//! HTTP over a [`Shelf`]: GET and HEAD, ranges, conditional requests; HTTP/1.1 and HTTP/2 without TLS.
//!
//! Anonymous by design: whatever is on a shelf is public. Paths that are not on it answer 404 with
//! `no-store`, so that no cache remembers that an asset was once too early.

mod answer;
mod body;
mod range;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub use body::FileBody;

use crate::shelf::Shelf;

/// Connections served at once; more wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 4096;
/// For a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long connections may finish after the end was asked for.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// A pause after the process ran out of descriptors, so that accept does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What was served, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    /// Requests for paths that are not on the shelf.
    pub not_found: AtomicU64,
    /// Requests for paths that are on the shelf and whose file could not be read: each is an incident.
    pub broken: AtomicU64,
}

/// A shelf with its counters; cheap to clone.
#[derive(Debug, Clone)]
pub struct Assets {
    pub shelf: Arc<Shelf>,
    pub counters: Arc<Counters>,
}

impl Assets {
    pub fn new(shelf: Arc<Shelf>) -> Self {
        Self {
            shelf,
            counters: Arc::default(),
        }
    }

    /// Answers one request; for a server of one's own. The request is looked at before this returns.
    pub fn answer<B>(
        &self,
        request: &Request<B>,
    ) -> impl Future<Output = Response<FileBody>> + Send + use<B> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let assets = self.clone();
        let decided = answer::decide(self, request);
        async move {
            match decided {
                answer::Decided::Now(response) => response,
                answer::Decided::Read(reading) => answer::read(assets, *reading).await,
                answer::Decided::Missing(head) => answer::missing(assets, *head).await,
            }
        }
    }
}

/// Serves until `shutdown` is ready, then lets connections finish for at most five seconds.
pub async fn serve(listener: TcpListener, assets: Assets, shutdown: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let connection = graceful.watch(connection(stream, assets.clone()));
                    tokio::spawn(async move {
                        let _place = place;
                        // A client that goes away is no error of ours.
                        let _ = connection.await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "asset connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(SHUTDOWN, graceful.shutdown()).await;
}

fn connection(
    stream: TcpStream,
    assets: Assets,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = Box<dyn std::error::Error + Send + Sync>> + Send
{
    // Small answers must not wait for an acknowledgement of the head before.
    let _ = stream.set_nodelay(true);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(16 << 10);
    let service = service_fn(move |request: Request<Incoming>| {
        let assets = assets.clone();
        async move { Ok::<_, Infallible>(assets.answer(&request).await) }
    });
    builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned()
}
