//! Ranges of a bundle or a delta over HTTP, for threads that block: a reader that goes on where the connection broke.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use ship_model::digest::{BundleDigest, DeltaDigest};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Backoff, Fetcher};
use crate::dial::{Dial, STORE_NAME};

/// Without a byte for so long, a transfer counts as broken.
const STALL: Duration = Duration::from_secs(30);
/// Failures in a row, without a byte in between, after which a transfer is given up.
const TRIES: u32 = 5;
/// Connections kept open between ranges.
const IDLE: usize = 4;

/// Why a range of a bundle could not be read.
#[derive(Debug, Error)]
pub enum RangeError {
    #[error("the connection to the store failed")]
    Connect(#[source] io::Error),
    #[error("the request could not be sent")]
    Send(#[source] hyper::Error),
    #[error("the store answered {status}")]
    Status { status: StatusCode },
    #[error("the store answered with another range than was asked for")]
    OtherRange,
    #[error("nothing came for {} s", STALL.as_secs())]
    Stalled,
    #[error("the transfer broke")]
    Broke(#[source] hyper::Error),
    #[error("the store sent more or less than it announced")]
    Length,
    #[error("the transfer was called off")]
    Cancelled,
}

impl RangeError {
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { status } => {
                status.is_server_error()
                    || *status == StatusCode::TOO_MANY_REQUESTS
                    || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::OtherRange => false,
            _ => true,
        }
    }

    /// The error inside an [`io::Error`] that a [`RangeReader`] returned, if it came from here.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<RangeError> for io::Error {
    fn from(error: RangeError) -> Self {
        Self::other(error)
    }
}

type Sender = SendRequest<Empty<Bytes>>;

/// Connections that wait for their next request.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<(u64, Sender)>>);

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Idle")
    }
}

impl Idle {
    fn take(&self, edition: u64) -> Option<Sender> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(same, sender)| *same == edition && !sender.is_closed());
        idle.pop().map(|(_, sender)| sender)
    }

    fn put(&self, edition: u64, sender: Sender) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push((edition, sender));
        }
    }
}

async fn connect(dial: &Dial) -> Result<Sender, RangeError> {
    let stream = dial.connect(b"http/1.1").await.map_err(RangeError::Connect)?;
    let (sender, connection) = handshake(stream).await.map_err(RangeError::Send)?;
    // Ends when the sender is dropped or the peer hangs up; what went wrong is told by the request it broke.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

/// What bytes are read of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    Bundle(BundleDigest),
    Delta(DeltaDigest),
}

fn request(source: Source, from: u64, to: u64) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    let path = match source {
        Source::Bundle(bundle) => format!("/bundles/{bundle}"),
        Source::Delta(delta) => format!("/deltas/{delta}"),
    };
    *request.uri_mut() = http::Uri::try_from(path).unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(header::HOST, header::HeaderValue::from_static(STORE_NAME));
    if let Ok(range) = header::HeaderValue::try_from(format!("bytes={from}-{}", to - 1)) {
        headers.insert(header::RANGE, range);
    }
    request
}

/// A transfer under way: its pieces as they come.
type Pieces = mpsc::Receiver<Result<Bytes, RangeError>>;

impl Fetcher {
    /// Bytes `from..to` of a bundle, `from < to`.
    async fn open_range(
        self: &Arc<Self>,
        span: Span,
        cancel: CancellationToken,
    ) -> Result<Pieces, RangeError> {
        let edition = self.dial.tls().map_or(0, |(_, edition)| edition);
        let asked = request(span.source, span.from, span.to);
        let (sender, response) = match self.idle.take(edition) {
            // A kept connection may have been closed by the store meanwhile; that is no failure.
            Some(mut sender) => match in_time(sender.send_request(asked.clone())).await? {
                Ok(response) => (sender, response),
                Err(_) => self.ask(asked).await?,
            },
            None => self.ask(asked).await?,
        };
        if !answers(&response, &span)? {
            return Err(RangeError::OtherRange);
        }
        let (tx, rx) = mpsc::channel(4);
        let fetcher = Arc::clone(self);
        tokio::spawn(async move {
            let whole = pump(&fetcher, response.into_body(), &tx, &cancel).await;
            if whole && !sender.is_closed() {
                fetcher.idle.put(edition, sender);
            }
        });
        Ok(rx)
    }

