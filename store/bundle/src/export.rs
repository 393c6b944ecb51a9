//! A release as a plain folder, for people: ordinary modes, no shared links, nothing of ours.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use ship_durable::{FileError, RemoveTreeError, remove_tree};
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::manifest::Manifest;

use crate::beneath::Root;
use crate::index::BundleIndex;
use crate::progress::Progress;
use crate::stage::{BlobSource, BuildError, Builder, NoBundle, Ways, fetch_all, missing, supply};

/// Why a release was not exported. Then there is no new folder.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{} exists already: name a folder that does not", path.display())]
    Exists { path: PathBuf },
    #[error("{} does not name a folder", path.display())]
    NoName { path: PathBuf },
    #[error("cannot get all of the release")]
    Missing(#[source] NoBundle),
    #[error("cannot make folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("cannot make {} durable", path.display())]
    Durable { path: PathBuf, source: FileError },
    #[error("cannot remove an older attempt")]
    Leftover(#[source] RemoveTreeError),
}

/// The blobs that an export needs from bundles.
pub fn export_needs(manifest: &Manifest) -> Vec<BlobDigest> {
    missing(manifest, &[], None)
}

/// Writes the release's tree to the new folder `out`: files 0644 or 0755, folders 0755, links as published.
///
/// It is built beside `out` under a hidden name and renamed when complete. Returns the compressed bytes fetched.
///
/// # Errors
/// [`ExportError`]; what was built until then is removed.
pub fn export(
    manifest: &Manifest,
    bundles: &[(BundleDigest, BundleIndex)],
    source: &dyn BlobSource,
    out: &Path,
    progress: &dyn Progress,
) -> Result<u64, ExportError> {
    let path = || out.to_owned();
    if std::fs::symlink_metadata(out).is_ok() {
        return Err(ExportError::Exists { path: path() });
    }
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(
        out.file_name()
            .ok_or_else(|| ExportError::NoName { path: path() })?,
    );
    hidden.push(".ship-export");
    let aside = out.with_file_name(hidden);
    remove_tree(&aside).map_err(ExportError::Leftover)?;
    let ways = Ways::of(&export_needs(manifest), bundles).map_err(ExportError::Missing)?;
    let exported = build(manifest, bundles, source, &aside, &ways, progress).and_then(|fetched| {
        let durable = ship_durable::sync_fs(&aside).and_then(|()| ship_durable::rename(&aside, out));
        let durable = durable.map_err(|source| ExportError::Durable { path: path(), source });
        durable.map(|()| fetched)
    });
    if exported.is_err() {
        let _ = remove_tree(&aside);
    }
    exported
}

fn build(
    manifest: &Manifest,
    bundles: &[(BundleDigest, BundleIndex)],
    source: &dyn BlobSource,
    aside: &Path,
    ways: &Ways<'_>,
    progress: &dyn Progress,
) -> Result<u64, ExportError> {
    let folder_error = |source| ExportError::Folder {
        path: aside.to_owned(),
        source,
    };
    std::fs::create_dir(aside).map_err(folder_error)?;
    let root = Root::open(aside).map_err(folder_error)?;
    let groups = supply(manifest, &[], None);
    progress.total(groups.iter().map(|group| group.size).sum());
    let builder = Builder::new(root, manifest, &[], &groups, false, progress);
    let folders = builder.folders(&BTreeMap::new())?;
    builder.local()?;
    let fetched = fetch_all(&builder, ways, bundles, source)?;
    builder.links(&BTreeMap::new())?;
    for folder in folders.iter().rev() {
        let opened = builder.root.folder(folder).map_err(folder_error)?;
        let open = rustix::fs::Mode::from_raw_mode(0o755);
        rustix::fs::fchmod(opened, open).map_err(|error| folder_error(error.into()))?;
    }
    Ok(fetched)
}
