//! Makes deltas, one after another, on a thread of its own.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use ship_bundle::delta::{Effort, MakeDeltaError, delta_needs, make_delta};
use ship_model::digest::{DeltaDigest, ReleaseId};

use super::spool::{Spool, SpoolError};
use super::{Deltas, KnownDelta, ReadFooterError, footer_of};
use crate::engine::{Blobs, BlobsError, Object};
use crate::locate::Places;
use crate::union::{ReadManifestError, read_manifest};

/// Wishes that wait. More are left out: hosts read bundles then.
const WAITING: usize = 256;

/// Why a delta was not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error("cannot read the manifest of release {}", id.short())]
    Manifest {
        id: ReleaseId,
        source: ReadManifestError,
    },
    #[error("cannot read what the delta is made of")]
    Spool(#[from] SpoolError),
    #[error("cannot make the delta")]
    Make(#[from] MakeDeltaError),
    #[error("cannot keep the delta")]
    Blobs(#[from] BlobsError),
    #[error("cannot write the delta")]
    Write(#[source] io::Error),
    #[error("what was made is no delta")]
    Footer(#[from] ReadFooterError),
}

/// Who makes deltas, and what they are made of.
#[derive(Debug)]
pub struct Maker {
    blobs: Arc<dyn Blobs>,
    places: Arc<Places>,
    deltas: Arc<Deltas>,
    queue: Mutex<Queue>,
    come: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(ReleaseId, ReleaseId)>,
    ended: bool,
}

impl Maker {
    pub fn new(blobs: Arc<dyn Blobs>, places: Arc<Places>, deltas: Arc<Deltas>) -> Arc<Self> {
        Arc::new(Self {
            blobs,
            places,
            deltas,
            queue: Mutex::default(),
            come: Condvar::new(),
        })
    }

    /// Wishes for the deltas that lead from each of `bases` to `target`; those that are there are left out.
    pub fn wish(&self, bases: impl IntoIterator<Item = ReleaseId>, target: ReleaseId) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let asked: HashSet<_> = bases.into_iter().filter(|base| *base != target).collect();
        for base in asked {
            let wish = (base, target);
            let there = !self.deltas.leading_to(target, &[base]).is_empty();
            if !there && !queue.waiting.contains(&wish) && queue.waiting.len() < WAITING {
                queue.waiting.push_back(wish);
            }
        }
        self.come.notify_all();
    }

    /// Makes what is wished for until [`end`](Self::end). Blocks.
    pub fn work(&self) {
        while let Some((base, target)) = self.next() {
            match self.make(base, target) {
                Ok(made) => tracing::info!(
                    from = %base.short(), to = %target.short(), bytes = made.bytes, "delta made"
                ),
                Err(error) => tracing::warn!(
                    from = %base.short(), to = %target.short(), error = crate::log::whole(&error),
                    "no delta; hosts read bundles"
                ),
            }
        }
    }

    /// Lets [`work`](Self::work) return once the delta under way is made.
    pub fn end(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.come.notify_all();
    }

    fn next(&self) -> Option<(ReleaseId, ReleaseId)> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if queue.ended {
                return None;
            }
            if let Some(wish) = queue.waiting.pop_front() {
                return Some(wish);
            }
            queue = self.come.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes one delta and keeps it; durable when it returns.
    ///
    /// # Errors
    /// [`MakeError`]; nothing is kept.
    pub fn make(&self, base: ReleaseId, target: ReleaseId) -> Result<KnownDelta, MakeError> {
        let manifest =
            |id| read_manifest(&*self.blobs, id).map_err(|source| MakeError::Manifest { id, source });
        let (old, new) = (manifest(base)?, manifest(target)?);
        let (of_old, of_new) = delta_needs(&old, &new);
        let from = Spool::fill(&*self.blobs, &self.places, &of_old)?;
        let to = Spool::fill(&*self.blobs, &self.places, &of_new)?;
        let mut staged = self.blobs.stage()?;
        make_delta((&old, &from), (&new, &to), Effort::AT_ONCE, &mut staged, &())?;
        staged.flush().map_err(MakeError::Write)?;
        let (digest, bytes) = (DeltaDigest::from_bytes(staged.digest()), staged.len());
        self.blobs.keep(staged, Object::Delta(digest))?;
        self.deltas
            .add(footer_of(&*self.blobs, Object::Delta(digest))?, digest, bytes);
        Ok(KnownDelta { base, digest, bytes })
    }
}
