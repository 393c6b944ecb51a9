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

mod decode;

use std::io::{self, Write as _};

use ship_bundle::delta::{ApplyError, DeltaFooter};
use ship_durable::fault;
use ship_model::digest::{BlobDigest, DeltaDigest, ReleaseId};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;

use self::decode::Decoded;
use super::upload::ROOM_STEP;
use super::{Publisher, UploadedBundle};
use crate::deltas::{MOST_MANIFESTS, ReadFooterError};
use crate::engine::{BlobsError, Object, Staged};
use crate::keeping::{LayError, MakeBundleError};
use crate::ledger::LedgerError;
use crate::union::{ReadManifestError, read_manifest};

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
        let Some(decoded) = Decoded::of(publisher, &staged, &offer, base, &target)? else {
            return Ok(TakenDelta {
                bundle: None,
                kept: None,
            });
        };
        fault::point("store.publish.delta.decoded").map_err(DeltaUploadError::Write)?;
        let bundle = decoded.bundled(publisher, &target)?;
        fault::point("store.publish.delta.bundled").map_err(DeltaUploadError::Write)?;
        let (digest, bytes) = (found, staged.len());
        publisher.blobs.keep(staged, Object::Delta(digest))?;
        fault::point("store.publish.delta.kept").map_err(DeltaUploadError::Write)?;
        Ok(TakenDelta {
            bundle: Some(bundle),
            kept: Some(KeptForHosts {
                footer: decoded.footer,
                digest,
                bytes,
            }),
        })
    }
}
