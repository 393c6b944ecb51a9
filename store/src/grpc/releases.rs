//! Releases: publishing in three calls, and looking at what was published.

mod deltas;
mod keeping;
mod locate;
pub(super) mod pieces;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use ship_assets::serve::Assets;
use ship_model::digest::{BlobDigest, BundleDigest, DeltaDigest, ReleaseId};
use ship_model::manifest::MAX_ENCODED;
use ship_model::release::{Provenance, ReleaseNumber, ReleaseRecord};
use ship_proto::v1;
use ship_proto::v1::releases_server::Releases;
use ship_proto::{MAX_DIGESTS, MAX_PIECE, digest};
use tonic::{Request, Response, Status, Streaming};

use self::keeping::Marks;
use self::locate::{asked_blobs, located};
use self::pieces::{check_piece, heard};
use super::face::{Answers, Face, caller};
use super::status;
use crate::bridge::Bridge;
use crate::deltas::{Deltas, Maker};
use crate::engine::Object;
use crate::engine::blobs::read_whole;
use crate::folder::StoreFolder;
use crate::garbage;
use crate::identity::Role;
use crate::leaves::{LeafLists, LeavesOfError};
use crate::ledger::RequestId;
use crate::publish::Commit;
use crate::push::{Pushes, Pushing};
use crate::retention::tell_expired;
use crate::settings::Retention;
use crate::union::Unions;

/// Uploads that are taken in at once; the others wait.
const UPLOADS: usize = 8;
/// Bundles that one question may want avoided.
const MOST_AVOIDED: usize = 64;
/// Most releases of one list.
const MOST: u32 = 1000;

#[derive(Debug, Clone)]
pub struct ReleasesFace {
    face: Face,
    rooms: Arc<Rooms>,
    uploads: Bridge,
}

/// Where releases are handed in and lie.
#[derive(Debug)]
pub struct Rooms {
    pub folder: StoreFolder,
    pub unions: Arc<Unions>,
    /// How long assets are kept.
    pub retention: Retention,
    /// What the store serves itself.
    pub assets: Assets,
    pub deltas: Arc<Deltas>,
    pub maker: Arc<Maker>,
    pub pushes: Pushes,
    pub pushing: Pushing,
    pub leaves: LeafLists,
    /// What nothing needs any more.
    pub garbage: Arc<garbage::Room>,
    /// Puts what is kept as deltas into bundles, for one after another.
    pub bringing: Bridge,
}

impl ReleasesFace {
    pub fn new(face: Face, rooms: Arc<Rooms>) -> Self {
        Self {
            face,
            rooms,
            uploads: Bridge::new(UPLOADS),
        }
    }

    /// The manifest that a stream of pieces brings, the app it is for, and whether it is only to be checked.
    async fn manifest_of(mut chunks: Streaming<v1::BeginChunk>) -> Result<(String, bool, Vec<u8>), Status> {
        let (mut first, mut encoded) = (None, Vec::new());
        while let Some(chunk) = heard(&mut chunks).await? {
            first.get_or_insert((chunk.app, chunk.check_only));
            check_piece(&chunk.manifest)?;
            if encoded.len() + chunk.manifest.len() > MAX_ENCODED {
                let message = format!("the manifest is larger than {MAX_ENCODED} bytes");
                return Err(status::invalid(message, "manifest"));
            }
            encoded.extend_from_slice(&chunk.manifest);
        }
        let (app, check_only) = first.ok_or_else(|| status::invalid("the stream was empty", "manifest"))?;
        Ok((app, check_only, encoded))
    }

    fn line(&self, record: ReleaseRecord, marks: &Marks) -> v1::ReleaseLine {
        let states = self.face.board.states();
        let mut line = v1::ReleaseLine::default();
        let mut flags = BTreeSet::new();
        for state in states.iter().filter(|state| state.app == record.app) {
            if state
                .current
                .is_some_and(|current| current.number == record.number)
            {
                line.live_in.push(state.env.to_string());
            }
            if state.is_bad(record.number) {
                flags.insert(format!("reverted in {}", state.env));
            }
        }
        line.flags = marks.flags(record.number).chain(flags).collect();
        line.record = Some(record.into());
        line
    }
}

#[tonic::async_trait]
impl Releases for ReleasesFace {
    type BeginStream = Answers<v1::MissingBlobs>;

