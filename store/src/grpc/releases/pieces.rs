//! Streams of pieces that come in.

use std::time::Duration;

use ship_proto::MAX_PIECE;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::grpc::status;

/// How long whoever sends may be silent in the middle of a stream.
const PATIENCE: Duration = Duration::from_secs(60);

/// The next message of a stream; none at the stream's proper end.
pub(in crate::grpc) async fn heard<T>(messages: &mut Streaming<T>) -> Result<Option<T>, Status> {
    match timeout(PATIENCE, messages.message()).await {
        Ok(message) => message,
        Err(_) => {
            let waited = format!("nothing came for {} s", PATIENCE.as_secs());
            Err(status::unavailable(format!("the upload was given up: {waited}")))
        }
    }
}

pub(in crate::grpc) fn check_piece(piece: &[u8]) -> Result<(), Status> {
    if piece.len() <= MAX_PIECE {
        return Ok(());
    }
    let message = format!(
        "a piece of {} bytes is refused: at most {MAX_PIECE} are allowed",
        piece.len()
    );
    Err(status::invalid(message, "piece"))
}
