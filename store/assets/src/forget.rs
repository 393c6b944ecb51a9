//! Letting go of what nothing keeps any more.
//!
//! Who may decide that is not this room: it is told which paths have expired, and makes it so, however often it is told.
//! A release of which assets are forgotten first stops to count as held, so that whoever needs all of it brings it again;
//! then come its record, the map and the files. A crash leaves the path served as before, or a file that no record names,
//! which the next start removes.
//!
//! Who is told meanwhile that a path is wanted again gives another [`Word`], and from that moment on nothing that counts
//! as held is touched.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::RwLockWriteGuard;

use ship_durable::fault;
use ship_model::assets::folder_name;
use ship_model::digest::BlobDigest;
use ship_model::path::TreePath;
use ship_model::release::Target;

use crate::known::State;
use crate::record::{Record, RecordError};
use crate::union::Union;

/// What was let go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Files removed, and their bytes; bytes that a release's tree shares are not free yet.
    pub files: u64,
    pub bytes: u64,
}

/// Leave to forget, until the next is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word(u64);

/// Why not all of it was let go. What is left is served, and goes the next time.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    #[error("cannot change which assets a release has")]
    Record(#[from] RecordError),
    #[error("cannot remove expired asset {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("a newer word came; what was not let go yet stays")]
    Overtaken,
}

impl Union {
    /// Releases of which assets were forgotten, by number.
    pub fn faded(&self) -> Vec<Target> {
        self.state().faded.clone()
    }

    /// Makes every earlier word void: from when this returns, no release stops to count as held because of one.
    pub fn word(&self) -> Word {
        let mut state = self.state_mut();
        state.word += 1;
        Word(state.word)
    }

    /// Takes every asset whose path `is_gone` holds for out of the folder and out of what is served. Durable as far as
    /// the records say so when it returns. Not while releases are added.
    ///
    /// # Errors
    /// [`ForgetError`].
    pub fn forget(&self, word: Word, is_gone: &dyn Fn(&str) -> bool) -> Result<Forgotten, ForgetError> {
        let mut gone: HashSet<TreePath> = HashSet::new();
        for release in self.recorded() {
            let mut record = Record::read(&self.records().join(release.folder()))?;
            if record.fade(is_gone) {
                self.while_valid(word)?.fade(release);
                record.write_again(self.records())?;
            }
            let forgotten = record.forgotten.iter().filter(|asset| is_gone(&asset.url));
            gone.extend(forgotten.filter_map(|asset| folder_name(&asset.url)));
        }
        self.while_valid(word)?
            .files
            .retain(|name, _| !gone.contains(name));
        let mut done = Forgotten::default();
        for name in &gone {
            drop(self.while_valid(word)?);
            self.unlink(name, &mut done)?;
        }
        Ok(done)
    }

    fn while_valid(&self, word: Word) -> Result<RwLockWriteGuard<'_, State>, ForgetError> {
        let state = self.state_mut();
        match state.word == word.0 {
            true => Ok(state),
            false => Err(ForgetError::Overtaken),
        }
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
