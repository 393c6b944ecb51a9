//! Which bundles nothing needs any more.

use std::collections::{BTreeSet, HashSet};

use ship_bundle::BundleIndex;
use ship_durable::fault;
use ship_model::digest::{BlobDigest, BundleDigest, ReleaseId};

use super::laid::{LayError, manifest};
use super::{key_of, needs, retained};
use crate::engine::{Blobs, Object};
use crate::ledger::{Ledger, LedgerError};
use crate::locate::{Places, ReadIndexError, read_index};

/// What is offered no longer. Its bytes are there until [`remove`](super::remove).
#[derive(Debug, Default)]
pub struct Left {
    pub objects: Vec<Object>,
    pub bytes: u64,
}

/// Why bundles were not looked through. Those that were let go before stay so.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    #[error("cannot tell what releases need")]
    Ledger(#[from] LedgerError),
    #[error("cannot tell what a release needs")]
    Lay(#[from] LayError),
    #[error("cannot read a bundle's index")]
    Index(#[from] ReadIndexError),
    /// Nobody who publishes waits for this.
    #[error("a release is being published")]
    Busy,
    #[error("interrupted")]
    Interrupted(#[source] std::io::Error),
}

/// Lets go of bundles each of whose blobs lies elsewhere or is given by a kept delta; not of those in `spared`.
///
/// Nobody commits a release meanwhile. Blocks.
///
/// # Errors
/// [`LeaveError`].
pub fn leave(
    blobs: &dyn Blobs,
    places: &Places,
    ledger: &Ledger,
    spared: &BTreeSet<BundleDigest>,
) -> Result<Left, LeaveError> {
    let mut twice = places.given();
    twice.extend(places.in_several());
    let mut bundles: Vec<BundleDigest> = places.carriers(twice).into_iter().collect();
    bundles.retain(|bundle| !spared.contains(bundle));
    if bundles.is_empty() {
        return Ok(Left::default());
    }
    let mut look = Look {
        blobs,
        places,
        asked: HashSet::new(),
        needed: HashSet::new(),
        seen: BTreeSet::new(),
        keys: BTreeSet::new(),
        cut: HashSet::new(),
    };
    look.ask(&bundles)?;
    look.take_in(ledger)?;
    let _unrelied = places.unrelied().ok_or(LeaveError::Busy)?;
    // What came since, or is kept otherwise since.
    look.take_in(ledger)?;
    look.take_in_lists()?;
    look.keys.extend(ledger.relied_on()?);
    let mut left = Left::default();
    for bundle in bundles {
        if look.keys.contains(&bundle) {
            continue;
        }
        let index = read_index(blobs, bundle)?;
        if look.is_needed(bundle, &index) {
            continue;
        }
        fault::point("store.keeping.leave.before").map_err(LeaveError::Interrupted)?;
        places.let_go(blobs, bundle, &index)?;
        let object = Object::Bundle(bundle);
        left.bytes += blobs.len(object).ok().flatten().unwrap_or(0);
        left.objects.push(object);
    }
    Ok(left)
}

struct Look<'a> {
    blobs: &'a dyn Blobs,
    places: &'a Places,
    /// Blobs and segments of the bundles in question.
    asked: HashSet<BlobDigest>,
    /// Those of them that bundles must carry: blobs of releases that are not kept.
    needed: HashSet<BlobDigest>,
    seen: BTreeSet<ReleaseId>,
    /// Bundles that carry such a release alone, or have segments that a begun publish relies on.
    keys: BTreeSet<BundleDigest>,
    /// Segments of all large files, and whether bundles must carry the file.
    cut: HashSet<(BlobDigest, bool)>,
}

impl Look<'_> {
    fn ask(&mut self, bundles: &[BundleDigest]) -> Result<(), LeaveError> {
        for bundle in bundles {
            let index = read_index(self.blobs, *bundle)?;
            self.asked.extend(index.blobs().map(|place| place.digest));
            self.asked.extend(index.lists().iter().map(|list| list.blob));
        }
        // A file may be listed by others only, and its segments lie here.
        for bundle in self.places.listing() {
            let index = read_index(self.blobs, bundle)?;
            self.asked.extend(index.lists().iter().map(|list| list.blob));
        }
        Ok(())
    }

    /// What releases need that bundles must carry; each release once.
    fn take_in(&mut self, ledger: &Ledger) -> Result<(), LeaveError> {
        let needs = needs(self.places, retained(ledger)?);
        for release in needs.carried {
            if !self.seen.insert(release) {
                continue;
            }
            let manifest = manifest(self.blobs, release)?;
            let mut files: Vec<_> = manifest.files().map(|(_, _, _, digest)| digest).collect();
            files.sort_unstable();
            files.dedup();
            self.keys.extend(key_of(self.blobs, self.places, &files)?);
            self.needed
                .extend(files.into_iter().filter(|blob| self.asked.contains(blob)));
        }
        Ok(())
    }

    fn take_in_lists(&mut self) -> Result<(), LeaveError> {
        for bundle in self.places.listing() {
            let index = read_index(self.blobs, bundle)?;
            for list in index.lists() {
                let carried = !self.may_go(&list.blob);
                let segments = list.segments.iter();
                self.cut.extend(segments.map(|segment| (segment.digest, carried)));
            }
        }
        Ok(())
    }

    /// Whether kept deltas alone are enough for a blob. One that belongs to nobody yet stays.
    fn may_go(&self, blob: &BlobDigest) -> bool {
        !self.needed.contains(blob) && self.places.giver(blob).is_some()
    }

    fn is_needed(&self, bundle: BundleDigest, index: &BundleIndex) -> bool {
        let lists = index.lists().iter().map(|list| list.blob);
        let mut all = index.blobs().map(|place| place.digest).chain(lists);
        all.any(|blob| {
            let only_cut = self.cut.contains(&(blob, false)) && !self.cut.contains(&(blob, true));
            let may_go = self.may_go(&blob) || (only_cut && !self.needed.contains(&blob));
            !may_go && !self.places.lies_beside(&blob, bundle)
        })
    }
}
