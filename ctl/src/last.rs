//! The content of the release that was published last from this machine, so that the next one is told by what changed.
//!
//! ```text
//! ~/.cache/ship/last/<fleet and app>/
//!   manifest          the release's canonical manifest, written when all its blobs are there
//!   blobs/<digest>    the content of each file; one of another length than the manifest tells is not there
//! ```
//! `$XDG_CACHE_HOME/ship/last` where that is set. A saving, never a need: what is lost or damaged costs bytes of the next publish,
//! for whoever reads it compares digests, and so does the store. Two publishes at once may take blobs from each other, which
//! comes to the same. The newest [`MOST_APPS`] stay, together [`MOST_BYTES`] at most.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ship_bundle::delta::{BlobBytes, TreeBlobs};
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_model::name::AppName;

use crate::seen::cache;

/// Of fewer bytes a bundle has some 20 KiB: it is sent within two round trips, in less time than the store takes to lay out what a
/// delta copies from.
pub const LEAST: u64 = 64 << 10;
/// Apps of which the last release is kept.
const MOST_APPS: usize = 8;
/// Bytes of all that is kept: a release with a file of 2 GiB has room.
const MOST_BYTES: u64 = 3 << 30;
/// Of the disk's free space, what is new may take at most this part.
const PART_OF_FREE: u64 = 4;
/// Larger manifests tell of so many names that no delta is made of them.
const MOST_MANIFEST: u64 = 2 << 20;
/// The part of a fleet's certificates that tells it from others.
const MOST_CA: u64 = 64 << 10;
const PIECE: u64 = 1 << 20;

/// Where the last release of an app is kept, or would be.
#[derive(Debug, Clone)]
pub struct Last {
    folder: PathBuf,
}

impl Last {
    /// `ca`: the file that tells which fleet it is. None where nothing can be kept.
    pub fn of(ca: &Path, app: &AppName) -> Option<Self> {
        let mut fleet = Vec::new();
        File::open(ca).ok()?.take(MOST_CA).read_to_end(&mut fleet).ok()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(blake3::hash(&fleet).as_bytes());
        hasher.update(app.as_str().as_bytes());
        let name = hasher.finalize().to_hex();
        let folder = cache()?.join("last").join(&name[..32]);
        Some(Self { folder })
    }

    /// The manifest of what is kept. None when there is nothing, or nothing that can be used.
    pub fn recall(&self) -> Option<Manifest> {
        let mut encoded = Vec::new();
        let file = File::open(self.manifest()).ok()?;
        file.take(MOST_MANIFEST + 1).read_to_end(&mut encoded).ok()?;
        if encoded.len() as u64 > MOST_MANIFEST {
            return None;
        }
        Manifest::read(encoded).ok()
    }

    /// Keeps the tree at `dir` in place of what was kept; what both have is not copied.
    pub fn keep(&self, dir: &Path, manifest: &Manifest) {
        let bytes = manifest.total_bytes();
        if !(LEAST..=MOST_BYTES).contains(&bytes) || manifest.encoded().len() as u64 > MOST_MANIFEST {
            return self.forget();
        }
        match self.replace(dir, manifest) {
            Ok(()) => self.sweep_beside(),
            // Half of it would only take room.
            Err(_) => self.forget(),
        }
    }

    /// The next publish finds nothing.
    pub fn forget(&self) {
        let _ = ship_durable::remove_tree(&self.folder);
    }

    fn manifest(&self) -> PathBuf {
        self.folder.join("manifest")
    }

    fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    fn replace(&self, dir: &Path, manifest: &Manifest) -> io::Result<()> {
        let blobs = self.blobs();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&blobs)?;
        let mut kept = HashSet::new();
        let mut new = Vec::new();
        for (_, _, size, digest) in manifest.files() {
            let is_new = kept.insert(digest) && size > 0;
            let there =
                || fs::metadata(blobs.join(digest.to_string())).is_ok_and(|there| there.len() == size);
            if is_new && !there() {
                new.push((digest, size));
            }
        }
        let room = rustix::fs::statvfs(&blobs)?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        if new.iter().map(|(_, size)| size).sum::<u64>() > free / PART_OF_FREE {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let tree = TreeBlobs::open(dir, manifest)?;
        for (digest, size) in new {
            copy(&tree, digest, size, &blobs.join(digest.to_string()))?;
        }
        // Before it stands, the older one does, and all its blobs are there.
        ship_durable::write_private_file(&self.manifest(), manifest.encoded()).map_err(io::Error::other)?;
        remove_others(&blobs, &kept)
    }

    /// Removes the last releases of other apps, the oldest of what is too much.
    fn sweep_beside(&self) {
        let Some(Ok(beside)) = self.folder.parent().map(fs::read_dir) else {
            return;
        };
        let mut found: Vec<(SystemTime, Self)> = beside
            .flatten()
            .map(|entry| {
                let last = Self { folder: entry.path() };
                let written = fs::metadata(last.manifest()).and_then(|about| about.modified());
                (written.unwrap_or(SystemTime::UNIX_EPOCH), last)
            })
            .collect();
        found.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        let mut room = MOST_BYTES;
        for (number, (_, last)) in found.into_iter().enumerate() {
            let bytes = last.recall().map_or(u64::MAX, |manifest| manifest.total_bytes());
            match room.checked_sub(bytes).filter(|_| number < MOST_APPS) {
                Some(left) => room = left,
                None => last.forget(),
            }
        }
    }
}

impl BlobBytes for Last {
    fn read_at(&self, blob: BlobDigest, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        File::open(self.blobs().join(blob.to_string()))?.read_exact_at(buffer, offset)
    }
}

/// Copies one file of the tree; it must still have the bytes that its digest says.
fn copy(tree: &TreeBlobs<'_>, blob: BlobDigest, size: u64, to: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(to)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE.min(size) as usize];
    let mut at = 0;
    while at < size {
        let piece = &mut buffer[..PIECE.min(size - at) as usize];
        tree.read_at(blob, at, piece)?;
        hasher.update(piece);
        file.write_all(piece)?;
        at += piece.len() as u64;
    }
    if BlobDigest::from(hasher.finalize()) == blob {
        return Ok(());
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn remove_others(blobs: &Path, kept: &HashSet<BlobDigest>) -> io::Result<()> {
    for entry in fs::read_dir(blobs)? {
        let entry = entry?;
        let name = entry.file_name();
        let digest = name.to_str().and_then(|name| name.parse::<BlobDigest>().ok());
        if !digest.is_some_and(|digest| kept.contains(&digest)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
