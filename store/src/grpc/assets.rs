//! How long assets are kept, and why; and what is given up when nothing keeps it.

use std::sync::Arc;
use std::time::Duration;

use ship_assets::miss::Standing;
use ship_model::digest::ExpiredDigest;
use ship_model::host::HostState;
use ship_model::name::AppName;
use ship_model::retention::{Reason, Verdict};
use ship_proto::v1;
use ship_proto::v1::assets_server::Assets;
use ship_proto::v1::sweep_progress::Progress;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::face::{Answers, Face, caller};
use super::pushes;
use super::releases::Rooms;
use super::status;
use crate::ledger::Ledger;
use crate::retention::{Counted, Evidence, Found, Marked, Scene, Sweep, Swept, look, standing, tell_expired};
use crate::settings::Uncounted;

/// Apps that one host has at most.
const MOST_APPS: usize = 1_000;
/// Paths of a list in one message.
const PART: usize = 16_384;
/// How long a sweep waits for hosts to follow. They follow also when nobody waits.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(200);
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

    /// What a rollout brings or goes back to is on its way to hosts.
    fn refuse_rollout(&self, app: &AppName) -> Result<(), Status> {
        let states = self.face.board.states();
        let of_app = states.iter().filter(|state| state.app == *app);
        let Some((state, rollout)) = of_app.filter_map(|state| Some((state, state.running()?))).next() else {
            return Ok(());
        };
        Err(ship_proto::refuse(
            v1::FailureKind::Busy,
            format!(
                "deploy {} of {app} in {} is under way: nothing was removed",
                rollout.deploy, state.env
            ),
            &format!("{}/{app}", state.env),
            &format!("shipctl attach {app} -e {}", state.env),
        ))
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

/// A sweep that somebody waits for.
struct Sweeping {
    face: AssetsFace,
    app: AppName,
    who: String,
    progress: mpsc::Sender<Result<v1::SweepProgress, Status>>,
}

impl Sweeping {
    async fn run(self) {
        if let Err(refused) = self.sweep().await {
            let _ = self.progress.send(Err(refused)).await;
        }
    }

    async fn sweep(&self) -> Result<(), Status> {
        let marked = Arc::new(self.mark().await?);
        let wait_ms = self.face.rooms.retention.grace_ms;
        self.tell(Progress::Marked(v1::SweepMarked {
            assets: marked.urls.len() as u64,
            bytes: marked.bytes,
            wait_ms,
        }))
        .await;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            () = self.progress.closed() => return Ok(()),
            () = self.face.face.stop.cancelled() => return Err(status::unavailable("the store is ending; nothing was removed")),
        }
        let swept = self.decide(marked).await;
        // Hosts keep to what is marked, also where the store's own folder does not follow.
        let told = self.put_up().await;
        let swept = swept?;
        told?;
        tracing::info!(app = %self.app, assets = swept.assets, bytes = swept.bytes, spared = swept.spared, "expired assets given up");
        self.tell(Progress::Swept(v1::Swept {
            assets: swept.assets,
            bytes: swept.bytes,
            spared: swept.spared,
            files: swept.files,
        }))
        .await;
        self.follow().await;
        Ok(())
    }

    async fn put_up(&self) -> Result<(), Status> {
        let (app, board) = (self.app.clone(), Arc::clone(&self.face.face.board));
        let told = self
            .face
            .face
            .ledger(move |ledger| tell_expired(ledger, &board, &app));
        told.await
    }

    /// Tells who has followed until all have that are there, for a while.
    async fn follow(&self) {
        let (face, deadline) = (&self.face.face, tokio::time::Instant::now() + FOLLOWED_WITHIN);
        let mut told = None;
        loop {
            let Some(expired) = face.board.expired(&self.app) else {
                return;
            };
            let followed = Followed::look(face, &self.app, expired.list);
            let (ended, said) = (followed.all_there(), followed.said());
            if told.as_ref() != Some(&said) {
                self.tell(Progress::Followed(said.clone())).await;
                told = Some(said);
            }
            if ended || tokio::time::Instant::now() >= deadline {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.progress.closed() => return,
                () = face.stop.cancelled() => return,
            }
        }
    }

    async fn tell(&self, progress: Progress) {
        let progress = Some(progress);
        // Nobody waits any longer: what is done is done.
        let _ = self.progress.send(Ok(v1::SweepProgress { progress })).await;
    }

    async fn mark(&self) -> Result<Marked, Status> {
        let (scene, room) = (self.face.scene(), self.room());
        let marked = self.face.face.bridge.run(move || room.sweep().mark(&scene)).await;
        let marked = marked.map_err(status::broken_off)?;
        marked.map_err(|error| status::look(&error))
    }

    /// Nothing is published, promoted or reverted meanwhile.
    async fn decide(&self, marked: Arc<Marked>) -> Result<Swept, Status> {
        let _deciding = self.face.face.deciding.write().await;
        self.face.refuse_rollout(&self.app)?;
        let (scene, room, who) = (self.face.scene(), self.room(), self.who.clone());
        let swept = self.face.face.bridge.run(move || {
            let swept = room.sweep().sweep(&scene, &marked, &who);
            room.rooms.assets.sweep();
            swept
        });
        let swept = swept.await.map_err(status::broken_off)?;
        swept.map_err(|error| status::sweep(&error))
    }

    fn room(&self) -> SweepRoom {
        let face = &self.face.face;
        SweepRoom {
            ledger: face.ledger.clone(),
            evidence: Arc::clone(&face.evidence),
            rooms: Arc::clone(&self.face.rooms),
            app: self.app.clone(),
        }
    }
}

