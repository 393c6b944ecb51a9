//! Gets what a release needs: from the store its manifest and where its blobs lie; ranges of bundles and deltas from the
//! store, from mirrors and from other hosts.
//!
//! Nothing is believed: a manifest must have the digest it was asked for by; what comes out of a bundle is checked by
//! whoever unpacks it, and before that, part by part, whenever there is somebody else to ask than the store.
//!
//! * `lines`: connections, and one request. `ranges`: from the store alone.
//! * `origin`: who is asked in which order. `leaves`: what parts are checked by. `race`: one run of parts from several.
//! * `share`, `cache`: which host gets what for the others of its group, and keeps it for a while.
//! * `checked`: all of it, as unpacking threads read it.

mod bundles;
mod cache;
mod checked;
mod deltas;
mod find;
mod leaves;
mod lines;
mod origin;
mod race;
mod ranges;
mod retry;
mod share;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ship_assets::serve::Throttle;
use ship_model::digest::{BlobDigest, BundleDigest, ReleaseId};
use ship_model::leaves::LeavesError;
use ship_model::manifest::{DecodeError, MAX_ENCODED, Manifest};
use ship_model::mirror::Listed;
use ship_model::name::AppName;
use ship_model::report::SourceFault;
use ship_model::retention::ExpiredListError;
use ship_proto::v1::releases_client::ReleasesClient;
use ship_proto::{MAX_DIGESTS, MAX_MESSAGE, WireError, v1};
use thiserror::Error;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub use bundles::{BundleSource, Indexed};
pub use checked::For;
pub use deltas::{DeltaOffer, OpenDelta, OpenDeltaError};
pub use lines::Object;
pub use origin::{Origin, Told};
pub use race::Wanted;
pub use ranges::RangeError;
pub use retry::Backoff;
pub use share::{Share, piece_of};

use crate::config::SourceSettings;
use crate::dial::{Dial, STORE_NAME};
use origin::Health;

/// For the answer to one call to begin, and between two messages of it.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Tries of one call before the failure is told; the caller tries again later, less often.
const TRIES: u32 = 4;

/// Why something could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    #[error("the store did not give {what}")]
    Call { what: String, source: Box<Status> },
    #[error("the store gave no answer for {what} within {} s", CALL_TIMEOUT.as_secs())]
    Timeout { what: String },
    #[error("the store's manifest of release {id} is not what was published: it has digest {found}")]
    ManifestDigest { id: ReleaseId, found: ReleaseId },
    #[error("the store's manifest of release {id} is longer than {MAX_ENCODED} bytes")]
    ManifestLong { id: ReleaseId },
    #[error("the store's manifest of release {id} cannot be used")]
    Manifest { id: ReleaseId, source: DecodeError },
    #[error("the store does not know where {count} of the release's blobs lie, {first} among them")]
    Nowhere { count: usize, first: BlobDigest },
    #[error("the store told where blob {blob} lies, which it was not asked, or was told before")]
    Unasked { blob: BlobDigest },
    #[error("the store's list of expired assets of {app} cannot be used")]
    Expired { app: AppName, source: ExpiredListError },
    #[error("the store's list of expired assets of {app} is another by now")]
    OtherExpired { app: AppName },
    #[error("the store told something malformed about {what}")]
    Wire { what: &'static str, source: WireError },
    #[error("the leaves of {object} that the store told are wrong")]
    Leaves { object: String, source: LeavesError },
    #[error("cannot read bundle {bundle}")]
    Bundle {
        bundle: BundleDigest,
        source: RangeError,
    },
    #[error("bundle {bundle} is damaged")]
    Index {
        bundle: BundleDigest,
        source: ship_bundle::IndexError,
    },
}

impl FetchError {
    /// Whether trying again later may help by itself: the store is away or slow, as opposed to wrong.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Call { source, .. } => is_transient(source.code()),
            Self::Timeout { .. } | Self::OtherExpired { .. } => true,
            Self::Bundle { source, .. } => source.is_transient(),
            Self::ManifestDigest { .. }
            | Self::ManifestLong { .. }
            | Self::Manifest { .. }
            | Self::Nowhere { .. }
            | Self::Unasked { .. }
            | Self::Expired { .. }
            | Self::Wire { .. }
            | Self::Leaves { .. }
            | Self::Index { .. } => false,
        }
    }
}

fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
    )
}

/// What of the asked lies in a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub bundle_bytes: u64,
    pub blobs: Vec<BlobDigest>,
}

/// Bytes received, by whom they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    pub store: u64,
    pub mirrors: u64,
    pub peers: u64,
}

impl Received {
    pub const fn all(self) -> u64 {
        self.store + self.mirrors + self.peers
    }

