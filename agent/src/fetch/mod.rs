//! Gets what a release needs from the store: its manifest, where its blobs lie, and ranges of bundles.
//!
//! Nothing is believed: a manifest must have the digest it was asked for by; what comes out of a bundle is checked by
//! whoever unpacks it.

mod bundles;
mod deltas;
mod find;
mod ranges;
mod retry;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ship_model::digest::{BlobDigest, BundleDigest, ReleaseId};
use ship_model::manifest::{DecodeError, MAX_ENCODED, Manifest};
use ship_model::name::AppName;
use ship_model::retention::ExpiredListError;
use ship_proto::v1::releases_client::ReleasesClient;
use ship_proto::{MAX_DIGESTS, MAX_MESSAGE, WireError, v1};
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub use bundles::{BundleSource, Indexed};
pub use deltas::{DeltaOffer, OpenDelta, OpenDeltaError};
pub use ranges::RangeError;
pub use retry::Backoff;

use crate::dial::{Dial, STORE_NAME};

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

/// Fetches from one store. Cheap to share; connections are kept and reused.
#[derive(Debug)]
pub struct Fetcher {
    dial: Arc<Dial>,
    channel: Mutex<Option<(u64, Channel)>>,
    idle: ranges::Idle,
    /// Bytes received since the start, of manifests and bundles.
    received: AtomicU64,
}

impl Fetcher {
    pub fn new(dial: Arc<Dial>) -> Self {
        Self {
            dial,
            channel: Mutex::new(None),
            idle: ranges::Idle::default(),
            received: AtomicU64::new(0),
        }
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
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
            self.count(piece.data.len());
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
