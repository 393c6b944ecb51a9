//! The store put together: what each part is given.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ship_assets::miss::Misses;
use ship_assets::serve::{Assets, Encodings, Setup, Throttle};
use ship_assets::{Mending, Shelf};
use ship_model::rollout::Policy;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::background::{catch_up, deltas, scrub, scrub_objects, take_up};
use super::{Addresses, ServeError};
use crate::bridge::Bridge;
use crate::clock::Clock;
use crate::copies::Copies;
use crate::desired::Board;
use crate::folder::StoreFolder;
use crate::garbage;
use crate::grpc::sessions::Sessions;
use crate::grpc::sources::Sources;
use crate::grpc::{self, Face, Rooms};
use crate::http::{self, Bundles, Metrics};
use crate::keeping::Optimizer;
use crate::leaves::LeafLists;
use crate::listen::{Limits, Port, PortFigures};
use crate::log::whole;
use crate::notify::{self, Routes};
use crate::push::{Pushes, Pushing};
use crate::retention::{self, Evidence, FromBundles};
use crate::rollout::fleet::Fleet;
use crate::rollout::{Controller, Parts};
use crate::scrub::{Findings, MARKS, Scrubber, Wants};
use crate::settings::Settings;
use crate::tls::Tls;
use crate::union::{Unions, read_manifest};

/// A store that is put together.
pub(super) struct Store {
    face: Face,
    rooms: Arc<Rooms>,
    pub controller: Controller,
    pub counting: JoinHandle<()>,
    assets: Assets,
    figures: Arc<PortFigures>,
    /// How fast bundles may leave.
    limit: Option<Arc<Throttle>>,
    fleet_name: String,
    pub stop: CancellationToken,
}

impl Store {
    pub fn port(&self, tls: Arc<Tls>) -> Port {
        let bundles = Bundles {
            blobs: Arc::clone(&self.rooms.folder.blobs),
            bridge: self.face.bridge.clone(),
            clock: self.face.clock.clone(),
            fleet: Arc::clone(&self.face.fleet),
            limit: self.limit.clone(),
            figures: Arc::clone(&self.figures),
        };
        let grpc = grpc::router(self.face.clone(), Arc::clone(&self.rooms));
        Port {
            tls,
            fleet: self.fleet_name.clone(),
            limits: Limits::default(),
            router: grpc.merge(http::beside_grpc(bundles)),
            figures: Arc::clone(&self.figures),
        }
    }

    pub fn assets(&self) -> Assets {
        self.assets.clone()
    }

    pub fn asset_router(&self) -> axum::Router {
        let metrics = Metrics {
            ledger: self.face.ledger.clone(),
            places: Arc::clone(&self.rooms.folder.places),
            bridge: self.face.bridge.clone(),
            board: Arc::clone(&self.face.board),
            fleet: Arc::clone(&self.face.fleet),
            port: Arc::clone(&self.figures),
            assets: self.assets.clone(),
            findings: Arc::clone(&self.face.findings),
            routes: Arc::clone(&self.face.routes),
        };
        http::assets(self.assets.clone(), metrics)
    }
}

