//! A release's manifest, fetched and checked.

use ship_model::manifest::{MAX_ENCODED, Manifest};
use ship_proto::v1::{ManifestRequest, ReleaseRecord};
use tokio_stream::StreamExt as _;

use super::Fleet;
use crate::error::{CommandError, Exit};
use crate::words::bytes;

/// What the release consists of. Its bytes must hash to the release's id: the store is not believed.
pub async fn fetch(record: &ReleaseRecord, fleet: &Fleet) -> Result<Manifest, CommandError> {
    let id = record.release.clone().unwrap_or_default().id;
    let request = ManifestRequest { id: id.clone() };
    let pieces = fleet.client.releases().manifest(request).await?.into_inner();
    let encoded = gather(pieces).await?;
    if Manifest::id_of(&encoded).as_bytes().as_slice() != id.as_slice() {
        return Err(CommandError::new(
            Exit::Error,
            "the store sent a manifest that is not the release's: its bytes have another digest",
        )
        .hint("on the store's machine: shipstore verify"));
    }
    Manifest::read(encoded).map_err(|error| CommandError::of(Exit::Error, &error))
}

/// Collects the pieces, up to the size that a manifest can have.
async fn gather(mut pieces: tonic::Streaming<ship_proto::v1::Piece>) -> Result<Vec<u8>, CommandError> {
    let mut all = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if all.len() + piece.data.len() > MAX_ENCODED {
            return Err(CommandError::new(
                Exit::Error,
                format!(
                    "the store sends a manifest of more than {}",
                    bytes(MAX_ENCODED as u64)
                ),
            ));
        }
        all.extend_from_slice(&piece.data);
    }
    Ok(all)
}
