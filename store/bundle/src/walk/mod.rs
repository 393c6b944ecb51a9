//! From a folder to a manifest: lists the tree, hashes every file once with all cores, and refuses what a release
//! cannot carry.
//!
//! Nothing is followed while walking: a file is opened beneath the root without links on the way, and it counts only
//! when inode, size, mtime and ctime are the same before and after it was read. A name that was added after the
//! listing is not part of the release; one that vanished is an offence. A file that still looks as an earlier walk
//! [saw](Seen) it is not read.

mod offence;
mod read;
mod seen;
mod warn;

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use ship_model::manifest::{MAX_ENTRIES, Manifest, ManifestError};
use ship_model::spec::ReleaseSpec;

pub use offence::Offence;
pub use seen::{MAX_SEEN, RACY, Seen, SeenError};
pub use warn::{MAX_WARNINGS, Warning};

use crate::beneath::Root;
use crate::progress::Progress;
use crate::scan::{Found, Met, scan};
use crate::segments::MAX_SEGMENTS;
use crate::shared::{SharedClash, shared_links};
use read::Walk;

/// How many offences are told at once.
pub const MAX_OFFENCES: usize = 20;

/// A tree that can become a release.
#[derive(Debug)]
pub struct Walked {
    pub manifest: Manifest,
    /// What a person should look at before publishing; never more than [`MAX_WARNINGS`].
    pub warnings: Vec<Warning>,
    /// Files, if there was a [clock](Reading::clock), and the lists of large ones, if they were [cut](Reading::cut).
    pub seen: Seen,
}

/// How files are read. By default all of them, and nothing is remembered.
#[derive(Clone, Copy, Default)]
pub struct Reading<'a> {
    /// What an earlier walk saw: files that still look so are not read.
    pub seen: Option<&'a Seen>,
    /// The time, in nanoseconds since 1970. With it the walk tells what it saw.
    pub clock: Option<&'a (dyn Fn() -> i64 + Sync)>,
    /// Large files are cut while they are hashed.
    pub cut: bool,
}

impl std::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading")
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}

/// Why a folder cannot become a release.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("cannot read folder {}", path.display())]
    Root { path: PathBuf, source: io::Error },
    /// At most [`MAX_OFFENCES`] of them, sorted by path; `more` were left out.
    #[error("cannot publish {}:{}", path.display(), offence::lines(offences, *more))]
    Refused {
        path: PathBuf,
        offences: Vec<Offence>,
        more: usize,
    },
    #[error("cannot publish {}", path.display())]
    Tree { path: PathBuf, source: ManifestError },
    #[error("cannot publish {}", path.display())]
    Shared { path: PathBuf, source: SharedClash },
}

/// Lists and hashes the tree below `root`, without a top-level `.git`.
///
/// # Errors
/// [`WalkError`]; nothing is written in any case.
pub fn walk(root: &Path, spec: &ReleaseSpec, progress: &dyn Progress) -> Result<Walked, WalkError> {
    walk_with(root, spec, &Reading::default(), progress)
}

/// As [`walk`], with a memory.
///
/// Memory: about 200 bytes a name, as many again where files are remembered, and a few MiB a core, whatever the files' sizes.
///
/// # Errors
/// [`WalkError`]; nothing is written in any case.
pub fn walk_with(
    root: &Path,
    spec: &ReleaseSpec,
    reading: &Reading<'_>,
    progress: &dyn Progress,
) -> Result<Walked, WalkError> {
    let tree_error = |source| WalkError::Tree {
        path: root.to_owned(),
        source,
    };
    let root_error = |source| WalkError::Root {
        path: root.to_owned(),
        source,
    };
    let opened = Root::open(root).map_err(root_error)?;
    let listed = list(&opened).map_err(root_error)?;
    if listed.entries > MAX_ENTRIES {
        return Err(tree_error(ManifestError::TooMany {
            entries: listed.entries,
        }));
    }
    progress.total(listed.total);
    let mut offences = listed.offences;
    let walk = Walk {
        root: &opened,
        reading,
        progress,
        // Where something is refused already, the files are only opened: that tells the unreadable ones, soon.
        only_open: !offences.is_empty(),
    };
    let mut entries = Vec::with_capacity(listed.found.len());
    let (mut files, mut lists, mut segments) = (Vec::new(), Vec::new(), 0);
    let mut warnings = Vec::new();
    walk.all(listed.found, |read| match read {
        Ok(Some(read)) => {
            entries.push(read.entry);
            files.extend(read.file);
            warnings.extend(read.warning);
            if let Some(list) = read
                .list
                .filter(|list| segments + list.segments.len() <= MAX_SEGMENTS)
            {
                segments += list.segments.len();
                lists.push(list);
            }
        }
        Ok(None) => {}
        Err(offence) => offences.push(offence),
    });
    if !offences.is_empty() {
        return Err(refused(root, offences));
    }
    let manifest = Manifest::new(spec.clone(), entries).map_err(tree_error)?;
    shared_links(&manifest).map_err(|source| WalkError::Shared {
        path: root.to_owned(),
        source,
    })?;
    warn::finish(&manifest, &mut warnings);
    Ok(Walked {
        manifest,
        warnings,
        seen: Seen::new(files, lists),
    })
}

/// Every name that counts, before any file is read.
#[derive(Default)]
struct Listed {
    found: Vec<Found>,
    offences: Vec<Offence>,
    /// Names, those that are too many among them.
    entries: u64,
    /// Bytes of all files.
    total: u64,
}

fn list(root: &Root) -> io::Result<Listed> {
    let mut listed = Listed::default();
    let mut meet = |met| match met {
        Met::Unlisted(unlisted) => listed.offences.push(Offence::from(unlisted)),
        // A folder that holds something is told by what it holds.
        Met::Name(name) if name.kind() == FileType::Directory && !name.empty => {}
        Met::Name(name) => {
            listed.entries += 1;
            if listed.entries > MAX_ENTRIES {
                return;
            }
            listed.offences.extend(Offence::of_kind(&name));
            if name.kind() == FileType::RegularFile {
                listed.total = listed.total.saturating_add(name.stamp.size);
            }
            listed.found.push(name);
        }
    };
    scan(root, Some(b".git"), &mut meet)?;
    Ok(listed)
}

fn refused(root: &Path, mut offences: Vec<Offence>) -> WalkError {
    offences.sort_by_cached_key(Offence::path);
    let more = offences.len().saturating_sub(MAX_OFFENCES);
    offences.truncate(MAX_OFFENCES);
    WalkError::Refused {
        path: root.to_owned(),
        offences,
        more,
    }
}
