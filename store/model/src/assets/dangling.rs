//! Links that pages would ask for in vain.

use super::fingerprint::{Fingerprint, fingerprint};
use super::{AssetsError, MAX_HOPS, file_at, resolve};
use crate::manifest::{EntryKind, EntryRef, Manifest};

/// Refuses a fingerprinted name in an asset root that is a link to no file of the release: pages would name it for ever,
/// and nobody could serve it. Links to folders, and links without a fingerprint, make no promise.
///
/// For whoever publishes; a release that stands is served as it is.
pub fn refuse_dangling(manifest: &Manifest) -> Result<(), AssetsError> {
    for root in &manifest.spec().assets {
        for entry in manifest.entries().iter() {
            let EntryKind::Link { target } = entry.kind else {
                continue;
            };
            let named = root.below(entry.path).is_some()
                && fingerprint(entry.path.to_path().file_name()) == Fingerprint::Sure;
            if named && file_at(manifest, entry).is_none() && !is_folder(manifest, entry) {
                return Err(AssetsError::Dangling {
                    link: entry.path.to_path(),
                    target: String::from_utf8_lossy(target).into_owned(),
                });
            }
        }
    }
    Ok(())
}

/// Whether a link leads to a folder of the release.
fn is_folder(manifest: &Manifest, link: EntryRef<'_>) -> bool {
    let mut path = link.path.as_bytes().to_vec();
    let mut at = link;
    for _ in 0..MAX_HOPS {
        let EntryKind::Link { target } = at.kind else {
            return matches!(at.kind, EntryKind::EmptyFolder);
        };
        let Some(next) = resolve(&path, target) else {
            return false;
        };
        path = next;
        match manifest.get(&path) {
            Some(next) => at = next,
            None => return has_names_below(manifest, path),
        }
    }
    false
}

fn has_names_below(manifest: &Manifest, mut folder: Vec<u8>) -> bool {
    folder.push(b'/');
    let entries = manifest.entries();
    let first = entries.partition_point(|path| path.as_bytes() < &folder[..]);
    let below = entries
        .get(first)
        .is_some_and(|entry| entry.path.as_bytes().starts_with(&folder));
    below || folder == b"/"
}
