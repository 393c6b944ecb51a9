//! Objects as files of a local folder.
//!
//! ```text
//! bundle/3f/3f9a…64 digits      one file per object, read-only, never changed
//! manifest/07/07c1…             and so are delta/ and kept/
//! incoming/.tmp-…               staged; swept when the folder is opened
//! quarantine/bundle-3f9a…       damaged, kept for whoever wants to look
//! ```
//! A name appears by one rename after its bytes are synced: whatever has a digest's name was whole once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::Advice;
use ship_durable::{LEFTOVER_PREFIX, fault};

use super::{Blobs, BlobsError, Object, ObjectKind, ObjectReader, Staged};

/// Bytes that must stay free at least, whatever the disk's size.
const FREE_FLOOR: u64 = 64 << 20;

/// Objects below one folder, which must not be open twice: the store's lock sees to that.
#[derive(Debug)]
pub struct FsBlobs {
    root: PathBuf,
    next: AtomicU64,
}

impl FsBlobs {
    /// Opens the folder, making it when absent, and sweeps what a crash left staged.
    pub fn open(root: &Path) -> Result<Self, BlobsError> {
        make_folders(root)?;
        let incoming = root.join("incoming");
        ship_durable::sweep_leftovers(&incoming).map_err(io_at("sweep", &incoming))?;
        Ok(Self {
            root: root.to_owned(),
            next: AtomicU64::new(0),
        })
    }

    /// Objects to be read beside a store that may have the folder open: nothing is made and nothing is swept.
    pub fn beside(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            next: AtomicU64::new(0),
        }
    }

    /// The file that an object lies in.
    pub fn file_of(&self, object: Object) -> PathBuf {
        self.path(object)
    }

    fn path(&self, object: Object) -> PathBuf {
        let hex = object.hex();
        let folder = self.root.join(object.kind().as_str()).join(&hex[..2]);
        folder.join(hex)
    }
}

#[derive(Debug)]
struct FsReader {
    file: File,
    len: u64,
}

impl ObjectReader for FsReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        // The kernel refuses offsets beyond what a file system can hold.
        if offset >= self.len {
            return Ok(0);
        }
        self.file.read_at(buffer, offset)
    }

    fn drop_cached(&self) {
        // Advice only.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
    }
}

impl Blobs for FsBlobs {
    /// Uploads stop before the disk is full, so that everything else goes on.
    fn room(&self) -> Result<(), BlobsError> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|error| io_at("ask for free space of", &self.root)(error.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        // A twentieth of a small disk, the floor on a large one.
        let wanted = FREE_FLOOR.min(total / 20);
        if free < wanted {
            return Err(BlobsError::DiskFull { free, wanted });
        }
        Ok(())
    }

