//! Makes deltas, one after another, on a thread of its own: at once what hosts will ask for or asked for, and thoroughly,
//! when nothing else is to be done, what was made in haste; after that, what [`crate::keeping`] has to do.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ship_bundle::delta::{DeltaFooter, Effort, MakeDeltaError, delta_needs, make_delta};
use ship_model::digest::{DeltaDigest, ReleaseId};
use ship_model::manifest::Manifest;
use tokio::sync::watch;

use super::{Deltas, KnownDelta, ReadFooterError, footer_of};
use crate::engine::{Blobs, BlobsError, Object, Staged};
use crate::keeping::{self, Laid, LayError, OptimizeError, Optimizer, Turn};
use crate::locate::Places;
use crate::union::{ReadManifestError, read_manifest};
use crate::yielding::Yielding;

/// Wishes that wait. More are left out: hosts read bundles then.
const WAITING: usize = 256;
/// Bytes of both manifests up to which a delta is made, about 30,000 names: making one of more takes too much besides.
pub(crate) const MOST_MANIFESTS: u64 = 3 << 20;
/// Without a wish for so long, deltas that were made at once are made smaller.
const IDLE: Duration = Duration::from_secs(30);
/// How long what is no longer offered can still be read.
pub(crate) const LEASE: Duration = Duration::from_secs(3600);

