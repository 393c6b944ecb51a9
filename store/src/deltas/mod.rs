//! Deltas between releases of an app: made here out of bundles, or handed in by who published, and offered to hosts that have
//! the older one.
//!
//! A delta's own footer says from where to where it leads, so this map is made anew at each start and nothing of it is
//! written down. Deltas are derived: one that is lost, damaged or not made yet costs bytes, never a release.

mod maker;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{PoisonError, RwLock};

use ship_bundle::delta::{DeltaError, DeltaFooter, Effort, FOOTER};
use ship_model::digest::{DeltaDigest, ReleaseId};

use crate::engine::{Blobs, BlobsError, Object, ObjectKind, ObjectReader};

pub(crate) use maker::{LEASE, MOST_MANIFESTS};
pub use maker::{MakeError, Maker};

/// A delta that lies in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownDelta {
    /// The release that a host must have.
    pub base: ReleaseId,
    pub digest: DeltaDigest,
    pub bytes: u64,
    /// How much work went into it: zstd's level.
    pub level: u8,
}

/// Which deltas there are. Every method may be called from any thread; only [`Deltas::load`] and [`Deltas::forget`] read a
/// disk.
#[derive(Debug, Default)]
pub struct Deltas {
    /// By target, then base: the smallest.
    known: RwLock<BTreeMap<(ReleaseId, ReleaseId), KnownDelta>>,
}

/// Why a delta in the store is none.
#[derive(Debug, thiserror::Error)]
pub enum ReadFooterError {
    #[error("cannot open a delta")]
    Open(#[from] BlobsError),
    #[error("cannot read a delta")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Delta(#[from] DeltaError),
}

impl Deltas {
    /// Reads the footer of every delta; those that cannot be read are put into quarantine and made anew when they are wished
    /// for again.
    ///
    /// # Errors
    /// Only when the deltas cannot be listed.
    pub fn load(blobs: &dyn Blobs) -> Result<Self, BlobsError> {
        let deltas = Self::default();
        for (object, bytes) in blobs.list(ObjectKind::Delta)? {
            let Object::Delta(digest) = object else { continue };
            match footer_of(blobs, object) {
                Ok(footer) => {
                    if let Some(larger) = deltas.add(footer, digest, bytes) {
                        blobs.remove(Object::Delta(larger))?;
                    }
                }
                Err(error) => {
                    tracing::warn!(delta = %digest, error = crate::log::whole(&error), "a delta is put aside");
                    blobs.quarantine(object)?;
                }
            }
        }
        Ok(deltas)
    }

    /// Offers a delta from now on; gives one that leads the same way and is not offered for it, the larger of both.
    fn add(&self, footer: DeltaFooter, digest: DeltaDigest, bytes: u64) -> Option<DeltaDigest> {
        let new = KnownDelta {
            base: footer.base,
            digest,
            bytes,
            level: footer.level,
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let held = known.entry((footer.target, footer.base)).or_insert(new);
        if held.digest == digest {
            return None;
        }
        let other = if bytes < held.bytes {
            std::mem::replace(held, new)
        } else {
            new
        };
        Some(other.digest)
    }

    /// Takes out of what is offered the deltas to each release that `is_past` names; gives them.
    pub fn retire(&self, is_past: impl Fn(ReleaseId) -> bool) -> Vec<DeltaDigest> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let past = known.extract_if(.., |(target, _), _| is_past(*target));
        past.map(|(_, delta)| delta.digest).collect()
    }

    /// From where to where an offered delta leads.
    #[must_use]
    pub fn way_of(&self, delta: DeltaDigest) -> Option<(ReleaseId, ReleaseId)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut ways = known.iter().filter(|(_, held)| held.digest == delta);
        ways.next().map(|((target, base), _)| (*base, *target))
    }

    /// Offers those of `deltas` no more that do not lead a way which `may`.
    pub fn withdraw(&self, deltas: &BTreeSet<DeltaDigest>, may: impl Fn(ReleaseId, ReleaseId) -> bool) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(target, base), held| !deltas.contains(&held.digest) || may(*base, *target));
    }

    /// Deltas that lead to `target` from one of the releases in `from`, the smallest first.
    #[must_use]
    pub fn leading_to(&self, target: ReleaseId, from: &[ReleaseId]) -> Vec<KnownDelta> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = from
            .iter()
            .filter_map(|base| known.get(&(target, *base)))
            .copied()
            .collect();
        found.sort_unstable_by_key(|delta| (delta.bytes, delta.digest));
        found.dedup();
        found
    }

    /// Takes a delta that turned out to be wrong out of what is offered. It lies in quarantine for whoever wants to look.
    pub fn forget(&self, blobs: &dyn Blobs, digest: DeltaDigest) -> Result<(), BlobsError> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, delta| delta.digest != digest);
        drop(known);
        blobs.quarantine(Object::Delta(digest))
    }

    /// Those that lead to `target` and into which more work can go.
    pub fn poor(&self, target: ReleaseId) -> Vec<KnownDelta> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let least = ReleaseId::from_bytes([0; 32]);
        let to = known.range((target, least)..).map(|((to, _), delta)| (to, delta));
        let to = to.take_while(|(to, _)| **to == target).map(|(_, delta)| *delta);
        to.filter(|delta| delta.level < Effort::THOROUGH.level())
            .collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The footer of a delta, be it offered or kept.
pub(crate) fn footer_of(blobs: &dyn Blobs, object: Object) -> Result<DeltaFooter, ReadFooterError> {
    footer_in(blobs.open(object)?.as_ref())
}

/// The footer of whatever is said to be a delta.
pub(crate) fn footer_in(reader: &dyn ObjectReader) -> Result<DeltaFooter, ReadFooterError> {
    let total = reader.len();
    let mut tail = vec![0; FOOTER.min(total as usize)];
    read_exact(reader, &mut tail, total - total.min(FOOTER as u64))?;
    Ok(DeltaFooter::from_tail(&tail, total)?)
}

fn read_exact(reader: &dyn ObjectReader, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut got = 0;
    while got < buffer.len() {
        match reader.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => got += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