    /// What came since `before`.
    pub const fn since(self, before: Self) -> Self {
        Self {
            store: self.store.saturating_sub(before.store),
            mirrors: self.mirrors.saturating_sub(before.mirrors),
            peers: self.peers.saturating_sub(before.peers),
        }
    }
}

/// Fetches from one store, and from whoever has copies. Cheap to share; connections are kept and reused.
#[derive(Debug)]
pub struct Fetcher {
    dial: Arc<Dial>,
    channel: Mutex<Option<(u64, Channel)>>,
    idle: lines::Idle,
    /// As `agent.toml` lists them.
    mirrors: Vec<Listed>,
    /// What the store said last.
    told: watch::Receiver<Told>,
    health: Mutex<Health>,
    pace: race::Pace,
    known: leaves::Known,
    recent: checked::Recent,
    share: Option<Arc<Share>>,
    limit: Option<Throttle>,
    /// Since the start, of manifests, bundles and deltas: from the store, from mirrors, from other hosts.
    received: [AtomicU64; 3],
}

impl Fetcher {
    pub fn new(
        dial: Arc<Dial>,
        settings: &SourceSettings,
        told: watch::Receiver<Told>,
        share: Option<Arc<Share>>,
    ) -> Self {
        Self {
            dial,
            channel: Mutex::new(None),
            idle: lines::Idle::default(),
            mirrors: settings.mirrors.clone(),
            told,
            health: Mutex::default(),
            pace: race::Pace::default(),
            known: leaves::Known::default(),
            recent: checked::Recent::default(),
            share,
            limit: settings.fetch_limit.map(Throttle::new),
            received: Default::default(),
        }
    }

    pub fn received(&self) -> Received {
        let [store, mirrors, peers] = self
            .received
            .each_ref()
            .map(|bytes| bytes.load(Ordering::Relaxed));
        Received {
            store,
            mirrors,
            peers,
        }
    }

