//! Deltas as the unpacking threads see them: what the store offers, and one that is opened.
//!
//! A delta is never needed: whatever goes wrong with one is told and forgotten, and bundles are read.

use std::io::{self, Cursor, Read};
use std::ops::Range;

use ship_bundle::delta::{DeltaError, DeltaFooter, DeltaIndex, FOOTER, read_manifest};
use ship_bundle::stage::DeltaSource;
use ship_model::digest::{DeltaDigest, ReleaseId};
use ship_model::manifest::Manifest;
use ship_proto::{WireError, v1};
use thiserror::Error;
use tonic::Code;

use super::bundles::BundleSource;
use super::lines::Object;
use super::{FetchError, Fetcher, answer, call};

/// Bytes of the tail that are read at once: with them comes most indexes' end, or all of it, and of a short delta
/// everything. No more, as what it would cost is known only then.
const TAIL: u64 = 64 << 10;
/// Largest manifest frame and index frame that are taken into memory.
const MAX_PART: u64 = 64 << 20;

/// A delta that the store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaOffer {
    pub delta: DeltaDigest,
    /// The release that it is made against.
    pub base: ReleaseId,
    pub bytes: u64,
}

impl Fetcher {
    /// The deltas that lead to `release` from one of `bases`, besides those in `avoid`, the smallest first. A store that knows
    /// no deltas has none.
    ///
    /// # Errors
    /// [`FetchError`]; it is not tried again.
    pub async fn deltas(
        &self,
        release: ReleaseId,
        bases: &[ReleaseId],
        avoid: &[DeltaDigest],
    ) -> Result<Vec<DeltaOffer>, FetchError> {
        let what = || format!("deltas to release {release}");
        let request = v1::DeltasRequest {
            release: release.as_bytes().to_vec(),
            bases: bases.iter().map(|base| base.as_bytes().to_vec()).collect(),
            avoid: avoid.iter().map(|delta| delta.as_bytes().to_vec()).collect(),
        };
        let reply = match answer(&what, self.client().deltas(call(request))).await {
            Err(FetchError::Call { source, .. }) if source.code() == Code::Unimplemented => {
                return Ok(Vec::new());
            }
            other => other?,
        };
        let offers = reply.deltas.iter().map(offer);
        let mut offers = offers
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| FetchError::Wire {
                what: "deltas",
                source,
            })?;
        offers.retain(|offer| bases.contains(&offer.base) && !avoid.contains(&offer.delta));
        Ok(offers)
    }
}

fn offer(delta: &v1::Delta) -> Result<DeltaOffer, WireError> {
    Ok(DeltaOffer {
        delta: ship_proto::digest(&delta.delta, "delta", DeltaDigest::from_slice)?,
        base: ship_proto::digest(&delta.base, "release id", ReleaseId::from_slice)?,
        bytes: delta.bytes,
    })
}

/// Why a delta that was offered cannot be used.
#[derive(Debug, Error)]
pub enum OpenDeltaError {
    #[error("cannot read delta {delta}")]
    Read { delta: DeltaDigest, source: io::Error },
    #[error("delta {delta} cannot be used")]
    Delta { delta: DeltaDigest, source: DeltaError },
    #[error("delta {delta} leads to another release than the store said")]
    Other { delta: DeltaDigest },
}

/// A delta whose manifest and index are read.
#[derive(Debug)]
pub struct OpenDelta {
    pub offer: DeltaOffer,
    pub index: DeltaIndex,
    bytes: DeltaBytes,
}

#[derive(Debug)]
struct DeltaBytes {
    source: BundleSource,
    delta: DeltaDigest,
    /// All of it, when it is short.
    whole: Option<Vec<u8>>,
}

impl DeltaBytes {
    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        if range.end - range.start > MAX_PART {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = Vec::new();
        if range.start < range.end {
            self.bytes(range)?.read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }
}

impl DeltaSource for DeltaBytes {
    fn bytes(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        let Some(whole) = &self.whole else {
            return Ok(Box::new(self.source.bytes(Object::Delta(self.delta), range)));
        };
        let part = whole.get(range.start as usize..range.end as usize);
        Ok(Box::new(Cursor::new(
            part.ok_or(io::ErrorKind::UnexpectedEof)?.to_vec(),
        )))
    }
}

impl OpenDelta {
    /// Reads the manifest and the index of a delta; gives the manifest of `release` with it.
    ///
    /// # Errors
    /// [`OpenDeltaError`]. Memory stays within what is read, 64 MiB for each part.
    pub fn open(
        source: &BundleSource,
        offer: DeltaOffer,
        release: ReleaseId,
        base: &Manifest,
    ) -> Result<(Self, Manifest), OpenDeltaError> {
        let delta = offer.delta;
        let read_error = |source| OpenDeltaError::Read { delta, source };
        let delta_error = |source| OpenDeltaError::Delta { delta, source };
        let mut bytes = DeltaBytes {
            source: source.clone(),
            delta,
            whole: None,
        };
        if offer.bytes <= TAIL {
            bytes.whole = Some(bytes.read(0..offer.bytes).map_err(read_error)?);
        }
        let from = offer.bytes.saturating_sub(TAIL.max(FOOTER as u64));
        let tail = bytes.read(from..offer.bytes).map_err(read_error)?;
        let footer = DeltaFooter::from_tail(&tail, offer.bytes).map_err(delta_error)?;
        if footer.target != release {
            return Err(OpenDeltaError::Other { delta });
        }
        let coded = bytes.read(0..footer.manifest_len).map_err(read_error)?;
        let target = read_manifest(&footer, &coded, base).map_err(delta_error)?;
        let index_end = footer.index_at + footer.index_len;
        let coded = match footer.index_at.checked_sub(from) {
            Some(at) => tail[at as usize..(index_end - from) as usize].to_vec(),
            None => bytes.read(footer.index_at..index_end).map_err(read_error)?,
        };
        let index = DeltaIndex::parse(&footer, &coded, base, &target).map_err(delta_error)?;
        Ok((Self { offer, index, bytes }, target))
    }

    /// Where its frames come from.
    pub fn source(&self) -> &dyn DeltaSource {
        &self.bytes
    }
}
