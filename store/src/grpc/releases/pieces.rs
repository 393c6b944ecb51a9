//! Streams of pieces that come in, and the thread that writes them.

use std::time::Duration;

use bytes::Bytes;
use ship_model::digest::BundleDigest;
use ship_proto::{MAX_PIECE, v1};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::grpc::status;
use crate::publish::{Publisher, UploadError, UploadedBundle};

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

/// What travels from a stream to the thread that writes: without the end, nothing is kept.
pub(super) enum Piece {
    Data(Bytes),
    End,
}

pub(super) enum TakeInError {
    Upload(UploadError),
    /// The stream broke off; whoever reads it knows why.
    Unfinished,
}

pub(super) fn take_in(
    publisher: &Publisher,
    mut pieces: mpsc::Receiver<Piece>,
    announced: Option<BundleDigest>,
) -> Result<UploadedBundle, TakeInError> {
    let mut upload = publisher.upload().map_err(TakeInError::Upload)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(data)) => upload.push(&data).map_err(TakeInError::Upload)?,
            Some(Piece::End) => return upload.finish(announced).map_err(TakeInError::Upload),
            None => return Err(TakeInError::Unfinished),
        }
    }
}

/// Passes on the pieces of an upload; what went wrong with the stream, if anything.
pub(super) async fn pass_on(
    mut chunks: Streaming<v1::UploadChunk>,
    first: Bytes,
    pieces: mpsc::Sender<Piece>,
) -> Result<(), Status> {
    let mut next = Some(first);
    while let Some(data) = next {
        check_piece(&data)?;
        if pieces.send(Piece::Data(data)).await.is_err() {
            // The writer refused; its answer tells why.
            return Ok(());
        }
        next = heard(&mut chunks).await?.map(|chunk| chunk.data);
    }
    let _ = pieces.send(Piece::End).await;
    Ok(())
}
