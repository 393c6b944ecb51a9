//! One request, one answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use ship_model::assets::encode_path;
use ship_model::digest::BlobDigest;
use ship_model::path::TreePath;

use super::Assets;
use super::accept::{Accepted, Encoding};
use super::body::FileBody;
use super::encode::{Encoded, Job, Known, is_worth_it};
use super::files::{Opened, Wanted};
use super::range::{self, Asked};
use super::rules::Rules;
use crate::miss::{Missed, Misses, Moment};
use crate::shelf::Served;

const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// What a request asks, decided without waiting for the disk.
#[derive(Debug)]
pub(super) enum Decided {
    Now(Response<FileBody>),
    /// The file must be opened first.
    Read(Box<Reading>),
    /// No file of that path is on the shelf.
    Missing(Box<Request<()>>),
}

/// A file that is asked for.
#[derive(Debug)]
pub(super) struct Reading {
    name: TreePath,
    served: Served,
    /// Sent instead of the file itself.
    encoded: Option<Encoded>,
    /// Other requests may be given another coding.
    negotiates: bool,
    asks: Asks,
}

/// What is kept of a request. Of the headers, those that say which part.
#[derive(Debug)]
struct Asks {
    head: bool,
    origin: Option<HeaderValue>,
    range: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
    identity: bool,
}

pub(super) fn decide<B>(assets: &Assets, request: &Request<B>) -> Decided {
    let (rules, headers) = (&assets.room.rules, request.headers());
    let origin = headers.get(header::ORIGIN);
    if is_misshapen(request) {
        let mut refused = plain(rules, origin, StatusCode::BAD_REQUEST, "no body, and one Host\n");
        if request.version() < Version::HTTP_2 {
            // What follows on this connection may be the rest of a body that two servers see differently.
            let close = HeaderValue::from_static("close");
            refused.headers_mut().insert(header::CONNECTION, close);
        }
        return Decided::Now(refused);
    }
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Decided::Now(options(rules, headers)),
        _ => {
            let text = "only GET and HEAD are served here\n";
            let mut refused = plain(rules, origin, StatusCode::METHOD_NOT_ALLOWED, text);
            refused.headers_mut().insert(header::ALLOW, METHODS);
            return Decided::Now(refused);
        }
    }
    let Some((name, served)) = assets.shelf.find(request.uri().path()) else {
        return absent(assets, request);
    };
    found(assets, headers, request.method() == Method::GET, name, served)
}

/// For whoever looks elsewhere the head is kept; otherwise that is the answer.
fn absent<B>(assets: &Assets, request: &Request<B>) -> Decided {
    if assets.shelf.misses().is_none() {
        return Decided::Now(unknown(assets, request.headers().get(header::ORIGIN)));
    }
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    Decided::Missing(Box::new(head))
}

fn unknown(assets: &Assets, origin: Option<&HeaderValue>) -> Response<FileBody> {
    assets.counters.not_found.fetch_add(1, Ordering::Relaxed);
    assets.shelf.unknown();
    plain(
        &assets.room.rules,
        origin,
        StatusCode::NOT_FOUND,
        "no such asset\n",
    )
}

/// Not one of the unknown, and no incident: retention gave it up.
fn expired(assets: &Assets, origin: Option<&HeaderValue>) -> Response<FileBody> {
    assets.counters.expired.fetch_add(1, Ordering::Relaxed);
    let text = "this asset has expired: no release in use names it\n";
    plain(&assets.room.rules, origin, StatusCode::NOT_FOUND, text)
}

/// Answers with what is found elsewhere.
async fn missing(assets: Assets, head: Request<()>) -> Response<FileBody> {
    let origin = head.headers().get(header::ORIGIN);
    let path = head.uri().path();
    let missed = match assets.shelf.misses() {
        Some(misses) => {
            let moment = misses.moment();
            // Another request may have had it fetched since this one looked.
            match assets.shelf.find(path) {
                Some(_) => Missed::Here,
                None => misses.miss(path, moment).await,
            }
        }
        None => Missed::Unknown,
    };
    match missed {
        Missed::Unknown => unknown(&assets, origin),
        Missed::Expired => expired(&assets, origin),
        Missed::Incident => incident(&assets, origin),
        Missed::Here => match decide(&assets, &head) {
            Decided::Now(response) => response,
            Decided::Read(reading) => read(assets, *reading).await,
            // Gone again already.
            Decided::Missing(_) => incident(&assets, origin),
        },
    }
}

