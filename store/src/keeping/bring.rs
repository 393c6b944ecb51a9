//! Bytes of covered blobs, for somebody who needs them: put into an ordinary bundle again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use ship_model::digest::{BlobDigest, BundleDigest, ReleaseId};
use ship_model::manifest::{Entry, EntryKind, Manifest, ManifestError};
use ship_model::path::TreePath;
use ship_model::spec::ReleaseSpec;

use super::laid::{Laid, LayError, manifest};
use super::made::{MakeBundleError, Making};
use crate::engine::Blobs;
use crate::ledger::BundleFacts;
use crate::locate::Places;

/// While somebody waits.
const LEVEL: i32 = ship_bundle::DEFAULT_LEVEL;

/// Why covered blobs lie in no bundle yet.
#[derive(Debug, thiserror::Error)]
pub enum BringError {
    #[error("cannot decode what is kept as deltas")]
    Lay(#[from] LayError),
    #[error("cannot make a bundle of what is kept as deltas")]
    Make(#[from] MakeBundleError),
    #[error("cannot name what a bundle is made of")]
    Names(#[from] ManifestError),
}

/// Sees to it that bundles carry all of `wanted` that kept deltas give; what lies nowhere stays missing.
///
/// Returns at once when there is nothing to do. Blocks otherwise, one caller after another: who waited for the same finds it done.
///
/// # Errors
/// [`BringError`].
pub fn bring(blobs: &dyn Blobs, places: &Places, wanted: &[BlobDigest]) -> Result<(), BringError> {
    if places.covered_only(wanted).is_empty() {
        return Ok(());
    }
    let _turn = places.bringing();
    let left = places.covered_only(wanted);
    if left.is_empty() {
        return Ok(());
    }
    let began = Instant::now();
    let from = Laid::out(blobs, places, &left)?;
    let (count, named) = (left.len(), named(blobs, places, &left)?);
    for (bundle, facts) in carry(blobs, places, named, &from)? {
        places.brought(bundle);
        let ms = began.elapsed().as_millis() as u64;
        tracing::info!(%bundle, blobs = count, bytes = facts.bytes, ms, "blobs that were kept as deltas are in a bundle again");
    }
    Ok(())
}

/// Puts blobs that are laid out into bundles, each under the name that it has in some release.
pub(crate) fn carry(
    blobs: &dyn Blobs,
    places: &Places,
    mut named: HashMap<BlobDigest, Entry>,
    from: &Laid,
) -> Result<Vec<(BundleDigest, BundleFacts)>, BringError> {
    let mut made = Vec::new();
    while !named.is_empty() {
        let manifest = one_tree(&mut named)?;
        let making = Making {
            blobs,
            places,
            manifest: &manifest,
            from,
            level: LEVEL,
            // Beside everything else that goes on: in bounded memory rather than on all cores.
            at_once: 1,
            whole: true,
            ask: &|| Ok(()),
        };
        let wanted: HashSet<BlobDigest> = manifest.files().map(|(_, _, _, digest)| digest).collect();
        made.push(making.make(&wanted)?);
    }
    Ok(made)
}

/// What each blob is called in the release whose delta gives it.
fn named(
    blobs: &dyn Blobs,
    places: &Places,
    wanted: &[BlobDigest],
) -> Result<HashMap<BlobDigest, Entry>, BringError> {
    let mut givers: BTreeMap<ReleaseId, HashSet<BlobDigest>> = BTreeMap::new();
    for blob in wanted {
        if let Some(giver) = places.giver(blob) {
            givers.entry(giver).or_default().insert(*blob);
        }
    }
    let mut named = HashMap::new();
    for (giver, wanted) in givers {
        let manifest = manifest(blobs, giver)?;
        for entry in manifest.entries().iter() {
            if let EntryKind::File { digest, .. } = entry.kind
                && wanted.contains(&digest)
            {
                named.entry(digest).or_insert_with(|| entry.to_entry());
            }
        }
    }
    Ok(named)
}

/// As many of `named` as can stand beside each other in one tree; takes them out. Blobs of several releases may be called the
/// same.
fn one_tree(named: &mut HashMap<BlobDigest, Entry>) -> Result<Manifest, BringError> {
    let mut taken: BTreeMap<TreePath, Entry> = BTreeMap::new();
    let mut folders: HashSet<Vec<u8>> = HashSet::new();
    // In an order that is the same each time.
    let mut left: Vec<_> = std::mem::take(named).into_iter().collect();
    left.sort_unstable_by_key(|(blob, _)| *blob);
    for (blob, entry) in left {
        let path = entry.path.as_bytes();
        let above: Vec<&[u8]> = above(path).collect();
        let file_above = above
            .iter()
            .any(|folder| TreePath::new(folder).is_ok_and(|folder| taken.contains_key(&folder)));
        if taken.contains_key(&entry.path) || folders.contains(path) || file_above {
            named.insert(blob, entry);
            continue;
        }
        folders.extend(above.into_iter().map(<[u8]>::to_vec));
        taken.insert(entry.path.clone(), entry);
    }
    let app = ship_model::name::AppName::new("kept").map_err(|_| ManifestError::Spec)?;
    let spec = ReleaseSpec::static_files(app);
    Ok(Manifest::new(spec, taken.into_values().collect())?)
}

/// The folders that a path lies in.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.filter_map(|(at, _)| path.get(..at))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn names_that_exclude_each_other_go_into_trees_of_their_own() {
        let paths = ["a", "a", "a/b", "b/c", "b", "d"];
        let mut named = HashMap::new();
        for (number, path) in paths.iter().enumerate() {
            let digest = BlobDigest::from_bytes([number as u8; 32]);
            let kind = EntryKind::File {
                executable: false,
                size: 1,
                digest,
            };
            let path = TreePath::new(path.as_bytes()).unwrap();
            named.insert(digest, Entry { path, kind });
        }
        let mut trees = Vec::new();
        while !named.is_empty() {
            let before = named.len();
            let tree = one_tree(&mut named).unwrap();
            assert!(named.len() < before);
            let names: Vec<_> = tree.files().map(|(path, ..)| path.to_string()).collect();
            trees.push(names.join(" "));
        }
        assert_eq!(trees, ["a b/c d", "a b", "a/b"]);
    }
}