/// Why a delta was not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error("their manifests have {bytes} bytes together, and only up to {MOST_MANIFESTS} a delta is made")]
    Large { bytes: u64 },
    #[error("cannot read the manifest of release {}", id.short())]
    Manifest {
        id: ReleaseId,
        source: ReadManifestError,
    },
    #[error("cannot read what the delta is made of")]
    Spool(#[from] LayError),
    #[error("cannot make the delta")]
    Make(#[from] MakeDeltaError),
    #[error("cannot keep the delta")]
    Blobs(#[from] BlobsError),
    #[error("something is wished for that somebody waits for")]
    Wished,
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
    /// Told after each wish that was seen to.
    seen_to: watch::Sender<()>,
    /// What else is done when nothing is wished for.
    optimizer: OnceLock<Optimizer>,
}

/// From a release to a release.
type Way = (ReleaseId, ReleaseId);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Way>,
    under_way: Option<Way>,
    /// Made while somebody waited: smaller ones are made when nobody does.
    poor: VecDeque<Way>,
    /// No longer offered; whoever was told of them may still read them.
    retired: Vec<(Instant, Object)>,
    ended: bool,
}

enum Work {
    Wish(Way),
    Improve(Way),
    Remove(Vec<Object>),
    Optimize,
}

impl Queue {
    fn is_wished(&self, way: Way) -> bool {
        self.under_way == Some(way) || self.waiting.contains(&way)
    }

    /// What is to be done when nothing is wished for.
    fn idle_work(&mut self) -> Option<Work> {
        let gone = self.retired.extract_if(.., |(when, _)| when.elapsed() >= LEASE);
        let gone: Vec<_> = gone.map(|(_, object)| object).collect();
        if gone.is_empty() {
            return self.poor.pop_back().map(Work::Improve);
        }
        Some(Work::Remove(gone))
    }
}

impl Maker {
    pub fn new(blobs: Arc<dyn Blobs>, places: Arc<Places>, deltas: Arc<Deltas>) -> Arc<Self> {
        Arc::new(Self {
            blobs,
            places,
            deltas,
            queue: Mutex::default(),
            come: Condvar::new(),
            seen_to: watch::Sender::default(),
            optimizer: OnceLock::new(),
        })
    }

    /// Lets idle time be used for this, too.
    pub fn optimize(&self, optimizer: Optimizer) {
        // Only the first one is taken.
        let _ = self.optimizer.set(optimizer);
    }

    /// Takes up what an earlier process did not get to: more work into the deltas that lead to `target`.
    pub fn take_up(&self, target: ReleaseId) {
        let poor = self.deltas.poor(target);
        let mut queue = self.queue();
        for way in poor.into_iter().map(|delta| (delta.base, target)) {
            if !queue.poor.contains(&way) && queue.poor.len() < WAITING {
                queue.poor.push_back(way);
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wishes for the deltas that lead from each of `bases` to `target`; those that are there are left out.
    pub fn wish(&self, bases: impl IntoIterator<Item = ReleaseId>, target: ReleaseId) {
        let mut queue = self.queue();
        for base in bases {
            let way = (base, target);
            let there = base == target || !self.deltas.leading_to(target, &[base]).is_empty();
            if !there && !queue.is_wished(way) && queue.waiting.len() < WAITING {
                queue.waiting.push_back(way);
            }
        }
        self.come.notify_all();
    }

    /// Waits for a delta from one of `bases` to `target` while one is wished for, `patience` at most.
    pub async fn come(&self, bases: &[ReleaseId], target: ReleaseId, patience: Duration) {
        let mut seen_to = self.seen_to.subscribe();
        let waiting = async {
            while self.deltas.leading_to(target, bases).is_empty()
                && bases.iter().any(|base| self.queue().is_wished((*base, target)))
                && seen_to.changed().await.is_ok()
            {}
        };
        // What comes too late is there for the next host.
        let _ = tokio::time::timeout(patience, waiting).await;
    }

    /// Takes away what is no longer offered, once nobody can still be reading it.
    pub fn remove_later(&self, objects: impl IntoIterator<Item = Object>) {
        let now = Instant::now();
        let retired = objects.into_iter().map(|object| (now, object));
        self.queue().retired.extend(retired);
    }

    /// Makes what is wished for until [`end`](Self::end), and smaller deltas when nothing is. Blocks.
    pub fn work(&self) {
        let mut idle = false;
        while let Some(work) = self.next(&mut idle) {
            match work {
                Work::Wish(way) => {
                    let _turn = self.places.hurrying();
                    self.tried(way, Effort::AT_ONCE);
                }
                Work::Improve(way) => self.tried(way, Effort::THOROUGH),
                Work::Remove(gone) => self.remove(&gone),
                // When there is nothing more to do, it is looked again after a while.
                Work::Optimize => idle = self.optimized(),
            }
            self.queue().under_way = None;
            self.seen_to.send_replace(());
        }
    }

    fn tried(&self, (base, target): Way, effort: Effort) {
        let (from, to) = (base.short(), target.short());
        match self.make((base, target), effort) {
            Ok(made) => tracing::info!(%from, %to, bytes = made.bytes, level = made.level, "delta made"),
            Err(MakeError::Wished) => self.queue().poor.push_front((base, target)),
            Err(error) => {
                let error = crate::log::whole(&error);
                tracing::warn!(%from, %to, error, "no delta; hosts read what else there is");
            }
        }
    }

    fn remove(&self, gone: &[Object]) {
        for object in gone {
            if let Err(error) = keeping::remove(&*self.blobs, &self.places, *object) {
                tracing::warn!(%object, error = crate::log::whole(&error), "what is no longer offered is not removed");
            }
        }
    }

    /// Takes one step; whether there may be another one.
    fn optimized(&self) -> bool {
        let Some(optimizer) = self.optimizer.get() else {
            return false;
        };
        match optimizer.turn(&|| self.unless_wished(Effort::THOROUGH)) {
            Ok(Turn::Idle) => return false,
            Ok(Turn::Key { app, release, bytes }) => {
                tracing::info!(%app, release = release.0, bytes, "one bundle carries the newest release");
            }
            Ok(Turn::Kept { app, release, bytes }) => {
                tracing::info!(%app, release = release.0, bytes, "a release is kept as a delta");
            }
            Ok(Turn::Left { objects, bytes }) => {
                tracing::info!(bundles = objects.len(), bytes, "bundles are needed no more");
                self.remove_later(objects);
            }
            Ok(Turn::Failed { app, release, error }) => {
                let error = crate::log::whole(&error);
                let release = release.map_or(0, |release| release.0);
                tracing::warn!(%app, release, error, "the store is not made smaller here");
            }
            Err(OptimizeError::Wished) => return false,
            Err(error) => {
                tracing::warn!(error = crate::log::whole(&error), "the store is not made smaller");
                return false;
            }
        }
        true
    }

    /// Lets [`work`](Self::work) return once the delta under way is made.
    pub fn end(&self) {
        self.queue().ended = true;
        self.come.notify_all();
    }

    /// `idle`: nothing was wished for in a while.
    fn next(&self, idle: &mut bool) -> Option<Work> {
        let mut queue = self.queue();
        loop {
            if queue.ended {
                return None;
            }
            if let Some(way) = queue.waiting.pop_front() {
                queue.under_way = Some(way);
                *idle = false;
                return Some(Work::Wish(way));
            }
            if *idle {
                let optimize = || self.optimizer.get().map(|_| Work::Optimize);
                if let Some(work) = queue.idle_work().or_else(optimize) {
                    return Some(work);
                }
            }
            let waited = self.come.wait_timeout(queue, IDLE);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            queue = again;
            *idle = timeout.timed_out();
        }
    }

    /// Gives way to what somebody waits for.
    fn unless_wished(&self, effort: Effort) -> io::Result<()> {
        if effort != Effort::AT_ONCE && !self.queue().waiting.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }

    /// Makes one delta and keeps it; durable when it returns.
    ///
    /// # Errors
    /// [`MakeError`]; nothing is kept. A delta that is not made at once ends with [`MakeError::Wished`] when something is
    /// wished for.
    pub fn make(&self, (base, target): Way, effort: Effort) -> Result<KnownDelta, MakeError> {
        let bytes = |id| self.blobs.len(Object::Manifest(id));
        let both = bytes(base)?.unwrap_or(0) + bytes(target)?.unwrap_or(0);
        if both > MOST_MANIFESTS {
            return Err(MakeError::Large { bytes: both });
        }
        let manifest =
            |id| read_manifest(&*self.blobs, id).map_err(|source| MakeError::Manifest { id, source });
        let (old, new) = (manifest(base)?, manifest(target)?);
        let (of_old, of_new) = delta_needs(&old, &new);
        let from = Laid::out(&*self.blobs, &self.places, &of_old)?;
        let to = Laid::out(&*self.blobs, &self.places, &of_new)?;
        let ask = || self.unless_wished(effort);
        let out = Yielding {
            staged: self.blobs.stage()?,
            ask: &ask,
        };
        let staged = self.written(out, (&old, &from), (&new, &to), effort)?;
        let (digest, bytes) = (DeltaDigest::from_bytes(staged.digest()), staged.len());
        let object = Object::Delta(digest);
        self.blobs.keep(staged, object)?;
        let footer = footer_of(&*self.blobs, object)?;
        self.offer(footer, digest, bytes);
        Ok(KnownDelta {
            base,
            digest,
            bytes,
            level: footer.level,
        })
    }

    /// Offers a delta that is durable and known to give its blobs; one that was made in haste is made smaller in idle time.
    pub fn offer(&self, footer: DeltaFooter, digest: DeltaDigest, bytes: u64) {
        self.remove_later(self.deltas.add(footer, digest, bytes).map(Object::Delta));
        let way = (footer.base, footer.target);
        let mut queue = self.queue();
        if footer.level < Effort::THOROUGH.level() && !queue.poor.contains(&way) {
            if queue.poor.len() == WAITING {
                queue.poor.pop_front();
            }
            queue.poor.push_back(way);
        }
    }

    fn written(
        &self,
        mut out: Yielding<'_>,
        from: (&Manifest, &Laid),
        to: (&Manifest, &Laid),
        effort: Effort,
    ) -> Result<Staged, MakeError> {
        match make_delta((from.0, from.1), (to.0, to.1), effort, &mut out, &()) {
            Ok(_) => Ok(out.staged),
            Err(MakeDeltaError::Write(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(MakeError::Wished)
            }
            Err(error) => Err(error.into()),
        }
    }
}
