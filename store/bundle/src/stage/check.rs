//! Comparing a tree on disk with its manifest: every name, nothing besides, and the bytes.

use std::collections::{BTreeMap, HashSet};
use std::io;

use rustix::fs::FileType;
use ship_durable::FileError;
use ship_model::digest::BlobDigest;
use ship_model::manifest::{EntryKind, EntryRef, Manifest};
use ship_model::path::{PathRef, TreePath};

use super::place::Place;
use super::refresh;
use super::staged::{StagedError, StagedRelease, file_mode};
use crate::beneath::{Parents, Root};
use crate::content::{self, Reach};
use crate::progress::Progress;
use crate::scan::{Found, Met, Unlisted, scan};
use crate::shared::shared_links;
use crate::stamp::FileStamp;

/// Most problems that are told.
pub const MAX_PROBLEMS: usize = 1000;
/// Most names that were added and are remembered until the problems are sorted; others are counted.
const MAX_EXTRA: usize = 10 * MAX_PROBLEMS;

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
    let names = manifest.entries().len();
    let mut check = Check {
        root,
        manifest,
        trusted: stamps,
        parents: Parents::of(root),
        shared: shared_links(manifest).unwrap_or_default(),
        shared_seen: 0,
        problems: Vec::new(),
        extra: 0,
        seen: vec![false; names],
        stamps: vec![FileStamp::NONE; names],
        unsure: Vec::new(),
        damaged: Vec::new(),
    };
    scan(root, None, &mut |met| check.met(met))?;
    check.missing();
    let unsure = std::mem::take(&mut check.unsure);
    let mut result = Checked {
        stamps: check.stamps,
        rotten: Vec::new(),
        damaged: check.damaged,
        report: VerifyReport {
            checked: names as u64,
            hashed_bytes: 0,
            problems: check.problems,
            more: check.extra.saturating_sub(MAX_EXTRA),
            stamps_kept: Ok(()),
        },
    };
    hash_files(root, manifest, unsure, progress, &mut result);
    result.damaged.sort_unstable();
    let problems = &mut result.report.problems;
    problems.sort_by(|a, b| a.path.cmp(&b.path));
    // However many names were added, they do not push out what they might hide.
    problems.sort_by_key(|problem| !problem.is_damage());
    result.report.more += problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    Ok(result)
}

fn problem(path: PathRef<'_>, defect: Defect) -> Problem {
    Problem {
        path: path.to_string(),
        defect,
    }
}

struct Check<'a> {
    root: &'a Root,
    manifest: &'a Manifest,
    /// A file that looks as stamped here counts as verified.
    trusted: Option<&'a [FileStamp]>,
    parents: Parents<'a>,
    shared: BTreeMap<TreePath, Vec<u8>>,
    shared_seen: usize,
    problems: Vec<Problem>,
    /// Names that were added.
    extra: usize,
    seen: Vec<bool>,
    /// What files of the right mode and size look like.
    stamps: Vec<FileStamp>,
    /// Those of them that are to be hashed.
    unsure: Vec<u32>,
    damaged: Vec<usize>,
}

