//! How long assets are kept, and why.

use std::sync::Arc;

use ship_model::name::AppName;
use ship_model::retention::{Reason, Verdict};
use ship_proto::v1;
use ship_proto::v1::assets_server::Assets;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::face::{Answers, Face};
use super::releases::Rooms;
use super::status;
use crate::retention::{Counted, Found, Scene, look, promised};
use crate::settings::Uncounted;

/// Apps that one host has at most.
const MOST_APPS: usize = 1_000;
/// Lines that wait for their reader.
const AHEAD: usize = 64;

#[derive(Debug, Clone)]
pub struct AssetsFace {
    face: Face,
    rooms: Arc<Rooms>,
}

impl AssetsFace {
    pub const fn new(face: Face, rooms: Arc<Rooms>) -> Self {
        Self { face, rooms }
    }

    fn scene(&self) -> Scene {
        Scene {
            states: self.face.board.states(),
            hosts: self.face.fleet.all(None),
            policy: self.rooms.retention.policy(),
            counted: match self.rooms.retention.uncounted {
                Uncounted::Keep => Counted::Everywhere,
                Uncounted::Ignore => Counted::WhereToldOf,
            },
            now_ms: self.face.clock.now_ms(),
        }
    }

    /// Judges on a thread where it may block; a reader that is slow holds it up, one that is gone ends it.
    fn lines(
        &self,
        app: AppName,
        wanted: v1::LookAssetsRequest,
    ) -> ReceiverStream<Result<v1::AssetLine, Status>> {
        let (lines, read) = mpsc::channel(AHEAD);
        let (scene, rooms) = (self.scene(), Arc::clone(&self.rooms));
        let (ledger, evidence) = (self.face.ledger.clone(), Arc::clone(&self.face.evidence));
        let bridge = self.face.bridge.clone();
        let looking = move || {
            let path = Some(wanted.path.as_str()).filter(|path| !path.is_empty());
            let looked = look(&scene, &ledger, &rooms.unions, &evidence, &app, path, |found| {
                let wanted = !wanted.collectable || !found.verdict.is_kept();
                !wanted || lines.blocking_send(Ok(line(found))).is_ok()
            });
            if let Err(error) = looked {
                let _ = lines.blocking_send(Err(status::look(&error)));
            }
        };
        tokio::spawn(async move { bridge.run(looking).await });
        ReceiverStream::new(read)
    }
}

fn line(found: Found<'_>) -> v1::AssetLine {
    let (reasons, collectable_since_ms) = match &found.verdict {
        Verdict::Kept(reasons) => (reasons.iter().map(reason).collect(), 0),
        Verdict::Collectable { since_ms } => (Vec::new(), *since_ms),
    };
    let (asked_ms, asked_of) = found.last.unwrap_or_default();
    v1::AssetLine {
        url: found.url.to_owned(),
        digest: found.digest.as_bytes().to_vec(),
        bytes: found.bytes,
        releases: found.releases.iter().map(|release| release.0).collect(),
        reasons,
        collectable_since_ms,
        asked_ms,
        asked_of,
        stands_on: found.stands_on,
    }
}

fn reason(reason: &Reason<'_>) -> v1::AssetReason {
    v1::AssetReason {
        kind: reason.kind().to_owned(),
        words: reason.to_string(),
        until_ms: reason.until_ms().unwrap_or(0),
        release: match reason {
            Reason::Reachable { release, .. } | Reason::Young { release, .. } => release.0,
            Reason::Requested { .. } | Reason::NotCountedYet { .. } | Reason::Uncounted { .. } => 0,
        },
    }
}

#[tonic::async_trait]
impl Assets for AssetsFace {
    type LookStream = Answers<v1::AssetLine>;

    async fn look(
        &self,
        request: Request<v1::LookAssetsRequest>,
    ) -> Result<Response<Self::LookStream>, Status> {
        let wanted = request.into_inner();
        let app = self.face.known_app(&wanted.app).await?;
        Ok(Response::new(Box::pin(self.lines(app, wanted))))
    }

    async fn find(
        &self,
        request: Request<v1::FindAssetRequest>,
    ) -> Result<Response<v1::FindAssetReply>, Status> {
        let v1::FindAssetRequest { apps, path } = request.into_inner();
        if apps.len() > MOST_APPS {
            let message = format!("{} apps are too many: {MOST_APPS} at most", apps.len());
            return Err(status::invalid(message, "apps"));
        }
        let apps: Result<Vec<AppName>, _> = apps.iter().map(|app| app.parse()).collect();
        let apps = apps.map_err(|error| status::bad_name(&error))?;
        let (ledger, rooms) = (self.face.ledger.clone(), Arc::clone(&self.rooms));
        let finding = move || {
            let mut found = apps.iter().filter_map(|app| {
                let found = promised(&ledger, &rooms.unions, app, &path);
                found.transpose()
            });
            found.next().transpose()
        };
        let found = self.face.bridge.run(finding).await;
        let found = found.map_err(status::broken_off)?;
        let asset = found.map_err(|error| status::promised(&error))?;
        let asset = asset.map(|asset| v1::FoundAsset {
            app: asset.app.to_string(),
            release: Some(asset.release.into()),
            digest: asset.digest.as_bytes().to_vec(),
            bytes: asset.size,
        });
        Ok(Response::new(v1::FindAssetReply { asset }))
    }
}
