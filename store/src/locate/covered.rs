//! Blobs that no bundle needs to carry, because kept deltas give them.
//!
//! A kept release is whole when its delta is there and its base is whole; a release that is not kept is whole when bundles
//! carry all of it. So whatever a kept release has that its base has not is covered, down a chain that ends in bundles. A blob
//! takes 36 bytes here, as one in a bundle does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use ship_model::digest::{BlobDigest, DeltaDigest, ReleaseId};

use super::Places;
use crate::deltas::footer_of;
use crate::engine::{Blobs, Object};
use crate::union::read_manifest;

/// How a release is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The release that the delta is made against.
    pub base: ReleaseId,
    pub delta: DeltaDigest,
    pub bytes: u64,
}

/// Releases that are kept, by their ids.
pub type Links = BTreeMap<ReleaseId, Link>;

#[derive(Debug, Default)]
pub(super) struct Covered {
    known: RwLock<Known>,
    /// Held while links change, which reads manifests.
    changing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    links: Links,
    /// Kept releases that cannot be given: something that they are made against is lost.
    broken: BTreeSet<ReleaseId>,
    targets: Vec<ReleaseId>,
    /// Sorted; the number is a place in `targets`.
    given: Vec<(BlobDigest, u32)>,
}

impl Known {
    fn giver(&self, blob: &BlobDigest) -> Option<ReleaseId> {
        let at = self.given.partition_point(|(given, _)| given < blob);
        let (_, target) = self.given.get(at).filter(|(given, _)| given == blob)?;
        self.targets.get(*target as usize).copied()
    }

    fn give(&mut self, target: ReleaseId, blobs: impl Iterator<Item = BlobDigest>) {
        let number = self.targets.len() as u32;
        self.targets.push(target);
        self.given.extend(blobs.map(|blob| (blob, number)));
    }
}

/// Which blobs are covered, while it is held.
pub(super) struct Look<'a>(RwLockReadGuard<'a, Known>);

impl Look<'_> {
    pub fn covers(&self, blob: &BlobDigest) -> bool {
        self.0.giver(blob).is_some()
    }
}

impl Covered {
    pub fn look(&self) -> Look<'_> {
        Look(self.read())
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Takes in how releases are kept, in place of what was known of that. Blocks.
    pub fn set_links(&self, blobs: &dyn Blobs, links: Links) {
        let changing = self.covered.changing();
        self.covered.changed(|known| known.links = links);
        drop(changing);
        self.reckon(blobs);
    }

    /// How a release is kept; none for one that bundles carry, or that is lost.
    pub fn link(&self, release: ReleaseId) -> Option<Link> {
        self.covered.read().links.get(&release).copied()
    }

    /// All that are kept.
    pub fn links(&self) -> Links {
        self.covered.read().links.clone()
    }

    /// Kept releases that cannot be given now.
    pub fn broken(&self) -> BTreeSet<ReleaseId> {
        self.covered.read().broken.clone()
    }

    /// The kept release whose delta gives the blob.
    pub fn giver(&self, blob: &BlobDigest) -> Option<ReleaseId> {
        self.covered.read().giver(blob)
    }

    /// Every blob that a kept delta gives, whether a bundle carries it or not.
    pub fn given(&self) -> Vec<BlobDigest> {
        self.covered.read().given.iter().map(|(blob, _)| *blob).collect()
    }

    /// Keeps a release from now on; `given`: what its delta gives, known to be true.
    pub fn keep(&self, release: ReleaseId, link: Link, given: &[BlobDigest]) {
        let _changing = self.covered.changing();
        self.covered.changed(|known| {
            known.links.insert(release, link);
            known.broken.remove(&release);
            known.give(release, given.iter().copied());
            // Two sorted runs: merged, not sorted anew.
            known.given.sort();
        });
    }

