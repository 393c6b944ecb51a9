//! Begin, upload, commit: as often as it takes, and still one release.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ship_bundle::Walked;
use ship_bundle::segments::SegmentList;
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_proto::v1::{BeginChunk, CommitRequest, ReleaseRecord, UploadChunk, UploadDeltaChunk, Uploaded};
use ship_proto::{MAX_PIECE, digests};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::base::Bases;
use super::bundle::Bundle;
use super::checkout::checkout;
use super::content::Content;
use super::delta::Delta;
use super::segments;
use super::way::Way;
use crate::commands::Fleet;
use crate::commands::tree::Reread;
use crate::error::{CommandError, Exit, is_passing};
use crate::patience::{GaveUp, Patience};
use crate::request::request_id;
use crate::ui::{Bar, Ui};

/// A tree that was read, ready to be handed in.
#[derive(Debug)]
pub struct Parcel {
    dir: PathBuf,
    app: AppName,
    id: ReleaseId,
    manifest: Arc<Manifest>,
    /// Of large files that were cut when they were read.
    lists: Vec<SegmentList>,
    label: Option<String>,
    reread: Reread,
}

impl Parcel {
    pub fn new(dir: &Path, app: &AppName, walked: Walked, label: Option<String>, reread: Reread) -> Self {
        Self {
            dir: dir.to_owned(),
            app: app.clone(),
            id: walked.manifest.id(),
            manifest: Arc::new(walked.manifest),
            lists: walked.seen.into_lists(),
            label,
            reread,
        }
    }

    pub fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest)
    }

    async fn commit_request(&self) -> CommitRequest {
        let (commit, dirty) = checkout(&self.dir).await;
        CommitRequest {
            app: self.app.to_string(),
            id: self.id.as_bytes().to_vec(),
            bundle: None,
            label: self.label.clone(),
            commit,
            dirty,
            request_id: request_id(),
        }
    }
}

/// A manifest as the store hears it, piece by piece as they are sent: a large one is not copied whole.
pub fn begin_chunks(
    app: &AppName,
    manifest: &Arc<Manifest>,
    check_only: bool,
) -> impl Iterator<Item = BeginChunk> + Send + 'static {
    let mut name = Some(app.to_string());
    let manifest = Arc::clone(manifest);
    let length = manifest.encoded().len();
    (0..length).step_by(MAX_PIECE).map(move |from| {
        let encoded = manifest.encoded();
        let piece = &encoded[from..encoded.len().min(from + MAX_PIECE)];
        BeginChunk {
            check_only: check_only && name.is_some(),
            app: name.take().unwrap_or_default(),
            manifest: bytes::Bytes::copy_from_slice(piece),
        }
    })
}

/// Why one try came to nothing.
enum Broken {
    /// The store said no, or nothing.
    Call(Status),
    /// Something here failed; another try would fail as well.
    Here(CommandError),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

impl From<CommandError> for Broken {
    fn from(error: CommandError) -> Self {
        Self::Here(error)
    }
}

/// A release that was made, and how its content got there.
#[derive(Debug)]
pub struct Sent {
    pub record: ReleaseRecord,
    /// Of bundles and deltas, over all tries.
    pub uploaded_bytes: u64,
    /// The number of the release that the delta was made against.
    pub delta_from: Option<u64>,
    /// Why there was none.
    pub no_delta: Option<String>,
}

/// One publish, however many tries it takes: what was packed stays packed, and the request stays the same one.
struct Sending<'a> {
    parcel: Parcel,
    fleet: &'a Fleet,
    ui: &'a Ui,
    request: CommitRequest,
    bundle: Option<Arc<Bundle>>,
    way: Way,
    uploaded: Arc<AtomicU64>,
    /// A commit was sent, so that there may be a release though nobody answered.
    asked: bool,
}

/// Hands the parcel in. A store that is away is waited for, up to `patience` at a stretch; what it has by then is not
/// sent again.
pub async fn send(
    parcel: Parcel,
    bases: Bases,
    patience: Duration,
    fleet: &Fleet,
    ui: &Ui,
) -> Result<Sent, CommandError> {
    let request = parcel.commit_request().await;
    let mut sending = Sending {
        parcel,
        fleet,
        ui,
        request,
        bundle: None,
        way: Way::new(bases),
        uploaded: Arc::default(),
        asked: false,
    };
    let mut patience = Patience::new(patience);
    loop {
        let status = match sending.attempt(&mut patience).await {
            Ok(record) => return Ok(sending.sent(record)),
            Err(Broken::Here(error)) => {
                // Had it to do with what was remembered, the next publish must not meet it again.
                sending.parcel.reread.forget();
                return Err(error);
            }
            Err(Broken::Call(status)) => status,
        };
        let bar = Bar::spinner(ui, "waiting for the store");
        let waited = patience.after(status, |text| bar.say(ui, text)).await;
        bar.clear();
        waited.map_err(|gave_up| sending.give_up(gave_up))?;
    }
}

