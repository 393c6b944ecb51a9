//! What a damaged object still gives, put beside it into new bundles before it goes.

use std::collections::{HashMap, HashSet};

use ship_bundle::BundleIndex;
use ship_model::digest::{BlobDigest, BundleDigest, ReleaseId};
use ship_model::manifest::{Entry, EntryKind, Manifest};

use crate::engine::{Blobs, BlobsError};
use crate::keeping::{BringError, Laid, LayError, OpenDelta, carry, retained};
use crate::ledger::{Ledger, LedgerError};
use crate::locate::{Link, Places, ReadIndexError, read_index};
use crate::spool::{Spool, SpoolError};
use crate::union::read_manifest;

/// Why less was rescued than could be.
#[derive(Debug, thiserror::Error)]
pub(super) enum RescueError {
    #[error(transparent)]
    Index(#[from] ReadIndexError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Lay(#[from] LayError),
    #[error(transparent)]
    Bring(#[from] BringError),
}

impl RescueError {
    /// Whether it is the damage that is in the way, and not where the rest would be put.
    pub fn is_about_the_object(&self) -> bool {
        match self {
            Self::Index(_) => true,
            Self::Lay(error) => !matches!(error, LayError::Spool(_) | LayError::Blobs(_)),
            Self::Spool(_) | Self::Blobs(_) | Self::Ledger(_) | Self::Bring(_) => false,
        }
    }
}

/// The rooms that are needed for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rescue<'a> {
    pub blobs: &'a dyn Blobs,
    pub places: &'a Places,
    pub ledger: &'a Ledger,
}

impl Rescue<'_> {
    /// Carries what of a bundle lies nowhere else and can still be read.
    pub fn bundle(&self, bundle: BundleDigest) -> Result<usize, RescueError> {
        let index = read_index(self.blobs, bundle)?;
        let wanted = self.only_in(bundle, &index)?;
        let named = self.named(&wanted)?;
        let wanted: HashSet<BlobDigest> = named.keys().copied().collect();
        let spool = Spool::rescue(self.blobs, self.places, (bundle, &index), &wanted)?;
        self.carry(named, vec![spool])
    }

    /// Carries what of a release that is kept by a damaged delta can still be decoded, so that those which are kept against it
    /// stay whole. All that the release has must be carried, for it is kept no longer.
    pub fn kept(&self, release: ReleaseId, link: Link) -> Result<usize, RescueError> {
        let manifest = |id| read_manifest(self.blobs, id).map_err(|source| LayError::Manifest { id, source });
        let (own, base) = (manifest(release)?, manifest(link.base)?);
        let there: HashSet<_> = base.files().map(|(_, _, _, digest)| digest).collect();
        let absent = self.places.absent(own.files().map(|(_, _, _, digest)| digest));
        let (above, given): (Vec<_>, Vec<_>) = absent.into_iter().partition(|blob| there.contains(blob));
        let given: HashSet<_> = given.into_iter().collect();
        drop(there);
        let _turn = self.places.bringing();
        let mut spools = Laid::out(self.blobs, self.places, &above)?.into_spools();
        let delta = OpenDelta::kept(self.blobs, self.places, release, link, base)?;
        let from = Laid::out(self.blobs, self.places, &delta.needs_of(&given))?;
        let mut spool = Spool::new(self.blobs)?;
        delta.rescue(&given, &from, &mut spool);
        spools.push(spool.ready());
        let wanted: HashSet<_> = above.into_iter().chain(given).collect();
        self.carry(entries(&own, |blob| wanted.contains(blob)).collect(), spools)
    }

    /// Puts of `named` what lies in `spools` into bundles; gives how many.
    pub fn carry(
        &self,
        mut named: HashMap<BlobDigest, Entry>,
        spools: Vec<Spool>,
    ) -> Result<usize, RescueError> {
        let here: HashSet<BlobDigest> = spools.iter().flat_map(Spool::blobs).collect();
        named.retain(|blob, _| here.contains(blob));
        let count = named.len();
        for (bundle, facts) in carry(self.blobs, self.places, named, &Laid::of(spools))? {
            // No publish takes it for an upload of its own.
            self.ledger.note_bundle(bundle, facts)?;
        }
        Ok(count)
    }

    /// Blobs, and large files, that cannot be had without this bundle.
    fn only_in(&self, bundle: BundleDigest, index: &BundleIndex) -> Result<HashSet<BlobDigest>, RescueError> {
        let alone = |blob: &BlobDigest| !self.places.lies_beside(blob, bundle);
        let blobs = index.blobs().map(|place| place.digest);
        let mut only: HashSet<BlobDigest> = blobs.filter(alone).collect();
        let mut cut = Vec::new();
        for listing in self.places.listing() {
            let index = read_index(self.blobs, listing)?;
            let lists = index.lists().iter();
            let lists = lists.filter(|list| {
                listing == bundle && alone(&list.blob)
                    || list.segments.iter().any(|segment| only.contains(&segment.digest))
            });
            cut.extend(lists.map(|list| list.blob));
        }
        only.extend(cut);
        Ok(only)
    }

    /// What these are called in releases whose content is kept; what is in none of them is left out.
    pub fn named(&self, wanted: &HashSet<BlobDigest>) -> Result<HashMap<BlobDigest, Entry>, RescueError> {
        let mut named = HashMap::new();
        for id in retained(self.ledger)? {
            // One that is lost names nothing.
            if let Ok(manifest) = read_manifest(self.blobs, id) {
                named.extend(entries(&manifest, |blob| wanted.contains(blob)));
            }
        }
        Ok(named)
    }
}

/// The files of a release with such contents.
pub(super) fn entries(
    manifest: &Manifest,
    wanted: impl Fn(&BlobDigest) -> bool,
) -> impl Iterator<Item = (BlobDigest, Entry)> {
    let entries = manifest.entries().iter();
    entries.filter_map(move |entry| match entry.kind {
        EntryKind::File { digest, .. } if wanted(&digest) => Some((digest, entry.to_entry())),
        _ => None,
    })
}
