//! What a host gives back of what the store lost: see [`crate::scrub`].

use std::sync::Arc;

use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::name::{EnvName, HostName};
use ship_proto::v1::give_chunk::What;
use ship_proto::{digest, require, v1};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::face::Face;
use super::releases::pieces::{check_piece, heard};
use super::status;
use crate::identity::Caller;
use crate::scrub::{Asked, GiveError, Wanted, Wants};

/// Pieces that wait for the disk.
const AHEAD: usize = 4;

/// What `host` is asked for, if it is asked.
pub(super) fn asked(
    asked: &mut watch::Receiver<Option<Arc<Asked>>>,
    env: &EnvName,
    host: &HostName,
) -> Option<v1::Wanted> {
    let asked = asked.borrow_and_update().clone()?;
    if (&asked.env, &asked.host) != (env, host) {
        return None;
    }
    let mut wanted = v1::Wanted {
        number: asked.number,
        ..v1::Wanted::default()
    };
    for what in asked.wanted.keys() {
        match what {
            Wanted::Blob(blob) => wanted.blobs.push(blob.as_bytes().to_vec()),
            Wanted::Manifest(id) => wanted.manifests.push(id.as_bytes().to_vec()),
        }
    }
    Some(wanted)
}

/// Takes in what a host gives.
pub(super) async fn give(
    face: &Face,
    caller: Caller,
    mut chunks: Streaming<v1::GiveChunk>,
) -> Result<v1::GiveReply, Status> {
    let from = require(caller.host, "host").map_err(|error| status::bad_message(&error))?;
    let (sender, pieces) = mpsc::channel(AHEAD);
    let wants = Arc::clone(&face.wants);
    let taking = face.bridge.run(move || take(&wants, &from, pieces));
    let passing = async move {
        while let Some(chunk) = heard(&mut chunks).await? {
            check_piece(&chunk.data)?;
            if sender.send(chunk).await.is_err() {
                // Whoever takes refused; its answer tells why.
                break;
            }
        }
        Ok::<_, Status>(())
    };
    let (passed, taken) = tokio::join!(passing, taking);
    let taken = taken.map_err(status::broken_off)?;
    let taken = taken.map_err(|error| worded(&error))?;
    passed?;
    Ok(v1::GiveReply { taken })
}

fn take(
    wants: &Wants,
    (env, host): &(EnvName, HostName),
    mut pieces: mpsc::Receiver<v1::GiveChunk>,
) -> Result<u64, GiveError> {
    let first = pieces.blocking_recv().ok_or(GiveError::Unasked)?;
    let mut taking = wants.take((env, host), first.number)?;
    let mut next = match first.what {
        // A host that has nothing says so.
        None if first.data.is_empty() => pieces.blocking_recv(),
        _ => Some(first),
    };
    while let Some(chunk) = next.take() {
        let what = named(chunk.what)?;
        let mut data = Some(chunk.data);
        taking.one(what, &mut || {
            if let Some(data) = data.take() {
                return Ok(Some(data));
            }
            match pieces.blocking_recv() {
                Some(chunk) if chunk.what.is_none() => Ok(Some(chunk.data)),
                other => {
                    next = other;
                    Ok(None)
                }
            }
        })?;
    }
    Ok(taking.taken())
}

fn named(what: Option<What>) -> Result<Wanted, GiveError> {
    let wrong = |what: &str| GiveError::Other(format!("a {what} of another length than 32 bytes"));
    match what {
        Some(What::Blob(bytes)) => digest(&bytes, "blob", BlobDigest::from_slice)
            .map(Wanted::Blob)
            .map_err(|_| wrong("blob")),
        Some(What::Manifest(bytes)) => digest(&bytes, "manifest", ReleaseId::from_slice)
            .map(Wanted::Manifest)
            .map_err(|_| wrong("manifest")),
        None => Err(GiveError::Other("what was not named".to_owned())),
    }
}

fn worded(error: &GiveError) -> Status {
    match error {
        GiveError::Blobs(error) => status::blobs(error),
        GiveError::Write(error) => status::unavailable(format!("cannot write what came: {error}")),
        error => status::invalid(error.to_string(), "give"),
    }
}
