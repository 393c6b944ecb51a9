//! What goes on beside requests, from the start to the end.

use std::sync::Arc;
use std::time::Duration;

use ship_assets::serve::{Assets, pause};
use tokio_util::sync::CancellationToken;

use super::ServeError;
use crate::bridge::{Bridge, BrokenOff};
use crate::deltas::{Deltas, Maker};
use crate::desired::Board;
use crate::folder::StoreFolder;
use crate::ledger::{Ledger, LedgerError};
use crate::scrub::Scrubber;
use crate::union::Unions;

/// From the start until assets are read again for the first time.
const SCRUB_AFTER: Duration = Duration::from_secs(10 * 60);
/// For reading all of them, and from there to the next time: together less than a day.
const SCRUB_WITHIN: Duration = Duration::from_secs(3 * 3600);
const SCRUB_PAUSE: Duration = Duration::from_secs(20 * 3600);

/// Reads every asset again within a day, on a thread of its own that ends with the store.
pub(super) fn scrub(assets: Assets, stop: CancellationToken) -> Result<(), ServeError> {
    let work = move || {
        let ended = || stop.is_cancelled();
        let mut wait = SCRUB_AFTER;
        while pause(wait, &ended) {
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
pub(super) async fn take_up(
    maker: &Maker,
    board: &Board,
    bridge: &Bridge,
    ledger: &Ledger,
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
pub(super) fn scrub_objects(scrubber: Scrubber) -> Result<(), ServeError> {
    let thread = std::thread::Builder::new().name("scrub".to_owned());
    let spawned = thread.spawn(move || scrubber.run());
    spawned.map(drop).map_err(ServeError::ScrubObjects)
}

/// Which deltas there are, and a thread that makes what is wished for.
pub(super) async fn deltas(
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
pub(super) async fn catch_up(bridge: Bridge, unions: Arc<Unions>, ledger: Ledger) {
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