    /// Bundles carry the release again; gives the link that was.
    pub fn unkeep(&self, release: ReleaseId) -> Option<Link> {
        let _changing = self.covered.changing();
        let mut link = None;
        self.covered.changed(|known| {
            link = known.links.remove(&release);
            known.broken.remove(&release);
            let Known { targets, given, .. } = known;
            given.retain(|(_, target)| targets.get(*target as usize) != Some(&release));
        });
        link
    }

    /// Finds anew which blobs are covered: something was lost, or came back. Reads the manifests of all kept releases.
    pub fn reckon(&self, blobs: &dyn Blobs) {
        let _changing = self.covered.changing();
        let mut links = self.covered.read().links.clone();
        // A lost delta keeps nothing: when its release is published again, bundles carry it.
        links.retain(|release, link| is_there(blobs, *release, link));
        let mut found = Reckoning {
            blobs,
            places: self,
            known: Known::default(),
        };
        found.walk(&links);
        let Reckoning { mut known, .. } = found;
        known.given.sort_unstable();
        known.links = links;
        for release in &known.broken {
            tracing::error!(%release, "a kept release cannot be given: publish it, or the releases after it, again");
        }
        self.covered.changed(|old| *old = known);
    }
}

/// A delta that is damaged as a whole is found out by reading all of it; this is a look at what it says of itself.
fn is_there(blobs: &dyn Blobs, release: ReleaseId, link: &Link) -> bool {
    let object = Object::Kept(link.delta);
    match footer_of(blobs, object) {
        Ok(footer) if footer.target == release && footer.base == link.base => true,
        Ok(_) => {
            tracing::error!(%release, delta = %link.delta, "a kept delta is that of another release");
            false
        }
        Err(error) => {
            let error = crate::log::whole(&error);
            tracing::error!(%release, delta = %link.delta, error, "a kept delta is lost");
            false
        }
    }
}

struct Reckoning<'a> {
    blobs: &'a dyn Blobs,
    places: &'a Places,
    known: Known,
}

/// The blobs of a release, sorted; none when it is not whole.
type Whole = Option<Arc<[BlobDigest]>>;

impl Reckoning<'_> {
    /// From the releases that bundles carry down to the last that hangs on them. Links in a circle hang on nothing.
    fn walk(&mut self, links: &Links) {
        let mut hanging: BTreeMap<ReleaseId, Vec<ReleaseId>> = BTreeMap::new();
        for (release, link) in links {
            hanging.entry(link.base).or_default().push(*release);
        }
        self.known.broken = links.keys().copied().collect();
        let roots = hanging.keys().filter(|base| !links.contains_key(base));
        let mut next: Vec<(ReleaseId, Whole)> = roots.map(|root| (*root, self.carried(*root))).collect();
        while let Some((base, whole)) = next.pop() {
            for release in hanging.get(&base).into_iter().flatten() {
                let below = self.below(*release, whole.as_ref());
                next.push((*release, below));
            }
        }
    }

    fn below(&mut self, release: ReleaseId, base: Option<&Arc<[BlobDigest]>>) -> Whole {
        let Some(base) = base else {
            return self.carried(release);
        };
        let own = self.blobs_of(release)?;
        let new = own.iter().filter(|blob| base.binary_search(blob).is_err());
        self.known.give(release, new.copied());
        self.known.broken.remove(&release);
        Some(own)
    }

    fn carried(&mut self, release: ReleaseId) -> Whole {
        let own = self.blobs_of(release)?;
        let whole = self.places.absent(own.iter().copied()).is_empty();
        whole.then(|| {
            self.known.broken.remove(&release);
            own
        })
    }

    fn blobs_of(&self, release: ReleaseId) -> Whole {
        let manifest = read_manifest(self.blobs, release).ok()?;
        let mut own: Vec<_> = manifest.files().map(|(_, _, _, digest)| digest).collect();
        own.sort_unstable();
        own.dedup();
        Some(own.into())
    }
}
