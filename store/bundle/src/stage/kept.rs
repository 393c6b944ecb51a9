//! What a staging that broke off while it fetched leaves for the next try: files that are whole.
//!
//! Only a failed fetch leaves anything, in `.staging-<folder>`; the next try of the same release renames that to
//! `.kept-<folder>`, hashes what it needs from it, moves it into its new staging folder and removes the rest. Nothing in
//! it is believed by its name: after a power cut a file may be empty or older.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::fs::AtFlags;
use ship_durable::{RemoveTreeError, remove_tree};
use ship_model::digest::BlobDigest;
use ship_model::path::PathRef;

use super::place::Place;
use super::staged::file_mode;
use crate::beneath::{Parents, Root};
use crate::content;

/// Why what an earlier try left cannot be looked at. It is swept, or taken away by the next try.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("cannot put aside what an earlier try of {folder} left")]
    Aside {
        folder: String,
        source: ship_durable::FileError,
    },
    #[error("cannot open what an earlier try of {folder} left")]
    Open { folder: String, source: io::Error },
    #[error("cannot remove what an earlier try left")]
    Remove(#[from] RemoveTreeError),
}

/// Files that an earlier try of a release got whole.
#[derive(Debug)]
pub struct Kept {
    root: Root,
    path: PathBuf,
    /// What was hashed already; by the path's digest, so that a path takes no room of its own.
    known: Mutex<HashMap<[u8; 16], bool>>,
}

impl Kept {
    /// Takes over what the last try at `place` left; none when there is nothing.
    ///
    /// The caller holds the lock that [`stage`](super::stage) asks for.
    ///
    /// # Errors
    /// [`KeptError`].
    pub fn take(place: Place<'_>) -> Result<Option<Self>, KeptError> {
        let folder = || place.folder().to_owned();
        let (staging, path) = (place.staging(), place.kept());
        if std::fs::symlink_metadata(&staging).is_ok() {
            // What an even earlier try left was moved from there, or is not needed.
            remove_tree(&path)?;
            ship_durable::rename(&staging, &path).map_err(|source| KeptError::Aside {
                folder: folder(),
                source,
            })?;
        }
        let opened = Root::open(place.releases()).and_then(|releases| {
            let name = path.file_name().unwrap_or_default();
            releases.folder(name.as_encoded_bytes())
        });
        match opened {
            Ok(root) => Ok(Some(Self {
                root,
                path,
                known: Mutex::default(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // A file or a link has its name: nothing that a staging left.
            Err(_) if std::fs::symlink_metadata(&path).is_ok_and(|found| !found.is_dir()) => {
                remove_tree(&path)?;
                Ok(None)
            }
            Err(source) => Err(KeptError::Open {
                folder: folder(),
                source,
            }),
        }
    }

    /// Whether the file is there with these bytes. Hashed once.
    pub(super) fn holds(
        &self,
        path: PathRef<'_>,
        executable: bool,
        size: u64,
        digest: BlobDigest,
        buffer: &mut Vec<u8>,
    ) -> bool {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(path.as_bytes()).as_bytes()[..16]);
        let known = |known: &Mutex<HashMap<_, _>>| known.lock().ok()?.get(&key).copied();
        if let Some(holds) = known(&self.known) {
            return holds;
        }
        let holds = self.is_whole(path, executable, size, digest, buffer);
        if let Ok(mut known) = self.known.lock() {
            known.insert(key, holds);
        }
        holds
    }

    /// A file gets its last mode when its bytes were checked; the hash tells whether they reached the disk.
    fn is_whole(
        &self,
        path: PathRef<'_>,
        executable: bool,
        size: u64,
        digest: BlobDigest,
        buffer: &mut Vec<u8>,
    ) -> bool {
        let mut parents = Parents::of(&self.root);
        let stat = parents
            .split(path.as_bytes())
            .and_then(|(parent, name)| Ok(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?));
        let looks = stat.is_ok_and(|stat| {
            stat.st_mode & 0o7777 == file_mode(executable) && u64::try_from(stat.st_size) == Ok(size)
        });
        looks
            && self
                .root
                .read(path.as_bytes())
                .and_then(|mut file: File| {
                    content::stamp_of(&file)?;
                    content::hash(&mut file, size, buffer, &(), |_| {})
                })
                .is_ok_and(|(found, read)| found == digest && read == size)
    }

    /// Moves a file that [`Self::holds`] into the tree that is being built, under the same name.
    pub(super) fn give(&self, path: PathRef<'_>, to: &Root) -> io::Result<()> {
        let (mut sources, mut targets) = (Parents::of(&self.root), Parents::of(to));
        let (source, name) = sources.split(path.as_bytes())?;
        let (target, new_name) = targets.split(path.as_bytes())?;
        Ok(
            rustix::fs::renameat_with(source, name, target, new_name, rustix::fs::RenameFlags::NOREPLACE)
                .or_else(|error| match error {
                    // Some file systems cannot refuse to replace; the tree being built is nobody's yet.
                    rustix::io::Errno::INVAL => rustix::fs::renameat(source, name, target, new_name),
                    other => Err(other),
                })?,
        )
    }

    /// A file that an earlier try began, which may have holes; none when there is nothing of that name.
    pub(super) fn part(&self, path: PathRef<'_>) -> Option<File> {
        let file = self.root.read(path.as_bytes()).ok()?;
        content::stamp_of(&file).is_ok().then_some(file)
    }

    /// Removes what is left.
    pub(super) fn remove(&self) -> Result<(), RemoveTreeError> {
        remove_tree(&self.path)
    }
}