/// Has a file made anew that cannot be read.
async fn mend(misses: Option<(&Arc<Misses>, Moment)>, name: &TreePath) -> Missed {
    match misses {
        Some((misses, moment)) => {
            let path = format!("/{}", encode_path(name.as_bytes()));
            misses.miss(&path, moment).await
        }
        None => Missed::Incident,
    }
}

/// What a well-formed GET (or HEAD) of a file is told.
pub(super) fn found(
    assets: &Assets,
    headers: &HeaderMap,
    get: bool,
    name: TreePath,
    served: Served,
) -> Decided {
    let rules = &assets.room.rules;
    let origin = headers.get(header::ORIGIN);
    let accepted = Accepted::of(headers);
    let negotiates =
        assets.room.encodings.is_some() && rules.encodes() && is_worth_it(served.content_type, served.size);
    let encoded = negotiates
        .then(|| choose(assets, &accepted, &name, &served))
        .flatten();
    if encoded.is_none() && !accepted.takes_identity() {
        let text = "there is no such coding of this asset, or not yet\n";
        return Decided::Now(plain(rules, origin, StatusCode::NOT_ACCEPTABLE, text));
    }
    let reading = Reading {
        name,
        served,
        encoded,
        negotiates,
        asks: Asks {
            head: !get,
            origin: origin.cloned(),
            // RFC 9110, 14.2: for GET alone.
            range: headers.get(header::RANGE).filter(|_| get).cloned(),
            if_range: headers.get(header::IF_RANGE).cloned(),
            identity: accepted.takes_identity(),
        },
    };
    if let Some(answer) = reading.precondition(rules, headers) {
        return Decided::Now(answer);
    }
    match assets.room.files.at_hand(&reading.digest()) {
        Some(opened) => Decided::Now(reading.respond(assets, opened)),
        None => Decided::Read(Box::new(reading)),
    }
}

/// What could not be answered at once.
pub(super) async fn go_on(assets: Assets, decided: Decided) -> Response<FileBody> {
    match decided {
        Decided::Now(response) => response,
        Decided::Read(reading) => read(assets, *reading).await,
        Decided::Missing(head) => missing(assets, *head).await,
    }
}

async fn read(assets: Assets, mut reading: Reading) -> Response<FileBody> {
    if let Some(encoded) = reading.encoded {
        match open_encoded(&assets, &reading.served.digest, encoded).await {
            Some(opened) => return reading.respond(&assets, opened),
            // It is made again; meanwhile the file itself will do.
            None if reading.asks.identity => reading.encoded = None,
            None => return incident(&assets, reading.asks.origin.as_ref()),
        }
    }
    let wanted = || wanted(&reading.name, &reading.served);
    let misses = assets.shelf.misses().filter(|_| reading.served.immutable);
    let misses = misses.map(|misses| (misses, misses.moment()));
    let mut obtained = assets.room.files.obtain(wanted()).await;
    if obtained.is_err() {
        match mend(misses, &reading.name).await {
            Missed::Here => obtained = assets.room.files.obtain(wanted()).await,
            // It was forgotten after it was found on the shelf.
            Missed::Expired => return expired(&assets, reading.asks.origin.as_ref()),
            Missed::Unknown | Missed::Incident => {}
        }
    }
    match obtained {
        Ok(opened) => reading.respond(&assets, opened),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(path = %reading.name, error, "asset on the shelf cannot be read");
            incident(&assets, reading.asks.origin.as_ref())
        }
    }
}

/// Published, and not to be had now: whoever keeps answers must not remember it as gone.
fn incident(assets: &Assets, origin: Option<&HeaderValue>) -> Response<FileBody> {
    assets.counters.broken.fetch_add(1, Ordering::Relaxed);
    let mut answer = plain(
        &assets.room.rules,
        origin,
        StatusCode::SERVICE_UNAVAILABLE,
        "this asset cannot be read right now\n",
    );
    let soon = HeaderValue::from_static("1");
    answer.headers_mut().insert(header::RETRY_AFTER, soon);
    answer
}