pub(super) async fn assemble(
    folder: StoreFolder,
    settings: Settings,
    bridge: Bridge,
    clock: Clock,
    dir: &Path,
    addresses: &Addresses,
    stop: CancellationToken,
) -> Result<Store, ServeError> {
    let (places, blobs) = (Arc::clone(&folder.places), Arc::clone(&folder.blobs));
    let (deltas, maker) = deltas(&folder, &bridge, stop.clone()).await?;
    if settings.optimize_when_idle {
        let optimizer = Optimizer::new(
            Arc::clone(&blobs),
            Arc::clone(&places),
            folder.ledger.clone(),
            clock.clone(),
        );
        maker.optimize(optimizer);
    }
    let ledger = folder.ledger.clone();
    let board = Arc::new(Board::default());
    let fleet = Arc::new(Fleet::new(settings.thresholds(), clock.now_ms()));
    let routes: Arc<Routes> = Arc::default();
    // Before rollouts go on, so that a new route hears of what they do.
    let telling = notify::Parts {
        ledger: ledger.clone(),
        bridge: bridge.clone(),
        clock: clock.clone(),
        dir: dir.to_owned(),
        routes: Arc::clone(&routes),
        stop: stop.clone(),
    };
    notify::start(&settings.notify, &telling).await?;
    let manifests = {
        let blobs = Arc::clone(&blobs);
        Arc::new(move |id| read_manifest(&*blobs, id).map_err(|error| whole(&error)))
    };
    let controller = Controller::start(Parts {
        ledger: ledger.clone(),
        bridge: bridge.clone(),
        clock: clock.clone(),
        board: Arc::clone(&board),
        fleet: Arc::clone(&fleet),
        policy: policy(&settings),
        manifests,
        gates: settings.gates.clone().within(dir),
        stop: stop.clone(),
    })
    .await?;
    take_up(&maker, &board, &bridge, &ledger).await?;
    // Before the first host hears anything: it keeps what it is not told of, and then fetches what it has let go.
    let (of, on) = (ledger.clone(), Arc::clone(&board));
    bridge
        .run(move || retention::tell_all_expired(&of, &on))
        .await?
        .map_err(ServeError::Expired)?;
    let shelf = Arc::new(Shelf::new());
    let unions = dir.join("assets");
    let setup = Setup {
        settings: settings.asset_port.clone(),
        encodings: encodings(&unions, &settings, &bridge).await?,
        on_rot: Some(Mending::new(Arc::clone(&shelf), Handle::current()).on_rot()),
    };
    let assets = Assets::with(Arc::clone(&shelf), setup);
    scrub(assets.clone(), stop.clone())?;
    let unions = Unions::new(unions, blobs, places, Arc::clone(&shelf));
    let unions = Arc::new(unions);
    tokio::spawn(catch_up(bridge.clone(), Arc::clone(&unions), ledger.clone()));
    let pushing = Pushing {
        ledger: ledger.clone(),
        bridge: bridge.clone(),
        board: Arc::clone(&board),
        controller: controller.clone(),
        unions: Arc::clone(&unions),
        heartbeat: Duration::from_millis(settings.heartbeat_ms),
        stop: stop.clone(),
    };
    let pushes = Pushes::new(settings.push.clone(), dir, &stop);
    pushes.start(&pushing);
    let (of, now_ms) = (dir.to_owned(), clock.now_ms());
    let evidence = bridge.run(move || Evidence::open(&of, now_ms)).await?;
    let evidence = Arc::new(evidence);
    let counting = tokio::spawn(retention::count(
        Arc::clone(&shelf),
        Arc::clone(&evidence),
        bridge.clone(),
        clock.clone(),
        stop.clone(),
    ));
    let deciding = Arc::default();
    let garbage = Arc::new(garbage::Room {
        ledger: ledger.clone(),
        blobs: Arc::clone(&folder.blobs),
        places: Arc::clone(&folder.places),
        deltas: Arc::clone(&deltas),
        settings: settings.content.clone(),
        fleet: Arc::clone(&fleet),
        board: Arc::clone(&board),
        deciding: Arc::clone(&deciding),
        bridge: bridge.clone(),
        clock: clock.clone(),
        stop: stop.clone(),
    });
    tokio::spawn(Arc::clone(&garbage).work());
    let wants = Arc::new(Wants::new(Arc::clone(&folder.blobs)));
    let findings: Arc<Findings> = Arc::default();
    let copies = settings.mirror.iter();
    scrub_objects(Scrubber {
        blobs: Arc::clone(&folder.blobs),
        places: Arc::clone(&folder.places),
        ledger: ledger.clone(),
        deltas: Arc::clone(&deltas),
        maker: Arc::clone(&maker),
        fleet: Arc::clone(&fleet),
        wants: Arc::clone(&wants),
        copies: copies.map(|mirror| Copies::Mirror(mirror.url.clone())).collect(),
        within_ms: settings.content.scrub_ms,
        limit: settings.content.scrub_limit,
        marks: dir.join(MARKS),
        findings: Arc::clone(&findings),
        clock: clock.clone(),
        stop: stop.clone(),
    })?;
    let face = Face {
        ledger,
        bridge,
        clock,
        board,
        fleet,
        controller: controller.clone(),
        sessions: Arc::new(Sessions::default()),
        sources: Arc::new(Sources::new(settings.mirror.clone())),
        evidence,
        wants,
        findings,
        routes,
        heartbeat_ms: settings.heartbeat_ms,
        asset_url: asset_url(&settings, addresses.assets),
        deciding,
        stop: stop.clone(),
    };
    let from_bundles = FromBundles {
        ledger: folder.ledger.clone(),
        unions: Arc::clone(&unions),
    };
    shelf.look_elsewhere(Misses::new(Arc::new(from_bundles)));
    let rooms = Rooms {
        leaves: LeafLists::new(Arc::clone(&folder.blobs)),
        assets: assets.clone(),
        folder,
        unions,
        retention: settings.retention.clone(),
        deltas,
        maker,
        pushes,
        pushing,
        garbage,
        bringing: Bridge::new(1),
    };
    Ok(Store {
        face,
        rooms: Arc::new(rooms),
        controller,
        counting,
        assets,
        figures: Arc::default(),
        limit: settings.bundle_limit.map(|limit| Arc::new(Throttle::new(limit))),
        fleet_name: settings.fleet,
        stop,
    })
}

fn policy(settings: &Settings) -> Policy {
    Policy {
        max_unavailable: settings.max_unavailable.map(Into::into),
        optional_asset_hosts: settings.optional_asset_hosts.clone(),
        soak_ms: settings.soak_ms,
        prefetch_deadline_ms: settings.prefetch_deadline_ms,
        barrier_deadline_ms: settings.barrier_deadline_ms,
        switch_deadline_ms: settings.switch_deadline_ms,
        ..Policy::default()
    }
}

fn asset_url(settings: &Settings, bound: SocketAddr) -> String {
    if let Some(url) = &settings.assets_url {
        return url.trim_end_matches('/').to_owned();
    }
    let mut reachable = bound;
    if bound.ip().is_unspecified() {
        reachable.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let scheme = if settings.asset_port.tls.is_some() {
        "https"
    } else {
        "http"
    };
    format!("{scheme}://{reachable}")
}

/// Beside the unions: no app's folder is called so.
async fn encodings(
    assets: &Path,
    settings: &Settings,
    bridge: &Bridge,
) -> Result<Option<Arc<Encodings>>, ServeError> {
    if settings.asset_port.encode.is_empty() {
        return Ok(None);
    }
    let folder = assets.join("encoded");
    let opened = bridge.run(move || Encodings::open(&folder)).await??;
    Ok(Some(Arc::new(opened)))
}
