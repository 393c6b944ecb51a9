//! Bundles as they lie in the store, read in ranges over HTTP with the context's certificate.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use ship_bundle::BundleIndex;
use ship_bundle::stage::BlobSource;
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_proto::v1::LocateRequest;
use ship_proto::{MAX_DIGESTS, digest};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Fleet;
use crate::context::Context;
use crate::dial::{STORE_NAME, Speech, dial};
use crate::error::{CommandError, Exit};

/// Pieces of a body that wait to be read.
const WAITING: usize = 4;

/// A bundle and its length.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    bundle: BundleDigest,
    bytes: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("read the index of bundle {bundle}")]
pub struct ReadIndexError {
    bundle: BundleDigest,
    source: io::Error,
}

impl From<ReadIndexError> for CommandError {
    fn from(error: ReadIndexError) -> Self {
        Self::of(Exit::Error, &error).hint("on the store's machine: shipstore verify")
    }
}

/// The bundles that hold `blobs`.
pub async fn locate(blobs: &[BlobDigest], fleet: &Fleet) -> Result<Vec<Place>, CommandError> {
    let asked: Vec<LocateRequest> = blobs
        .chunks(MAX_DIGESTS)
        .map(|some| LocateRequest {
            blobs: some.iter().map(|blob| blob.as_bytes().to_vec()).collect(),
            avoid: Vec::new(),
        })
        .collect();
    let mut located = fleet
        .client
        .releases()
        .locate(tokio_stream::iter(asked))
        .await?
        .into_inner();
    let mut places = BTreeMap::new();
    while let Some(found) = located.message().await? {
        let bundle = digest(&found.bundle, "bundle", BundleDigest::from_slice)
            .map_err(|error| CommandError::of(Exit::Error, &error))?;
        let bytes = found.bundle_bytes;
        places.insert(bundle, Place { bundle, bytes });
    }
    Ok(places.into_values().collect())
}

/// The store's bundles, for threads that may block.
#[derive(Debug)]
pub struct Remote {
    context: Context,
    runtime: Handle,
}

impl Remote {
    /// Called on the runtime; used from other threads.
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            runtime: Handle::current(),
        }
    }

    /// What each bundle holds.
    pub fn indexes(&self, places: &[Place]) -> Result<Vec<(BundleDigest, BundleIndex)>, ReadIndexError> {
        let index = |place: &Place| {
            let read = |offset, length| self.whole(place.bundle, offset, length);
            let index = BundleIndex::read(place.bytes, read).map_err(|source| ReadIndexError {
                bundle: place.bundle,
                source,
            })?;
            Ok((place.bundle, index))
        };
        places.iter().map(index).collect()
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
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    if response.status() != http::StatusCode::PARTIAL_CONTENT {
        return Err(io::Error::other(format!(
            "the store answered {} instead of a range",
            response.status()
        )));
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(io::Error::other)?;
        if let Ok(data) = frame.into_data()
            && pieces.send(Ok(data)).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
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
