//! Comparing a tree on disk with its manifest: every name, nothing besides, and the bytes.

use std::collections::{BTreeMap, HashSet};
use std::io;

use rustix::fs::FileType;
use ship_durable::FileError;
use ship_model::digest::BlobDigest;
use ship_model::manifest::{EntryKind, MAX_ENTRIES, Manifest};
use ship_model::path::TreePath;

use super::place::Place;
use super::refresh;
use super::staged::{StagedError, StagedRelease, file_mode};
use crate::beneath::{Parents, Root};
use crate::content;
use crate::progress::Progress;
use crate::scan::{Found, Unlisted, scan};
use crate::shared::shared_links;
use crate::stamp::FileStamp;

/// Most problems that are told.
pub const MAX_PROBLEMS: usize = 1000;

/// How closely a staged release is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// A file that looks as stamped counts as verified; others are hashed.
    Quick,
    /// Every file is hashed, from the disk as far as the kernel lets go of its copy.
    Full,
}

impl Problem {
    /// Whether something that was published is not as it was. A name that was added is none: interpreters that run
    /// with the rights to do so leave their caches beside the code.
    pub const fn is_damage(&self) -> bool {
        !matches!(self.defect, Defect::Extra)
    }
}

/// What is wrong with one name.
#[derive(Debug, thiserror::Error)]
pub enum Defect {
    #[error("is missing")]
    Missing,
    #[error("does not belong to the release")]
    Extra,
    #[error("is another kind of thing than the release says")]
    Kind,
    #[error("has other permissions than staged files have")]
    Mode,
    #[error("leads elsewhere than the release says")]
    Target,
    #[error("has other bytes than the release says")]
    Content,
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
}

#[derive(Debug, thiserror::Error)]
#[error("\"{path}\" {defect}")]
pub struct Problem {
    /// Escaped.
    pub path: String,
    pub defect: Defect,
}

/// What a look at a staged release found.
#[derive(Debug)]
pub struct VerifyReport {
    /// Names of the manifest.
    pub checked: u64,
    /// Bytes that were read and hashed.
    pub hashed_bytes: u64,
    /// What was published and is not as it was first, then names that were added, each sorted by path;
    /// [`MAX_PROBLEMS`] at most. Empty: the release is as it was published.
    pub problems: Vec<Problem>,
    /// Problems beyond those.
    pub more: usize,
    /// Whether what was learnt could be kept in the stamps; if not, the next look hashes the same files again.
    pub stamps_kept: Result<(), FileError>,
}

/// Why a staged release could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyStagedError {
    #[error(transparent)]
    Staged(#[from] StagedError),
    #[error("cannot list release {folder}")]
    List { folder: String, source: io::Error },
}

/// Compares the staged release at `place` with its manifest and names everything that differs.
///
/// A file that was hashed and is right gets a new stamp; one that is wrong loses its stamp, here and in every other
/// release that has the same inode, so that their next look hashes it too. May run while others stage or remove: the
/// worst that a lost stamp costs is hashing, and a record without its tree is swept.
///
/// # Errors
/// [`VerifyStagedError`]; problems of the tree are in the report.
pub fn verify_staged(
    place: Place<'_>,
    depth: Depth,
    progress: &dyn Progress,
) -> Result<VerifyReport, VerifyStagedError> {
    let mut staged = StagedRelease::open(place)?;
    let stamps = (depth == Depth::Quick).then_some(&staged.stamps.entries[..]);
    let checked = check(staged.root(), staged.manifest(), stamps, progress);
    let mut checked = checked.map_err(|source| VerifyStagedError::List {
        folder: place.folder().to_owned(),
        source,
    })?;
    let rotten: HashSet<u64> = checked.rotten.iter().copied().collect();
    if checked.stamps != staged.stamps.entries {
        staged.stamps.entries = checked.stamps;
        checked.report.stamps_kept = ship_durable::write_file(&place.stamps(), &staged.stamps.encode());
    }
    refresh::distrust(place, &rotten);
    Ok(checked.report)
}

