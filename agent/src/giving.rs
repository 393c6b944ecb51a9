//! What other hosts of the fleet get from this one: pieces of bundles and deltas, over a port of their own.
//!
//! Both ends show their agents' certificates. Only what was checked leaves: out of what was fetched lately, or got for the
//! one who asks, if this host owns the piece; then from the store or a mirror, never from a third host. Requests at once,
//! connections, and the bytes of a second are bounded.
//!
//! ```text
//! GET /bundles/<digest>    with a range of whole leaves within one piece: 206
//! GET /deltas/<digest>     the same
//! GET /leaves/<digest>     what this host checks by, if it knows: 200
//! ```

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use ship_assets::serve::{Limits, Port as Listening, PortTls};
use ship_model::leaves::Leaves;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dial::Dial;
use crate::fetch::{Fetcher, For, Object, Share, Wanted, piece_of};
use crate::metrics;

/// Answers under way at once; each holds one piece.
const ANSWERS: usize = 64;
const CONNECTIONS: usize = 256;
/// How often this host's certificate is looked at.
const LOOK: Duration = Duration::from_secs(3);

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The port that other hosts come to.
#[derive(Debug)]
pub struct Port {
    pub dial: Arc<Dial>,
    pub fetcher: Arc<Fetcher>,
    /// Where a port that was taken free is remembered.
    pub remembered: PathBuf,
}

impl Port {
    /// Serves until `stop`; gives the address that was bound.
    ///
    /// # Errors
    /// When nobody can listen there, or the host's certificate is no host's.
    pub async fn serve(
        self,
        listen: SocketAddr,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> anyhow::Result<SocketAddr> {
        let listener = metrics::bind(listen, &self.remembered).await;
        let listener = listener.with_context(|| format!("cannot give to other hosts at {listen}"))?;
        let bound = listener
            .local_addr()
            .context("cannot tell the port for other hosts")?;
        let (config, edition) = self.dial.server().context("cannot give to other hosts")?;
        let tls = Arc::new(PortTls::of(config));
        tasks.spawn(renew(
            Arc::clone(&self.dial),
            Arc::clone(&tls),
            edition,
            stop.clone(),
        ));
        let port = Listening {
            tls: Some(tls),
            limits: Limits {
                connections: CONNECTIONS,
                ..Limits::default()
            },
        };
        let (fetcher, places) = (self.fetcher, Arc::new(Semaphore::new(ANSWERS)));
        let answer = move |request: Request<Incoming>| {
            let (fetcher, places) = (Arc::clone(&fetcher), Arc::clone(&places));
            async move { answer(&fetcher, places, request).await }
        };
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(port.serve(listener, answer, stopped));
        tracing::info!(address = %bound, "gives bundles to other hosts");
        Ok(bound)
    }
}

/// Takes new certificates when their files change.
async fn renew(dial: Arc<Dial>, tls: Arc<PortTls>, mut edition: u64, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
        match dial.server() {
            Ok((config, newest)) if newest != edition => {
                edition = newest;
                tls.put(config);
            }
            Ok(_) => {}
            Err(error) => tracing::error!(
                error = crate::session::chain(&error),
                "the certificate for other hosts cannot be read again; the old one stays"
            ),
        }
    }
}

