//! HTTP over a [`Shelf`]: GET and HEAD, ranges, conditional requests, other codings; HTTP/1.1 and HTTP/2.
//!
//! Anonymous by design: whatever is on a shelf is public. Paths that are not on it answer 404 with
//! `no-store`, so that no cache remembers that an asset was once too early.
//!
//! * `answer`: one request, one answer; `accept`, `range` and `rules` are what it goes by.
//! * `files`: what may be sent at all: bytes that are what was published.
//! * `encode`: the same in Brotli, Zstandard and gzip, made in the background.
//! * `body`, `buffers`: from a file to a client within bounded memory.
//! * `port`, `tls`, `throttle`: connections, and how fast bytes leave.
//! * `plain`: the shortest way from a plain connection to a file and back.

mod accept;
mod answer;
mod body;
mod buffers;
mod encode;
mod files;
mod kept;
mod plain;
mod port;
mod range;
mod rules;
mod sealed;
mod throttle;
mod tls;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{Either, ready};
use hyper::body::Incoming;
use hyper::{Request, Response};
use ship_model::digest::BlobDigest;
use ship_model::path::TreePath;
use ship_model::report::HostFigures;
use tokio::net::TcpListener;

pub use accept::Encoding;
pub use body::FileBody;
pub use encode::{Encodings, OpenEncodingsError};
pub use files::OpenFileError;
pub use port::{Limits, Port};
pub use rules::{Origins, PortSettings, ResourcePolicy, TlsFiles};
pub use throttle::Throttle;
pub use tls::{PortTls, PortTlsError};

use crate::record::RecordError;
use crate::shelf::Shelf;
use crate::union::Union;
use buffers::Buffers;
use files::{Files, Wanted};
use rules::Rules;

/// The slowest that a scrub reads, in bytes per second.
const SLOWEST: u64 = 4 << 20;
/// A scrub's longest sleep, so that it ends soon when it is told to.
const NAP: Duration = Duration::from_millis(500);

/// What was served, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    /// Requests for paths that are not on the shelf.
    pub not_found: AtomicU64,
    /// Requests for paths that were published and that nothing keeps any more.
    pub expired: AtomicU64,
    /// Requests for paths that are on the shelf and whose file could not be read: each is an incident.
    pub broken: AtomicU64,
    /// Files that were found rotten.
    pub rotten: AtomicU64,
}

/// A file whose bytes are no longer what was published. It is not served any more.
#[derive(Debug)]
pub struct Rotten {
    /// Below the union's folder, or in the release's tree.
    pub name: TreePath,
    /// What its bytes should be.
    pub digest: BlobDigest,
    /// The union that it was taken out of; none: it lies in the tree of the release that runs, where it stays.
    pub union: Option<Arc<Union>>,
}

/// Called, on a thread that may block, with every file that is found rotten, once.
pub type OnRot = Box<dyn Fn(Rotten) + Send + Sync>;

/// How a shelf is served.
#[derive(Default)]
pub struct Setup {
    pub settings: PortSettings,
    /// Where other codings are kept; none: files are sent as they are.
    pub encodings: Option<Arc<Encodings>>,
    pub on_rot: Option<OnRot>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Setup");
        shown.field("settings", &self.settings);
        shown.field("encodings", &self.encodings).finish_non_exhaustive()
    }
}

/// A shelf with its counters; cheap to clone.
#[derive(Debug, Clone)]
pub struct Assets {
    pub shelf: Arc<Shelf>,
    pub counters: Arc<Counters>,
    room: Arc<Room>,
}

#[derive(Debug)]
struct Room {
    rules: Rules,
    files: Arc<Files>,
    buffers: Arc<Buffers>,
    encodings: Option<Arc<Encodings>>,
}

/// What a scrub has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    pub files: u64,
    pub bytes: u64,
    pub rotten: u64,
}

impl Assets {
    /// Serves `shelf` as [`PortSettings::default`] says, without other codings.
    pub fn new(shelf: Arc<Shelf>) -> Self {
        Self::with(shelf, Setup::default())
    }

    /// Serves `shelf` as `setup` says.
    pub fn with(shelf: Arc<Shelf>, setup: Setup) -> Self {
        let counters = Arc::<Counters>::default();
        let (counted, on_rot) = (Arc::clone(&counters), setup.on_rot);
        let told = move |name: &TreePath, digest, union: Option<&Arc<Union>>| {
            counted.rotten.fetch_add(1, Ordering::Relaxed);
            if let Some(on_rot) = &on_rot {
                on_rot(Rotten {
                    name: name.clone(),
                    digest,
                    union: union.cloned(),
                });
            }
        };
        let room = Room {
            rules: Rules::new(&setup.settings),
            files: Arc::new(Files::new(Some(Box::new(told)))),
            buffers: Arc::default(),
            encodings: setup.encodings,
        };
        Self {
            shelf,
            counters,
            room: Arc::new(room),
        }
    }

