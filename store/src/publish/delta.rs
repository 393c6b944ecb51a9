//! The second step told by what changed: a delta comes in, and the bundle is made here.
//!
//! ```text
//! offer   the base is a release of the same app whose content is kept; the target was begun
//! delta   staged → its index gives exactly what the target has and the base has not → decoded, every digest compared
//!         → what is missing becomes a bundle, as if it had been uploaded → the delta is kept, for hosts
//! ```
//! A delta copies out of its base and of nothing else, and what comes out must have the digests that the target's manifest
//! tells: nobody gets content into a release, or out of the store, that they could not publish or fetch without it.
//!
//! A crash anywhere leaves a bundle that no release names, or a delta that leads to none: the next publish uses what lies
//! there. Whoever is refused uploads a bundle.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;

use ship_bundle::DEFAULT_LEVEL;
use ship_bundle::delta::{ApplyError, DeltaError, DeltaFooter, read_manifest as read_target};
use ship_durable::fault;
use ship_model::digest::{BlobDigest, DeltaDigest, ReleaseId};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;

use super::upload::ROOM_STEP;
use super::{Publisher, UploadedBundle};
use crate::deltas::{MOST_MANIFESTS, ReadFooterError, footer_in};
use crate::engine::{BlobsError, Object, ObjectReader, Slice, Staged};
use crate::keeping::{Laid, LayError, MakeBundleError, Making, OpenDelta};
use crate::ledger::LedgerError;
use crate::spool::Spool;
use crate::union::{ReadManifestError, read_manifest};

/// Longest frame of a manifest or an index, before anything of it is read: what they may hold, and what zstd adds.
const MOST_FRAME: u64 = 33 << 20;
/// How often each byte of both releases may be read or written while a delta is decoded: who makes one reads few of them twice.
const WORK: u64 = 8;
/// What any delta may take besides.
const LEAST_WORK: u64 = 256 << 20;
/// And what none may take, whatever sizes the manifests tell: about a minute of copying.
const MOST_WORK: u64 = 256 << 30;

/// What a publisher says of a delta before it comes.
#[derive(Debug, Clone)]
pub struct DeltaOffer {
    pub app: AppName,
    /// A release of the app whose content is kept.
    pub base: ReleaseId,
    /// The release that was begun.
    pub target: ReleaseId,
    pub delta: DeltaDigest,
}

/// A delta on its way in. Dropped, it is gone.
#[derive(Debug)]
pub struct DeltaUpload<'a> {
    publisher: &'a Publisher,
    offer: DeltaOffer,
    staged: Staged,
    asked_at: u64,
}

/// What was made of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenDelta {
    /// Durable, and believed. None when nothing of the release was missing.
    pub bundle: Option<UploadedBundle>,
    /// The delta itself, to be offered to hosts; durable, and known to give its blobs. None when it was not looked at.
    pub kept: Option<KeptForHosts>,
}

/// A delta as it lies in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptForHosts {
    pub footer: DeltaFooter,
    pub digest: DeltaDigest,
    pub bytes: u64,
}

