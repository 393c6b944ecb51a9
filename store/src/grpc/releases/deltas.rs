//! Deltas: wished for when a release is published, and told to hosts, which wait for one that is being made.

use std::collections::HashSet;
use std::time::Duration;

use ship_model::digest::{DeltaDigest, ReleaseId};
use ship_model::release::ReleaseRecord;
use ship_proto::{digest, digests, v1};
use tonic::Status;

use super::{MOST, MOST_AVOIDED, ReleasesFace, Rooms};
use crate::engine::Object;
use crate::grpc::status;

/// Releases that one question for deltas may name.
const MOST_BASES: usize = 16;
/// How long a host waits for a delta that is being made. A bundle is larger, but there.
const PATIENCE_FOR_DELTAS: Duration = Duration::from_secs(10);
/// Deltas to the newest so many releases of an app are kept, and to what its environments run.
const DELTAS_TO: usize = 8;

impl ReleasesFace {
    /// Hosts will come from what their environment runs, new ones from the release before.
    pub(super) async fn wish_for(&self, record: &ReleaseRecord) {
        let (app, number) = (record.app.clone(), record.number);
        let known = self
            .face
            .ledger(move |ledger| ledger.releases(&app, MOST as usize));
        // It is published all the same: a delta is wished for again by the first host that asks.
        let Ok(releases) = known.await else { return };
        let before = releases.iter().find(|release| release.number < number);
        let states = self.face.board.states();
        let of_app = states.iter().filter(|state| state.app == record.app);
        let running: Vec<_> = of_app.filter_map(|state| Some(state.current?.id)).collect();
        let kept = releases.iter().take(DELTAS_TO).map(|release| release.id);
        let kept: HashSet<_> = kept.chain(running.iter().copied()).collect();
        let past: HashSet<_> = releases.iter().map(|release| release.id).collect();
        let Rooms { deltas, maker, .. } = &*self.rooms;
        let retired = deltas.retire(|target| past.contains(&target) && !kept.contains(&target));
        maker.remove_later(retired.into_iter().map(Object::Delta));
        let bases = running.into_iter().chain(before.map(|release| release.id));
        maker.wish(bases, record.id);
    }

    pub(super) async fn leading_to(&self, request: &v1::DeltasRequest) -> Result<v1::DeltasReply, Status> {
        if request.bases.len() > MOST_BASES || request.avoid.len() > MOST_AVOIDED {
            let message =
                format!("at most {MOST_BASES} bases and {MOST_AVOIDED} deltas to avoid may be named");
            return Err(status::invalid(message, "bases"));
        }
        let bad = |error| status::bad_message(&error);
        let target = digest(&request.release, "release id", ReleaseId::from_slice).map_err(bad)?;
        let bases = digests(&request.bases, "release id", ReleaseId::from_slice).map_err(bad)?;
        let avoid = digests(&request.avoid, "delta", DeltaDigest::from_slice).map_err(bad)?;
        let Rooms { deltas, maker, .. } = &*self.rooms;
        if deltas.leading_to(target, &bases).is_empty() && avoid.is_empty() {
            maker.wish(bases.first().copied(), target);
            maker.come(&bases, target, PATIENCE_FOR_DELTAS).await;
        }
        let mut found = deltas.leading_to(target, &bases);
        found.retain(|delta| !avoid.contains(&delta.digest));
        let deltas = found.into_iter().map(|delta| v1::Delta {
            delta: delta.digest.as_bytes().to_vec(),
            base: delta.base.as_bytes().to_vec(),
            bytes: delta.bytes,
        });
        Ok(v1::DeltasReply {
            deltas: deltas.collect(),
        })
    }
}