    async fn begin(
        &self,
        request: Request<Streaming<v1::BeginChunk>>,
    ) -> Result<Response<Self::BeginStream>, Status> {
        let (app, check_only, encoded) = Self::manifest_of(request.into_inner()).await?;
        let app = app.parse().map_err(|error| status::bad_name(&error))?;
        let rooms = Arc::clone(&self.rooms);
        let begun = self
            .face
            .bridge
            .run(move || {
                let publisher = &rooms.folder.publisher;
                if check_only {
                    return publisher.check(&app, &encoded);
                }
                publisher.begin(&app, &encoded)
            })
            .await;
        let begun = begun
            .map_err(status::broken_off)?
            .map_err(|error| status::begin(&error))?;
        let messages: Vec<_> = begun
            .missing
            .chunks(MAX_DIGESTS)
            .map(missing_blobs)
            .map(Ok)
            .collect();
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    type MissingStream = Answers<v1::MissingBlobs>;

    async fn missing(
        &self,
        request: Request<Streaming<v1::MissingRequest>>,
    ) -> Result<Response<Self::MissingStream>, Status> {
        let (rooms, bridge) = (Arc::clone(&self.rooms), self.face.bridge.clone());
        let answers = request.into_inner().then(move |question| {
            let (rooms, bridge) = (Arc::clone(&rooms), bridge.clone());
            async move { missing_segments(rooms, &bridge, question?).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadChunk>>,
    ) -> Result<Response<v1::Uploaded>, Status> {
        self.bundle(request.into_inner()).await.map(Response::new)
    }

    async fn upload_delta(
        &self,
        request: Request<Streaming<v1::UploadDeltaChunk>>,
    ) -> Result<Response<v1::Uploaded>, Status> {
        self.delta(request.into_inner()).await.map(Response::new)
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::ReleaseRecord>, Status> {
        let who = caller(&request)?.to_string();
        let commit = commit_of(request.into_inner(), who, self.face.clock.now_ms())?;
        let rooms = Arc::clone(&self.rooms);
        let (ledger, board) = (self.face.ledger.clone(), Arc::clone(&self.face.board));
        let _deciding = self.face.deciding.read().await;
        let done = self.face.bridge.run(move || {
            let added = rooms.folder.publisher.commit(&commit)?;
            // The release stands whether or not its assets can be put on the shelf now: the next start catches up,
            // and no host is switched before the asset hosts, which fetch for themselves, have them.
            if let Err(error) = rooms.unions.add(&added.record) {
                let error = &error as &dyn std::error::Error;
                tracing::error!(app = %commit.app, release = added.record.number.0, error, "assets not served yet");
            }
            // The claims took marks away. A promote of it tells again, whatever comes of this.
            if let Err(error) = tell_expired(&ledger, &board, &commit.app) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(app = %commit.app, error, "hosts are not told which assets have expired");
            }
            Ok(added.record)
        });
        let record = done.await.map_err(status::broken_off)?;
        let record = record.map_err(|error| status::commit(&error))?;
        tracing::info!(app = %record.app, release = record.number.0, id = %record.id, "published");
        self.wish_for(&record).await;
        Ok(Response::new(record.into()))
    }

    async fn list(
        &self,
        request: Request<v1::ListReleasesRequest>,
    ) -> Result<Response<v1::ListReleasesReply>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 {
            20
        } else {
            request.limit.min(MOST)
        } as usize;
        let apps = if request.app.is_empty() {
            self.face.ledger(|ledger| ledger.apps()).await?
        } else {
            vec![self.face.known_app(&request.app).await?]
        };
        let (mut records, mut all_marks) = (Vec::new(), BTreeMap::new());
        for app in apps {
            let (of, read) = (app.clone(), app.clone());
            let marks = self.face.ledger(move |ledger| Marks::read(ledger, &of)).await?;
            all_marks.insert(app, marks);
            records.extend(
                self.face
                    .ledger(move |ledger| ledger.releases(&read, limit))
                    .await?,
            );
        }
        records.sort_by_key(|record| std::cmp::Reverse(record.published_at_ms));
        records.truncate(limit);
        let none = Marks::default();
        let line = |record: ReleaseRecord| {
            let marks = all_marks.get(&record.app).unwrap_or(&none);
            self.line(record, marks)
        };
        let releases = records.into_iter().map(line).collect();
        Ok(Response::new(v1::ListReleasesReply { releases }))
    }

    async fn get(
        &self,
        request: Request<v1::GetReleaseRequest>,
    ) -> Result<Response<v1::ReleaseRecord>, Status> {
        let request = request.into_inner();
        let app = self.face.known_app(&request.app).await?;
        let (asked, number) = (app.clone(), request.number);
        let found = self.face.ledger(move |ledger| {
            let found = match number {
                0 => ledger.newest_release(&app)?,
                number => ledger.release(&app, ReleaseNumber(number))?,
            };
            let marks = Marks::read(ledger, &app)?;
            Ok(found.map(|record| marks.told(record)))
        });
        let missing = || status::no_release(&asked, ReleaseNumber(number));
        Ok(Response::new(found.await?.ok_or_else(missing)?))
    }

    type ManifestStream = Answers<v1::Piece>;

    async fn manifest(
        &self,
        request: Request<v1::ManifestRequest>,
    ) -> Result<Response<Self::ManifestStream>, Status> {
        let caller = caller(&request)?;
        let id = digest(&request.into_inner().id, "release id", ReleaseId::from_slice)
            .map_err(|error| status::bad_message(&error))?;
        // Hosts still get the assets of it that are promised.
        if caller.role != Role::Agent {
            self.refuse_collected(id).await?;
        }
        let rooms = Arc::clone(&self.rooms);
        let read = move || read_whole(&*rooms.folder.blobs, Object::Manifest(id), MAX_ENCODED as u64);
        let bytes = self.face.bridge.run(read).await.map_err(status::broken_off)?;
        let bytes = Bytes::from(bytes.map_err(|error| status::blobs(&error))?);
        let pieces = stream::unfold(bytes, |mut rest| async move {
            if rest.is_empty() {
                return None;
            }
            let piece = rest.split_to(rest.len().min(MAX_PIECE));
            Some((Ok(v1::Piece { data: piece }), rest))
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    type LocateStream = Answers<v1::Located>;

    async fn locate(
        &self,
        request: Request<Streaming<v1::LocateRequest>>,
    ) -> Result<Response<Self::LocateStream>, Status> {
        let rooms = Arc::clone(&self.rooms);
        let answers = request.into_inner().then(move |question| {
            let rooms = Arc::clone(&rooms);
            async move { located(&rooms, question?).await }
        });
        let answers = answers.flat_map(|answered| {
            stream::iter(match answered {
                Ok(found) => found.into_iter().map(Ok).collect(),
                Err(status) => vec![Err(status)],
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn deltas(&self, request: Request<v1::DeltasRequest>) -> Result<Response<v1::DeltasReply>, Status> {
        self.leading_to(&request.into_inner()).await.map(Response::new)
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::ReleaseRecord>, Status> {
        let who = caller(&request)?.to_string();
        self.pinned(request.into_inner(), who).await.map(Response::new)
    }

    type CollectStream = Answers<v1::CollectLine>;

    async fn collect(
        &self,
        request: Request<v1::CollectRequest>,
    ) -> Result<Response<Self::CollectStream>, Status> {
        let who = caller(&request)?.to_string();
        self.collecting(request.into_inner(), who)
            .await
            .map(Response::new)
    }

    async fn leaves(&self, request: Request<v1::LeavesRequest>) -> Result<Response<v1::LeavesReply>, Status> {
        let object = leaves_wanted(request.into_inner().object)?;
        match self.rooms.leaves.of(object, &self.face.bridge).await {
            Ok(leaves) => Ok(Response::new(v1::LeavesReply { leaves })),
            Err(LeavesOfError::Blobs(error)) => Err(status::blobs(&error)),
            Err(LeavesOfError::BrokenOff(error)) => Err(status::broken_off(error)),
            Err(error) => Err(status::invalid(error.to_string(), &object.hex())),
        }
    }
}

fn leaves_wanted(object: Option<v1::leaves_request::Object>) -> Result<Object, Status> {
    use v1::leaves_request::Object as Asked;
    let bad = |error| status::bad_message(&error);
    match object {
        Some(Asked::Bundle(bytes)) => digest(&bytes, "bundle", BundleDigest::from_slice).map(Object::Bundle),
        Some(Asked::Delta(bytes)) => digest(&bytes, "delta", DeltaDigest::from_slice).map(Object::Delta),
        None => return Err(status::invalid("a bundle or a delta must be named", "object")),
    }
    .map_err(bad)
}

async fn missing_segments(
    rooms: Arc<Rooms>,
    bridge: &Bridge,
    question: v1::MissingRequest,
) -> Result<v1::MissingBlobs, Status> {
    let wanted = asked_blobs(&question.blobs)?;
    let release = match &question.release[..] {
        [] => None,
        bytes => Some(digest(bytes, "release id", ReleaseId::from_slice)),
    };
    let release = release.transpose().map_err(|error| status::bad_message(&error))?;
    let looked = bridge.run(move || rooms.folder.publisher.missing_segments(release, &wanted));
    let missing = looked.await.map_err(status::broken_off)?;
    Ok(missing_blobs(&missing.map_err(|error| status::ledger(&error))?))
}

fn missing_blobs(part: &[BlobDigest]) -> v1::MissingBlobs {
    v1::MissingBlobs {
        blobs: part.iter().map(|blob| blob.as_bytes().to_vec()).collect(),
    }
}

fn commit_of(request: v1::CommitRequest, who: String, at_ms: u64) -> Result<Commit, Status> {
    let bad = |error| status::bad_message(&error);
    let bundle = request.bundle.as_deref();
    let bundle = bundle
        .map(|bytes| digest(bytes, "bundle", BundleDigest::from_slice))
        .transpose();
    let asked = RequestId::from_slice(&request.request_id);
    Ok(Commit {
        app: request.app.parse().map_err(|error| status::bad_name(&error))?,
        id: digest(&request.id, "release id", ReleaseId::from_slice).map_err(bad)?,
        bundle: bundle.map_err(bad)?,
        provenance: Provenance {
            label: request.label,
            commit: request.commit,
            dirty: request.dirty,
        },
        request: asked.ok_or_else(|| status::invalid("request_id must be 16 random bytes", "request_id"))?,
        who,
        at_ms,
    })
}