impl Sending<'_> {
    async fn attempt(&mut self, patience: &mut Patience) -> Result<ReleaseRecord, Broken> {
        let mut wanted = self.begin().await?;
        patience.answered(|text| self.ui.say(text));
        if !wanted.is_empty() {
            let Parcel {
                app, dir, manifest, ..
            } = &self.parcel;
            let client = &self.fleet.client;
            let delta = self.way.delta((app, dir, manifest), &wanted, client, self.ui);
            if let Some(delta) = delta.await? {
                wanted = self.by_delta(&delta).await?;
            }
        }
        if !wanted.is_empty() {
            let bundle = self.bundle_of(wanted).await?;
            self.upload(&bundle.content).await?;
            self.request.bundle = Some(bundle.content.digest.to_vec());
        }
        self.asked = true;
        let bar = Bar::spinner(self.ui, "check and number");
        let mut releases = self.fleet.client.releases();
        let made = releases.commit(self.request.clone()).await;
        bar.clear();
        Ok(made?.into_inner())
    }

    /// Tells the manifest; what comes back are the blobs that the store has not.
    async fn begin(&self) -> Result<HashSet<BlobDigest>, Broken> {
        let pieces = begin_chunks(&self.parcel.app, &self.parcel.manifest, false);
        let mut releases = self.fleet.client.releases();
        let begun = releases.begin(tokio_stream::iter(pieces)).await?;
        let mut missing = begun.into_inner();
        let mut wanted = HashSet::new();
        while let Some(message) = missing.message().await? {
            let blobs = digests(&message.blobs, "missing blob", BlobDigest::from_slice);
            wanted.extend(blobs.map_err(|error| CommandError::of(Exit::Error, &error))?);
        }
        Ok(wanted)
    }

    /// What an earlier try packed, if it holds all that is missing now.
    async fn bundle_of(&mut self, wanted: HashSet<BlobDigest>) -> Result<Arc<Bundle>, Broken> {
        if let Some(bundle) = self.bundle.as_ref().filter(|bundle| bundle.covers(&wanted)) {
            return Ok(Arc::clone(bundle));
        }
        let Parcel {
            dir, manifest, lists, ..
        } = &self.parcel;
        let lists = segments::cut(dir, manifest, &wanted, lists, self.ui).await?;
        let segments = segments::known(manifest.id(), lists, &self.fleet.client).await?;
        let packed = Bundle::pack(dir, manifest, wanted, segments, self.ui).await?;
        let packed = Arc::new(packed);
        self.bundle = Some(Arc::clone(&packed));
        Ok(packed)
    }

    /// Sends the delta; what comes back is what is still wanted: nothing, unless the store refused.
    async fn by_delta(&mut self, delta: &Arc<Delta>) -> Result<HashSet<BlobDigest>, Broken> {
        self.way.sent(delta);
        let mut offer = Some(delta.offer(&self.parcel.app));
        let message = move |data| UploadDeltaChunk {
            offer: offer.take(),
            data,
        };
        let mut releases = self.fleet.client.releases();
        let sent = self.hand_over(&delta.content, message, async |chunks| {
            releases.upload_delta(chunks).await
        });
        match sent.await {
            Ok(uploaded) => {
                self.request.bundle = Some(uploaded.bundle).filter(|bundle| !bundle.is_empty());
                Ok(HashSet::new())
            }
            Err(Broken::Call(status)) if !is_passing(&status) => {
                self.way.refused(&status, self.ui);
                // The store may have found out on the way that it lacks more.
                self.begin().await
            }
            Err(broken) => {
                self.way.broke_off(self.ui);
                Err(broken)
            }
        }
    }

    async fn upload(&self, bundle: &Arc<Content>) -> Result<(), Broken> {
        let mut announced = Some(bundle.digest.to_vec());
        let message = move |data| UploadChunk {
            bundle: announced.take(),
            data,
        };
        let mut releases = self.fleet.client.releases();
        let sent = self.hand_over(bundle, message, async |chunks| releases.upload(chunks).await);
        if sent.await?.bundle == bundle.digest {
            return Ok(());
        }
        let other = "the store has another bundle than the one that was sent";
        Err(CommandError::new(Exit::Error, other).into())
    }

    /// Streams content to the store, each piece in a message.
    async fn hand_over<M: Send + 'static>(
        &self,
        content: &Arc<Content>,
        mut message: impl FnMut(Bytes) -> M + Send + 'static,
        call: impl AsyncFnOnce(ReceiverStream<M>) -> Result<Response<Uploaded>, Status>,
    ) -> Result<Uploaded, Broken> {
        let bar = Bar::bytes(self.ui, "send", content.bytes);
        let (pieces, received) = mpsc::channel::<M>(2);
        let reading = tokio::task::spawn_blocking({
            let (content, bar) = (Arc::clone(content), bar.clone());
            let uploaded = Arc::clone(&self.uploaded);
            move || {
                content.read(&bar, |data| {
                    let length = data.len() as u64;
                    let is_taken = pieces.blocking_send(message(data)).is_ok();
                    uploaded.fetch_add(if is_taken { length } else { 0 }, Ordering::Relaxed);
                    is_taken
                })
            }
        });
        let answer = call(ReceiverStream::new(received)).await;
        bar.clear();
        // A read that failed cut the stream short: that is the reason, whatever the store says of it.
        match reading.await {
            Ok(Ok(())) => Ok(answer?.into_inner()),
            Ok(Err(source)) => Err(CommandError::internal("read what was packed", source).into()),
            Err(source) => Err(CommandError::internal("read what was packed", source).into()),
        }
    }

    fn sent(self, record: ReleaseRecord) -> Sent {
        let nothing = || "nothing was missing".to_owned();
        let no_delta = self
            .way
            .no_delta
            .or_else(|| self.way.delta_from.is_none().then(nothing));
        Sent {
            record,
            uploaded_bytes: self.uploaded.load(Ordering::Relaxed),
            delta_from: self.way.delta_from,
            no_delta,
        }
    }

    fn give_up(&self, gave_up: GaveUp) -> CommandError {
        let away = gave_up.waited.is_some();
        let fault = CommandError::from(gave_up);
        let app = &self.parcel.app;
        match (away, self.asked) {
            (false, _) => fault,
            (true, false) => fault.hint("publish again when it is back: what it has is not sent again"),
            (true, true) => fault
                .with_exit(Exit::Unknown)
                .hint(format!("whether it became a release: shipctl releases {app}")),
        }
    }
}
