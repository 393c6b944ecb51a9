//! A serving store collects: when it is told to, and by itself once a day.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use super::{CollectError, Collector, Line, Sweep, Swept, remember_held};
use crate::bridge::{Bridge, BrokenOff};
use crate::clock::Clock;
use crate::deltas::Deltas;
use crate::desired::Board;
use crate::engine::Blobs;
use crate::ledger::Ledger;
use crate::locate::Places;
use crate::rollout::fleet::Fleet;
use crate::settings::Content;

/// Between two looks at what hosts have, and at whether a day is over.
const LOOK: Duration = Duration::from_secs(300);
const DAY_MS: u64 = 86_400_000;
/// Between two removals.
const PAUSE: Duration = Duration::from_millis(5);

/// Everything a serving store collects with.
#[derive(Debug)]
pub struct Room {
    pub ledger: Ledger,
    pub blobs: Arc<dyn Blobs>,
    pub places: Arc<Places>,
    pub deltas: Arc<Deltas>,
    pub settings: Content,
    pub fleet: Arc<Fleet>,
    pub board: Arc<Board>,
    /// Held for writing while it is decided what goes: nobody promotes or reverts then.
    pub deciding: Arc<RwLock<()>>,
    pub bridge: Bridge,
    pub clock: Clock,
    pub stop: CancellationToken,
}

impl Room {
    fn collector(&self) -> Collector<'_> {
        Collector {
            ledger: &self.ledger,
            blobs: &*self.blobs,
            places: &self.places,
            deltas: &self.deltas,
            settings: &self.settings,
        }
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, CollectError> + Send + 'static,
    ) -> Result<Result<T, CollectError>, BrokenOff> {
        let room = Arc::clone(self);
        self.bridge.run(move || work(&room)).await
    }

    fn remember(&self) -> Result<(), CollectError> {
        Ok(remember_held(&self.ledger, &self.fleet.all(None))?)
    }

    /// What is there and what keeps it. Changes nothing that anybody goes by.
    pub async fn look(self: &Arc<Self>) -> Result<Result<Vec<Line>, CollectError>, BrokenOff> {
        let now_ms = self.clock.now_ms();
        let looked = self.blocking(move |room| {
            room.remember()?;
            room.collector().look(now_ms)
        });
        looked.await
    }

    /// Marks what nothing needs, and removes what was marked for `wait_ms`; without a wait, as the settings say. Gives all that
    /// is marked, and what went.
    pub async fn collect(
        self: &Arc<Self>,
        who: String,
        wait_ms: Option<u64>,
    ) -> Result<Result<(Vec<Line>, Swept), CollectError>, BrokenOff> {
        let now_ms = self.clock.now_ms();
        let wait_ms = wait_ms.unwrap_or(self.settings.grace_ms);
        let marking = self.blocking(move |room| {
            room.remember()?;
            room.collector().mark(now_ms)
        });
        let marked = match marking.await? {
            Ok(marked) => marked,
            Err(error) => return Ok(Err(error)),
        };
        let deciding = Arc::clone(&self.deciding).write_owned().await;
        let sweeping = self.blocking(move |room| {
            let sweep = Sweep {
                now_ms,
                wait_ms,
                who: &who,
                pause: PAUSE,
            };
            let collector = room.collector();
            let decided = collector.decide(&sweep);
            drop(deciding);
            let ended = || room.stop.is_cancelled();
            collector.finish(decided?, &sweep, &ended)
        });
        let swept = sweeping.await?;
        Ok(swept.map(|swept| (marked, swept)))
    }

    /// Writes down what hosts have, and collects once a day when no rollout is under way, until the store ends.
    pub async fn work(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Ok(Err(error)) = self.blocking(Self::remember).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "what hosts have is not written down");
            }
            if self.settings.daily && self.is_idle() && self.is_due().await {
                self.collect_by_itself().await;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.board.states().iter().all(|state| state.running().is_none())
    }

    async fn is_due(self: &Arc<Self>) -> bool {
        let now_ms = self.clock.now_ms();
        let looked = self.blocking(|room| Ok(room.ledger.marks()?.at_ms)).await;
        // What cannot be read is tried again at the next look.
        matches!(looked, Ok(Ok(at_ms)) if at_ms.saturating_add(DAY_MS) <= now_ms)
    }

    async fn collect_by_itself(self: &Arc<Self>) {
        match self.collect("store".to_owned(), None).await {
            Ok(Ok((_, swept))) => {
                let Swept {
                    releases,
                    objects,
                    bytes,
                    ..
                } = swept;
                tracing::info!(releases, objects, bytes, "garbage collected");
            }
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "garbage is not collected");
            }
            Err(BrokenOff) => {}
        }
    }
}