impl Check<'_> {
    fn met(&mut self, met: Met) {
        match met {
            Met::Name(found) => self.found(&found),
            Met::Unlisted(Unlisted::Name(error)) => self.added(|| error.path),
            Met::Unlisted(Unlisted::Io { path, source }) => {
                self.problems
                    .push(problem(path.by_ref(), Defect::Unreadable(source)));
            }
        }
    }

    fn added(&mut self, path: impl FnOnce() -> String) {
        self.extra += 1;
        if self.extra <= MAX_EXTRA {
            self.problems.push(Problem {
                path: path(),
                defect: Defect::Extra,
            });
        }
    }

    fn found(&mut self, found: &Found) {
        if let Some(target) = self.shared.get(&found.path) {
            self.shared_seen += 1;
            let defect = link_defect(found, target, &mut self.parents);
            self.problems
                .extend(defect.map(|defect| problem(found.path.by_ref(), defect)));
        } else if let Some((at, entry)) = self.manifest.entries().find(found.path.as_bytes()) {
            self.seen[at] = true;
            self.named(at, entry, found);
        } else if !(found.kind() == FileType::Directory && self.implied(&found.path)) {
            self.added(|| found.path.to_string());
        }
    }

    fn missing(&mut self) {
        let manifest = self.manifest;
        let seen = std::mem::take(&mut self.seen);
        for (at, (entry, seen)) in manifest.entries().iter().zip(seen).enumerate() {
            if !seen && (self.shared.is_empty() || !self.shared.contains_key(&entry.path.to_path())) {
                self.damaged.push(at);
                self.problems.push(problem(entry.path, Defect::Missing));
            }
        }
        if self.shared_seen < self.shared.len() {
            self.shared_missing();
        }
    }

    fn shared_missing(&mut self) {
        let mut parents = Parents::of(self.root);
        for path in self.shared.keys() {
            let there = parents.split(path.as_bytes()).and_then(|(parent, name)| {
                Ok(rustix::fs::statat(
                    parent,
                    name,
                    rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
                )?)
            });
            if there.is_err() {
                self.problems.push(problem(path.by_ref(), Defect::Missing));
            }
        }
    }

    /// Whether something of the release lies below this folder.
    fn implied(&self, folder: &TreePath) -> bool {
        let mut below = folder.as_bytes().to_vec();
        below.push(b'/');
        let entries = self.manifest.entries();
        let next = entries.partition_point(|path| path.as_bytes() < &below[..]);
        entries
            .get(next)
            .is_some_and(|entry| entry.path.below(folder).is_some())
            || self.shared.keys().any(|name| name.below(folder).is_some())
    }

    fn named(&mut self, at: usize, entry: EntryRef<'_>, found: &Found) {
        let defect = match (&entry.kind, found.kind()) {
            (EntryKind::File { executable, size, .. }, FileType::RegularFile) => {
                if found.mode & 0o7777 != file_mode(*executable) {
                    Some(Defect::Mode)
                } else if found.stamp.size != *size {
                    Some(Defect::Content)
                } else {
                    self.stamps[at] = found.stamp;
                    if self.trusted.and_then(|stamps| stamps.get(at)) != Some(&found.stamp) {
                        self.unsure.push(at as u32);
                    }
                    None
                }
            }
            (EntryKind::Link { target }, _) => link_defect(found, target, &mut self.parents),
            // One that shared names made their folder holds links, and is empty no more.
            (EntryKind::EmptyFolder, FileType::Directory) => None,
            _ => Some(Defect::Kind),
        };
        if let Some(defect) = defect {
            self.damaged.push(at);
            self.problems.push(problem(entry.path, defect));
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

/// Hashes the `unsure` files and takes the stamps of those that are wrong.
fn hash_files(
    root: &Root,
    manifest: &Manifest,
    unsure: Vec<u32>,
    progress: &dyn Progress,
    result: &mut Checked,
) {
    let looks = std::mem::take(&mut result.stamps);
    let look = |at: u32| looks.get(at as usize).copied().unwrap_or(FileStamp::NONE);
    progress.total(unsure.iter().map(|at| look(*at).size).sum());
    let work = |at: u32, reach: &mut Reach<'_>| {
        let (entry, stamp) = (manifest.entries().get(at as usize)?, look(at));
        let EntryKind::File { digest, .. } = entry.kind else {
            return None;
        };
        let found = hash_one(entry.path.as_bytes(), stamp, reach);
        progress.done(stamp.size);
        let defect = match found {
            Ok(found) if found == Some(digest) => None,
            Ok(_) => Some(Defect::Content),
            Err(error) => Some(Defect::Unreadable(error)),
        };
        Some((at, entry.path, stamp, defect))
    };
    let mut wrong = Vec::new();
    content::each(
        root,
        unsure,
        |at| look(*at).size,
        work,
        |hashed| {
            let Some((at, path, stamp, defect)) = hashed else {
                return;
            };
            result.report.hashed_bytes += stamp.size;
            if let Some(defect) = defect {
                result.rotten.push(stamp.inode);
                result.damaged.push(at as usize);
                result.report.problems.push(problem(path, defect));
                wrong.push(at as usize);
            }
        },
    );
    result.stamps = looks;
    for at in wrong {
        result.stamps[at] = FileStamp::NONE;
    }
}

/// None when the file changed meanwhile.
fn hash_one(path: &[u8], stamp: FileStamp, reach: &mut Reach<'_>) -> io::Result<Option<BlobDigest>> {
    let mut file = reach.parents.read(path)?;
    let (digest, _) = content::hash_from_disk(&mut file, stamp.size, &mut reach.buffer)?;
    Ok((content::stamp_of(&file)? == stamp).then_some(digest))
}