/// RFC 9112, sections 3.2 and 6.1. Nobody asks for an asset with a body, and whoever sends one may mean to have its end
/// read as a request of somebody else's; so does who frames it in two ways.
fn is_misshapen<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let empty = |value: &HeaderValue| value.as_bytes().iter().all(|b| *b == b'0');
    let body = headers.contains_key(header::TRANSFER_ENCODING)
        || !headers.get_all(header::CONTENT_LENGTH).iter().all(empty);
    let mut hosts = headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    // HTTP/2 has :authority for it.
    let hostless = request.version() == Version::HTTP_11 && first.is_none();
    let is_asked = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    (body && is_asked) || hostless || second.is_some()
}

fn options(rules: &Rules, headers: &HeaderMap) -> Response<FileBody> {
    let mut answer = HeaderMap::with_capacity(10);
    rules.dress(&mut answer, headers.get(header::ORIGIN), false);
    if headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        rules.preflight(&mut answer);
    }
    answer.insert(header::ALLOW, METHODS);
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    with(StatusCode::NO_CONTENT, answer, FileBody::empty())
}

/// The best coding that is there. The first one that is not is asked for, unless one before it is on its way.
fn choose(assets: &Assets, accepted: &Accepted, name: &TreePath, served: &Served) -> Option<Encoded> {
    let (room, mut coming) = (&assets.room, false);
    let encodings = room.encodings.as_ref()?;
    for encoding in accepted.order().filter(|encoding| room.rules.offers(*encoding)) {
        match encodings.find(&served.digest, encoding) {
            Known::Kept(encoded) => return Some(encoded),
            Known::Useless | Known::Failed(_) => {}
            Known::Coming => coming = true,
            Known::Nothing if coming => {}
            Known::Nothing => {
                coming = true;
                encodings.ask(Job {
                    encoding,
                    file: wanted(name, served),
                    brought: brought(assets, name, encoding),
                    files: Arc::clone(&room.files),
                });
            }
        }
    }
    None
}

/// The file that a build tool has put beside it: `app.js.br` for `app.js`.
fn brought(assets: &Assets, name: &TreePath, encoding: Encoding) -> Option<Wanted> {
    let beside = TreePath::new(&[name.as_bytes(), encoding.suffix().as_bytes()].concat()).ok()?;
    let served = assets.shelf.find_name(&beside)?;
    Some(wanted(&beside, &served))
}

fn wanted(name: &TreePath, served: &Served) -> Wanted {
    let (root, name) = served.place(name);
    Wanted {
        root,
        name,
        digest: served.digest,
        size: served.size,
        links: !served.immutable,
        union: served.union.clone(),
    }
}

async fn open_encoded(assets: &Assets, blob: &BlobDigest, encoded: Encoded) -> Option<Arc<Opened>> {
    let encodings = assets.room.encodings.as_ref()?;
    let wanted = encodings.wanted(blob, encoded)?;
    match assets.room.files.obtain(wanted).await {
        Ok(opened) => Some(opened),
        Err(error) => {
            tracing::warn!(
                %blob,
                encoding = encoded.encoding.token(),
                error = &error as &dyn std::error::Error,
                "a kept coding is made again"
            );
            let (encodings, blob) = (Arc::clone(encodings), *blob);
            // Whether it could be removed is seen when it is made again.
            let _ = tokio::task::spawn_blocking(move || encodings.forget(&blob, encoded)).await;
            None
        }
    }
}

impl Reading {
    /// Of the bytes that are sent.
    fn digest(&self) -> BlobDigest {
        self.encoded.map_or(self.served.digest, |encoded| encoded.digest)
    }

    fn size(&self) -> u64 {
        self.encoded.map_or(self.served.size, |encoded| encoded.size)
    }

    fn etag(&self) -> HeaderValue {
        etag(&self.digest(), self.encoded.map(|encoded| encoded.encoding))
    }

