//! Where a staged release and what belongs to it lie on a host.
//!
//! ```text
//! releases/455-3f2a91c07be4            the tree, complete and read-only; nothing of ours inside
//! releases/455-3f2a91c07be4.manifest   its manifest
//! releases/455-3f2a91c07be4.stamps     what its files looked like when they were last hashed; written last
//! releases/.staging-455-3f2a91c07be4   the tree while it is built or removed, or what a failed fetch left of it
//! releases/.kept-455-3f2a91c07be4      what a failed fetch left, while the next try takes from it
//! ```

use std::path::{Path, PathBuf};

/// A staged or to be staged release: a folder name within the app's `releases/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    releases: &'a Path,
    folder: &'a str,
}

/// The name cannot be that of a release's folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot name a release's folder: letters, digits, '-' and '_' are expected, 100 at most")]
pub struct FolderNameError {
    name: String,
}

pub(crate) const STAGING_PREFIX: &str = ".staging-";
pub(crate) const KEPT_PREFIX: &str = ".kept-";
pub(crate) const MANIFEST_SUFFIX: &str = ".manifest";
pub(crate) const STAMPS_SUFFIX: &str = ".stamps";

impl<'a> Place<'a> {
    /// # Errors
    /// [`FolderNameError`].
    pub fn new(releases: &'a Path, folder: &'a str) -> Result<Self, FolderNameError> {
        let fine = !folder.is_empty()
            && folder.len() <= 100
            && folder
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !fine {
            return Err(FolderNameError {
                name: folder.chars().take(100).collect(),
            });
        }
        Ok(Self { releases, folder })
    }

    pub fn releases(&self) -> &'a Path {
        self.releases
    }

    pub fn folder(&self) -> &'a str {
        self.folder
    }

    /// The release's tree.
    pub fn tree(&self) -> PathBuf {
        self.releases.join(self.folder)
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.releases.join(format!("{STAGING_PREFIX}{}", self.folder))
    }

    pub(crate) fn kept(&self) -> PathBuf {
        self.releases.join(format!("{KEPT_PREFIX}{}", self.folder))
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.releases.join(format!("{}{MANIFEST_SUFFIX}", self.folder))
    }

    pub(crate) fn stamps(&self) -> PathBuf {
        self.releases.join(format!("{}{STAMPS_SUFFIX}", self.folder))
    }
}