/// Which hosts of an app have acted on the list of what expired.
#[derive(Debug, Default)]
struct Followed {
    done: Vec<String>,
    behind: Vec<String>,
    away: Vec<String>,
}

impl Followed {
    fn look(face: &Face, app: &AppName, list: ExpiredDigest) -> Self {
        let mut followed = Self::default();
        let states = face.board.states();
        for (env, host, presence) in face.fleet.all(None) {
            let mut of_app = states
                .iter()
                .filter(|state| state.app == *app && state.env == env);
            if !of_app.any(|state| state.hosts.contains_key(&host)) {
                continue;
            }
            let report = presence.report.as_ref();
            let said = report.and_then(|report| report.apps.iter().find(|said| said.app == *app));
            let named = format!("{env}/{host}");
            let away = matches!(presence.state, HostState::Uncertain | HostState::Unavailable);
            match said.and_then(|said| said.expired) {
                Some(acted) if acted == list => followed.done.push(named),
                _ if away || report.is_none() => followed.away.push(named),
                _ => followed.behind.push(named),
            }
        }
        followed
    }

    const fn all_there(&self) -> bool {
        self.behind.is_empty()
    }

    fn said(self) -> v1::SweepFollowed {
        v1::SweepFollowed {
            done: self.done,
            behind: [self.behind, self.away].concat(),
        }
    }
}

/// What a sweep needs, to be taken to where it may block.
struct SweepRoom {
    ledger: Ledger,
    evidence: Arc<Evidence>,
    rooms: Arc<Rooms>,
    app: AppName,
}

impl SweepRoom {
    fn sweep(&self) -> Sweep<'_> {
        Sweep {
            ledger: &self.ledger,
            unions: &self.rooms.unions,
            evidence: &self.evidence,
            app: &self.app,
        }
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
        expired_ms: found.expired_ms.unwrap_or(0),
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
        let finding = move || standing(&ledger, &rooms.unions, &apps, &path);
        let found = self.face.bridge.run(finding).await;
        let found = found.map_err(status::broken_off)?;
        let found = found.map_err(|error| status::promised(&error))?;
        let expired = found == Standing::Expired;
        let asset = match found {
            Standing::Promised(asset) => Some(v1::FoundAsset {
                app: asset.app.to_string(),
                release: Some(asset.release.into()),
                digest: asset.digest.as_bytes().to_vec(),
                bytes: asset.size,
            }),
            Standing::Expired | Standing::Never => None,
        };
        Ok(Response::new(v1::FindAssetReply { asset, expired }))
    }

    type ExpiredStream = Answers<v1::ExpiredPart>;

    async fn expired(
        &self,
        request: Request<v1::ExpiredRequest>,
    ) -> Result<Response<Self::ExpiredStream>, Status> {
        let app = self.face.known_app(&request.into_inner().app).await?;
        let board = Arc::clone(&self.face.board);
        let read = move |ledger: &Ledger| {
            let list = ledger.expired_list(&app)?;
            // Marks that a publish took away which then died: nobody has told of that yet.
            if board
                .expired(&app)
                .is_none_or(|told| told.list != list.digest(&app))
            {
                tell_expired(ledger, &board, &app)?;
            }
            Ok(list)
        };
        let list = self.face.ledger(read).await?;
        let parts: Vec<_> = list.parts(PART).collect();
        let parts = parts.into_iter().map(|paths| Ok(v1::ExpiredPart { paths }));
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    type PushStream = Answers<v1::PushProgress>;

    async fn push(
        &self,
        request: Request<v1::PushAssetsRequest>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let request = request.into_inner();
        let (app, pushes, releases) = pushes::wanted(&self.face, &self.rooms, &request).await?;
        let (progress, read) = mpsc::channel(2);
        let bringing = pushes::Bringing {
            rooms: Arc::clone(&self.rooms),
            app,
            pushes,
            releases,
            progress,
        };
        tokio::spawn(bringing.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(read))))
    }

    type SweepStream = Answers<v1::SweepProgress>;

    async fn sweep(
        &self,
        request: Request<v1::SweepAssetsRequest>,
    ) -> Result<Response<Self::SweepStream>, Status> {
        let who = caller(&request)?.to_string();
        let app = self.face.known_app(&request.into_inner().app).await?;
        if let Some(restored) = self.face.ledger(|ledger| ledger.restored()).await? {
            return Err(status::not_accepted(&restored.not_accepted()));
        }
        self.refuse_rollout(&app)?;
        let (progress, read) = mpsc::channel(2);
        let sweeping = Sweeping {
            face: self.clone(),
            app,
            who,
            progress,
        };
        tokio::spawn(sweeping.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(read))))
    }
}
