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
use crate::retention::{Counted, Found, Scene, look};
use crate::settings::Uncounted;

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
    fn lines(&self, app: AppName, wanted: v1::LookAssetsRequest) -> ReceiverStream<Result<v1::AssetLine, Status>> {
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

    async fn look(&self, request: Request<v1::LookAssetsRequest>) -> Result<Response<Self::LookStream>, Status> {
        let wanted = request.into_inner();
        let app = self.face.known_app(&wanted.app).await?;
        Ok(Response::new(Box::pin(self.lines(app, wanted))))
    }
}
