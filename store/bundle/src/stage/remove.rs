//! Listing staged releases, removing one, and sweeping what a crash left.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use ship_durable::{FileError, RemoveTreeError, fault, remove_tree, sweep_leftovers, sync_dir};
use ship_model::digest::ReleaseId;
use ship_model::manifest::MAX_ENTRIES;

use super::place::{KEPT_PREFIX, MANIFEST_SUFFIX, Place, STAGING_PREFIX, STAMPS_SUFFIX};
use super::refresh::{self, Before};
use super::staged::{StagedError, StagedRelease, open_tree};
use crate::scan::{Met, scan};

/// Why releases could not be listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("cannot list the releases in {}", releases.display())]
    List { releases: PathBuf, source: io::Error },
    #[error("cannot remove {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot put release {folder} aside")]
    Aside { folder: String, source: FileError },
    #[error(transparent)]
    Tree(#[from] RemoveTreeError),
}

/// A folder in `releases/`.
#[derive(Debug)]
pub struct Listed {
    pub folder: String,
    /// The release it holds; the error when it is not believed to hold one.
    pub release: Result<ReleaseId, StagedError>,
}

/// All release folders, sorted by name; ours and leftovers, but no file and no hidden name.
///
/// # Errors
/// [`RemoveError::List`]. An absent folder holds no release.
pub fn list_staged(releases: &Path) -> Result<Vec<Listed>, RemoveError> {
    let mut listed = Vec::new();
    for (name, is_folder) in names(releases)? {
        let Ok(place) = Place::new(releases, &name) else {
            continue;
        };
        if is_folder {
            let release = StagedRelease::open(place).map(|release| release.id());
            listed.push(Listed {
                folder: name.clone(),
                release,
            });
        }
    }
    Ok(listed)
}

fn names(releases: &Path) -> Result<Vec<(String, bool)>, RemoveError> {
    let failed = |source| RemoveError::List {
        releases: releases.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(releases) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let is_folder = entry.file_type().map_err(failed)?.is_dir();
        if let Ok(name) = entry.file_name().into_string() {
            names.push((name, is_folder));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes a release, staged or half staged. The caller makes sure that nothing runs from it.
///
/// It is no release any more from the first step on; a crash leaves something for [`sweep`]. An absent one is fine.
///
/// # Errors
/// [`RemoveError`].
pub fn remove_staged(place: Place<'_>) -> Result<(), RemoveError> {
    let aside_error = |source| RemoveError::Aside {
        folder: place.folder().to_owned(),
        source,
    };
    let shared = shared_inodes(place);
    remove_file(&place.stamps())?;
    sync_dir(place.releases()).map_err(aside_error)?;
    let passed = |source| RemoveError::File {
        path: place.tree(),
        source,
    };
    fault::point("bundle.remove.stamps.after").map_err(passed)?;
    let staging = place.staging();
    remove_tree(&staging)?;
    if std::fs::symlink_metadata(place.tree()).is_ok() {
        ship_durable::rename(&place.tree(), &staging).map_err(aside_error)?;
    }
    fault::point("bundle.remove.aside.after").map_err(passed)?;
    remove_file(&place.manifest())?;
    remove_tree(&staging)?;
    fault::point("bundle.remove.tree.after").map_err(passed)?;
    refresh::renew(place, &shared);
    Ok(())
}

/// Files of the tree that have names elsewhere, too.
fn shared_inodes(place: Place<'_>) -> Before {
    let mut looks = Vec::new();
    let mut meet = |met| {
        if let Met::Name(found) = met
            && found.kind() == FileType::RegularFile
            && found.links > 1
            && (looks.len() as u64) < 2 * MAX_ENTRIES
        {
            looks.push(found.stamp);
        }
    };
    // What cannot be listed costs hashing later, nothing else.
    if let Ok(root) = open_tree(place) {
        let _ = scan(&root, None, &mut meet);
    }
    Before::new(looks)
}

fn remove_file(path: &Path) -> Result<(), RemoveError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RemoveError::File {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Removes what crashes left in `releases`: staging folders, temporary files, trees without a valid record, records
/// without a tree. Returns the names removed.
///
/// Folders in `spare` stay as they are, whatever their record says: name what runs and what `current` leads to. What an
/// unfinished staging of one of `wanted` fetched stays for its next try. Nothing may stage or remove meanwhile.
///
/// # Errors
/// [`RemoveError`], at the first that cannot be removed.
pub fn sweep(releases: &Path, spare: &[&str], wanted: &[&str]) -> Result<Vec<String>, RemoveError> {
    let mut swept = Vec::new();
    sweep_leftovers(releases).map_err(|source| RemoveError::List {
        releases: releases.to_owned(),
        source,
    })?;
    for listed in list_staged(releases)? {
        if listed.release.is_ok() || spare.contains(&listed.folder.as_str()) {
            continue;
        }
        // A record that cannot be read now may be fine: only what is surely none is swept.
        if let Err(StagedError::Read { .. }) = listed.release {
            continue;
        }
        if let Ok(place) = Place::new(releases, &listed.folder) {
            remove_staged(place)?;
            swept.push(listed.folder);
        }
    }
    for (name, _) in names(releases)? {
        let orphan = [MANIFEST_SUFFIX, STAMPS_SUFFIX]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .is_some_and(|folder| std::fs::symlink_metadata(releases.join(folder)).is_err());
        if orphan {
            remove_tree(&releases.join(&name))?;
            swept.push(name);
        }
    }
    swept.extend(sweep_kept(releases, wanted)?);
    Ok(swept)
}

/// Removes what unfinished stagings left, but not that of `wanted` releases. Returns the names removed.
///
/// # Errors
/// [`RemoveError`], at the first that cannot be removed.
pub fn sweep_kept(releases: &Path, wanted: &[&str]) -> Result<Vec<String>, RemoveError> {
    let mut swept = Vec::new();
    for (name, _) in names(releases)? {
        let folder = [STAGING_PREFIX, KEPT_PREFIX]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix));
        if folder.is_some_and(|folder| !wanted.contains(&folder)) {
            remove_tree(&releases.join(&name))?;
            swept.push(name);
        }
    }
    Ok(swept)
}
