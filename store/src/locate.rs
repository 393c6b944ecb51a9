//! Where blobs lie: which bundle carries which blob.
//!
//! Derived from the bundles' own indexes when the store starts, extended by each upload, never written
//! down. A blob takes 36 bytes here. Segments of large files are found as blobs are; a large file lies where it is listed, as long as
//! all of its segments have a place.
//!
//! [`covered`] are blobs that need no bundle: kept deltas give them. They count as there; before somebody reads their bytes,
//! [`bring`](crate::keeping::bring()) puts them into a bundle again.

mod covered;
mod leaving;

pub use covered::{Link, Links};

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::Instant;

use ship_bundle::BundleIndex;
use ship_model::digest::{BlobDigest, BundleDigest};

use crate::engine::{Blobs, BlobsError, Object, ObjectKind, ObjectReader};

/// Threads that read indexes at start; each holds one index.
const READERS: usize = 4;

/// Why a bundle's index could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadIndexError {
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    #[error("cannot read the index of bundle {bundle}")]
    Read {
        bundle: BundleDigest,
        source: std::io::Error,
    },
    /// What lies there is no bundle: it was put into quarantine.
    #[error("bundle {bundle} is damaged and was put into quarantine")]
    Damaged {
        bundle: BundleDigest,
        source: std::io::Error,
    },
}

/// What was found when all indexes were read.
#[derive(Debug, Default)]
pub struct LoadReport {
    pub bundles: usize,
    pub blobs: usize,
    /// Bundles whose blobs cannot be located, and why: never fatal for the others.
    pub unread: Vec<(BundleDigest, ReadIndexError)>,
}

/// A bundle and those of the asked blobs that it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub bundle: BundleDigest,
    pub bundle_bytes: u64,
    pub blobs: Vec<BlobDigest>,
}

/// The map. Every method may be called from any thread; none of them reads a disk but [`Places::load`],
/// [`Places::complete`] and [`Places::forget`].
#[derive(Debug, Default)]
pub struct Places {
    map: RwLock<Map>,
    covered: covered::Covered,
    /// Shared by whoever keeps a bundle and takes it in, held alone by whoever takes one away.
    placing: RwLock<()>,
    /// Shared while somebody relies on what lies here without a record of it, held alone while bundles are let go.
    relying: RwLock<()>,
    /// Held while covered blobs are put into bundles, and when each was that was asked for so.
    bringing: Mutex<()>,
    brought: Mutex<HashMap<BundleDigest, Instant>>,
    /// Held while a delta is made or taken that somebody waits for.
    hurrying: Mutex<()>,
}

#[derive(Debug, Default)]
struct Map {
    bundles: Vec<(BundleDigest, u64)>,
    numbers: HashMap<BundleDigest, u32>,
    /// Sorted; the number is a place in `bundles`.
    settled: Vec<(BlobDigest, u32)>,
    /// What came since `settled` was last sorted: at most an eighth of it, and a few thousand.
    recent: HashMap<BlobDigest, u32>,
    /// Further places of blobs that lie in more than one bundle: few, for only what is missing is ever sent.
    others: BTreeSet<(BlobDigest, u32)>,
    /// Large files whose segments all have a place, and the bundles that list them.
    listed: BTreeSet<(BlobDigest, u32)>,
    /// Bundles that list a file of which a segment has none.
    wanting: BTreeSet<u32>,
    /// Let go, and not removed yet.
    gone: HashSet<BundleDigest>,
}

impl Map {
    fn find(&self, blob: &BlobDigest) -> Option<u32> {
        self.find_held(blob).or_else(|| self.listing(blob).next())
    }

    /// The bundles that list a large file.
    fn listing(&self, blob: &BlobDigest) -> impl Iterator<Item = u32> {
        let listed = self.listed.range((*blob, 0)..=(*blob, u32::MAX));
        listed.map(|(_, bundle)| *bundle)
    }

    fn find_held(&self, blob: &BlobDigest) -> Option<u32> {
        if let Some(at) = self.recent.get(blob) {
            return Some(*at);
        }
        let at = self.settled.binary_search_by(|(known, _)| known.cmp(blob)).ok()?;
        self.settled.get(at).map(|(_, bundle)| *bundle)
    }