    /// What was counted, for a report; nothing of it is of the fetching.
    pub fn figures(&self) -> HostFigures {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HostFigures {
            asset_requests: of(&self.counters.requests),
            asset_bytes: of(&self.counters.bytes),
            asset_not_found: of(&self.counters.not_found),
            asset_expired: of(&self.counters.expired),
            asset_broken: of(&self.counters.broken),
            asset_rotten: of(&self.counters.rotten),
            asset_healed: self.shelf.misses().map_or(0, |misses| misses.healed()),
            ..HostFigures::default()
        }
    }

    /// Answers one request; for a server of one's own. The request is looked at before this returns.
    pub fn answer<B>(
        &self,
        request: &Request<B>,
    ) -> impl Future<Output = Response<FileBody>> + Send + use<B> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        match answer::decide(self, request) {
            answer::Decided::Now(response) => Either::Left(ready(response)),
            decided => Either::Right(answer::go_on(self.clone(), decided)),
        }
    }

    /// Lets go of everything that was made or kept for blobs that are not on the shelf any more; returns the bytes of
    /// the codings removed. For whoever has collected assets. Blocks.
    pub fn sweep(&self) -> u64 {
        let digests = self.shelf.digests();
        self.room.files.keep_only(|digest| digests.contains(digest));
        let encodings = self.room.encodings.as_ref();
        encodings.map_or(0, |encodings| encodings.sweep(|blob| digests.contains(blob)))
    }

    /// Reads every file of every union again, once, spread over about `within` but not slower than 4 MiB a second, until
    /// `stop` says true. Blocks. A rotten file is set aside and told like one that a request found.
    ///
    /// # Errors
    /// A record that cannot be read; the other unions were read.
    pub fn scrub(&self, within: Duration, stop: &dyn Fn() -> bool) -> Result<Scrubbed, RecordError> {
        let (mut done, mut failed) = (Scrubbed::default(), None);
        let unions = self.shelf.unions();
        let mut all = 0_u64;
        for union in &unions {
            union.each_file(|stored| all += stored.size);
        }
        let pace = (all / within.as_secs().max(1)).max(SLOWEST);
        for union in &unions {
            // Releases have most of their names in common.
            let mut read = HashSet::new();
            let read = union.each_recorded(|url, digest, size| {
                if read.insert(mark(url)) {
                    self.scrub_one(union, url, (digest, size), &mut done);
                    rest(size, pace, stop);
                }
                !stop()
            });
            failed = failed.or(read.err());
        }
        failed.map_or(Ok(done), Err)
    }

    fn scrub_one(
        &self,
        union: &Arc<Union>,
        url: &str,
        (digest, size): (BlobDigest, u64),
        done: &mut Scrubbed,
    ) {
        let Some(name) = ship_model::assets::folder_name(url) else {
            return;
        };
        let wanted = Wanted {
            root: Arc::clone(union.root()),
            name,
            digest,
            size,
            links: false,
            union: Some(Arc::clone(union)),
        };
        match self.room.files.scrub(&wanted) {
            Ok(()) => {
                done.files += 1;
                done.bytes += size;
            }
            Err(OpenFileError::Rotten { .. }) => done.rotten += 1,
            // It is missing: whoever asks for it is told so.
            Err(error) => tracing::warn!(path = %wanted.name, %error, "not read again"),
        }
    }
}

/// Eight bytes for a name; two names with the same are one file unread in a round.
fn mark(url: &str) -> u64 {
    let digest = BlobDigest::of(url.as_bytes());
    let first = digest.as_bytes().first_chunk().copied();
    u64::from_le_bytes(first.unwrap_or_default())
}

/// Sleeps for as long as `size` bytes may take.
fn rest(size: u64, pace: u64, stop: &dyn Fn() -> bool) {
    pause(Duration::from_secs_f64(size as f64 / pace as f64), stop);
}

/// Sleeps until `time` has passed or `stop` says true; tells whether to go on.
pub fn pause(time: Duration, stop: &dyn Fn() -> bool) -> bool {
    let mut left = time;
    while !left.is_zero() && !stop() {
        let nap = left.min(NAP);
        std::thread::sleep(nap);
        left -= nap;
    }
    !stop()
}

/// Serves on a plain port with the usual limits until `shutdown` is ready, then lets connections finish for at most
/// five seconds.
pub async fn serve(listener: TcpListener, assets: Assets, shutdown: impl Future<Output = ()>) {
    serve_on(Port::default(), listener, assets, shutdown).await;
}

/// As [`serve`], on a port of one's own making.
pub async fn serve_on(port: Port, listener: TcpListener, assets: Assets, shutdown: impl Future<Output = ()>) {
    let other = assets.clone();
    let answer = move |request: Request<Incoming>| other.answer(&request);
    port.serve_assets(listener, assets, &[], answer, shutdown).await;
}