pub(super) struct Checked {
    pub report: VerifyReport,
    /// One for each entry; none for what is no sound file.
    pub stamps: Vec<FileStamp>,
    /// Inodes of files with wrong bytes.
    rotten: Vec<u64>,
    /// Entries that are not as the manifest says.
    pub damaged: Vec<usize>,
}

/// Without `stamps`, every file is hashed.
pub(super) fn check(
    root: &Root,
    manifest: &Manifest,
    stamps: Option<&[FileStamp]>,
    progress: &dyn Progress,
) -> io::Result<Checked> {
    let listing = scan(root, None, 2 * MAX_ENTRIES)?;
    let mut check = Check {
        root,
        manifest,
        shared: shared_links(manifest).unwrap_or_default(),
        problems: Vec::new(),
        files: Vec::new(),
        damaged: Vec::new(),
    };
    for unlisted in listing.unlisted {
        check.problems.push(match unlisted {
            Unlisted::Name(error) => Problem {
                path: error.path,
                defect: Defect::Extra,
            },
            Unlisted::Io { path, source } => problem(&path, Defect::Unreadable(source)),
        });
    }
    check.names(listing.found);
    let files = std::mem::take(&mut check.files);
    let mut result = Checked {
        stamps: vec![FileStamp::NONE; manifest.entries().len()],
        rotten: Vec::new(),
        damaged: check.damaged,
        report: VerifyReport {
            checked: manifest.entries().len() as u64,
            hashed_bytes: 0,
            problems: check.problems,
            more: 0,
            stamps_kept: Ok(()),
        },
    };
    hash_files(root, manifest, files, stamps, progress, &mut result);
    let problems = &mut result.report.problems;
    problems.sort_by(|a, b| a.path.cmp(&b.path));
    // However many names were added, they do not push out what they might hide.
    problems.sort_by_key(|problem| !problem.is_damage());
    result.report.more = problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    Ok(result)
}

fn problem(path: &TreePath, defect: Defect) -> Problem {
    Problem {
        path: path.to_string(),
        defect,
    }
}

struct Check<'a> {
    root: &'a Root,
    manifest: &'a Manifest,
    shared: BTreeMap<TreePath, Vec<u8>>,
    problems: Vec<Problem>,
    /// Regular files of the right mode: entry and stamp found.
    files: Vec<(usize, FileStamp)>,
    damaged: Vec<usize>,
}

impl Check<'_> {
    fn names(&mut self, found: Vec<Found>) {
        let entries = self.manifest.entries();
        let mut seen = vec![false; entries.len()];
        let mut shared_seen = 0;
        let mut parents = Parents::of(self.root);
        for found in found {
            if let Some(target) = self.shared.get(&found.path) {
                shared_seen += 1;
                let defect = link_defect(&found, target, &mut parents);
                self.problems
                    .extend(defect.map(|defect| problem(&found.path, defect)));
            } else if let Ok(at) = entries.binary_search_by(|entry| entry.path.cmp(&found.path)) {
                seen[at] = true;
                self.named(at, &found, &mut parents);
            } else if !(found.kind() == FileType::Directory && self.implied(&found.path)) {
                self.problems.push(problem(&found.path, Defect::Extra));
            }
        }
        for (at, seen) in seen.into_iter().enumerate() {
            let path = &entries[at].path;
            if !seen && !self.shared.contains_key(path) {
                self.damaged.push(at);
                self.problems.push(problem(path, Defect::Missing));
            }
        }
        if shared_seen < self.shared.len() {
            self.shared_missing(&mut parents);
        }
    }

    fn shared_missing(&mut self, parents: &mut Parents<'_>) {
        for path in self.shared.keys() {
            let there = parents.split(path.as_bytes()).and_then(|(parent, name)| {
                Ok(rustix::fs::statat(
                    parent,
                    name,
                    rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
                )?)
            });
            if there.is_err() {
                self.problems.push(problem(path, Defect::Missing));
            }
        }
    }

    /// Whether something of the release lies below this folder.
    fn implied(&self, folder: &TreePath) -> bool {
        let mut below = folder.as_bytes().to_vec();
        below.push(b'/');
        let entries = self.manifest.entries();
        let next = entries.partition_point(|entry| entry.path.as_bytes() < &below[..]);
        entries
            .get(next)
            .is_some_and(|entry| entry.path.below(folder).is_some())
            || self.shared.keys().any(|name| name.below(folder).is_some())
    }

    fn named(&mut self, at: usize, found: &Found, parents: &mut Parents<'_>) {
        let entry = &self.manifest.entries()[at];
        let defect = match (&entry.kind, found.kind()) {
            (EntryKind::File { executable, size, .. }, FileType::RegularFile) => {
                if found.mode & 0o7777 != file_mode(*executable) {
                    Some(Defect::Mode)
                } else if found.stamp.size != *size {
                    Some(Defect::Content)
                } else {
                    self.files.push((at, found.stamp));
                    None
                }
            }
            (EntryKind::Link { target }, _) => link_defect(found, target, parents),
            // One that shared names made their folder holds links, and is empty no more.
            (EntryKind::EmptyFolder, FileType::Directory) => None,
            _ => Some(Defect::Kind),
        };
        if let Some(defect) = defect {
            self.damaged.push(at);
            self.problems.push(problem(&entry.path, defect));
        }
    }
}