    /// RFC 9110, section 13.2.2: what ends a request before its file is looked at.
    fn precondition(&self, rules: &Rules, headers: &HeaderMap) -> Option<Response<FileBody>> {
        // Most requests have neither.
        if !headers.contains_key(header::IF_MATCH) && !headers.contains_key(header::IF_NONE_MATCH) {
            return None;
        }
        let etag = self.etag();
        if headers.contains_key(header::IF_MATCH) && !lists(headers, header::IF_MATCH, &etag, false) {
            let text = "the asset has other bytes\n";
            let origin = self.asks.origin.as_ref();
            return Some(plain(rules, origin, StatusCode::PRECONDITION_FAILED, text));
        }
        lists(headers, header::IF_NONE_MATCH, &etag, true).then(|| {
            let headers = self.caching(rules, etag);
            with(StatusCode::NOT_MODIFIED, headers, FileBody::empty())
        })
    }

    /// The headers that a 304 repeats.
    fn caching(&self, rules: &Rules, etag: HeaderValue) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(14);
        headers.insert(header::ETAG, etag);
        let keep = if self.served.immutable {
            IMMUTABLE
        } else {
            rules.mutable()
        };
        headers.insert(header::CACHE_CONTROL, keep);
        rules.dress(&mut headers, self.asks.origin.as_ref(), self.negotiates);
        headers
    }

    fn respond(&self, assets: &Assets, opened: Arc<Opened>) -> Response<FileBody> {
        let (size, etag) = (self.size(), self.etag());
        let asked = self.asks.part(&etag, size);
        let mut headers = self.caching(&assets.room.rules, etag);
        let kind = HeaderValue::from_static(self.served.content_type);
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(encoded) = self.encoded {
            let token = HeaderValue::from_static(encoded.encoding.token());
            headers.insert(header::CONTENT_ENCODING, token);
        }
        let (status, offset, len) = match asked {
            Asked::Whole => (StatusCode::OK, 0, size),
            Asked::Part { first, len } => {
                let range = format!("bytes {first}-{}/{size}", first + len - 1);
                set(&mut headers, header::CONTENT_RANGE, range);
                (StatusCode::PARTIAL_CONTENT, first, len)
            }
            Asked::Unsatisfiable => {
                set(&mut headers, header::CONTENT_RANGE, format!("bytes */{size}"));
                let never = HeaderValue::from_static("no-store");
                headers.insert(header::CACHE_CONTROL, never);
                (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0)
            }
        };
        headers.insert(header::CONTENT_LENGTH, len.into());
        if self.asks.head {
            return with(status, headers, FileBody::empty());
        }
        assets.counters.bytes.fetch_add(len, Ordering::Relaxed);
        with(
            status,
            headers,
            FileBody::part(opened, &assets.room.buffers, offset, len),
        )
    }
}

impl Asks {
    fn part(&self, etag: &HeaderValue, size: u64) -> Asked {
        let Some(range) = self.range.as_ref().and_then(|value| value.to_str().ok()) else {
            return Asked::Whole;
        };
        // A date in If-Range never matches: we send no dates.
        match &self.if_range {
            Some(condition) if condition != etag => Asked::Whole,
            _ => range::parse(range, size),
        }
    }
}

/// A strong one: from the very bytes that are sent. Times and sizes of unpacked files say nothing of their content.
fn etag(digest: &BlobDigest, encoding: Option<Encoding>) -> HeaderValue {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut text = Vec::with_capacity(40);
    text.push(b'"');
    for byte in &digest.as_bytes()[..16] {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
    if let Some(encoding) = encoding {
        text.push(b'-');
        text.extend_from_slice(encoding.token().as_bytes());
    }
    text.push(b'"');
    // Hexadecimal digits and quotes are what a header may hold.
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether a list of entity tags has `etag`; `weak`: as RFC 9110, section 8.8.3.2 compares weakly.
fn lists(request: &HeaderMap, name: HeaderName, etag: &HeaderValue, weak: bool) -> bool {
    let listed = |value: &HeaderValue| {
        let Ok(list) = value.to_str() else { return false };
        let is_ours = |tag: &str| {
            let tag = tag.trim();
            let strong = if weak {
                tag.strip_prefix("W/").unwrap_or(tag)
            } else {
                tag
            };
            strong.as_bytes() == etag.as_bytes()
        };
        list.trim() == "*" || list.split(',').any(is_ours)
    };
    request.get_all(name).iter().any(listed)
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn plain(
    rules: &Rules,
    origin: Option<&HeaderValue>,
    status: StatusCode,
    text: &'static str,
) -> Response<FileBody> {
    let mut headers = HeaderMap::with_capacity(10);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    rules.dress(&mut headers, origin, false);
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
