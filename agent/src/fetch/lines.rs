//! Connections to whoever gives bytes, kept open between ranges, and one request over one of them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use ship_model::digest::{BundleDigest, DeltaDigest};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Fetcher;
use super::origin::Origin;
use super::ranges::RangeError;
use crate::dial::STORE_NAME;

/// Without a byte for so long, a transfer counts as broken.
pub(super) const STALL: Duration = Duration::from_secs(30);
/// Connections kept open between ranges, to one and to all.
const IDLE: usize = 4;
const IDLE_IN_ALL: usize = 32;
/// Bytes of an answer's head.
const HEAD: usize = 32 << 10;

/// What bytes are read of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    Bundle(BundleDigest),
    Delta(DeltaDigest),
}

impl Object {
    pub const fn digest(&self) -> &[u8; 32] {
        match self {
            Self::Bundle(bundle) => bundle.as_bytes(),
            Self::Delta(delta) => delta.as_bytes(),
        }
    }

    /// `/bundles/3f9a…`
    pub fn path(&self) -> String {
        match self {
            Self::Bundle(bundle) => format!("/bundles/{bundle}"),
            Self::Delta(delta) => format!("/deltas/{delta}"),
        }
    }

    /// Where its leaves lie, if somebody keeps them as a file.
    pub fn leaves_path(&self) -> String {
        match self {
            Self::Bundle(bundle) => format!("/leaves/{bundle}"),
            Self::Delta(delta) => format!("/leaves/{delta}"),
        }
    }
}

pub(super) type Sender = SendRequest<Empty<Bytes>>;

/// Connections that wait for their next request, each with the edition of the certificates that it was made with.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<(Origin, u64, Sender)>>);

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Idle")
    }
}

impl Idle {
    fn take(&self, origin: &Origin, edition: u64) -> Option<Sender> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, same, sender)| *same == edition && !sender.is_closed());
        let at = idle.iter().rposition(|(of, ..)| of == origin)?;
        Some(idle.remove(at).2)
    }

    fn put(&self, origin: Origin, edition: u64, sender: Sender) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.iter().filter(|(of, ..)| *of == origin).count() >= IDLE {
            return;
        }
        if idle.len() >= IDLE_IN_ALL {
            // The one that was not needed for longest.
            idle.remove(0);
        }
        idle.push((origin, edition, sender));
    }
}

/// An answer under way, and the connection that it comes over.
pub(super) struct Answer {
    pub response: Response<Incoming>,
    sender: Sender,
    origin: Origin,
    edition: u64,
}

impl Answer {
    /// Splits off the body; the rest is for [`Fetcher::keep`] once it has been read to its end.
    pub fn into_body(self) -> (Incoming, Kept) {
        let kept = Kept {
            sender: self.sender,
            origin: self.origin,
            edition: self.edition,
        };
        (self.response.into_body(), kept)
    }
}

pub(super) struct Kept {
    sender: Sender,
    origin: Origin,
    edition: u64,
}

pub(super) async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, RangeError> {
    tokio::time::timeout(STALL, step)
        .await
        .map_err(|_| RangeError::Stalled)
}

impl Fetcher {
    /// Asks `origin` for bytes `from..to`, `from < to`, of what lies at `path`; for all of it without a range.
    pub(super) async fn ask(
        &self,
        origin: &Origin,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Answer, RangeError> {
        let edition = self.dial.tls().map_or(0, |(_, edition)| edition);
        let asked = request(origin, path, range);
        let answered = |sender, response| Answer {
            response,
            sender,
            origin: origin.clone(),
            edition,
        };
        // A kept connection may have been closed by the other end meanwhile; that is no failure.
        if let Some(mut sender) = self.idle.take(origin, edition)
            && let Ok(response) = in_time(sender.send_request(asked.clone())).await?
        {
            return Ok(answered(sender, response));
        }
        let mut sender = self.connect(origin).await?;
        let response = in_time(sender.send_request(asked)).await?;
        Ok(answered(sender, response.map_err(RangeError::Send)?))
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn keep(&self, kept: Kept) {
        if !kept.sender.is_closed() {
            self.idle.put(kept.origin, kept.edition, kept.sender);
        }
    }

    async fn connect(&self, origin: &Origin) -> Result<Sender, RangeError> {
        match origin {
            Origin::Store => speak(self.dial.connect(b"http/1.1").await).await,
            Origin::Mirror(mirror) => speak(self.dial.connect_mirror(mirror).await).await,
            Origin::Peer(host, address) => speak(self.dial.connect_peer(host, *address).await).await,
        }
    }
}

async fn speak<S>(stream: std::io::Result<hyper_util::rt::TokioIo<S>>) -> Result<Sender, RangeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = stream.map_err(RangeError::Connect)?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    let shaken = builder.max_buf_size(HEAD).handshake(stream).await;
    let (sender, connection) = shaken.map_err(RangeError::Send)?;
    // Ends when the sender is dropped or the other end hangs up; what went wrong is told by the request it broke.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

fn request(origin: &Origin, path: &str, range: Option<(u64, u64)>) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    let (host, base) = match origin {
        Origin::Store => (STORE_NAME.to_owned(), ""),
        Origin::Mirror(mirror) => (mirror.authority(), mirror.path.as_str()),
        Origin::Peer(_, address) => (address.to_string(), ""),
    };
    *request.uri_mut() = http::Uri::try_from(format!("{base}{path}")).unwrap_or_default();
    let headers = request.headers_mut();
    if let Ok(host) = header::HeaderValue::try_from(host) {
        headers.insert(header::HOST, host);
    }
    if let Some((from, to)) = range
        && let Ok(range) = header::HeaderValue::try_from(format!("bytes={from}-{}", to.saturating_sub(1)))
    {
        headers.insert(header::RANGE, range);
    }
    request
}

/// Whether the answer is exactly the range that was asked for.
pub(super) fn answers(response: &Response<Incoming>, from: u64, to: u64) -> Result<(), RangeError> {
    let status = response.status();
    if status != StatusCode::PARTIAL_CONTENT {
        return Err(match status.is_success() {
            true => RangeError::OtherRange,
            false => RangeError::Status { status },
        });
    }
    let told = response
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let wanted = format!("bytes {from}-{}/", to - 1);
    match told.is_some_and(|told| told.starts_with(&wanted)) {
        true => Ok(()),
        false => Err(RangeError::OtherRange),
    }
}