fn link_defect(found: &Found, target: &[u8], parents: &mut Parents<'_>) -> Option<Defect> {
    if found.kind() != FileType::Symlink {
        return Some(Defect::Kind);
    }
    let read = parents
        .split(found.path.as_bytes())
        .and_then(|(parent, name)| Ok(rustix::fs::readlinkat(parent, name, Vec::new())?));
    match read {
        Ok(read) if read.to_bytes() == target => None,
        Ok(_) => Some(Defect::Target),
        Err(error) => Some(Defect::Unreadable(error)),
    }
}

/// Hashes the files whose stamps do not tell that they are unchanged.
fn hash_files(
    root: &Root,
    manifest: &Manifest,
    files: Vec<(usize, FileStamp)>,
    stamps: Option<&[FileStamp]>,
    progress: &dyn Progress,
    result: &mut Checked,
) {
    let (trusted, others): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|(at, stamp)| stamps.and_then(|stamps| stamps.get(*at)) == Some(stamp));
    for (at, stamp) in trusted {
        result.stamps[at] = stamp;
    }
    progress.total(others.iter().map(|(_, stamp)| stamp.size).sum());
    let hashed = content::each(
        others,
        |(_, stamp)| stamp.size,
        |(at, stamp), buffer| {
            let path = manifest.entries()[at].path.as_bytes();
            let digest = hash_one(root, path, stamp, buffer);
            progress.done(stamp.size);
            (at, stamp, digest)
        },
    );
    for (at, stamp, digest) in hashed {
        let entry = &manifest.entries()[at];
        result.report.hashed_bytes += stamp.size;
        let wanted = match entry.kind {
            EntryKind::File { digest, .. } => Some(digest),
            _ => None,
        };
        let defect = match digest {
            Ok(digest) if digest == wanted => {
                result.stamps[at] = stamp;
                continue;
            }
            Ok(_) => Defect::Content,
            Err(error) => Defect::Unreadable(error),
        };
        result.rotten.push(stamp.inode);
        result.damaged.push(at);
        result.report.problems.push(problem(&entry.path, defect));
    }
}

/// None when the file changed meanwhile.
fn hash_one(
    root: &Root,
    path: &[u8],
    stamp: FileStamp,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<BlobDigest>> {
    let mut file = root.read(path)?;
    let (digest, _) = content::hash_from_disk(&mut file, stamp.size, buffer)?;
    Ok((content::stamp_of(&file)? == stamp).then_some(digest))
}