    /// Takes in the blobs of a bundle: those that have no place yet, and the others as lying here, too.
    fn add(&mut self, bundle: BundleDigest, bytes: u64, index: &BundleIndex) {
        let Some(number) = self.number_of(bundle, bytes) else {
            return;
        };
        for blob in index.blobs() {
            match self.find_held(&blob.digest) {
                None => drop(self.recent.insert(blob.digest, number)),
                Some(known) if known != number => drop(self.others.insert((blob.digest, number))),
                Some(_) => {}
            }
        }
        if self.recent.len() > 4096 + self.settled.len() / 8 {
            self.settle();
        }
        self.add_lists(number, index);
    }

    /// Takes in those lists of a bundle whose segments all have a place.
    fn add_lists(&mut self, number: u32, index: &BundleIndex) {
        self.wanting.remove(&number);
        for list in index.lists() {
            let mut segments = list.segments.iter();
            if segments.all(|segment| self.find_held(&segment.digest).is_some()) {
                self.listed.insert((list.blob, number));
            } else {
                self.wanting.insert(number);
            }
        }
    }

    fn number_of(&mut self, bundle: BundleDigest, bytes: u64) -> Option<u32> {
        if let Some(number) = self.numbers.get(&bundle) {
            return Some(*number);
        }
        let number = u32::try_from(self.bundles.len()).ok()?;
        self.bundles.push((bundle, bytes));
        self.numbers.insert(bundle, number);
        Some(number)
    }

    fn settle(&mut self) {
        let recent = std::mem::take(&mut self.recent);
        self.settled.reserve_exact(recent.len());
        self.settled.extend(recent);
        self.settled.sort_unstable();
    }

    /// Forgets a bundle and its blobs. Its number stays taken, so that the others keep theirs.
    fn remove(&mut self, bundle: BundleDigest) {
        if let Some(number) = self.numbers.remove(&bundle) {
            self.settled.retain(|(_, at)| *at != number);
            self.recent.retain(|_, at| *at != number);
            self.others.retain(|(_, at)| *at != number);
            // Any of them may have had a segment there.
            self.listed.clear();
            self.wanting.remove(&number);
        }
    }
}

impl Places {
    /// Reads the index of every bundle in the store, several at a time.
    ///
    /// # Errors
    /// Only when the bundles cannot be listed.
    pub fn load(blobs: &dyn Blobs) -> Result<(Self, LoadReport), BlobsError> {
        let places = Self::default();
        let mut report = LoadReport {
            unread: places.fill(blobs)?,
            ..LoadReport::default()
        };
        let mut map = places.write();
        map.settle();
        report.bundles = map.numbers.len();
        report.blobs = map.settled.len();
        drop(map);
        Ok((places, report))
    }