    fn stage(&self) -> Result<Staged, BlobsError> {
        self.room()?;
        // The folder is ours alone while the store's lock is held, so a counter is enough.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let place = self
            .root
            .join("incoming")
            .join(format!("{LEFTOVER_PREFIX}{number:016x}"));
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&place);
        let file = opened.map_err(io_at("create", &place))?;
        Ok(Staged::new(file, Some(place)))
    }

    fn keep(&self, staged: Staged, object: Object) -> Result<(), BlobsError> {
        staged.must_be(object)?;
        let target = self.path(object);
        let Some(from) = staged.place() else {
            return Err(io_at("keep an object without a name as", &target)(
                io::ErrorKind::InvalidInput.into(),
            ));
        };
        sync_staged(&staged).map_err(io_at("sync", from))?;
        ship_durable::rename(from, &target).map_err(|source| BlobsError::Durable {
            action: format!("keep {object}"),
            source,
        })?;
        staged.moved();
        Ok(())
    }

    fn open(&self, object: Object) -> Result<Box<dyn ObjectReader>, BlobsError> {
        let path = self.path(object);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BlobsError::Absent { object });
            }
            Err(error) => return Err(io_at("open", &path)(error)),
        };
        let len = file.metadata().map_err(io_at("read", &path))?.len();
        Ok(Box::new(FsReader { file, len }))
    }

    fn len(&self, object: Object) -> Result<Option<u64>, BlobsError> {
        let path = self.path(object);
        match std::fs::metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_at("read", &path)(error)),
        }
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Object, u64)>, BlobsError> {
        let top = self.root.join(kind.as_str());
        let mut found = Vec::new();
        for folder in std::fs::read_dir(&top).map_err(io_at("list", &top))? {
            let folder = folder.map_err(io_at("list", &top))?.path();
            for entry in std::fs::read_dir(&folder).map_err(io_at("list", &folder))? {
                let entry = entry.map_err(io_at("list", &folder))?;
                // A name that is no digest is not ours: left alone, never believed.
                let Some(object) = object_named(kind, &entry.file_name()) else {
                    continue;
                };
                let len = entry.metadata().map_err(io_at("read", &entry.path()))?.len();
                found.push((object, len));
            }
        }
        Ok(found)
    }

    fn quarantine(&self, object: Object) -> Result<(), BlobsError> {
        let from = self.path(object);
        if !from.exists() {
            return Ok(());
        }
        let name = format!("{}-{}", object.kind().as_str(), object.hex());
        let to = self.root.join("quarantine").join(name);
        ship_durable::rename(&from, &to).map_err(|source| BlobsError::Durable {
            action: format!("put {object} into quarantine"),
            source,
        })
    }

    fn quarantined(&self) -> Result<Vec<Object>, BlobsError> {
        let folder = self.root.join("quarantine");
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_at("list", &folder)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_at("list", &folder))?.file_name();
            let parts = name.to_str().and_then(|name| name.split_once('-'));
            let kind = parts.and_then(|(kind, hex)| Some((ObjectKind::named(kind)?, hex)));
            found.extend(kind.and_then(|(kind, hex)| object_named(kind, hex.as_ref())));
        }
        Ok(found)
    }

    fn remove(&self, object: Object) -> Result<(), BlobsError> {
        let path = self.path(object);
        match std::fs::remove_file(&path) {
            // Whether it is gone after a power cut matters to nobody.
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_at("remove", &path)(error)),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "when it fails the staged file is dropped and never read again"
)]
fn sync_staged(staged: &Staged) -> io::Result<()> {
    fault::point("store.blobs.sync.before")?;
    staged.file().set_permissions(PermissionsExt::from_mode(0o444))?;
    staged.file().sync_all()?;
    fault::point("store.blobs.sync.after")
}

fn object_named(kind: ObjectKind, name: &std::ffi::OsStr) -> Option<Object> {
    let name = name.to_str()?;
    match kind {
        ObjectKind::Bundle => name.parse().ok().map(Object::Bundle),
        ObjectKind::Manifest => name.parse().ok().map(Object::Manifest),
        ObjectKind::Delta => name.parse().ok().map(Object::Delta),
        ObjectKind::Kept => name.parse().ok().map(Object::Kept),
    }
}

/// Makes the folders that objects lie in, all of them at once, so that no later rename depends on a
/// folder whose own name is not durable yet.
fn make_folders(root: &Path) -> Result<(), BlobsError> {
    std::fs::create_dir_all(root).map_err(io_at("create", root))?;
    for name in ["incoming", "quarantine"] {
        make_folder(&root.join(name))?;
    }
    for kind in ObjectKind::ALL {
        let top = root.join(kind.as_str());
        make_folder(&top)?;
        for byte in 0..=u8::MAX {
            make_folder(&top.join(format!("{byte:02x}")))?;
        }
        // Also when nothing was made: an earlier process may have died before it synced.
        sync(&top)?;
    }
    sync(root)
}

fn make_folder(folder: &Path) -> Result<(), BlobsError> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_at("create", folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<(), BlobsError> {
    ship_durable::sync_dir(folder).map_err(|source| BlobsError::Durable {
        action: format!("create folders in {}", folder.display()),
        source,
    })
}

fn io_at<'a>(action: &'a str, path: &'a Path) -> impl Fn(io::Error) -> BlobsError + 'a {
    move |source| BlobsError::Io {
        action: format!("{action} {}", path.display()),
        source,
    }
}
