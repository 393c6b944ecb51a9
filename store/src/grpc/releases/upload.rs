//! What publishers send: a stream of pieces on its way to the thread that writes.

use bytes::Bytes;
use ship_model::digest::{BundleDigest, DeltaDigest, ReleaseId};
use ship_proto::{digest, v1};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::ReleasesFace;
use super::pieces::{check_piece, heard};
use crate::grpc::status;
use crate::publish::{
    DeltaOffer, DeltaUploadError, KeptForHosts, Publisher, TakenDelta, UploadError, UploadedBundle,
};

/// Pieces of an upload that wait for the disk.
const AHEAD: usize = 4;
/// What travels from a stream to the thread that writes: without the end, nothing is kept.
enum Piece {
    Data(Bytes),
    End,
}

enum TakeInError<E> {
    Upload(E),
    /// The stream broke off; whoever reads it knows why.
    Unfinished,
}

impl<E> From<E> for TakeInError<E> {
    fn from(error: E) -> Self {
        Self::Upload(error)
    }
}

/// Hands each piece to `push`, up to the proper end.
fn drain<E>(
    mut pieces: mpsc::Receiver<Piece>,
    mut push: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), TakeInError<E>> {
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(data)) => push(&data)?,
            Some(Piece::End) => return Ok(()),
            None => return Err(TakeInError::Unfinished),
        }
    }
}

fn take_in(
    publisher: &Publisher,
    pieces: mpsc::Receiver<Piece>,
    announced: Option<BundleDigest>,
) -> Result<UploadedBundle, TakeInError<UploadError>> {
    let mut upload = publisher.upload()?;
    drain(pieces, |data| upload.push(data))?;
    Ok(upload.finish(announced)?)
}

fn take_delta(
    publisher: &Publisher,
    pieces: mpsc::Receiver<Piece>,
    offer: DeltaOffer,
) -> Result<TakenDelta, TakeInError<DeltaUploadError>> {
    let mut upload = publisher.upload_delta(offer)?;
    drain(pieces, |data| upload.push(data))?;
    Ok(upload.finish()?)
}

/// Passes on the pieces of an upload; what went wrong with the stream, if anything.
async fn pass_on<T>(
    mut chunks: Streaming<T>,
    first: Bytes,
    data_of: impl Fn(T) -> Bytes,
    pieces: mpsc::Sender<Piece>,
) -> Result<(), Status> {
    let mut next = Some(first);
    while let Some(data) = next {
        check_piece(&data)?;
        if pieces.send(Piece::Data(data)).await.is_err() {
            // The writer refused; its answer tells why.
            return Ok(());
        }
        next = heard(&mut chunks).await?.map(&data_of);
    }
    let _ = pieces.send(Piece::End).await;
    Ok(())
}

/// What the writer made of it, or why the stream did not come to its end.
fn answered<T, E>(
    taken: Result<T, TakeInError<E>>,
    passed: Result<(), Status>,
    worded: impl FnOnce(&E) -> Status,
) -> Result<T, Status> {
    match taken {
        Ok(taken) => Ok(taken),
        Err(TakeInError::Upload(error)) => Err(worded(&error)),
        Err(TakeInError::Unfinished) => {
            passed?;
            Err(status::unavailable("the upload broke off"))
        }
    }
}

impl ReleasesFace {
    pub(super) async fn bundle(
        &self,
        mut chunks: Streaming<v1::UploadChunk>,
    ) -> Result<v1::Uploaded, Status> {
        let first = heard(&mut chunks).await?;
        let first = first.ok_or_else(|| status::invalid("the stream was empty", "bundle"))?;
        let announced = first.bundle.as_deref();
        let announced = announced
            .map(|bytes| digest(bytes, "bundle", BundleDigest::from_slice))
            .transpose()
            .map_err(|error| status::bad_message(&error))?;
        let (sender, pieces) = mpsc::channel(AHEAD);
        let rooms = self.rooms.clone();
        let taking = self
            .uploads
            .run(move || take_in(&rooms.folder.publisher, pieces, announced));
        let passing = pass_on(chunks, first.data, |chunk| chunk.data, sender);
        let (passed, taken) = tokio::join!(passing, taking);
        let taken = taken.map_err(status::broken_off)?;
        answered(taken, passed, status::upload).map(uploaded)
    }

    pub(super) async fn delta(
        &self,
        mut chunks: Streaming<v1::UploadDeltaChunk>,
    ) -> Result<v1::Uploaded, Status> {
        let first = heard(&mut chunks).await?;
        let first = first.ok_or_else(|| status::invalid("the stream was empty", "delta"))?;
        let offer = offer_of(first.offer)?;
        let (sender, pieces) = mpsc::channel(AHEAD);
        let rooms = self.rooms.clone();
        let taking = self
            .uploads
            .run(move || take_delta(&rooms.folder.publisher, pieces, offer));
        let passing = pass_on(chunks, first.data, |chunk| chunk.data, sender);
        let (passed, taken) = tokio::join!(passing, taking);
        let taken = taken.map_err(status::broken_off)?;
        let taken = answered(taken, passed, status::upload_delta)?;
        if let Some(KeptForHosts {
            footer,
            digest,
            bytes,
        }) = taken.kept
        {
            self.rooms.maker.offer(footer, digest, bytes);
            let (from, to) = (footer.base.short(), footer.target.short());
            tracing::info!(%from, %to, bytes, level = footer.level, "delta taken");
        }
        Ok(taken.bundle.map(uploaded).unwrap_or_default())
    }
}

fn uploaded(bundle: UploadedBundle) -> v1::Uploaded {
    v1::Uploaded {
        bundle: bundle.digest.as_bytes().to_vec(),
        stored_bytes: bundle.bytes,
    }
}

fn offer_of(offer: Option<v1::DeltaOffer>) -> Result<DeltaOffer, Status> {
    let offer = offer.ok_or_else(|| status::invalid("the first message must tell what comes", "offer"))?;
    let bad = |error| status::bad_message(&error);
    Ok(DeltaOffer {
        app: offer.app.parse().map_err(|error| status::bad_name(&error))?,
        base: digest(&offer.base, "release id", ReleaseId::from_slice).map_err(bad)?,
        target: digest(&offer.release, "release id", ReleaseId::from_slice).map_err(bad)?,
        delta: digest(&offer.delta, "delta", DeltaDigest::from_slice).map_err(bad)?,
    })
}
