//! Ranges of a bundle or a delta as the store gives them, for threads that block: a reader that goes on where the connection
//! broke. Nothing is checked here: whoever unpacks checks, and asks nobody else.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::lines::{Object, STALL, answers, in_time};
use super::origin::Origin;
use super::{Backoff, Fetcher};

/// Failures in a row, without a byte in between, after which a transfer is given up.
pub(super) const TRIES: u32 = 5;

/// Why a range of a bundle could not be read.
#[derive(Debug, Error)]
pub enum RangeError {
    #[error("no connection could be made")]
    Connect(#[source] io::Error),
    #[error("the request could not be sent")]
    Send(#[source] hyper::Error),
    #[error("the answer was {status}")]
    Status { status: StatusCode },
    #[error("the answer was another range than was asked for")]
    OtherRange,
    #[error("nothing came for {} s", STALL.as_secs())]
    Stalled,
    #[error("the transfer broke")]
    Broke(#[source] hyper::Error),
    #[error("more or less came than was announced")]
    Length,
    #[error("the transfer was called off")]
    Cancelled,
    #[error("other bytes came than were published")]
    Wrong,
    #[error("{origin} did not give it")]
    From { origin: String, source: Box<Self> },
    #[error("nobody is left to ask for it")]
    Nobody,
}

impl RangeError {
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { status } => {
                status.is_server_error()
                    || *status == StatusCode::TOO_MANY_REQUESTS
                    || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::From { source, .. } => source.is_transient(),
            Self::OtherRange | Self::Wrong => false,
            _ => true,
        }
    }

    /// Whether nobody who was asked has it.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Status { status } => *status == StatusCode::NOT_FOUND,
            Self::From { source, .. } => source.is_absent(),
            _ => false,
        }
    }

    /// The error inside an [`io::Error`] that a [`RangeReader`] returned, if it came from here.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<RangeError> for io::Error {
    fn from(error: RangeError) -> Self {
        match &error {
            // As a decoder says it: the bundle is wrong, another one may have its content.
            RangeError::From { source, .. } if matches!(**source, RangeError::Wrong) => {
                Self::new(io::ErrorKind::InvalidData, error)
            }
            _ => Self::other(error),
        }
    }
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
        let path = span.object.path();
        let answer = self
            .ask(&Origin::Store, &path, Some((span.from, span.to)))
            .await?;
        answers(&answer.response, span.from, span.to)?;
        let (tx, rx) = mpsc::channel(4);
        let fetcher = Arc::clone(self);
        tokio::spawn(async move {
            let (body, kept) = answer.into_body();
            if pump(&fetcher, body, &tx, &cancel).await {
                fetcher.keep(kept);
            }
        });
        Ok(rx)
    }
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
            fetcher.took(&Origin::Store, bytes.len()).await;
        }
        if tx.send(piece).await.is_err() || broken {
            return false;
        }
    }
}

/// Part of a bundle or a delta.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub object: Object,
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
