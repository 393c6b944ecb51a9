//! The agent's life: lock, rooms, ready, until it is told to end. Apps outlive it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ship_assets::miss::Misses;
use ship_assets::serve::{self as asset_port, Assets, Encodings, Port, PortTls, Setup};
use ship_assets::{Mending, Shelf};
use ship_durable::LockError;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::balancer::{Board, board};
use crate::clock;
use crate::config::{Config, PeerSettings};
use crate::converge::Converge;
use crate::dial::Dial;
use crate::doctor;
use crate::fetch::{Fetcher, Share, Told};
use crate::giving;
use crate::layout::HostLayout;
use crate::local::{self, Local};
use crate::metrics;
use crate::missing::FromStore;
use crate::report::Reporter;
use crate::scrub::Scrubber;
use crate::session::{Asked, Session, StoreLink};

/// For everything to end by itself.
const END: Duration = Duration::from_secs(10);
/// How often the files of the asset port's certificate are looked at.
const LOOK_AT_FILES: Duration = Duration::from_secs(3);
/// From the start until assets are read again for the first time.
const SCRUB_AFTER: Duration = Duration::from_secs(10 * 60);
/// For reading all of them, and from there to the next time: together less than a day.
const SCRUB_WITHIN: Duration = Duration::from_secs(3 * 3600);
const SCRUB_PAUSE: Duration = Duration::from_secs(20 * 3600);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot begin: another agent, an unusable folder, certificate, socket or port.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let layout = HostLayout::of(&config).context("cannot tell the current folder")?;
    layout.prepare()?;
    let _lock = crate::offline::lock(&layout).map_err(already)?;
    ship_durable::sweep_leftovers(&layout.records()).context("cannot sweep the records' folder")?;
    let config = Arc::new(config);
    let dial = Arc::new(Dial::new(&config));
    dial.tls().context("cannot use the host's certificates")?;
    let reporter = Reporter::new(config.classes.clone(), layout.apps.clone());
    let groups_at = config.cgroups.clone();
    let found = tokio::task::spawn_blocking(move || doctor::look(Path::new("/proc"), &groups_at));
    reporter.may(doctor::missing(found.await?));
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();

    let (sources, told) = watch::channel(Told::default());
    let share = match &config.sources.peer {
        Some(peer) => Some(begin_share(&config, peer, &layout).await?),
        None => None,
    };
    let fetcher = Arc::new(Fetcher::new(Arc::clone(&dial), &config.sources, told, share));
    reporter.fetches_by(&fetcher);
    if let Some(peer) = &config.sources.peer {
        let port = giving::Port {
            dial: Arc::clone(&dial),
            fetcher: Arc::clone(&fetcher),
            remembered: layout.state.join("peer_port"),
        };
        let bound = port.serve(peer.listen, &tasks, &stop).await?;
        reporter.gives_at(match bound.ip().is_unspecified() {
            true => SocketAddr::new(config.address, bound.port()),
            false => bound,
        });
    }
    let shelf = match config.asset_listen {
        Some(address) => {
            let from_store = FromStore {
                shelf: Arc::new(Shelf::new()),
                layout: layout.clone(),
                fetcher: Arc::clone(&fetcher),
                runtime: Handle::current(),
                stop: stop.clone(),
            };
            Some(serve_assets(address, from_store, &config, &reporter, &tasks, &stop).await?)
        }
        None => None,
    };
    if let Some(address) = config.metrics_listen {
        let face = metrics::Face {
            env: config.env.clone(),
            host: config.host.clone(),
            reporter: Arc::clone(&reporter),
        };
        metrics::serve(address, face, &layout.state, &tasks, &stop).await?;
    }
    let socket = layout.socket();
    let listener = local::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;

    let board = Arc::new(Board::default());
    board::serve(&config.balancers, &board, &tasks, &stop).await?;
    let asked = Asked::new(shelf.clone(), clock::wall_ms(), clock::now());
    let converge = Arc::new(Converge::new(
        Arc::clone(&config),
        layout.clone(),
        fetcher,
        shelf,
        Arc::clone(&reporter),
        Handle::current(),
        board,
    ));
    let beginning = Arc::clone(&converge);
    tokio::task::spawn_blocking(move || beginning.begin_known()).await?;

    let told = Arc::clone(&converge);
    let scrubber = Scrubber {
        layout: layout.clone(),
        settings: config.scrub.clone(),
        runtime: Handle::current(),
        stop: stop.clone(),
        found: Box::new(move |app| told.recheck(app)),
    };
    tasks.spawn_blocking(move || scrubber.run());

    let (desired, wanted) = watch::channel(None);
    let (link, store) = watch::channel(StoreLink::default());
    tasks.spawn(Arc::clone(&converge).run(wanted, stop.clone()));
    let face = Local {
        config: Arc::clone(&config),
        layout: layout.clone(),
        converge: Arc::clone(&converge),
        link: store,
    };
    let ending = stop.clone();
    tasks.spawn(async move {
        if let Err(error) = local::serve(face, listener, ending).await {
            tracing::error!(
                error = crate::session::chain(&error),
                "the local socket is served no more"
            );
        }
    });
    let session = Session {
        env: config.env.clone(),
        host: config.host.clone(),
        dial,
        layout: layout.clone(),
        desired,
        sources,
        reports: reporter.subscribe(),
        link,
        asked,
    };
    tasks.spawn(session.run(stop.clone()));
    tracing::info!(env = %config.env, store = %config.store, socket = %socket.display(), "agent runs");
    notify_ready();

    let signal = told_to_end().await?;
    tracing::info!(signal, "agent ends; apps run on");
    stop.cancel();
    tasks.close();
    // What does not end in time is cut: nothing here must outlive the word of whoever stopped us.
    tokio::time::timeout(END, tasks.wait()).await.ok();
    let ended = tokio::task::spawn_blocking(move || converge.stop());
    tokio::time::timeout(END, ended).await.ok();
    std::fs::remove_file(&socket).ok();
    Ok(())
}

