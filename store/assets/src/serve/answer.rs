//! One request, one answer.

use std::fs::File;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use super::Assets;
use super::body::{FileBody, read_exactly};
use super::range::{self, Asked};
use crate::miss::Missed;
use crate::shelf::Served;
use ship_model::assets::encode_path;
use ship_model::path::TreePath;

const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Long enough to take the edge off a crowd, short enough to follow a switch.
const MUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=5, must-revalidate");

/// What a request asks, decided without touching the disk.
#[derive(Debug)]
pub(super) enum Decided {
    Now(Response<FileBody>),
    /// The file must be opened first.
    Read(Box<Reading>),
    /// No file of that path is on the shelf.
    Missing(Box<Request<()>>),
}

#[derive(Debug)]
pub(super) struct Reading {
    name: TreePath,
    served: Served,
    headers: HeaderMap,
    asked: Asked,
    head: bool,
}

pub(super) fn decide<B>(assets: &Assets, request: &Request<B>) -> Decided {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are served here\n",
        );
        let allow = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(header::ALLOW, allow);
        return Decided::Now(refused);
    }
    let Some((name, served)) = assets.shelf.find(request.uri().path()) else {
        return absent(assets, request);
    };
    let headers = caching(&served);
    if matches_etag(request.headers(), header::IF_NONE_MATCH, &headers[header::ETAG]) {
        return Decided::Now(with(StatusCode::NOT_MODIFIED, headers, FileBody::empty()));
    }
    let asked = asked(request.headers(), &headers[header::ETAG], served.size);
    let head = request.method() == Method::HEAD;
    Decided::Read(Box::new(Reading {
        name,
        served,
        headers,
        asked,
        head,
    }))
}

/// For whoever looks elsewhere the head is kept; otherwise that is the answer.
fn absent<B>(assets: &Assets, request: &Request<B>) -> Decided {
    if assets.shelf.misses().is_none() {
        return Decided::Now(unknown(assets));
    }
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.headers_mut() = request.headers().clone();
    Decided::Missing(Box::new(head))
}

fn unknown(assets: &Assets) -> Response<FileBody> {
    assets.counters.not_found.fetch_add(1, Ordering::Relaxed);
    plain(StatusCode::NOT_FOUND, "no such asset\n")
}

/// Published, and not to be had now: whoever keeps answers must not remember it as gone.
fn incident(assets: &Assets) -> Response<FileBody> {
    assets.counters.broken.fetch_add(1, Ordering::Relaxed);
    let mut response = plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "this asset cannot be read right now\n",
    );
    let soon = HeaderValue::from_static("1");
    response.headers_mut().insert(header::RETRY_AFTER, soon);
    response
}

/// Answers with what is found elsewhere.
pub(super) async fn missing(assets: Assets, head: Request<()>) -> Response<FileBody> {
    let missed = match assets.shelf.misses() {
        Some(misses) => misses.miss(head.uri().path()).await,
        None => Missed::Unknown,
    };
    match missed {
        Missed::Unknown => unknown(&assets),
        Missed::Incident => incident(&assets),
        Missed::Here => match decide(&assets, &head) {
            Decided::Now(response) => response,
            Decided::Read(reading) => read(assets, *reading).await,
            // Gone again already.
            Decided::Missing(_) => incident(&assets),
        },
    }
}

/// Has a file made anew that cannot be read; true when it stands again.
async fn mend(assets: &Assets, name: &TreePath, served: &Served) -> bool {
    let Some(misses) = assets.shelf.misses().filter(|_| served.immutable) else {
        return false;
    };
    misses.miss(&format!("/{}", encode_path(name.as_bytes()))).await == Missed::Here
}

pub(super) async fn read(assets: Assets, reading: Reading) -> Response<FileBody> {
    let Reading {
        name,
        served,
        headers,
        asked,
        head,
    } = reading;
    let mut opened = open(served.file(&name), asked, served.size, head).await;
    if opened.is_err() && mend(&assets, &name, &served).await {
        opened = open(served.file(&name), asked, served.size, head).await;
    }
    match opened {
        Ok(body) => respond(&assets, served, headers, asked, body),
        Err(error) => {
            tracing::error!(path = %name, %error, "asset on the shelf cannot be read");
            incident(&assets)
        }
    }
}

fn respond(
    assets: &Assets,
    served: Served,
    mut headers: HeaderMap,
    asked: Asked,
    body: FileBody,
) -> Response<FileBody> {
    let size = served.size;
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(served.content_type),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let (status, len) = match asked {
        Asked::Whole => (StatusCode::OK, size),
        Asked::Part { first, len } => {
            set(
                &mut headers,
                header::CONTENT_RANGE,
                format!("bytes {first}-{}/{size}", first + len - 1),
            );
            (StatusCode::PARTIAL_CONTENT, len)
        }
        Asked::Unsatisfiable => {
            set(&mut headers, header::CONTENT_RANGE, format!("bytes */{size}"));
            (StatusCode::RANGE_NOT_SATISFIABLE, 0)
        }
    };
    headers.insert(header::CONTENT_LENGTH, len.into());
    assets.counters.bytes.fetch_add(len, Ordering::Relaxed);
    with(status, headers, body)
}

/// Opens the file off the event loop. A short part is read at once: it then costs one hop, not two.
async fn open(path: std::path::PathBuf, asked: Asked, size: u64, head: bool) -> std::io::Result<FileBody> {
    let (offset, len) = match asked {
        Asked::Whole => (0, size),
        Asked::Part { first, len } => (first, len),
        Asked::Unsatisfiable => return Ok(FileBody::empty()),
    };
    let opened = tokio::task::spawn_blocking(move || {
        let file = File::open(path)?;
        if file.metadata()?.len() != size {
            return Err(std::io::Error::other("its size is not what was published"));
        }
        if head {
            Ok(FileBody::empty())
        } else if FileBody::is_small(len) {
            Ok(FileBody::text(read_exactly(&file, offset, len)?))
        } else {
            Ok(FileBody::part(file, offset, len))
        }
    });
    opened.await.map_err(std::io::Error::other)?
}

/// The headers that a 304 repeats.
fn caching(served: &Served) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    // From the bytes themselves: times and sizes of unpacked files say nothing of their content.
    set(
        &mut headers,
        header::ETAG,
        format!("\"{}\"", &served.digest.to_string()[..32]),
    );
    headers.insert(
        header::CACHE_CONTROL,
        if served.immutable { IMMUTABLE } else { MUTABLE },
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers
}

fn asked(request: &HeaderMap, etag: &HeaderValue, size: u64) -> Asked {
    let Some(range) = request.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Asked::Whole;
    };
    // A date in If-Range never matches: we send no dates.
    match request.get(header::IF_RANGE) {
        Some(condition) if condition != etag => Asked::Whole,
        _ => range::parse(range, size),
    }
}

fn matches_etag(request: &HeaderMap, name: header::HeaderName, etag: &HeaderValue) -> bool {
    let listed = |value: &HeaderValue| {
        let Ok(list) = value.to_str() else { return false };
        let is_ours = |tag: &str| tag.trim().trim_start_matches("W/").as_bytes() == etag.as_bytes();
        list.trim() == "*" || list.split(',').any(is_ours)
    };
    request.get_all(name).iter().any(listed)
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<FileBody> {
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    with(
        status,
        headers,
        FileBody::text(Bytes::from_static(text.as_bytes())),
    )
}

fn with(status: StatusCode, headers: HeaderMap, body: FileBody) -> Response<FileBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
