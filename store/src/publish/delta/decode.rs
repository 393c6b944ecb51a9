//! What a staged delta gives: checked before it is decoded, and blob by blob while it is.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use ship_bundle::DEFAULT_LEVEL;
use ship_bundle::delta::{DeltaError, DeltaFooter, read_manifest};
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;

use super::{DeltaOffer, DeltaUploadError};
use crate::deltas::{ReadFooterError, footer_in};
use crate::engine::{ObjectReader, Slice, Staged};
use crate::keeping::{Laid, Making, OpenDelta};
use crate::publish::{Publisher, UploadedBundle};
use crate::spool::Spool;

/// Longest frame of a manifest or an index, before anything of it is read: what they may hold, and what zstd adds.
const MOST_FRAME: u64 = 33 << 20;
/// Compressors at a time: what else the store does goes on beside them.
const PACKED_AT_ONCE: usize = 2;
/// How often each byte of the base and of what is new may be read or written while a delta is decoded: who makes one reads few of
/// them twice.
const WORK: u64 = 8;
/// What any delta may take besides.
const LEAST_WORK: u64 = 256 << 20;
/// And what none may take, whatever sizes the manifests tell: about a minute of copying.
const MOST_WORK: u64 = 256 << 30;

/// All that a delta gives, on the disk.
pub(super) struct Decoded {
    pub footer: DeltaFooter,
    /// What is missing of the target.
    wanted: HashSet<BlobDigest>,
    spool: Spool,
}

impl Decoded {
    /// None when nothing of the target is missing.
    pub fn of(
        publisher: &Publisher,
        staged: &Staged,
        offer: &DeltaOffer,
        base: Manifest,
        target: &Manifest,
    ) -> Result<Option<Self>, DeltaUploadError> {
        let given = news(&base, target);
        let wanted = lacking(publisher, target, &given)?;
        if wanted.is_empty() {
            return Ok(None);
        }
        let incoming = Incoming {
            file: staged.file(),
            len: staged.len(),
        };
        let footer = footer_in(&incoming)?;
        check_footer(&incoming, &footer, offer, (&base, target))?;
        let of_base = base.total_bytes();
        let delta = OpenDelta::of(Box::new(incoming), &footer, base, target)?;
        check_bounds(&delta, &given, target, of_base, publisher.limits.delta_raw_bytes)?;
        let spool = decoded(publisher, &delta, &given)?;
        Ok(Some(Self {
            footer,
            wanted,
            spool,
        }))
    }

    /// What is missing, as an ordinary bundle.
    pub fn bundled(
        &self,
        publisher: &Publisher,
        target: &Manifest,
    ) -> Result<UploadedBundle, DeltaUploadError> {
        let making = Making {
            blobs: &*publisher.blobs,
            places: &publisher.places,
            manifest: target,
            from: &self.spool,
            level: DEFAULT_LEVEL,
            whole: false,
            at_once: PACKED_AT_ONCE,
            ask: &|| Ok(()),
        };
        let (digest, facts) = making.make(&self.wanted)?;
        publisher.places.complete(&*publisher.blobs);
        Ok(UploadedBundle {
            digest,
            bytes: facts.bytes,
            blobs: facts.blobs,
        })
    }
}

/// Those of `given` that the target lacks here; all it lacks must be among them.
fn lacking(
    publisher: &Publisher,
    target: &Manifest,
    given: &[BlobDigest],
) -> Result<HashSet<BlobDigest>, DeltaUploadError> {
    let missing = publisher
        .places
        .missing(target.files().map(|(_, _, _, digest)| digest));
    let (given, lost): (Vec<_>, Vec<_>) = missing
        .into_iter()
        .partition(|blob| given.binary_search(blob).is_ok());
    match lost.len() {
        0 => Ok(given.into_iter().collect()),
        count => Err(DeltaUploadError::Lost { count }),
    }
}

/// Every blob that the delta gives, each as its digest says.
fn decoded(
    publisher: &Publisher,
    delta: &OpenDelta<'_>,
    given: &[BlobDigest],
) -> Result<Spool, DeltaUploadError> {
    let from = Laid::out(&*publisher.blobs, &publisher.places, &delta.needs())?;
    let mut spool = Spool::new(&*publisher.blobs)?;
    let (mut wrong, mut full) = (None, None);
    let wanted = given.iter().copied().collect();
    delta.decode(&wanted, &from, |blob, give| {
        let is_it = spool.add(blob, give)?;
        full = spool.room(&*publisher.blobs).err();
        wrong = (!is_it).then_some(blob);
        Ok(is_it && full.is_none())
    })?;
    match (wrong, full) {
        (Some(blob), _) => Err(DeltaUploadError::Content { blob }),
        (None, Some(full)) => Err(full.into()),
        (None, None) => Ok(spool.ready()),
    }
}

/// What the target has and the base has not, sorted, each once.
fn news(base: &Manifest, target: &Manifest) -> Vec<BlobDigest> {
    let there: HashSet<_> = base.files().map(|(_, _, _, digest)| digest).collect();
    let mut news: Vec<_> = target.files().map(|(_, _, _, digest)| digest).collect();
    news.retain(|blob| !there.contains(blob));
    news.sort_unstable();
    news.dedup();
    news
}

/// It leads where it was announced to, and tells the manifest that was begun: hosts will read it too.
fn check_footer(
    incoming: &Incoming<'_>,
    footer: &DeltaFooter,
    offer: &DeltaOffer,
    (base, target): (&Manifest, &Manifest),
) -> Result<(), DeltaUploadError> {
    if (footer.base, footer.target) != (offer.base, offer.target) {
        return Err(DeltaUploadError::Way {
            base: footer.base,
            target: footer.target,
        });
    }
    let expected = offer.target;
    let refused = |error: DeltaError| Err(ReadFooterError::from(error).into());
    if footer.manifest_bytes() != target.encoded().len() as u64 {
        return refused(DeltaError::Target { expected });
    }
    if footer.manifest_len.max(footer.index_len) > MOST_FRAME {
        return refused(DeltaError::Length { total: incoming.len });
    }
    let mut coded = Vec::new();
    let read = Slice::range(incoming, 0..footer.manifest_len).read_to_end(&mut coded);
    read.map_err(ReadFooterError::from)?;
    read_manifest(footer, &coded, base).map(drop).or_else(refused)
}

/// What it gives, and what that costs.
fn check_bounds(
    delta: &OpenDelta<'_>,
    given: &[BlobDigest],
    target: &Manifest,
    of_base: u64,
    limit: u64,
) -> Result<(), DeltaUploadError> {
    if delta.gives() != given {
        return Err(DeltaUploadError::Gives);
    }
    let mut counted = HashSet::new();
    let sizes = target
        .files()
        .filter(|(_, _, _, digest)| given.binary_search(digest).is_ok() && counted.insert(*digest));
    let raw = sizes.fold(0_u64, |sum, (_, _, size, _)| sum.saturating_add(size));
    if raw > limit {
        return Err(DeltaUploadError::TooLong { limit });
    }
    let most = of_base.saturating_add(raw).saturating_mul(WORK);
    let (work, most) = (delta.work(), most.saturating_add(LEAST_WORK).min(MOST_WORK));
    if work > most {
        return Err(DeltaUploadError::Work { work, most });
    }
    Ok(())
}

/// What came in and is no object yet.
#[derive(Debug)]
struct Incoming<'a> {
    file: &'a File,
    len: u64,
}

impl ObjectReader for Incoming<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.len.checked_sub(offset) {
            None | Some(0) => Ok(0),
            Some(_) => self.file.read_at(buffer, offset),
        }
    }
}
