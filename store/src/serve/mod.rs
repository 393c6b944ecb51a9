//! The store at work: opens the folder, says who it is, serves, and ends when it is told to.

mod ports;
mod signals;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ship_assets::miss::Misses;
use ship_assets::serve::{
    self as asset_port, Assets, Encodings, OpenEncodingsError, PortTls, PortTlsError, Setup, Throttle,
};
use ship_assets::{Mending, Shelf};
use ship_durable::FileError;
use ship_model::rollout::Policy;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::ports::Addresses;
use self::ports::{address_of, bind, remember};
use self::signals::{Signals, tell_supervisor};

use crate::bridge::{Bridge, BrokenOff};
use crate::clock::Clock;
use crate::copies::Copies;
use crate::deltas::{Deltas, Maker};
use crate::desired::Board;
use crate::engine::BlobsError;
use crate::folder::{FolderReport, OpenFolderError, StoreFolder};
use crate::garbage;
use crate::grpc::sessions::Sessions;
use crate::grpc::sources::Sources;
use crate::grpc::{self, Face, Rooms};
use crate::http::{self, Bundles, Metrics};
use crate::keeping::Optimizer;
use crate::leaves::LeafLists;
use crate::ledger::LedgerError;
use crate::listen::{Limits, Port, PortFigures};
use crate::log::whole;
use crate::publish;
use crate::push::{Pushes, Pushing};
use crate::retention::{self, Evidence, FromBundles};
use crate::rollout::fleet::Fleet;
use crate::rollout::{Controller, Parts, SteerError};
use crate::scrub::{Findings, MARKS, Scrubber, Wants};
use crate::settings::{Settings, SettingsError};
use crate::tls::{LoadTlsError, Tls};
use crate::union::{Unions, read_manifest};

/// Blocking jobs at a time.
const AT_ONCE: usize = 32;
/// How long requests under way may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(10);
/// From the start until assets are read again for the first time.
const SCRUB_AFTER: Duration = Duration::from_secs(10 * 60);
/// For reading all of them, and from there to the next time: together less than a day.
const SCRUB_WITHIN: Duration = Duration::from_secs(3 * 3600);
const SCRUB_PAUSE: Duration = Duration::from_secs(20 * 3600);

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    pub dir: PathBuf,
    /// Overrides the remembered address, and is remembered; port 0 takes the port of the last time, or a free one.
    pub listen: Option<SocketAddr>,
    pub assets_listen: Option<SocketAddr>,
}

