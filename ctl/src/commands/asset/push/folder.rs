//! A folder of this machine as the place: each file whole and verified before it has its name, and none ever replaced.
//!
//! ```text
//! DIR/static/app.3f9a12bc.js     below it by URL path, as in every folder of assets
//! DIR/.ship-push-k3x1v0/         what is on its way; what a killed push left of it goes when the next one begins
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;
use ship_durable::{FileError, RemoveTreeError, remove_tree, sync_fs};
use ship_model::assets::{Asset, folder_name};
use ship_model::digest::BlobDigest;
use tempfile::TempDir;

const ASIDE: &str = ".ship-push-";

/// Why a folder does not have all that it should.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{} is not a folder: make it, or mount what belongs there", folder.display())]
    Missing { folder: PathBuf },
    #[error("another push to {} is under way", folder.display())]
    Busy { folder: PathBuf },
    #[error("cannot use {}", path.display())]
    Use { path: PathBuf, source: io::Error },
    #[error("cannot remove what an older push left")]
    Leftover(#[source] RemoveTreeError),
    #[error(
        "{} has other bytes than {url}: somebody else wrote it, and it is never replaced; remove it, or push to another folder",
        path.display()
    )]
    Other { path: PathBuf, url: String },
    #[error("cannot make it durable")]
    Durable(#[from] FileError),
}

/// A folder that is held against other pushes until this is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked, where its file system knows locks.
    _held: File,
}

impl Folder {
    /// Takes the folder, which is never made here: below a mount that is missing it would be the wrong one.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let used = |source| FolderError::Use {
            path: path.to_owned(),
            source,
        };
        if !path.is_dir() {
            let folder = path.to_owned();
            return Err(FolderError::Missing { folder });
        }
        let held = File::open(path).map_err(used)?;
        match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
            // Only who has it to itself knows that what lies aside is nobody's.
            Ok(()) => sweep(path)?,
            Err(Errno::WOULDBLOCK) => {
                let folder = path.to_owned();
                return Err(FolderError::Busy { folder });
            }
            Err(_) => {}
        }
        Ok(Self {
            path: path.to_owned(),
            _held: held,
        })
    }

    /// Where files are put together before they have their names; gone with what is returned.
    pub fn aside(&self) -> Result<TempDir, FolderError> {
        let made = tempfile::Builder::new().prefix(ASIDE).tempdir_in(&self.path);
        made.map_err(|source| self.used(&self.path, source))
    }

    fn used(&self, path: &Path, source: io::Error) -> FolderError {
        FolderError::Use {
            path: path.to_owned(),
            source,
        }
    }

    /// Which of `assets` are not there; those that are were read. Nobody asks for a path that can be no file's: it is left out.
    pub fn lacking(&self, assets: &[Asset]) -> Result<Vec<Asset>, FolderError> {
        let mut lacking = Vec::new();
        for asset in assets {
            if let Some(path) = self.place(asset)
                && !self.has(asset, &path)?
            {
                lacking.push(asset.clone());
            }
        }
        Ok(lacking)
    }

    fn place(&self, asset: &Asset) -> Option<PathBuf> {
        Some(self.path.join(folder_name(&asset.url_path)?.as_path()))
    }

    fn has(&self, asset: &Asset, path: &Path) -> Result<bool, FolderError> {
        match digest_of(path, asset.size) {
            Ok(Some(digest)) if digest == asset.digest => Ok(true),
            Ok(_) => Err(FolderError::Other {
                path: path.to_owned(),
                url: asset.url_path.clone(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.used(path, source)),
        }
    }

    /// Gives each asset's verified and synced file its name there; when it returns, the names are durable, too.
    pub fn take<'a>(
        &self,
        files: impl Iterator<Item = (&'a Asset, PathBuf)>,
        told: &dyn Fn(&Asset),
    ) -> Result<(), FolderError> {
        for (asset, file) in files {
            let Some(path) = self.place(asset) else { continue };
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(|source| self.used(folder, source))?;
            }
            match name(&file, &path) {
                Ok(()) => told(asset),
                // Somebody was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.has(asset, &path)? => {}
                Err(source) => return Err(self.used(&path, source)),
            }
        }
        Ok(sync_fs(&self.path)?)
    }
}

fn sweep(folder: &Path) -> Result<(), FolderError> {
    let used = |source| FolderError::Use {
        path: folder.to_owned(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(used)? {
        let entry = entry.map_err(used)?;
        if entry.file_name().as_encoded_bytes().starts_with(ASIDE.as_bytes()) {
            remove_tree(&entry.path()).map_err(FolderError::Leftover)?;
        }
    }
    Ok(())
}

/// Never replaces. A file system without such a rename is asked for a second name of the file instead.
fn name(file: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, file, CWD, path, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            Ok(rustix::fs::linkat(CWD, file, CWD, path, AtFlags::empty())?)
        }
        done => Ok(done?),
    }
}

/// The digest of a file; none for what is not a file of `size` bytes.
fn digest_of(path: &Path, size: u64) -> io::Result<Option<BlobDigest>> {
    let found = fs::metadata(path)?;
    if !found.is_file() || found.len() != size {
        return Ok(None);
    }
    let file = File::open(path)?;
    let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; 128 << 10], 0);
    while at < size {
        let got = file.read_at(&mut buffer, at)?;
        if got == 0 {
            return Ok(None);
        }
        hasher.update(&buffer[..got]);
        at += got as u64;
    }
    Ok(Some(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use ship_model::path::TreePath;

    use super::*;

    fn asset(url: &str, bytes: &[u8]) -> Asset {
        Asset {
            url_path: url.to_owned(),
            path: TreePath::new(b"x").unwrap(),
            digest: BlobDigest::of(bytes),
            size: bytes.len() as u64,
            fingerprinted: true,
        }
    }

    #[test]
    fn files_get_their_names_once_and_are_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".ship-push-old")).unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(!dir.path().join(".ship-push-old").exists());
        assert!(matches!(Folder::open(dir.path()), Err(FolderError::Busy { .. })));
        let one = asset("/static/a%20b.js", b"one");
        let file = folder.aside().unwrap().keep().join("one");
        ship_durable::write_file(&file, b"one").unwrap();
        let all = std::slice::from_ref(&one);
        assert_eq!(folder.lacking(all).unwrap(), all);
        folder.take([(&one, file.clone())].into_iter(), &|_| {}).unwrap();
        assert_eq!(fs::read(dir.path().join("static/a b.js")).unwrap(), b"one");
        assert_eq!(folder.lacking(all).unwrap(), []);
        // By another, meanwhile.
        ship_durable::write_file(&file, b"one").unwrap();
        folder.take([(&one, file.clone())].into_iter(), &|_| {}).unwrap();
        for other in [&b"two"[..], b"longer"] {
            ship_durable::write_file(&dir.path().join("static/a b.js"), other).unwrap();
            assert!(matches!(folder.lacking(all), Err(FolderError::Other { .. })));
            let taken = folder.take([(&one, file.clone())].into_iter(), &|_| {});
            assert!(matches!(taken, Err(FolderError::Other { .. })), "{taken:?}");
            assert_eq!(fs::read(dir.path().join("static/a b.js")).unwrap(), other);
        }
        drop(folder);
        Folder::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let missing = Folder::open(&dir.path().join("mnt"));
        assert!(matches!(missing, Err(FolderError::Missing { .. })));
    }
}
