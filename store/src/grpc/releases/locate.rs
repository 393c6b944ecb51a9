//! Where blobs lie.

use std::sync::Arc;
use std::time::Duration;

use ship_model::digest::{BlobDigest, BundleDigest};
use ship_proto::{MAX_DIGESTS, digests, v1};
use tonic::Status;

use super::{MOST_AVOIDED, Rooms};
use crate::bridge::Bridge;
use crate::grpc::status;
use crate::keeping::bring;

/// How long whoever asks waits for what is kept as deltas: a host gives up after 30 s.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn asked_blobs(blobs: &[Vec<u8>]) -> Result<Vec<BlobDigest>, Status> {
    if blobs.len() > MAX_DIGESTS {
        let message = format!(
            "{} blobs were asked for at once, {MAX_DIGESTS} may be",
            blobs.len()
        );
        return Err(status::invalid(message, "blobs"));
    }
    digests(blobs, "blob", BlobDigest::from_slice).map_err(|error| status::bad_message(&error))
}

/// Where blobs lie; those that are kept as deltas are put into a bundle first. Who would wait for long is told to come again.
pub(super) async fn located(
    rooms: &Arc<Rooms>,
    question: v1::LocateRequest,
) -> Result<Vec<v1::Located>, Status> {
    let wanted = asked_blobs(&question.blobs)?;
    if question.avoid.len() > MOST_AVOIDED {
        let message = format!(
            "{} bundles were to be avoided, {MOST_AVOIDED} may be",
            question.avoid.len()
        );
        return Err(status::invalid(message, "avoid"));
    }
    let avoid = digests(&question.avoid, "bundle", BundleDigest::from_slice);
    let avoid = avoid.map_err(|error| status::bad_message(&error))?;
    let places = &rooms.folder.places;
    if !places.covered_only(&wanted).is_empty() {
        let (folder, wanted) = (Arc::clone(rooms), wanted.clone());
        let bring = move || bring(&*folder.folder.blobs, &folder.folder.places, &wanted);
        if let Err(error) = in_time(&rooms.bringing, PATIENCE, bring).await? {
            // The others are told; what is left out is nowhere, for whoever asks.
            tracing::error!(
                error = crate::log::whole(&error),
                "what is kept as deltas is not given"
            );
        }
    }
    let found = places.locate(&wanted, &avoid);
    let worded = found.into_iter().map(|found| v1::Located {
        bundle: found.bundle.as_bytes().to_vec(),
        bundle_bytes: found.bundle_bytes,
        blobs: found.blobs.iter().map(|blob| blob.as_bytes().to_vec()).collect(),
    });
    Ok(worded.collect())
}

/// Waits for a job that goes on when nobody waits any longer: who comes again finds it done, or waits on.
async fn in_time<T: Send + 'static>(
    bridge: &Bridge,
    patience: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    match tokio::time::timeout(patience, bridge.run(job)).await {
        Ok(done) => done.map_err(status::broken_off),
        Err(_) => Err(status::unavailable(
            "what was asked for is kept as deltas and is being put together: ask again in a moment",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test]
    async fn who_waits_long_is_told_to_come_again_and_finds_it_done() {
        let bridge = Bridge::new(1);
        let (go, going) = sync_channel::<()>(1);
        let (done, ended) = sync_channel(1);
        let job = move || {
            going.recv().unwrap();
            done.send(7).unwrap();
        };
        let told = in_time(&bridge, Duration::from_millis(20), job)
            .await
            .unwrap_err();
        assert_eq!(told.code(), tonic::Code::Unavailable);
        assert!(told.message().contains("ask again"), "{told:?}");
        // The next one takes no thread while it waits.
        let told = in_time(&bridge, Duration::from_millis(20), || 8)
            .await
            .unwrap_err();
        assert_eq!(told.code(), tonic::Code::Unavailable);
        go.send(()).unwrap();
        assert_eq!(in_time(&bridge, Duration::from_secs(60), || 9).await.unwrap(), 9);
        assert_eq!(ended.recv().unwrap(), 7, "it went on");
    }
}
