//! Letting go of what nothing keeps any more.
//!
//! Who may decide that is not this room: it is told which paths have expired, and makes it so, however often it is told.
//! Records come first, then the map, then the files. A crash leaves the path served as before, or a file that no record
//! names, which the next start removes. A release of which assets were forgotten does not count as held any more, so
//! that whoever needs all of it brings it again.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use ship_durable::fault;
use ship_model::digest::BlobDigest;
use ship_model::path::TreePath;
use ship_model::release::Target;

use crate::record::{Record, RecordError};
use crate::union::Union;
use crate::url::folder_name;

/// What was let go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Files removed, and their bytes; bytes that a release's tree shares are not free yet.
    pub files: u64,
    pub bytes: u64,
}

/// Why not all of it was let go. What is left is served, and goes the next time.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    #[error("cannot change which assets a release has")]
    Record(#[from] RecordError),
    #[error("cannot remove expired asset {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
}

impl Union {
    /// Releases of which assets were forgotten, by number.
    pub fn faded(&self) -> Vec<Target> {
        self.state().faded.clone()
    }

    /// Takes every asset whose path `is_gone` holds for out of the folder and out of what is served. Durable as far as
    /// the records say so when it returns. Not while releases are added.
    ///
    /// # Errors
    /// [`ForgetError`].
    pub fn forget(&self, is_gone: &dyn Fn(&str) -> bool) -> Result<Forgotten, ForgetError> {
        let mut gone: HashSet<TreePath> = HashSet::new();
        let mut kept: Vec<Target> = self.holds();
        kept.extend(self.faded());
        for release in kept {
            let mut record = Record::read(&self.records().join(release.folder()))?;
            if record.fade(is_gone) {
                record.write_again(self.records())?;
                self.state_mut().fade(release);
            }
            let forgotten = record.forgotten.iter().filter(|asset| is_gone(&asset.url));
            gone.extend(forgotten.filter_map(|asset| folder_name(&asset.url)));
        }
        {
            let mut state = self.state_mut();
            state.files.retain(|name, _| !gone.contains(name));
        }
        let mut done = Forgotten::default();
        for name in &gone {
            self.unlink(name, &mut done)?;
        }
        Ok(done)
    }

    /// Removes a file that no record names.
    pub(crate) fn unlink(&self, name: &TreePath, done: &mut Forgotten) -> Result<(), ForgetError> {
        let path = self.root().join(name.as_path());
        let removed = fault::point("assets.forget.unlink").and_then(|()| {
            let bytes = fs::symlink_metadata(&path)?.len();
            fs::remove_file(&path).map(|()| bytes)
        });
        match removed {
            Ok(bytes) => {
                done.files += 1;
                done.bytes += bytes;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(ForgetError::Remove { path, source }),
        }
    }

    /// Hands the url, content and size of each asset that was forgotten to `visit`, with a release that had it.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn walk_forgotten(
        &self,
        mut visit: impl FnMut(Target, &str, BlobDigest, u64),
    ) -> Result<(), RecordError> {
        for release in self.faded() {
            let record = Record::read(&self.records().join(release.folder()))?;
            let assets = record.forgotten.iter();
            assets.for_each(|asset| visit(release, &asset.url, asset.digest, asset.size));
        }
        Ok(())
    }
}
