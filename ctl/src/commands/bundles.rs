//! Bundles as they lie in the store, read in ranges over HTTP with the context's certificate.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use ship_bundle::BundleIndex;
use ship_bundle::segments::{Held, gather};
use ship_bundle::stage::BlobSource;
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_proto::v1::{LocateRequest, Located};
use ship_proto::{MAX_DIGESTS, WireError, digest, digests};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Fleet;
use crate::client::Client;
use crate::context::Context;
use crate::dial::{STORE_NAME, Speech, dial};
use crate::error::{CommandError, Exit};

/// Pieces of a body that wait to be read.
const WAITING: usize = 4;

/// For the store to answer, and between two pieces of what it sends.
const SILENCE: Duration = Duration::from_secs(30);

/// Why it is not known where everything lies.
#[derive(Debug, thiserror::Error)]
enum LocateError {
    #[error("the store told where blob {blob} lies, which it was not asked, or was told before")]
    Unasked { blob: BlobDigest },
    #[error("the store does not know where {count} of the release's blobs lie, {first} among them")]
    Nowhere { count: usize, first: BlobDigest },
    #[error("the store told something malformed")]
    Wire(#[from] WireError),
}

#[derive(Debug, thiserror::Error)]
#[error("read the index of bundle {bundle}")]
pub struct ReadIndexError {
    bundle: BundleDigest,
    source: io::Error,
}

const VERIFY: &str = "on the store's machine: shipstore verify";

impl From<ReadIndexError> for CommandError {
    fn from(error: ReadIndexError) -> Self {
        Self::of(Exit::Error, &error).hint(VERIFY)
    }
}

impl From<LocateError> for CommandError {
    fn from(error: LocateError) -> Self {
        Self::of(Exit::Error, &error).hint(VERIFY)
    }
}

/// The bundles that hold `blobs`, each blob in exactly one of them.
async fn locate(blobs: &[BlobDigest], client: &Client) -> Result<Vec<Held>, CommandError> {
    // Taken out as they are told: a store that tells more than it was asked ends here, not in our memory.
    let mut open: HashSet<BlobDigest> = blobs.iter().copied().collect();
    let asked: Vec<LocateRequest> = blobs
        .chunks(MAX_DIGESTS)
        .map(|some| LocateRequest {
            blobs: some.iter().map(|blob| blob.as_bytes().to_vec()).collect(),
            avoid: Vec::new(),
        })
        .collect();
    let mut releases = client.releases();
    let located = releases.locate(tokio_stream::iter(asked)).await?;
    let mut located = located.into_inner();
    let mut places = BTreeMap::new();
    while let Some(found) = located.message().await? {
        take_in(&found, &mut open, &mut places)?;
    }
    match open.iter().min() {
        None => Ok(places.into_values().collect()),
        Some(first) => Err(LocateError::Nowhere {
            count: open.len(),
            first: *first,
        }
        .into()),
    }
}

fn take_in(
    found: &Located,
    open: &mut HashSet<BlobDigest>,
    places: &mut BTreeMap<BundleDigest, Held>,
) -> Result<(), LocateError> {
    let bundle = digest(&found.bundle, "bundle", BundleDigest::from_slice)?;
    for blob in digests(&found.blobs, "blob", BlobDigest::from_slice)? {
        if !open.remove(&blob) {
            return Err(LocateError::Unasked { blob });
        }
        let place = places.entry(bundle).or_insert_with(|| Held {
            bundle,
            bytes: found.bundle_bytes,
            blobs: Vec::new(),
        });
        place.blobs.push(blob);
    }
    Ok(())
}

/// The store's bundles, for threads that may block.
#[derive(Debug)]
pub struct Remote {
    context: Context,
    client: Client,
    runtime: Handle,
}

impl Remote {
    /// Called on the runtime; used from other threads.
    pub fn new(fleet: &Fleet) -> Self {
        Self {
            context: fleet.context.clone(),
            client: fleet.client.clone(),
            runtime: Handle::current(),
        }
    }

    /// The bundles that hold `blobs`, or list them and hold their segments, with what is fetched from each. However many there are and
    /// whatever they say they hold, what stays in memory is as large as what was asked for.
    pub fn holding(&self, blobs: &[BlobDigest]) -> Result<Vec<(BundleDigest, BundleIndex)>, CommandError> {
        let locate = |blobs: &[BlobDigest]| self.runtime.block_on(locate(blobs, &self.client));
        gather(blobs, locate, |bundle, bytes| {
            let read = |offset, length| self.whole(bundle, offset, length);
            let index = BundleIndex::read(bytes, read);
            index.map_err(|source| ReadIndexError { bundle, source }.into())
        })
    }

    fn whole(&self, bundle: BundleDigest, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.frames(bundle, offset, length)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl BlobSource for Remote {
    fn frames(&self, bundle: BundleDigest, offset: u64, len: u64) -> io::Result<Box<dyn Read + Send>> {
        let (pieces, received) = mpsc::channel(WAITING);
        let context = self.context.clone();
        self.runtime.spawn(async move {
            if let Err(error) = get(&context, bundle, offset, len, &pieces).await {
                // The reader may have stopped listening; then nobody misses the reason.
                let _ = pieces.send(Err(error)).await;
            }
        });
        Ok(Box::new(Pieces {
            received,
            piece: Bytes::new(),
            left: len,
        }))
    }
}

/// One connection, one range.
async fn get(
    context: &Context,
    bundle: BundleDigest,
    offset: u64,
    len: u64,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let stream = dial(context, Speech::Http1).await.map_err(io::Error::other)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    let last = offset + len.saturating_sub(1);
    let request = http::Request::get(format!("/bundles/{bundle}"))
        .header(http::header::HOST, STORE_NAME)
        .header(http::header::RANGE, format!("bytes={offset}-{last}"))
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = in_time(sender.send_request(request)).await?;
    if response.status() != http::StatusCode::PARTIAL_CONTENT {
        return Err(io::Error::other(format!(
            "the store answered {} instead of a range",
            response.status()
        )));
    }
    let mut body = response.into_body();
    while let Some(frame) = in_time(async { body.frame().await.transpose() }).await? {
        if let Ok(data) = frame.into_data()
            && pieces.send(Ok(data)).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

async fn in_time<T>(answer: impl Future<Output = hyper::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(SILENCE, answer).await {
        Ok(answered) => answered.map_err(io::Error::other),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the store sent nothing for {} s", SILENCE.as_secs()),
        )),
    }
}

/// The body, read by a thread; exactly as long as was asked for.
struct Pieces {
    received: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    left: u64,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        while self.piece.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let length = self.piece.len().min(buffer.len()).min(most);
        buffer[..length].copy_from_slice(&self.piece[..length]);
        self.piece.advance(length);
        self.left -= length as u64;
        Ok(length)
    }
}
