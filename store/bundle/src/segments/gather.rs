//! Which bundles are needed for what is missing: those that hold it or list it, then those that hold what is listed.

use std::collections::BTreeMap;

use ship_model::digest::{BlobDigest, BundleDigest};

use crate::index::BundleIndex;

/// A bundle, its length, and which of the asked blobs it holds or lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub bundle: BundleDigest,
    pub bytes: u64,
    pub blobs: Vec<BlobDigest>,
}

/// The bundles that together hold all of `missing`, with what is needed of their indexes.
///
/// `locate` tells bundles of blobs, `read` a bundle's index by its name and length. However many bundles there are and whatever they
/// say they hold, what stays in memory is as large as what was asked for.
///
/// # Errors
/// What `locate` and `read` return. A bundle that does not hold what was told is found out by
/// [`fetch_plan`](crate::stage::fetch_plan).
pub fn gather<E>(
    missing: &[BlobDigest],
    mut locate: impl FnMut(&[BlobDigest]) -> Result<Vec<Held>, E>,
    mut read: impl FnMut(BundleDigest, u64) -> Result<BundleIndex, E>,
) -> Result<Vec<(BundleDigest, BundleIndex)>, E> {
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let mut gathered: BTreeMap<BundleDigest, (Vec<BlobDigest>, BundleIndex)> = BTreeMap::new();
    let mut add = |gathered: &mut BTreeMap<_, (Vec<_>, _)>, held: Vec<Held>| {
        for Held { bundle, bytes, blobs } in held {
            let entry = gathered.entry(bundle).or_default();
            entry.0.extend(blobs);
            entry.0.sort_unstable();
            entry.1 = read(bundle, bytes)?.keep(&entry.0);
        }
        Ok(())
    };
    add(&mut gathered, locate(missing)?)?;
    let segments = segments_elsewhere(&gathered);
    if !segments.is_empty() {
        add(&mut gathered, locate(&segments)?)?;
    }
    Ok(gathered
        .into_iter()
        .map(|(bundle, (_, index))| (bundle, index))
        .collect())
}

/// Segments that are listed and lie in none of these bundles, as far as their indexes were kept.
fn segments_elsewhere(gathered: &BTreeMap<BundleDigest, (Vec<BlobDigest>, BundleIndex)>) -> Vec<BlobDigest> {
    let indexes = || gathered.values().map(|(_, index)| index);
    let mut here: Vec<_> = indexes()
        .flat_map(BundleIndex::blobs)
        .map(|place| place.digest)
        .collect();
    here.sort_unstable();
    let listed = indexes().flat_map(BundleIndex::lists);
    let mut elsewhere: Vec<_> = listed
        .flat_map(|list| &list.segments)
        .map(|segment| segment.digest)
        .filter(|digest| here.binary_search(digest).is_err())
        .collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    elsewhere
}
