//! From a folder to a manifest: lists the tree, hashes every file once with all cores, and refuses what a release
//! cannot carry.
//!
//! Nothing is followed while walking: a file is opened beneath the root without links on the way, and it counts only
//! when inode, size, mtime and ctime are the same before and after it was read. A name that was added after the
//! listing is not part of the release; one that vanished is an offence.

mod offence;
mod warn;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{AtFlags, FileType};
use ship_model::manifest::{Entry, EntryKind, MAX_ENTRIES, Manifest, ManifestError};
use ship_model::spec::ReleaseSpec;

pub use offence::Offence;
pub use warn::{MAX_WARNINGS, Warning};

use crate::beneath::{Parents, Root};
use crate::content;
use crate::progress::Progress;
use crate::scan::{Found, Met, scan};
use crate::shared::{SharedClash, shared_links};

/// How many offences are told at once.
pub const MAX_OFFENCES: usize = 20;

/// A tree that can become a release.
#[derive(Debug)]
pub struct Walked {
    pub manifest: Manifest,
    /// What a person should look at before publishing; never more than [`MAX_WARNINGS`].
    pub warnings: Vec<Warning>,
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
/// Memory: about 200 bytes a name and a few MiB a core, whatever the files' sizes.
///
/// # Errors
/// [`WalkError`]; nothing is written in any case.
pub fn walk(root: &Path, spec: &ReleaseSpec, progress: &dyn Progress) -> Result<Walked, WalkError> {
    let tree_error = |source| WalkError::Tree {
        path: root.to_owned(),
        source,
    };
    let root_error = |source| WalkError::Root {
        path: root.to_owned(),
        source,
    };
    let opened = Root::open(root).map_err(root_error)?;
    let mut offences: Vec<Offence> = Vec::new();
    let (mut found, mut entries, mut total) = (Vec::new(), 0_u64, 0_u64);
    let mut meet = |met| match met {
        Met::Unlisted(unlisted) => offences.push(Offence::from(unlisted)),
        // A folder that holds something is told by what it holds.
        Met::Name(name) if name.kind() == FileType::Directory && !name.empty => {}
        Met::Name(name) => {
            entries += 1;
            if entries > MAX_ENTRIES {
                return;
            }
            offences.extend(Offence::of_kind(&name));
            if name.kind() == FileType::RegularFile {
                total = total.saturating_add(name.stamp.size);
            }
            found.push(name);
        }
    };
    scan(&opened, Some(b".git"), &mut meet).map_err(root_error)?;
    if entries > MAX_ENTRIES {
        return Err(tree_error(ManifestError::TooMany { entries }));
    }
    progress.total(total);
    let walk = Walk {
        root: &opened,
        progress,
        // Where something is refused already, the files are only opened: that tells the unreadable ones, soon.
        only_open: !offences.is_empty(),
        warnings: Mutex::default(),
    };
    let mut entries = Vec::with_capacity(found.len());
    walk.all(found, |read| match read {
        Ok(entry) => entries.extend(entry),
        Err(offence) => offences.push(offence),
    });
    if !offences.is_empty() {
        return Err(refused(root, offences));
    }
    let mut warnings = walk.warnings.into_inner().unwrap_or_default();
    let manifest = Manifest::new(spec.clone(), entries).map_err(tree_error)?;
    shared_links(&manifest).map_err(|source| WalkError::Shared {
        path: root.to_owned(),
        source,
    })?;
    warn::finish(&manifest, &mut warnings);
    Ok(Walked { manifest, warnings })
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

struct Walk<'a> {
    root: &'a Root,
    progress: &'a dyn Progress,
    only_open: bool,
    warnings: Mutex<Vec<Warning>>,
}

impl Walk<'_> {
    fn all(&self, found: Vec<Found>, take: impl FnMut(Result<Option<Entry>, Offence>)) {
        let bytes = |found: &Found| match found.kind() {
            FileType::RegularFile => found.stamp.size,
            _ => 0,
        };
        content::each(found, bytes, |found, buffer| self.one(found, buffer), take);
    }

    /// None for a folder that holds something.
    fn one(&self, found: Found, buffer: &mut Vec<u8>) -> Result<Option<Entry>, Offence> {
        let kind = match found.kind() {
            FileType::RegularFile => self.file(&found, buffer)?,
            FileType::Symlink => self.link(&found)?,
            FileType::Directory if found.empty => EntryKind::EmptyFolder,
            _ => return Ok(None),
        };
        Ok(Some(Entry {
            path: found.path,
            kind,
        }))
    }

    fn link(&self, found: &Found) -> Result<EntryKind, Offence> {
        let mut parents = Parents::of(self.root);
        let target = parents
            .split(found.path.as_bytes())
            .and_then(|(parent, name)| Ok(rustix::fs::readlinkat(parent, name, Vec::new())?))
            .map_err(Offence::unreadable(found))?;
        Ok(EntryKind::Link {
            target: target.into_bytes().into(),
        })
    }

    fn file(&self, found: &Found, buffer: &mut Vec<u8>) -> Result<EntryKind, Offence> {
        let path = found.path.as_bytes();
        let mut file = self.root.read(path).map_err(Offence::unreadable(found))?;
        let mut secret = warn::secret_name(path);
        let mut read = Ok((
            ship_model::digest::BlobDigest::from_bytes([0; 32]),
            found.stamp.size,
        ));
        if has_capabilities(&file) {
            return Err(Offence::Capabilities {
                path: found.path.clone(),
            });
        }
        if !self.only_open {
            read = content::hash(&mut file, found.stamp.size, buffer, self.progress, |first| {
                secret |= warn::secret_content(first);
            });
        }
        let (digest, size) = read.map_err(Offence::unreadable(found))?;
        let after = rustix::fs::fstat(&file).map_err(io::Error::from);
        let after = after.map_err(Offence::unreadable(found))?;
        let same = crate::stamp::FileStamp::of(&after) == found.stamp && after.st_mode == found.mode;
        if !same || size != found.stamp.size || self.replaced(found) {
            return Err(Offence::Changed {
                path: found.path.clone(),
            });
        }
        if secret {
            self.warn(Warning::Secret {
                path: found.path.clone(),
            });
        }
        Ok(EntryKind::File {
            executable: found.mode & 0o111 != 0,
            size,
            digest,
        })
    }

    /// Whether the name leads to another inode by now: the file that was read is an old one then.
    fn replaced(&self, found: &Found) -> bool {
        let mut parents = Parents::of(self.root);
        let now = parents
            .split(found.path.as_bytes())
            .and_then(|(parent, name)| Ok(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?));
        now.map_or(true, |stat| crate::stamp::FileStamp::of(&stat) != found.stamp)
    }

    fn warn(&self, warning: Warning) {
        if let Ok(mut warnings) = self.warnings.lock() {
            warnings.push(warning);
        }
    }
}

/// File capabilities give rights like setuid does, and a release would lose them silently.
fn has_capabilities(file: &std::fs::File) -> bool {
    let mut value = [0_u8; 64];
    matches!(
        rustix::fs::fgetxattr(file, "security.capability", &mut value),
        Ok(1..)
    )
}