    fn count(&self, origin: &Origin, bytes: usize) {
        let [store, mirrors, peers] = &self.received;
        let counter = match origin {
            Origin::Store => store,
            Origin::Mirror(_) => mirrors,
            Origin::Peer(..) => peers,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts what came, and returns when more may come.
    async fn took(&self, origin: &Origin, bytes: usize) {
        self.count(origin, bytes);
        if let Some(limit) = &self.limit {
            limit.pass(bytes as u64).await;
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sources that sent something wrong, since the start.
    pub fn faults(&self) -> Vec<SourceFault> {
        self.health().faults()
    }

    /// This host's part in its group, if it has one.
    pub fn share(&self) -> Option<&Arc<Share>> {
        self.share.as_ref()
    }

    /// What the store said last of sources.
    pub fn told(&self) -> Told {
        self.told.borrow().clone()
    }

    fn client(&self) -> ReleasesClient<Channel> {
        ReleasesClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn channel(&self) -> Channel {
        // A TLS configuration that cannot be read is told by the connection it fails.
        let edition = self.dial.tls().map_or(0, |(_, edition)| edition);
        let mut known = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_ref() {
            Some((same, channel)) if *same == edition => channel.clone(),
            _ => {
                let channel = channel_to(&self.dial);
                *known = Some((edition, channel.clone()));
                channel
            }
        }
    }

    /// The manifest of release `id`.
    ///
    /// # Errors
    /// [`FetchError`], after a few tries where trying helps.
    pub async fn manifest(&self, id: ReleaseId) -> Result<Manifest, FetchError> {
        retried(|| self.manifest_once(id)).await
    }

    async fn manifest_once(&self, id: ReleaseId) -> Result<Manifest, FetchError> {
        let what = || format!("the manifest of release {id}");
        let request = v1::ManifestRequest {
            id: id.as_bytes().to_vec(),
        };
        let mut pieces = answer(&what, self.client().manifest(call(request))).await?;
        let mut encoded = Vec::new();
        while let Some(piece) = answer_of(&what, pieces.message()).await? {
            self.count(&Origin::Store, piece.data.len());
            if encoded.len() + piece.data.len() > MAX_ENCODED {
                return Err(FetchError::ManifestLong { id });
            }
            encoded.extend_from_slice(&piece.data);
        }
        let found = Manifest::id_of(&encoded);
        if found != id {
            return Err(FetchError::ManifestDigest { id, found });
        }
        Manifest::read(encoded).map_err(|source| FetchError::Manifest { id, source })
    }

    /// Where each of `blobs` lies, besides the bundles in `avoid`.
    ///
    /// # Errors
    /// [`FetchError::Nowhere`] when the store does not know it of all.
    pub async fn locate(
        &self,
        blobs: &[BlobDigest],
        avoid: &[BundleDigest],
    ) -> Result<BTreeMap<BundleDigest, Place>, FetchError> {
        retried(|| self.locate_once(blobs, avoid)).await
    }

    async fn locate_once(
        &self,
        blobs: &[BlobDigest],
        avoid: &[BundleDigest],
    ) -> Result<BTreeMap<BundleDigest, Place>, FetchError> {
        let what = || format!("the places of {} blobs", blobs.len());
        let wire = |source| FetchError::Wire {
            what: "the places of blobs",
            source,
        };
        let mut asked = blobs.to_vec();
        asked.sort_unstable();
        asked.dedup();
        // Ticked off as they are told: a store that tells more than it was asked ends here, not in our memory.
        let mut open = vec![true; asked.len()];
        let requests = requests(asked.clone(), avoid);
        let mut answers = answer(&what, self.client().locate(call(requests))).await?;
        let mut places: BTreeMap<BundleDigest, Place> = BTreeMap::new();
        while let Some(located) = answer_of(&what, answers.message()).await? {
            let bundle =
                ship_proto::digest(&located.bundle, "bundle", BundleDigest::from_slice).map_err(wire)?;
            let blobs = ship_proto::digests(&located.blobs, "blob", BlobDigest::from_slice).map_err(wire)?;
            if avoid.contains(&bundle) {
                // A store that knows no other way tells the one it knows.
                continue;
            }
            for blob in &blobs {
                let at = asked.binary_search(blob).ok();
                let open = at.and_then(|at| open.get_mut(at)).filter(|open| **open);
                *open.ok_or(FetchError::Unasked { blob: *blob })? = false;
            }
            let place = places.entry(bundle).or_default();
            place.bundle_bytes = located.bundle_bytes;
            place.blobs.extend(blobs);
        }
        let mut nowhere = asked.iter().zip(open).filter(|(_, open)| *open);
        match nowhere.next() {
            None => Ok(places),
            Some((first, _)) => Err(FetchError::Nowhere {
                first: *first,
                count: nowhere.count() + 1,
            }),
        }
    }
}

/// Made as they are sent: a digest takes twice its room in a message.
fn requests(
    asked: Vec<BlobDigest>,
    avoid: &[BundleDigest],
) -> impl tokio_stream::Stream<Item = v1::LocateRequest> + Send + use<> {
    let avoid: Vec<Vec<u8>> = avoid.iter().map(|bundle| bundle.as_bytes().to_vec()).collect();
    let count = asked.len().div_ceil(MAX_DIGESTS);
    let request = move |chunk: usize| {
        let from = chunk * MAX_DIGESTS;
        let to = asked.len().min(from + MAX_DIGESTS);
        v1::LocateRequest {
            blobs: asked[from..to]
                .iter()
                .map(|blob| blob.as_bytes().to_vec())
                .collect(),
            avoid: avoid.clone(),
        }
    };
    tokio_stream::iter((0..count).map(request))
}

/// Says which version of the protocol a call is in.
pub fn name_protocol<T>(request: &mut tonic::Request<T>) {
    let version = tonic::metadata::MetadataValue::from_static(ship_proto::PROTOCOL);
    request.metadata_mut().insert("ship-protocol", version);
}

fn call<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    name_protocol(&mut request);
    request
}

/// A channel to the store that connects when it is first used, and again when it broke.
pub fn channel_to(dial: &Arc<Dial>) -> Channel {
    let dial = Arc::clone(dial);
    // The scheme is `http` because the connector does the TLS; the name is what the certificate says.
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let dial = Arc::clone(&dial);
        async move { dial.connect(b"h2").await }
    }))
}

fn endpoint() -> Endpoint {
    let uri = http::Uri::from_static("http://store.ship.internal");
    debug_assert_eq!(uri.host(), Some(STORE_NAME));
    Endpoint::from(uri)
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .user_agent(concat!("ship-agent/", env!("CARGO_PKG_VERSION")))
        .unwrap_or_else(|_| Endpoint::from_static("http://store.ship.internal"))
}

async fn answer<T>(
    what: &impl Fn() -> String,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, FetchError> {
    answer_of(what, call).await.map(tonic::Response::into_inner)
}

async fn answer_of<T>(
    what: &impl Fn() -> String,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, FetchError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(status)) => Err(FetchError::Call {
            what: what(),
            source: Box::new(status),
        }),
        Err(_) => Err(FetchError::Timeout { what: what() }),
    }
}

async fn retried<T, F>(mut call: impl FnMut() -> F) -> Result<T, FetchError>
where
    F: Future<Output = Result<T, FetchError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        match call().await {
            Err(error) if error.is_transient() && backoff.failures() + 1 < TRIES => {
                tokio::time::sleep(backoff.failed()).await;
            }
            other => return other,
        }
    }
}
