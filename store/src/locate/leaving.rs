//! Bundles that are let go: out of the map at once, from the disk when nobody can be reading them any more.

use std::collections::{BTreeSet, HashSet};
use std::sync::{MutexGuard, PoisonError, RwLockWriteGuard};
use std::time::Instant;

use ship_bundle::BundleIndex;
use ship_model::digest::{BlobDigest, BundleDigest};

use super::{Map, Places, ReadIndexError, read_index};
use crate::deltas::LEASE;
use crate::engine::{Blobs, BlobsError, Object};

impl Map {
    /// Every bundle that carries the blob or lists it, each once.
    pub(super) fn carriers(&self, blob: BlobDigest) -> impl Iterator<Item = u32> {
        let all = (blob, 0)..=(blob, u32::MAX);
        let several = self.others.range(all.clone()).chain(self.listed.range(all));
        let held = self.find_held(&blob).into_iter();
        held.chain(several.map(|(_, at)| *at))
    }

    /// Forgets a bundle without a look at any other: `index` is its own.
    fn drop_bundle(&mut self, bundle: BundleDigest, index: &BundleIndex) {
        let Some(number) = self.numbers.remove(&bundle) else {
            return;
        };
        let mut nowhere = HashSet::new();
        for blob in index.blobs().map(|place| place.digest) {
            if self.others.remove(&(blob, number)) || self.find_held(&blob) != Some(number) {
                continue;
            }
            let other = self.others.range((blob, 0)..=(blob, u32::MAX)).next().copied();
            match other {
                Some(other) => {
                    self.others.remove(&other);
                    self.put(blob, other.1);
                }
                None => drop(nowhere.insert(blob)),
            }
        }
        self.settled.retain(|(blob, _)| !nowhere.contains(blob));
        self.recent.retain(|blob, _| !nowhere.contains(blob));
        self.listed.retain(|(_, at)| *at != number);
        self.wanting.remove(&number);
    }

    fn put(&mut self, blob: BlobDigest, number: u32) {
        if let Some(at) = self.recent.get_mut(&blob) {
            *at = number;
            return;
        }
        if let Ok(at) = self.settled.binary_search_by(|(known, _)| known.cmp(&blob))
            && let Some((_, place)) = self.settled.get_mut(at)
        {
            *place = number;
        }
    }

    fn digest_of(&self, number: u32) -> Option<BundleDigest> {
        let (digest, _) = self.bundles.get(number as usize)?;
        (self.numbers.get(digest) == Some(&number)).then_some(*digest)
    }
}

impl Places {
    /// Those of `wanted` that no bundle carries, each once, in order: also those that a kept delta gives.
    pub fn absent(&self, wanted: impl IntoIterator<Item = BlobDigest>) -> Vec<BlobDigest> {
        let map = self.read();
        let mut absent: Vec<_> = wanted
            .into_iter()
            .filter(|blob| map.find(blob).is_none())
            .collect();
        absent.sort_unstable();
        absent.dedup();
        absent
    }

    /// Every bundle that carries or lists one of `blobs`.
    pub fn carriers(&self, blobs: impl IntoIterator<Item = BlobDigest>) -> BTreeSet<BundleDigest> {
        let map = self.read();
        let mut numbers = BTreeSet::new();
        for blob in blobs {
            numbers.extend(map.carriers(blob));
        }
        let digests = numbers.into_iter().filter_map(|number| map.digest_of(number));
        digests.collect()
    }

    /// Whether another bundle than this carries or lists the blob.
    pub fn lies_beside(&self, blob: &BlobDigest, bundle: BundleDigest) -> bool {
        let map = self.read();
        let this = map.numbers.get(&bundle).copied();
        map.carriers(*blob).any(|at| Some(at) != this)
    }

    /// Every bundle that lists a large file.
    pub fn listing(&self) -> Vec<BundleDigest> {
        let map = self.read();
        let mut numbers: BTreeSet<u32> = map.listed.iter().map(|(_, at)| *at).collect();
        numbers.extend(&map.wanting);
        let digests = numbers.into_iter().filter_map(|number| map.digest_of(number));
        digests.collect()
    }

    /// Offers a bundle no longer; its bytes stay for whoever was sent there, until [`removed`](Self::removed).
    ///
    /// # Errors
    /// When the index of another bundle that lists large files cannot be read; nothing changed then.
    pub fn let_go(
        &self,
        blobs: &dyn Blobs,
        bundle: BundleDigest,
        index: &BundleIndex,
    ) -> Result<(), ReadIndexError> {
        let _placing = self.placing.write().unwrap_or_else(PoisonError::into_inner);
        let mut listing = Vec::new();
        // Only a bundle that lists files has segments.
        let others = match index.lists() {
            [] => Vec::new(),
            _ => self.listing(),
        };
        for other in others.into_iter().filter(|other| *other != bundle) {
            listing.push((other, read_index(blobs, other)?));
        }
        let mut map = self.write();
        map.drop_bundle(bundle, index);
        map.gone.insert(bundle);
        // Files that were listed may have had segments there.
        if !index.lists().is_empty() {
            map.listed.clear();
        }
        for (other, index) in &listing {
            if let Some(number) = map.numbers.get(other).copied() {
                map.add_lists(number, index);
            }
        }
        Ok(())
    }

    /// Blobs that lie in more than one bundle.
    pub fn in_several(&self) -> Vec<BlobDigest> {
        self.read().others.iter().map(|(blob, _)| *blob).collect()
    }

    /// For whoever puts covered blobs into bundles, or takes away what they are decoded from. Who relies, or waits until nobody
    /// does, begins with that: nobody who holds this may do either, or both would wait for each other.
    pub fn bringing(&self) -> MutexGuard<'_, ()> {
        self.bringing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For whoever makes or takes a delta that somebody waits for: one takes up to 200 MiB, so that two at once would be too much.
    pub fn hurrying(&self) -> MutexGuard<'_, ()> {
        self.hurrying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a bundle was made because somebody asked.
    pub fn brought(&self, bundle: BundleDigest) {
        let mut brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        brought.insert(bundle, Instant::now());
    }

    /// Bundles that were made so, not long ago.
    pub fn fresh(&self) -> BTreeSet<BundleDigest> {
        let brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        brought.keys().copied().collect()
    }

    /// Whether some of them are no longer fresh: they may go.
    pub fn forget_stale(&self) -> bool {
        let mut brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        let before = brought.len();
        brought.retain(|_, when| when.elapsed() < LEASE);
        brought.len() < before
    }

    /// Keeps a bundle and takes it in, as one step for whoever removes bundles.
    ///
    /// # Errors
    /// What `keep` returns.
    pub fn placed<E>(
        &self,
        bundle: BundleDigest,
        bytes: u64,
        index: &BundleIndex,
        keep: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let _placing = self.placing.read().unwrap_or_else(PoisonError::into_inner);
        keep()?;
        self.add(bundle, bytes, index);
        Ok(())
    }

    /// Nobody keeps a bundle, or takes one away, while this is held.
    pub fn placing_alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.placing.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the bytes of a bundle away that was let go; not those of one that came again meanwhile.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn removed(&self, blobs: &dyn Blobs, bundle: BundleDigest) -> Result<(), BlobsError> {
        let _placing = self.placing.write().unwrap_or_else(PoisonError::into_inner);
        if !self.has_bundle(bundle) {
            blobs.remove(Object::Bundle(bundle))?;
        }
        self.write().gone.remove(&bundle);
        Ok(())
    }
}