    fn fill(&self, blobs: &dyn Blobs) -> Result<Vec<(BundleDigest, ReadIndexError)>, BlobsError> {
        let bundles = Mutex::new(blobs.list(ObjectKind::Bundle)?.into_iter());
        let unread = Mutex::new(Vec::new());
        let next = || bundles.lock().unwrap_or_else(PoisonError::into_inner).next();
        std::thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    while let Some((object, bytes)) = next() {
                        let Object::Bundle(bundle) = object else { continue };
                        match read_index(blobs, bundle) {
                            Ok(index) => self.add_unless_gone(bundle, bytes, &index),
                            Err(error) => unread
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push((bundle, error)),
                        }
                    }
                });
            }
        });
        self.complete(blobs);
        Ok(unread.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks again at bundles that list what was not there: by now it may be. One that cannot be read tells nothing.
    pub fn complete(&self, blobs: &dyn Blobs) {
        let wanting: Vec<(u32, BundleDigest)> = {
            let map = self.read();
            let bundle = |number: &u32| Some((*number, map.bundles.get(*number as usize)?.0));
            map.wanting.iter().filter_map(bundle).collect()
        };
        for (number, bundle) in wanting {
            if let Ok(index) = read_index(blobs, bundle) {
                self.write().add_lists(number, &index);
            }
        }
        // A release that others are made against may be whole again.
        if !self.broken().is_empty() {
            self.reckon(blobs);
        }
    }

    /// Takes in a bundle that is verified and durable. A blob that lies elsewhere already stays there.
    pub fn add(&self, bundle: BundleDigest, bytes: u64, index: &BundleIndex) {
        let mut map = self.write();
        map.gone.remove(&bundle);
        map.add(bundle, bytes, index);
    }

    fn add_unless_gone(&self, bundle: BundleDigest, bytes: u64, index: &BundleIndex) {
        let mut map = self.write();
        if !map.gone.contains(&bundle) {
            map.add(bundle, bytes, index);
        }
    }

    /// Whatever has a place stays where it is while this is held, once for a thread.
    pub fn rely(&self) -> RwLockReadGuard<'_, ()> {
        self.relying.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody relies on what has no record while this is held; none when somebody does now.
    pub fn unrelied(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.relying.try_write() {
            Ok(alone) => Some(alone),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// As [`unrelied`](Self::unrelied), after whoever relies now; whoever comes waits.
    pub fn once_unrelied(&self) -> RwLockWriteGuard<'_, ()> {
        self.relying.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a bundle that was quarantined, and finds which of its blobs lie in others too.
    pub fn forget(&self, blobs: &dyn Blobs, bundle: BundleDigest) -> Result<(), BlobsError> {
        self.write().remove(bundle);
        // A blob is kept under one bundle: every other one offers its own again.
        self.fill(blobs)?;
        if !self.links().is_empty() {
            self.reckon(blobs);
        }
        Ok(())
    }

    /// Those of `wanted` of which some bundle tells the segments.
    pub fn listed(&self, wanted: &[BlobDigest]) -> BTreeSet<BlobDigest> {
        let map = self.read();
        let wanted = wanted.iter().copied();
        wanted.filter(|blob| map.listing(blob).next().is_some()).collect()
    }

    /// Whether the bundle is known.
    pub fn has_bundle(&self, bundle: BundleDigest) -> bool {
        self.read().numbers.contains_key(&bundle)
    }

    /// Those of `wanted` that no bundle carries and no kept delta gives, each once, in order.
    pub fn missing(&self, wanted: impl IntoIterator<Item = BlobDigest>) -> Vec<BlobDigest> {
        let mut missing = self.absent(wanted);
        let covered = self.covered.look();
        missing.retain(|blob| !covered.covers(blob));
        missing
    }

    /// The bundles that carry `wanted`, none of those in `avoid` among them; a blob that no other carries is left out, also one
    /// that a kept delta gives. What lies in several is read from the one that carries most of it all.
    pub fn locate(&self, wanted: &[BlobDigest], avoid: &[BundleDigest]) -> Vec<Located> {
        let map = self.read();
        let avoid: Vec<u32> = avoid
            .iter()
            .filter_map(|bundle| map.numbers.get(bundle).copied())
            .collect();
        let of = |blob: &BlobDigest| map.carriers(*blob).filter(|at| !avoid.contains(at));
        let mut weights: HashMap<u32, usize> = HashMap::new();
        for bundle in wanted.iter().flat_map(of) {
            *weights.entry(bundle).or_default() += 1;
        }
        let weight = |bundle: &u32| weights.get(bundle).copied().unwrap_or(0);
        let mut by_bundle: HashMap<u32, Vec<BlobDigest>> = HashMap::new();
        for blob in wanted {
            let best = of(blob).reduce(|best, next| if weight(&next) > weight(&best) { next } else { best });
            if let Some(bundle) = best {
                by_bundle.entry(bundle).or_default().push(*blob);
            }
        }
        let mut located: Vec<Located> = by_bundle
            .into_iter()
            .filter_map(|(number, blobs)| {
                let (bundle, bundle_bytes) = *map.bundles.get(number as usize)?;
                Some(Located {
                    bundle,
                    bundle_bytes,
                    blobs,
                })
            })
            .collect();
        located.sort_unstable_by_key(|found| found.bundle);
        located
    }

    /// Bundles and blobs known.
    pub fn len(&self) -> (usize, usize) {
        let map = self.read();
        (map.numbers.len(), map.settled.len() + map.recent.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    fn read(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a bundle's index from its tail. One that is no index sends the bundle into quarantine.
pub fn read_index(blobs: &dyn Blobs, bundle: BundleDigest) -> Result<BundleIndex, ReadIndexError> {
    let object = Object::Bundle(bundle);
    let reader = blobs.open(object)?;
    let read = BundleIndex::read(reader.len(), |offset, len| read_exact(&*reader, offset, len));
    match read {
        Ok(index) => Ok(index),
        Err(source) if source.kind() == std::io::ErrorKind::InvalidData => {
            blobs.quarantine(object)?;
            Err(ReadIndexError::Damaged { bundle, source })
        }
        Err(source) => Err(ReadIndexError::Read { bundle, source }),
    }
}

fn read_exact(reader: &dyn ObjectReader, offset: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; len];
    let mut got = 0;
    while got < len {
        match reader.read_at(&mut bytes[got..], offset + got as u64) {
            // Shorter than it was a moment ago, or than its footer says.
            Ok(0) => return Err(std::io::ErrorKind::InvalidData.into()),
            Ok(n) => got += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