    async fn ask(
        &self,
        asked: Request<Empty<Bytes>>,
    ) -> Result<(Sender, http::Response<Incoming>), RangeError> {
        let mut sender = connect(&self.dial).await?;
        let response = in_time(sender.send_request(asked))
            .await?
            .map_err(RangeError::Send)?;
        Ok((sender, response))
    }
}

async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, RangeError> {
    tokio::time::timeout(STALL, step)
        .await
        .map_err(|_| RangeError::Stalled)
}

/// Whether the answer is exactly the range that was asked for.
fn answers(response: &http::Response<Incoming>, span: &Span) -> Result<bool, RangeError> {
    let status = response.status();
    if status != StatusCode::PARTIAL_CONTENT {
        return if status.is_success() {
            Ok(false)
        } else {
            Err(RangeError::Status { status })
        };
    }
    let told = response
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let wanted = format!("bytes {}-{}/", span.from, span.to - 1);
    Ok(told.is_some_and(|told| told.starts_with(&wanted)))
}

/// Hands the body on piece by piece; true when all of it was.
async fn pump(
    fetcher: &Fetcher,
    mut body: Incoming,
    tx: &mpsc::Sender<Result<Bytes, RangeError>>,
    cancel: &CancellationToken,
) -> bool {
    loop {
        let piece = tokio::select! {
            () = cancel.cancelled() => Err(RangeError::Cancelled),
            frame = in_time(body.frame()) => match frame {
                Err(stalled) => Err(stalled),
                Ok(None) => return true,
                Ok(Some(Err(error))) => Err(RangeError::Broke(error)),
                Ok(Some(Ok(frame))) => Ok(frame.into_data().unwrap_or_default()),
            },
        };
        let broken = piece.is_err();
        if let Ok(bytes) = &piece {
            fetcher.count(bytes.len());
        }
        if tx.send(piece).await.is_err() || broken {
            return false;
        }
    }
}

/// Part of a bundle or a delta.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub source: Source,
    pub from: u64,
    pub to: u64,
}

/// Reads a span; a broken transfer goes on at the byte where it broke. For threads outside the runtime.
pub(super) struct RangeReader {
    fetcher: Arc<Fetcher>,
    runtime: Handle,
    cancel: CancellationToken,
    rest: Span,
    pieces: Option<Pieces>,
    piece: Bytes,
    backoff: Backoff,
}

impl RangeReader {
    pub fn new(fetcher: Arc<Fetcher>, runtime: Handle, cancel: CancellationToken, span: Span) -> Self {
        Self {
            fetcher,
            runtime,
            cancel,
            rest: span,
            pieces: None,
            piece: Bytes::new(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
        }
    }

    fn next_piece(&mut self) -> Result<(), RangeError> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(RangeError::Cancelled);
            }
            match self.try_piece() {
                Ok(()) => {
                    self.backoff.succeeded();
                    return Ok(());
                }
                Err(error) if error.is_transient() && self.backoff.failures() + 1 < TRIES => {
                    self.pieces = None;
                    self.wait();
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn wait(&mut self) {
        let (pause, cancel) = (self.backoff.failed(), self.cancel.clone());
        self.runtime.block_on(async move {
            tokio::select! { () = tokio::time::sleep(pause) => {}, () = cancel.cancelled() => {} }
        });
    }

    fn try_piece(&mut self) -> Result<(), RangeError> {
        let pieces = match &mut self.pieces {
            Some(pieces) => pieces,
            none => {
                let opening = self.fetcher.open_range(self.rest, self.cancel.clone());
                none.insert(self.runtime.block_on(opening)?)
            }
        };
        let piece = pieces.blocking_recv().ok_or(RangeError::Length)??;
        if piece.len() as u64 > self.rest.to - self.rest.from {
            return Err(RangeError::Length);
        }
        self.rest.from += piece.len() as u64;
        self.piece = piece;
        Ok(())
    }
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && self.rest.from < self.rest.to {
            self.next_piece()?;
        }
        let len = buffer.len().min(self.piece.len());
        buffer[..len].copy_from_slice(&self.piece.split_to(len));
        Ok(len)
    }
}