async fn begin_share(
    config: &Config,
    settings: &PeerSettings,
    layout: &HostLayout,
) -> anyhow::Result<Arc<Share>> {
    let (host, settings, folder) = (config.host.clone(), settings.clone(), layout.pieces());
    let begun = tokio::task::spawn_blocking(move || Share::begin(host, &settings, &folder)).await?;
    let share = begun.with_context(|| format!("cannot make {} anew", layout.pieces().display()))?;
    Ok(Arc::new(share))
}

fn already(error: LockError) -> anyhow::Error {
    match error {
        LockError::Held { pid: Some(pid), .. } => {
            anyhow::anyhow!("an agent runs on this host's state already: process {pid}")
        }
        other => anyhow::Error::new(other).context("cannot take this host's lock"),
    }
}

async fn told_to_end() -> io::Result<&'static str> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    // A reload is a look at the certificates' files, which happens at every use anyway.
    let mut hup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok("SIGTERM"),
            _ = int.recv() => return Ok("SIGINT"),
            _ = hup.recv() => tracing::info!("certificates are read again when their files change"),
        }
    }
}

/// Serves assets at `address`; a port that was taken free once is taken again.
async fn serve_assets(
    address: SocketAddr,
    from_store: FromStore,
    config: &Config,
    reporter: &Reporter,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Shelf>> {
    let remembered = from_store.layout.state.join("asset_port");
    let listener = metrics::bind(address, &remembered).await;
    let listener = listener.with_context(|| format!("cannot serve assets at {address}"))?;
    let bound = listener.local_addr().context("cannot tell the asset port")?;
    let tls = config.asset_port.tls.as_ref().map(PortTls::load).transpose();
    let tls = tls
        .context("cannot use the asset port's certificate")?
        .map(Arc::new);
    let scheme = if tls.is_some() { "https" } else { "http" };
    reporter.serves_assets_at(format!("{scheme}://{bound}"));
    let shelf = Arc::clone(&from_store.shelf);
    let encodings = encodings(config, &from_store.layout)?;
    shelf.look_elsewhere(Misses::new(Arc::new(from_store)));
    let mending = Mending::new(Arc::clone(&shelf), Handle::current());
    let setup = Setup {
        settings: config.asset_port.clone(),
        encodings,
        on_rot: Some(mending.on_rot()),
    };
    let assets = Assets::with(Arc::clone(&shelf), setup);
    reporter.counts(assets.clone(), mending);
    scrub(assets.clone(), stop.clone()).context("cannot start the thread that reads assets again")?;
    if let Some(tls) = &tls {
        tasks.spawn(reload(Arc::clone(tls), stop.clone()));
    }
    let port = Port {
        tls,
        ..Port::default()
    };
    let stopped = stop.clone().cancelled_owned();
    tasks.spawn(asset_port::serve_on(port, listener, assets, stopped));
    Ok(shelf)
}

fn encodings(config: &Config, layout: &HostLayout) -> anyhow::Result<Option<Arc<Encodings>>> {
    if config.asset_port.encode.is_empty() {
        return Ok(None);
    }
    let opened = Encodings::open(&layout.encoded()).context("cannot keep encoded assets")?;
    Ok(Some(Arc::new(opened)))
}

/// Reads the asset port's certificate again when its files change.
async fn reload(tls: Arc<PortTls>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_AT_FILES) => {}
            () = stop.cancelled() => return,
        }
        match tls.reload_if_changed() {
            Ok(true) => tracing::info!("the asset port's certificate is read again; new connections use it"),
            Ok(false) => {}
            Err(error) => tracing::error!(
                error = crate::session::chain(&error),
                "the asset port's certificate cannot be read again; the old one stays"
            ),
        }
    }
}

/// Reads the assets of all unions again within a day, on a thread of its own that ends with the agent.
fn scrub(assets: Assets, stop: CancellationToken) -> io::Result<()> {
    let work = move || {
        let ended = || stop.is_cancelled();
        let mut wait = SCRUB_AFTER;
        while asset_port::pause(wait, &ended) {
            wait = SCRUB_PAUSE;
            match assets.scrub(SCRUB_WITHIN, &ended) {
                Ok(read) => {
                    tracing::info!(files = read.files, rotten = read.rotten, "assets were read again")
                }
                Err(error) => tracing::warn!(
                    error = crate::session::chain(&error),
                    "not every asset was read again"
                ),
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("asset-scrub".to_owned())
        .spawn(work);
    thread.map(drop)
}

/// Tells the service manager, if one asked, that the agent is up.
fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let told = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        let name = path.as_bytes();
        match name.strip_prefix(b"@") {
            Some(name) => {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(b"READY=1", &address)
            }
            None => socket.send_to(b"READY=1", &path),
        }
    });
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager could not be told that the agent is ready");
    }
}
