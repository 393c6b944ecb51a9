//! A release that lies complete on this host, as far as its record says.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::manifest::{DecodeError, EntryKind, EntryRef, MAX_ENCODED, Manifest};

use super::place::Place;
use super::stamps::{MAX_STAMPS, Stamps, StampsError};
use crate::beneath::{NEIGHBOURS, Parents, Root};
use crate::content;
use crate::stamp::FileStamp;

/// Why a folder is not believed to hold a release. Its files are not looked at yet.
#[derive(Debug, thiserror::Error)]
pub enum StagedError {
    #[error("release {folder} is not on this host")]
    Absent { folder: String },
    #[error("cannot read {what} of release {folder}")]
    Read {
        folder: String,
        what: &'static str,
        source: io::Error,
    },
    #[error("release {folder} has no {what}: it was not staged to its end")]
    Incomplete { folder: String, what: &'static str },
    #[error("the manifest of release {folder} is damaged")]
    Manifest { folder: String, source: DecodeError },
    #[error("the stamps of release {folder} are damaged")]
    Stamps { folder: String, source: StampsError },
    #[error("the stamps of release {folder} are not those of its manifest")]
    Other { folder: String },
}

/// A release on this host with its manifest and stamps: what others may link files from.
#[derive(Debug)]
pub struct StagedRelease {
    folder: String,
    root: Root,
    manifest: Manifest,
    pub(super) stamps: Stamps,
}

impl StagedRelease {
    /// Reads the record beside the tree.
    ///
    /// # Errors
    /// [`StagedError`].
    pub fn open(place: Place<'_>) -> Result<Self, StagedError> {
        let folder = || place.folder().to_owned();
        let root = open_tree(place)?;
        let stamps = read_stamps(place)?;
        let encoded = read_record(place, &place.manifest(), "manifest", MAX_ENCODED as u64)?;
        if Manifest::id_of(&encoded) != stamps.release {
            return Err(StagedError::Other { folder: folder() });
        }
        let manifest = Manifest::read(encoded).map_err(|source| StagedError::Manifest {
            folder: folder(),
            source,
        })?;
        if manifest.entries().len() != stamps.entries.len() {
            return Err(StagedError::Other { folder: folder() });
        }
        Ok(Self {
            folder: folder(),
            root,
            manifest,
            stamps,
        })
    }

    pub fn folder(&self) -> &str {
        &self.folder
    }

    pub fn id(&self) -> ReleaseId {
        self.stamps.release
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether a file has lost its stamp, which happens when it is found damaged.
    pub fn is_doubtful(&self) -> bool {
        let named = self.manifest.entries().iter().zip(&self.stamps.entries);
        named
            .filter(|(entry, _)| entry.is_file())
            .any(|(_, stamp)| *stamp == FileStamp::NONE)
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Its files as indexes into the manifest's entries, sorted by content: four bytes a file, for there may be many.
    pub(super) fn by_content(&self) -> Vec<u32> {
        let entries = self.manifest.entries();
        let files = (0_u32..).zip(entries.iter()).filter(|(_, entry)| entry.is_file());
        let mut order: Vec<u32> = files.map(|(at, _)| at).collect();
        order.sort_by_cached_key(|at| (entries.get(*at as usize).and_then(content_of), *at));
        order
    }

    /// What its files with `wanted` contents look like now, by entry; none for one of another mode or kind. One call a file.
    pub(super) fn looks(&self, wanted: impl Fn(BlobDigest) -> bool + Sync) -> Vec<FileStamp> {
        let entries = self.manifest.entries();
        let mut looks = vec![FileStamp::NONE; entries.len()];
        let chunks = looks.par_chunks_mut(NEIGHBOURS).enumerate();
        chunks.for_each(|(chunk, looks)| {
            let mut parents = Parents::of(&self.root);
            for (at, look) in (chunk * NEIGHBOURS..).zip(looks) {
                let named = entries.at(at);
                let content = content_of(named).filter(|(digest, _)| wanted(*digest));
                if let Some((_, executable)) = content {
                    let found = looked(named.path.as_bytes(), executable, &mut parents);
                    *look = found.unwrap_or(FileStamp::NONE);
                }
            }
        });
        looks
    }

    /// The part of `order`, which [`Self::by_content`] made, that has this content and executable bit.
    pub(super) fn having<'o>(&self, order: &'o [u32], digest: BlobDigest, executable: bool) -> &'o [u32] {
        let content = |at: &u32| self.manifest.entries().get(*at as usize).and_then(content_of);
        let from = order.partition_point(|at| content(at) < Some((digest, executable)));
        let len = order[from..].partition_point(|at| content(at) == Some((digest, executable)));
        &order[from..from + len]
    }

    /// Whether a file that looks so now is as it was published: as stamped, or, when the stamp is stale, hashed.
    pub(super) fn is_sound(&self, entry: usize, look: FileStamp, buffer: &mut Vec<u8>) -> bool {
        let (Some(named), Some(stamped)) =
            (self.manifest.entries().get(entry), self.stamps.entries.get(entry))
        else {
            return false;
        };
        let Some((digest, _)) = content_of(named).filter(|_| look != FileStamp::NONE) else {
            return false;
        };
        if look == *stamped {
            return true;
        }
        let hashed = self.root.read(named.path.as_bytes()).and_then(|mut file| {
            let (found, _) = content::hash(&mut file, look.size, buffer, &(), |_| {})?;
            Ok(found == digest && content::stamp_of(&file)? == look)
        });
        hashed.unwrap_or(false)
    }
}

fn looked(path: &[u8], executable: bool, parents: &mut Parents<'_>) -> Option<FileStamp> {
    let (parent, name) = parents.split(path).ok()?;
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let fits = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_mode & 0o7777 == file_mode(executable);
    fits.then(|| FileStamp::of(&stat))
}

fn content_of(entry: EntryRef<'_>) -> Option<(BlobDigest, bool)> {
    match entry.kind {
        EntryKind::File {
            digest, executable, ..
        } => Some((digest, executable)),
        EntryKind::Link { .. } | EntryKind::EmptyFolder => None,
    }
}

/// Mode of a staged file: readable by all, writable by nobody.
pub(super) fn file_mode(executable: bool) -> u32 {
    if executable { 0o555 } else { 0o444 }
}

/// Opens the release's folder, which must be a folder and no link.
pub(super) fn open_tree(place: Place<'_>) -> Result<Root, StagedError> {
    let folder = place.folder().to_owned();
    match Root::open(place.releases()).and_then(|releases| releases.folder(place.folder().as_bytes())) {
        Ok(root) => Ok(root),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StagedError::Absent { folder }),
        Err(source) => Err(StagedError::Read {
            folder,
            what: "the folder",
            source,
        }),
    }
}

/// The stamps alone.
pub(super) fn read_stamps(place: Place<'_>) -> Result<Stamps, StagedError> {
    let stamps = read_record(place, &place.stamps(), "stamps", MAX_STAMPS)?;
    Stamps::decode(&stamps).map_err(|source| StagedError::Stamps {
        folder: place.folder().to_owned(),
        source,
    })
}

fn read_record(
    place: Place<'_>,
    path: &Path,
    what: &'static str,
    limit: u64,
) -> Result<Vec<u8>, StagedError> {
    let folder = place.folder().to_owned();
    match read_bounded(path, limit) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(StagedError::Incomplete { folder, what })
        }
        Err(source) => Err(StagedError::Read { folder, what, source }),
    }
}

/// Reads a file of ours: never through a link, never more than `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}
