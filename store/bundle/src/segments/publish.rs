//! Cutting the large files of a release, where they lie in a tree or elsewhere.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use ship_model::digest::BlobDigest;
use ship_model::manifest::{EntryKind, Manifest};
use ship_model::path::TreePath;

use super::{LARGE, SegmentList, cut};
use crate::beneath::Root;
use crate::delta::{BlobBytes, Stream};
use crate::progress::Progress;

/// Why the large files of a tree could not be cut.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error("cannot read folder {}", path.display())]
    Root { path: PathBuf, source: io::Error },
    #[error("cannot read \"{path}\"")]
    Read { path: TreePath, source: io::Error },
    #[error("\"{path}\" changed since it was read first: publish when the build is done")]
    Changed { path: TreePath },
}

/// The lists of those `wanted` blobs that are large, ascending by blob; each is checked against the blob's digest.
///
/// Memory: the lists, and 16 MiB for each core.
///
/// # Errors
/// [`CutError`].
pub fn cut_files(
    root: &Path,
    manifest: &Manifest,
    wanted: &HashSet<BlobDigest>,
    progress: &dyn Progress,
) -> Result<Vec<SegmentList>, CutError> {
    let opened = Root::open(root).map_err(|source| CutError::Root {
        path: root.to_owned(),
        source,
    })?;
    let large = large_of(manifest, wanted);
    progress.total(large.iter().map(|(_, size, _)| size).sum());
    let lists = large.into_par_iter().map(|(digest, size, path)| {
        let list = opened.read(path.as_bytes()).and_then(|file| {
            cut(file, size, |segment, _| {
                progress.done(u64::from(segment.len));
                Ok(())
            })
        });
        match list {
            Err(source) => Err(CutError::Read { path, source }),
            Ok(list) if list.blob != digest => Err(CutError::Changed { path }),
            Ok(list) => Ok(list),
        }
    });
    lists.collect()
}

/// As [`cut_files`], of blobs that lie elsewhere than in a tree. One after another, since they are read once more to be packed.
///
/// # Errors
/// [`CutError::Read`] and [`CutError::Changed`].
pub fn cut_blobs(
    from: &dyn BlobBytes,
    manifest: &Manifest,
    wanted: &HashSet<BlobDigest>,
) -> Result<Vec<SegmentList>, CutError> {
    let lists = large_of(manifest, wanted)
        .into_iter()
        .map(|(digest, size, path)| {
            let content = Stream::new(from, digest, 0..size);
            match cut::<io::Error>(content, size, |_, _| Ok(())) {
                Err(source) => Err(CutError::Read { path, source }),
                Ok(list) if list.blob != digest => Err(CutError::Changed { path }),
                Ok(list) => Ok(list),
            }
        });
    lists.collect()
}

/// Ascending by blob, each with the first path that has it.
fn large_of(manifest: &Manifest, wanted: &HashSet<BlobDigest>) -> Vec<(BlobDigest, u64, TreePath)> {
    let mut large: Vec<(BlobDigest, u64, TreePath)> = Vec::new();
    for entry in manifest.entries().iter() {
        if let EntryKind::File { size, digest, .. } = entry.kind
            && size > LARGE
            && wanted.contains(&digest)
        {
            large.push((digest, size, entry.path.to_path()));
        }
    }
    large.sort_unstable();
    large.dedup_by_key(|(digest, ..)| *digest);
    large
}
