//! `/bundles/<digest>` and `/deltas/<digest>`: the bytes, whole or in part, for whoever has a certificate of the fleet.
//!
//! Neither ever changes, so its digest is its entity tag. Bytes are read as the client takes them, a piece at a
//! time: a slow client holds one piece in memory and no thread. A reader checks what it gets against the digests of
//! the blobs it wants; the store does not hash a bundle anew for each request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ship_assets::serve::Throttle;
use ship_model::digest::{BundleDigest, DeltaDigest};

use super::range::{Wanted, wanted};
use super::refuse;
use crate::bridge::Bridge;
use crate::clock::Clock;
use crate::engine::{Blobs, BlobsError, Object, ObjectReader};
use crate::listen::{Peer, PortFigures};
use crate::rollout::fleet::Fleet;

/// Bytes that are read at once.
const PIECE: u64 = 256 << 10;

/// What serving bundles needs.
#[derive(Debug, Clone)]
pub struct Bundles {
    pub blobs: Arc<dyn Blobs>,
    pub bridge: Bridge,
    pub clock: Clock,
    pub fleet: Arc<Fleet>,
    /// How fast bytes may leave, for all clients together.
    pub limit: Option<Arc<Throttle>>,
    pub figures: Arc<PortFigures>,
}

pub(super) async fn get(
    State(bundles): State<Bundles>,
    peer: Option<Extension<Peer>>,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let object = digest.parse::<BundleDigest>().ok().map(Object::Bundle);
    give(bundles, peer, object, &method, &headers).await
}

pub(super) async fn delta(
    State(bundles): State<Bundles>,
    peer: Option<Extension<Peer>>,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let object = digest.parse::<DeltaDigest>().ok().map(Object::Delta);
    give(bundles, peer, object, &method, &headers).await
}

async fn give(
    bundles: Bundles,
    peer: Option<Extension<Peer>>,
    object: Option<Object>,
    method: &Method,
    headers: &HeaderMap,
) -> Response {
    if let Err(reason) = admit(peer.as_deref(), &bundles) {
        return refuse(StatusCode::UNAUTHORIZED, format!("{reason}\n"));
    }
    let Some(object) = object else {
        let text = "bundles and deltas are named by 64 hexadecimal digits\n";
        return refuse(StatusCode::NOT_FOUND, text.to_owned());
    };
    let blobs = Arc::clone(&bundles.blobs);
    let reader = match bundles.bridge.run(move || blobs.open(object)).await {
        Ok(Ok(reader)) => Arc::from(reader),
        Ok(Err(BlobsError::Absent { .. })) => {
            return refuse(StatusCode::NOT_FOUND, format!("no {object}\n"));
        }
        Ok(Err(error)) => {
            tracing::error!(%object, error = &error as &dyn std::error::Error, "cannot open what is asked for");
            return refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the {} cannot be read\n", object.kind().as_str()),
            );
        }
        Err(_) => {
            return refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the store is ending\n".to_owned(),
            );
        }
    };
    answer(bundles, object, reader, method, headers)
}

fn admit(peer: Option<&Peer>, bundles: &Bundles) -> Result<(), String> {
    let now_ms = bundles.clock.now_ms();
    match peer.and_then(|peer| peer.caller.as_ref()) {
        None => Err("a client certificate of this fleet is needed".to_owned()),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(caller)) if caller.not_after_ms < now_ms => {
            Err(format!("the certificate of {caller} has expired"))
        }
        Some(Ok(caller)) => match bundles.fleet.left(caller) {
            Some(left) => Err(left.to_string()),
            None => Ok(()),
        },
    }
}

fn answer(
    bundles: Bundles,
    object: Object,
    reader: Arc<dyn ObjectReader>,
    method: &Method,
    headers: &HeaderMap,
) -> Response {
    let total = reader.len();
    let tag = format!("\"{}\"", object.hex());
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    if text(header::IF_NONE_MATCH).is_some_and(|known| known.contains(&tag) || known.trim() == "*") {
        return built(StatusCode::NOT_MODIFIED, &tag, &[], Body::empty());
    }
    // A range of another version means nothing; of a bundle there is one version only.
    let range = text(header::IF_RANGE).is_none_or(|known| known.trim() == tag);
    let (status, first, len, shown) = match wanted(text(header::RANGE).filter(|_| range), total) {
        Wanted::Whole => (StatusCode::OK, 0, total, None),
        Wanted::Part { first, len } => {
            let shown = format!("bytes {first}-{}/{total}", first + len - 1);
            (StatusCode::PARTIAL_CONTENT, first, len, Some(shown))
        }
        Wanted::Beyond => {
            let shown = [(header::CONTENT_RANGE, format!("bytes */{total}"))];
            return built(StatusCode::RANGE_NOT_SATISFIABLE, &tag, &shown, Body::empty());
        }
    };
    let mut shown: Vec<_> = shown
        .map(|shown| (header::CONTENT_RANGE, shown))
        .into_iter()
        .collect();
    shown.push((header::CONTENT_LENGTH, len.to_string()));
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from_stream(pieces(bundles, reader, first, len))
    };
    built(status, &tag, &shown, body)
}

fn built(status: StatusCode, tag: &str, more: &[(http::HeaderName, String)], body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, max-age=31536000, immutable"),
    );
    let tagged = [(header::ETAG, tag.to_owned())];
    for (name, value) in tagged.iter().chain(more) {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name.clone(), value);
        }
    }
    response
}

/// The bytes from `first`, `len` of them. One that cannot be read breaks the body off, which the client sees.
fn pieces(
    bundles: Bundles,
    reader: Arc<dyn ObjectReader>,
    first: u64,
    len: u64,
) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold((first, len), move |(at, left)| {
        let (bundles, reader) = (bundles.clone(), Arc::clone(&reader));
        async move {
            if left == 0 {
                return Ok(None);
            }
            let read = bundles
                .bridge
                .run(move || read_piece(reader.as_ref(), at, left.min(PIECE)))
                .await;
            let piece = read.map_err(std::io::Error::other)??;
            let got = piece.len() as u64;
            if let Some(limit) = &bundles.limit {
                limit.pass(got).await;
            }
            bundles.figures.bundle_bytes.fetch_add(got, Ordering::Relaxed);
            Ok(Some((piece, (at + got, left - got))))
        }
    })
    .inspect_err(|error: &std::io::Error| tracing::error!(%error, "a bundle broke off while it was sent"))
}

fn read_piece(reader: &dyn ObjectReader, at: u64, len: u64) -> std::io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(PIECE as usize)];
    match reader.read_at(&mut buffer, at)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        got => {
            buffer.truncate(got);
            Ok(buffer.into())
        }
    }
}
