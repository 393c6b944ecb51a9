//! Ranges of bundles and deltas, and what may go wrong with them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ship_model::digest::{BundleDigest, DeltaDigest};

use super::store::Inner;

pub async fn bundle(
    State(inner): State<Arc<Inner>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Response {
    let digest: BundleDigest = digest.parse().unwrap();
    let mut shelf = inner.shelf.lock().unwrap();
    let goes_at = inner.goes_at.load(Ordering::Relaxed);
    if goes_at > 0 && inner.transfers.load(Ordering::Relaxed) >= goes_at {
        inner.goes_at.store(0, Ordering::Relaxed);
        shelf.let_go(digest);
    }
    let bytes = shelf.bundles.get(&digest).cloned();
    drop(shelf);
    range(&inner, bytes, &headers)
}

pub async fn delta(
    State(inner): State<Arc<Inner>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Response {
    let digest: DeltaDigest = digest.parse().unwrap();
    let bytes = inner.shelf.lock().unwrap().deltas.get(&digest).cloned();
    inner.delta_transfers.fetch_add(1, Ordering::Relaxed);
    range(&inner, bytes, &headers)
}

fn range(inner: &Inner, bytes: Option<Vec<u8>>, headers: &HeaderMap) -> Response {
    if inner.sick.load(Ordering::Relaxed) || inner.no_bytes.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    inner.transfers.fetch_add(1, Ordering::Relaxed);
    let Some(bytes) = bytes else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers.get(header::RANGE).unwrap().to_str().unwrap();
    let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
    let Some(piece) = bytes.get(from..=to).map(<[u8]>::to_vec) else {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    };
    let told = format!("bytes {from}-{to}/{}", bytes.len());
    let len = piece.len();
    let cut = inner.cut_after.load(Ordering::Relaxed);
    let pieces = if cut > 0 && cut < len {
        let broken = std::io::Error::other("the line is cut");
        vec![Ok(piece[..cut].to_vec()), Err(broken)]
    } else {
        vec![Ok(piece)]
    };
    // What was written before the cut has left by then.
    let pieces = futures::StreamExt::then(
        tokio_stream::iter(pieces),
        |piece: Result<Vec<u8>, std::io::Error>| async {
            if piece.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            piece
        },
    );
    let body = Body::from_stream(pieces);
    (
        StatusCode::PARTIAL_CONTENT,
        [
            (header::CONTENT_RANGE, told),
            (header::CONTENT_LENGTH, len.to_string()),
        ],
        body,
    )
        .into_response()
}