async fn answer(
    fetcher: &Arc<Fetcher>,
    places: Arc<Semaphore>,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some(share) = fetcher.share() else {
        return refuse(StatusCode::NOT_FOUND);
    };
    if request.method() != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some((kind, digest)) = request.uri().path().trim_start_matches('/').split_once('/') else {
        return refuse(StatusCode::NOT_FOUND);
    };
    let bundle = || digest.parse().ok().map(Object::Bundle);
    let delta = || digest.parse().ok().map(Object::Delta);
    let object = match kind {
        "bundles" => bundle(),
        "deltas" => delta(),
        "leaves" => {
            let known = [bundle(), delta()].into_iter().flatten();
            let known = known.filter_map(|object| fetcher.known_leaves(object)).next();
            return known.map_or_else(|| refuse(StatusCode::NOT_FOUND), |leaves| told(&leaves));
        }
        _ => None,
    };
    let Some(object) = object else {
        return refuse(StatusCode::NOT_FOUND);
    };
    let Ok(place) = places.try_acquire_owned() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE);
    };
    let range = request.headers().get(header::RANGE);
    let range = range.and_then(|range| asked_range(range.to_str().ok()?));
    match (range, fetcher.leaves(object).await) {
        (None, _) => refuse(StatusCode::RANGE_NOT_SATISFIABLE),
        (Some(range), Some(leaves)) => {
            let wanted = Wanted {
                object,
                run: leaves.holding(&range),
                leaves,
            };
            give(fetcher, share, wanted, range, place).await
        }
        (_, None) => refuse(StatusCode::BAD_GATEWAY),
    }
}

/// `bytes=FROM-LAST`; nobody asks otherwise.
fn asked_range(text: &str) -> Option<Range<u64>> {
    let (from, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (from, last): (u64, u64) = (from.parse().ok()?, last.parse().ok()?);
    (from <= last && last < u64::MAX).then(|| from..last + 1)
}

async fn give(
    fetcher: &Arc<Fetcher>,
    share: &Arc<Share>,
    wanted: Wanted,
    range: Range<u64>,
    place: OwnedSemaphorePermit,
) -> Response<Body> {
    let piece = piece_of(&wanted.leaves, &wanted.run);
    let Some(piece) = piece.filter(|_| wanted.leaves.bytes_of(&wanted.run) == range) else {
        return refuse(StatusCode::RANGE_NOT_SATISFIABLE);
    };
    let lying = share.find(wanted.object, &wanted.leaves, &wanted.run).await;
    if lying.is_none() && !share.owns(&fetcher.told(), wanted.object, piece) {
        return refuse(StatusCode::NOT_FOUND);
    }
    let shown = format!("bytes {}-{}/{}", range.start, range.end - 1, wanted.leaves.len());
    let (fetcher, share) = (Arc::clone(fetcher), Arc::clone(share));
    // The head leaves at once, so that whoever asked knows that it is worth waiting.
    let leaves = stream::once(async move {
        match lying {
            Some(lying) => Ok(lying),
            None => fetcher
                .piece(For::AnotherHost, &wanted)
                .await
                .map_err(io::Error::from),
        }
    });
    let frames = stream::try_unfold((Box::pin(leaves), Vec::new().into_iter(), place), {
        move |(mut leaves, mut here, place)| {
            let share = Arc::clone(&share);
            async move {
                if let Some(got) = futures::StreamExt::next(&mut leaves).await {
                    here = got?.into_iter();
                }
                let Some(leaf): Option<Bytes> = here.next() else {
                    return Ok(None);
                };
                if let Some(limit) = &share.limit {
                    limit.pass(leaf.len() as u64).await;
                }
                share.gave(leaf.len());
                Ok::<_, io::Error>(Some((Frame::data(leaf), (leaves, here, place))))
            }
        }
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if let Ok(shown) = HeaderValue::try_from(shown) {
        headers.insert(header::CONTENT_RANGE, shown);
    }
    response
}

fn told(leaves: &Leaves) -> Response<Body> {
    let body = Full::new(Bytes::from(leaves.encode()));
    Response::new(body.map_err(|never| match never {}).boxed_unsync())
}

fn refuse(status: StatusCode) -> Response<Body> {
    let body = Full::new(Bytes::new());
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_hosts_ask_for_them() {
        assert_eq!(asked_range("bytes=0-0"), Some(0..1));
        assert_eq!(asked_range("bytes=65536-131071"), Some(65_536..131_072));
        for bad in [
            "",
            "bytes=",
            "bytes=-5",
            "bytes=5-",
            "bytes=5-4",
            "bytes=0-1,3-4",
            "bytes=0-18446744073709551615",
        ] {
            assert_eq!(asked_range(bad), None, "{bad}");
        }
    }
}