/// Why the store does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("cannot open the store in {}", dir.display())]
    Folder { dir: PathBuf, source: OpenFolderError },
    #[error("cannot use the store's certificates")]
    Tls(#[from] LoadTlsError),
    #[error("{address} is taken by another program: choose another with {option}; port 0 takes a free one")]
    Taken {
        address: SocketAddr,
        option: &'static str,
    },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot list the store's deltas")]
    Deltas(#[source] BlobsError),
    #[error("cannot start the thread that makes deltas")]
    Maker(#[source] io::Error),
    #[error("cannot use the asset port's certificate")]
    AssetTls(#[from] PortTlsError),
    #[error("cannot tell which releases there are")]
    Releases(#[source] LedgerError),
    #[error("cannot tell which assets have expired")]
    Expired(#[source] LedgerError),
    #[error("cannot start the thread that reads assets again")]
    Scrub(#[source] io::Error),
    #[error("cannot start the thread that reads objects again")]
    ScrubObjects(#[source] io::Error),
    #[error("cannot keep encoded assets")]
    Encodings(#[from] OpenEncodingsError),
    #[error("cannot load what environments run")]
    Load(#[from] SteerError),
    #[error("cannot write the store's addresses")]
    Addresses(#[from] FileError),
    #[error("cannot make the folder {}", path.display())]
    MakeFolder { path: PathBuf, source: io::Error },
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    #[error("cannot open the store")]
    BrokenOff(#[from] BrokenOff),
}

/// Serves until SIGTERM or SIGINT, then lets requests under way end for at most ten seconds.
pub async fn serve(options: Options, clock: Clock) -> Result<(), ServeError> {
    let mut settings = Settings::read(&options.dir)?;
    let bridge = Bridge::new(AT_ONCE);
    let folder = open_folder(&options.dir, &bridge).await?;
    let tls = Arc::new(Tls::load(&options.dir.join("tls"))?);
    let asset_tls = settings
        .asset_tls(&options.dir)
        .map(|files| PortTls::load(&files));
    let asset_tls = asset_tls.transpose()?.map(Arc::new);
    let (listener, assets_listener) = bind(&options, &mut settings).await?;
    let addresses = Addresses {
        grpc: address_of(&listener, settings.listen),
        assets: address_of(&assets_listener, settings.assets_listen),
        pid: std::process::id(),
    };
    let signals = Signals::listen().map_err(ServeError::Signals)?;
    let stop = CancellationToken::new();
    let store = assemble(
        folder,
        settings,
        bridge,
        clock,
        &options.dir,
        &addresses,
        stop.clone(),
    )
    .await?;
    remember(&options.dir, &addresses)?;
    tell_supervisor("READY=1");
    tracing::info!(grpc = %addresses.grpc, assets = %addresses.assets, "serving");
    let (port, router) = (store.port(Arc::clone(&tls)), store.asset_router());
    let front = asset_port::Port {
        tls: asset_tls.clone(),
        limits: asset_port::Limits {
            grace: DRAIN,
            ..asset_port::Limits::default()
        },
    };
    let serving = tokio::spawn(async move {
        // Agents are let go and answers ended at once; what is short ends by itself.
        tokio::join!(
            port.serve(listener, stop.clone(), DRAIN),
            front.serve(assets_listener, http::by(router), stop.cancelled()),
        );
    });
    signals.until_end(&tls, asset_tls.as_deref()).await;
    tracing::info!("ending");
    tell_supervisor("STOPPING=1");
    store.stop.cancel();
    // Both have a deadline of their own.
    let _ = serving.await;
    store.controller.ended().await;
    // What was heard of requests is written down.
    let _ = tokio::time::timeout(DRAIN, store.counting).await;
    Ok(())
}

async fn open_folder(dir: &Path, bridge: &Bridge) -> Result<StoreFolder, ServeError> {
    let path = dir.to_owned();
    let opened = bridge
        .run(move || StoreFolder::open(&path, publish::Limits::default()))
        .await?;
    let (folder, report) = opened.map_err(|source| ServeError::Folder {
        dir: dir.to_owned(),
        source,
    })?;
    tell_found(&report);
    Ok(folder)
}

fn tell_found(report: &FolderReport) {
    if let Some(reason) = &report.catalog.rebuilt {
        tracing::warn!(reason = %reason, "the catalog's index was damaged or missing and was made anew");
    }
    for (bundle, error) in &report.places.unread {
        tracing::error!(%bundle, error = error as &dyn std::error::Error, "a bundle cannot be used");
    }
    if let Some(restored) = &report.restored {
        tracing::warn!(
            from = restored.from,
            "this store was put back from a backup: it publishes and moves nothing before `shipstore accept-restore`"
        );
    }
    tracing::info!(
        bundles = report.places.bundles,
        blobs = report.places.blobs,
        "opened"
    );
}

/// A store that is put together.
struct Store {
    face: Face,
    rooms: Arc<Rooms>,
    controller: Controller,
    counting: JoinHandle<()>,
    assets: Assets,
    figures: Arc<PortFigures>,
    /// How fast bundles may leave.
    limit: Option<Arc<Throttle>>,
    fleet_name: String,
    stop: CancellationToken,
}

impl Store {
    fn port(&self, tls: Arc<Tls>) -> Port {
        let bundles = Bundles {
            blobs: Arc::clone(&self.rooms.folder.blobs),
            bridge: self.face.bridge.clone(),
            clock: self.face.clock.clone(),
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

    fn asset_router(&self) -> axum::Router {
        let metrics = Metrics {
            ledger: self.face.ledger.clone(),
            places: Arc::clone(&self.rooms.folder.places),
            bridge: self.face.bridge.clone(),
            board: Arc::clone(&self.face.board),
            fleet: Arc::clone(&self.face.fleet),
            port: Arc::clone(&self.figures),
            assets: self.assets.clone(),
            findings: Arc::clone(&self.face.findings),
        };
        http::assets(self.assets.clone(), metrics)
    }
}

async fn assemble(
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

/// Reads every asset again within a day, on a thread of its own that ends with the store.
fn scrub(assets: Assets, stop: CancellationToken) -> Result<(), ServeError> {
    let work = move || {
        let ended = || stop.is_cancelled();
        let mut wait = SCRUB_AFTER;
        while asset_port::pause(wait, &ended) {
            wait = SCRUB_PAUSE;
            match assets.scrub(SCRUB_WITHIN, &ended) {
                Ok(read) => {
                    tracing::info!(files = read.files, rotten = read.rotten, "assets were read again")
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "not every asset was read again");
                }
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("asset-scrub".to_owned())
        .spawn(work);
    thread.map(drop).map_err(ServeError::Scrub)
}

/// What an earlier process did not get to: more work into the deltas to what environments run, and to each app's newest release.
async fn take_up(
    maker: &Maker,
    board: &Board,
    bridge: &Bridge,
    ledger: &crate::ledger::Ledger,
) -> Result<(), ServeError> {
    let of = ledger.clone();
    let newest = bridge.run(move || -> Result<Vec<_>, LedgerError> {
        let newest = of.apps()?.into_iter().map(|app| of.newest_release(&app));
        newest.filter_map(Result::transpose).collect()
    });
    let newest = newest.await?.map_err(ServeError::Releases)?;
    let running = board
        .states()
        .into_iter()
        .filter_map(|state| Some(state.current?.id));
    let mut targets: Vec<_> = running
        .chain(newest.into_iter().map(|release| release.id))
        .collect();
    targets.sort_unstable();
    targets.dedup();
    targets.into_iter().for_each(|target| maker.take_up(target));
    Ok(())
}

/// Reads every object again and again, on a thread of its own that ends with the store.
fn scrub_objects(scrubber: Scrubber) -> Result<(), ServeError> {
    let thread = std::thread::Builder::new().name("scrub".to_owned());
    let spawned = thread.spawn(move || scrubber.run());
    spawned.map(drop).map_err(ServeError::ScrubObjects)
}

/// Which deltas there are, and a thread that makes what is wished for.
async fn deltas(
    folder: &StoreFolder,
    bridge: &Bridge,
    stop: CancellationToken,
) -> Result<(Arc<Deltas>, Arc<Maker>), ServeError> {
    let blobs = Arc::clone(&folder.blobs);
    let loaded = bridge.run(move || Deltas::load(&*blobs)).await?;
    let deltas = Arc::new(loaded.map_err(ServeError::Deltas)?);
    let maker = Maker::new(
        Arc::clone(&folder.blobs),
        Arc::clone(&folder.places),
        Arc::clone(&deltas),
    );
    let worker = Arc::clone(&maker);
    let thread = std::thread::Builder::new().name("delta-maker".to_owned());
    thread.spawn(move || worker.work()).map_err(ServeError::Maker)?;
    let ending = Arc::clone(&maker);
    tokio::spawn(async move {
        stop.cancelled().await;
        ending.end();
    });
    Ok((deltas, maker))
}

/// Puts on the shelf what an earlier process did not get to.
async fn catch_up(bridge: Bridge, unions: Arc<Unions>, ledger: crate::ledger::Ledger) {
    match bridge.run(move || unions.catch_up(&ledger)).await {
        Ok(Ok(failed)) => {
            for (app, release, error) in failed {
                let error = &error as &dyn std::error::Error;
                tracing::error!(%app, release = release.0, error, "the store cannot serve this release's assets");
            }
        }
        Ok(Err(error)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot catch up on assets"
            );
        }
        Err(BrokenOff) => {}
    }
}