/// Why a delta was not taken; a bundle may be. Nothing was kept, unless it is durable and right.
#[derive(Debug, thiserror::Error)]
pub enum DeltaUploadError {
    #[error("{app} has no release {} whose content is kept, and a delta is made against one of its own", base.short())]
    Base { app: AppName, base: ReleaseId },
    #[error("release {} was not begun: send its manifest first", target.short())]
    NotBegun { target: ReleaseId },
    #[error("the manifest is for app {theirs}, and {asked} is to be published")]
    App { asked: AppName, theirs: AppName },
    #[error("their manifests have {bytes} bytes together, and only up to {MOST_MANIFESTS} a delta is taken")]
    Manifests { bytes: u64 },
    #[error("cannot read the manifest of release {}", id.short())]
    Manifest {
        id: ReleaseId,
        source: ReadManifestError,
    },
    #[error("the delta, or what it gives, is larger than the {limit} bytes that the store takes")]
    TooLong { limit: u64 },
    #[error("delta {} was announced, but the bytes that came are {}", announced.short(), found.short())]
    Mismatch {
        announced: DeltaDigest,
        found: DeltaDigest,
    },
    #[error("the delta leads from {} to {}, and another one was announced", base.short(), target.short())]
    Way { base: ReleaseId, target: ReleaseId },
    #[error("the delta is refused")]
    Footer(#[from] ReadFooterError),
    #[error("the delta does not give what the release has and the one it is made against has not")]
    Gives,
    #[error("decoding the delta takes {work} bytes, and {most} are enough for its releases")]
    Work { work: u64, most: u64 },
    #[error("cannot read what the delta is made against")]
    Lay(#[from] LayError),
    #[error("the delta cannot be decoded")]
    Apply(#[from] ApplyError),
    #[error("blob {blob} comes out of the delta with other bytes than its digest says")]
    Content { blob: BlobDigest },
    #[error("{count} blobs are missing that both releases have: the bundle that carried them was lost")]
    Lost { count: usize },
    #[error("cannot make a bundle of what the delta gives")]
    Make(#[from] MakeBundleError),
    #[error("cannot keep what comes in")]
    Blobs(#[from] BlobsError),
    #[error("cannot look up the app's releases")]
    Ledger(#[from] LedgerError),
    #[error("cannot write the delta")]
    Write(#[source] io::Error),
}

impl Publisher {
    /// Opens the door for one delta, if one that leads this way may come at all.
    pub fn upload_delta(&self, offer: DeltaOffer) -> Result<DeltaUpload<'_>, DeltaUploadError> {
        self.check_way(&offer)?;
        Ok(DeltaUpload {
            publisher: self,
            offer,
            staged: self.blobs.stage()?,
            asked_at: 0,
        })
    }

    fn check_way(&self, offer: &DeltaOffer) -> Result<(), DeltaUploadError> {
        let DeltaOffer {
            app, base, target, ..
        } = offer;
        let of_app = self.ledger.releases_of_id(base)?.into_iter();
        let numbers: Vec<_> = of_app
            .filter_map(|(of, number)| (of == *app).then_some(number))
            .collect();
        let collected = self.ledger.all_collected(app)?;
        if numbers.iter().all(|number| collected.contains_key(number)) {
            return Err(DeltaUploadError::Base {
                app: app.clone(),
                base: *base,
            });
        }
        let bytes = |id| self.blobs.len(Object::Manifest(id));
        let Some(of_target) = bytes(*target)? else {
            return Err(DeltaUploadError::NotBegun { target: *target });
        };
        match of_target + bytes(*base)?.unwrap_or(0) {
            both if both > MOST_MANIFESTS => Err(DeltaUploadError::Manifests { bytes: both }),
            _ => Ok(()),
        }
    }

    fn manifest(&self, id: ReleaseId) -> Result<Manifest, DeltaUploadError> {
        read_manifest(&*self.blobs, id).map_err(|source| DeltaUploadError::Manifest { id, source })
    }

    /// Those of `given` that the target lacks here; all it lacks must be among them.
    fn lacking(
        &self,
        target: &Manifest,
        given: &[BlobDigest],
    ) -> Result<HashSet<BlobDigest>, DeltaUploadError> {
        let missing = self
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
    fn decoded(&self, delta: &OpenDelta<'_>, given: &[BlobDigest]) -> Result<Spool, DeltaUploadError> {
        let from = Laid::out(&*self.blobs, &self.places, &delta.needs())?;
        let mut spool = Spool::new(&*self.blobs)?;
        let (mut wrong, mut full) = (None, None);
        let wanted = given.iter().copied().collect();
        delta.decode(&wanted, &from, |blob, give| {
            let is_it = spool.add(blob, give)?;
            full = spool.room(&*self.blobs).err();
            wrong = (!is_it).then_some(blob);
            Ok(is_it && full.is_none())
        })?;
        match (wrong, full) {
            (Some(blob), _) => Err(DeltaUploadError::Content { blob }),
            (None, Some(full)) => Err(full.into()),
            (None, None) => Ok(spool.ready()),
        }
    }

    fn bundled(
        &self,
        target: &Manifest,
        wanted: &HashSet<BlobDigest>,
        from: &Spool,
    ) -> Result<UploadedBundle, DeltaUploadError> {
        let making = Making {
            blobs: &*self.blobs,
            places: &self.places,
            manifest: target,
            from,
            level: DEFAULT_LEVEL,
            whole: false,
            ask: &|| Ok(()),
        };
        let (digest, facts) = making.make(wanted)?;
        self.places.complete(&*self.blobs);
        Ok(UploadedBundle {
            digest,
            bytes: facts.bytes,
            blobs: facts.blobs,
        })
    }
}

impl DeltaUpload<'_> {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), DeltaUploadError> {
        let limit = self.publisher.limits.delta_raw_bytes;
        if self.staged.len() + bytes.len() as u64 > limit {
            return Err(DeltaUploadError::TooLong { limit });
        }
        if self.staged.len() >= self.asked_at + ROOM_STEP {
            self.asked_at = self.staged.len();
            self.publisher.blobs.room()?;
        }
        self.staged.write_all(bytes).map_err(DeltaUploadError::Write)
    }

    /// Decodes it, compares every digest, and keeps what was missing as a bundle, and the delta for hosts. Blocks, one caller
    /// after another.
    ///
    /// Durable when it returns; from then on the blobs have a place. Memory: a frame with its prefix, or the frames of a
    /// bundle, and both manifests.
    pub fn finish(self) -> Result<TakenDelta, DeltaUploadError> {
        let Self {
            publisher,
            offer,
            staged,
            ..
        } = self;
        let found = DeltaDigest::from_bytes(staged.digest());
        if found != offer.delta {
            let announced = offer.delta;
            return Err(DeltaUploadError::Mismatch { announced, found });
        }
        let _turn = publisher.places.hurrying();
        let (base, target) = (publisher.manifest(offer.base)?, publisher.manifest(offer.target)?);
        if target.spec().app != offer.app {
            return Err(DeltaUploadError::App {
                asked: offer.app,
                theirs: target.spec().app.clone(),
            });
        }
        let given = news(&base, &target);
        let wanted = publisher.lacking(&target, &given)?;
        if wanted.is_empty() {
            return Ok(TakenDelta {
                bundle: None,
                kept: None,
            });
        }
        let incoming = Incoming {
            file: staged.file(),
            len: staged.len(),
        };
        let footer = footer_in(&incoming)?;
        check_footer(&incoming, &footer, &offer, (&base, &target))?;
        let both = base.total_bytes().saturating_add(target.total_bytes());
        let delta = OpenDelta::of(Box::new(incoming), &footer, base, &target)?;
        check_bounds(&delta, &given, &target, both, publisher.limits.delta_raw_bytes)?;
        let spool = publisher.decoded(&delta, &given)?;
        drop(delta);
        fault::point("store.publish.delta.decoded").map_err(DeltaUploadError::Write)?;
        let bundle = publisher.bundled(&target, &wanted, &spool)?;
        fault::point("store.publish.delta.bundled").map_err(DeltaUploadError::Write)?;
        let (digest, bytes) = (found, staged.len());
        publisher.blobs.keep(staged, Object::Delta(digest))?;
        fault::point("store.publish.delta.kept").map_err(DeltaUploadError::Write)?;
        Ok(TakenDelta {
            bundle: Some(bundle),
            kept: Some(KeptForHosts {
                footer,
                digest,
                bytes,
            }),
        })
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
    read_target(footer, &coded, base).map(drop).or_else(refused)
}

/// What it gives, and what that costs.
fn check_bounds(
    delta: &OpenDelta<'_>,
    given: &[BlobDigest],
    target: &Manifest,
    both: u64,
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
    let (work, most) = (delta.work(), both.saturating_mul(WORK).saturating_add(LEAST_WORK));
    let most = most.min(MOST_WORK);
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
