//! The store at work: opens the folder, says who it is, serves, and ends when it is told to.

mod assemble;
mod background;
mod ports;
mod signals;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ship_assets::serve::{self as asset_port, OpenEncodingsError, PortTls, PortTlsError};
use ship_durable::FileError;
use tokio_util::sync::CancellationToken;

use self::assemble::assemble;
pub use self::ports::Addresses;
use self::ports::{address_of, bind, remember};
use self::signals::{Signals, tell_supervisor};

use crate::bridge::{Bridge, BrokenOff};
use crate::clock::Clock;
use crate::engine::BlobsError;
use crate::folder::{FolderReport, OpenFolderError, StoreFolder};
use crate::http;
use crate::ledger::LedgerError;
use crate::notify;
use crate::publish;
use crate::rollout::SteerError;
use crate::settings::{Settings, SettingsError};
use crate::tls::{LoadTlsError, Tls};

/// Blocking jobs at a time.
const AT_ONCE: usize = 32;
/// How long requests under way may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(10);

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
    #[error("cannot tell others of what is done")]
    Notify(#[from] notify::StartError),
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
    let assets = store.assets();
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
            front.serve_assets(
                assets_listener,
                assets,
                http::BESIDES,
                http::by(router),
                stop.cancelled(),
            ),
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
