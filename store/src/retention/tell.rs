//! What the store is asked for itself, and when all of it is written down.

use std::sync::Arc;
use std::time::Duration;

use ship_assets::Shelf;
use tokio_util::sync::CancellationToken;

use super::{Evidence, STORE};
use crate::bridge::Bridge;
use crate::clock::Clock;

/// Between two looks at what the store was asked for.
const LOOK: Duration = Duration::from_secs(10);
/// Looks after which what was told is told again if it is still asked for: half an hour.
const ROUND: u32 = 180;
/// Looks after which what is known is written down: five minutes.
const SAVE: u32 = 30;
/// Contents taken at once.
const MOST: usize = 4096;

/// Runs until `stop`, then writes everything down as the last word of this process.
pub async fn count(
    shelf: Arc<Shelf>,
    evidence: Arc<Evidence>,
    bridge: Bridge,
    clock: Clock,
    stop: CancellationToken,
) {
    let mut looks: u32 = 0;
    loop {
        let (shelf, evidence, now_ms) = (Arc::clone(&shelf), Arc::clone(&evidence), clock.now_ms());
        let ending = stop.is_cancelled();
        // Broken off only when the program ends without waiting, which counts as a crash.
        let _ = bridge
            .run(move || look(&shelf, &evidence, now_ms, looks, ending))
            .await;
        if ending {
            return;
        }
        looks = looks.wrapping_add(1);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// A store that ended by itself goes on counting where it stopped: nobody could ask it meanwhile.
const RUN: u64 = 0;

fn look(shelf: &Shelf, evidence: &Evidence, now_ms: u64, looks: u32, ending: bool) {
    let mut noted = evidence.hear(STORE, RUN, [], now_ms);
    for (_, union) in shelf.app_unions() {
        loop {
            let asked = union.asked_for(MOST);
            let last = asked.len() < MOST;
            noted &= evidence.hear(STORE, RUN, asked, now_ms);
            union.told();
            if last || !noted {
                break;
            }
        }
        if looks % ROUND == ROUND - 1 {
            union.new_round();
        }
    }
    if ending || looks.is_multiple_of(SAVE) {
        let saved = evidence.save(ending);
        if let Err(error) = saved {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "not written down; assets are kept the longer"
            );
        }
    }
}
