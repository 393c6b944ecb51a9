//! Assets out of the store's bundles, as files of this machine: some at a time, each verified.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ship_bundle::{export, export_needs};
use ship_durable::remove_tree;
use ship_model::assets::Asset;
use ship_model::manifest::{Entry, EntryKind, Manifest, ManifestError};
use ship_model::name::AppName;
use ship_model::path::{PathError, TreePath};
use ship_model::spec::ReleaseSpec;

use super::super::super::bundles::Remote;
use crate::error::{CommandError, Exit};

/// Bytes that are fetched before they are sent on, but for one asset that is larger.
const BYTES: u64 = 64 << 20;
/// And assets.
const COUNT: usize = 4096;

/// Why it cannot be told what is to be fetched.
#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error("name a file that is fetched")]
    Name(#[from] PathError),
    #[error("list what is fetched")]
    List(#[from] ManifestError),
}

/// Parts of `assets` that are fetched at a time.
pub fn parts(assets: &[Asset]) -> impl Iterator<Item = &[Asset]> {
    let mut rest = assets;
    std::iter::from_fn(move || {
        let mut size = 0_u64;
        let fits = |asset: &&Asset| {
            size = size.saturating_add(asset.size);
            size <= BYTES
        };
        let many = rest.iter().take(COUNT).take_while(fits).count().max(1);
        let (part, left) = rest.split_at_checked(many)?;
        rest = left;
        Some(part)
    })
}

/// A part on this machine's disk, durable; removed when it is dropped.
#[derive(Debug)]
pub struct Fetched {
    folder: PathBuf,
    pub assets: Vec<Asset>,
}

impl Fetched {
    /// Fetches below `aside`, which has nothing else at that time.
    pub async fn fetch(
        app: &AppName,
        assets: &[Asset],
        remote: &Arc<Remote>,
        aside: &Path,
    ) -> Result<Self, CommandError> {
        let fetched = Self {
            folder: aside.join("part"),
            assets: assets.to_vec(),
        };
        let listed = list(app, assets).map_err(|error| CommandError::of(Exit::Error, &error))?;
        let (remote, folder) = (Arc::clone(remote), fetched.folder.clone());
        let fetching = tokio::task::spawn_blocking(move || {
            let indexes = remote.holding(&export_needs(&listed))?;
            export(&listed, &indexes, &*remote, &folder, &())
                .map_err(|error| CommandError::of(Exit::Error, &error))
        });
        let ended = fetching.await;
        ended.map_err(|source| CommandError::internal("fetch assets", source))??;
        Ok(fetched)
    }

    /// Each asset with its file.
    pub fn files(&self) -> impl Iterator<Item = (&Asset, PathBuf)> + Clone {
        let numbered = self.assets.iter().enumerate();
        numbered.map(|(at, asset)| (asset, self.folder.join(at.to_string())))
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // What stays goes with the folder it lies in.
        let _ = remove_tree(&self.folder);
    }
}

/// A tree with a file for each of them, by its place among them: two may have the same bytes.
fn list(app: &AppName, assets: &[Asset]) -> Result<Manifest, ListError> {
    let entry = |(at, asset): (usize, &Asset)| {
        Ok(Entry {
            path: TreePath::new(at.to_string().as_bytes())?,
            kind: EntryKind::File {
                executable: false,
                size: asset.size,
                digest: asset.digest,
            },
        })
    };
    let entries: Result<Vec<Entry>, PathError> = assets.iter().enumerate().map(entry).collect();
    Ok(Manifest::new(ReleaseSpec::static_files(app.clone()), entries?)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use ship_model::digest::BlobDigest;

    use super::*;

    #[test]
    fn parts_are_as_large_as_may_be() {
        let of = |size: u64| Asset {
            url_path: "/a".to_owned(),
            path: TreePath::new(b"a").unwrap(),
            digest: BlobDigest::of(b"a"),
            size,
            fingerprinted: true,
        };
        let cut = |sizes: &[u64]| -> Vec<usize> {
            let assets: Vec<Asset> = sizes.iter().map(|size| of(*size)).collect();
            parts(&assets).map(<[Asset]>::len).collect()
        };
        assert_eq!(cut(&[]), [0; 0]);
        assert_eq!(cut(&[1, BYTES - 1, 1]), [2, 1]);
        assert_eq!(cut(&[BYTES + 1, BYTES + 1, 0]), [1, 1, 1]);
        assert_eq!(cut(&[0; COUNT + 1]), [COUNT, 1]);
    }
}
