//! Reading what was listed: each file once, with all cores.

use std::fs::File;
use std::io;

use rustix::fs::{AtFlags, FileType};
use ship_model::digest::BlobDigest;
use ship_model::manifest::{Entry, EntryKind};

use super::seen::SeenFile;
use super::{Offence, Reading, Warning, warn};
use crate::beneath::{Parents, Root};
use crate::content::{self, Reach};
use crate::progress::Progress;
use crate::scan::Found;
use crate::segments::{self, SegmentList};
use crate::stamp::FileStamp;

pub(super) struct Walk<'a> {
    pub root: &'a Root,
    pub reading: &'a Reading<'a>,
    pub progress: &'a dyn Progress,
    pub only_open: bool,
}

/// What one name turned out to be.
pub(super) struct Read {
    pub entry: Entry,
    pub warning: Option<Warning>,
    /// To be remembered.
    pub file: Option<SeenFile>,
    pub list: Option<SegmentList>,
}

/// What a file holds.
struct Hashed {
    digest: BlobDigest,
    size: u64,
    secret: bool,
    list: Option<SegmentList>,
}

impl Walk<'_> {
    /// None for a folder that holds something.
    pub fn all(&self, found: Vec<Found>, take: impl FnMut(Result<Option<Read>, Offence>)) {
        let bytes = |found: &Found| match found.kind() {
            FileType::RegularFile if self.known(found).is_none() => found.stamp.size,
            _ => 0,
        };
        content::each(
            self.root,
            found,
            bytes,
            |found, reach| self.one(found, reach),
            take,
        );
    }

    fn known(&self, found: &Found) -> Option<&SeenFile> {
        let seen = self.reading.seen.filter(|_| !self.only_open)?;
        seen.find(found.device, &found.stamp)
    }

    fn one(&self, found: Found, reach: &mut Reach<'_>) -> Result<Option<Read>, Offence> {
        let kind = match found.kind() {
            FileType::RegularFile => return self.file(found, reach).map(Some),
            FileType::Symlink => link(&found, &mut reach.parents)?,
            FileType::Directory if found.empty => EntryKind::EmptyFolder,
            _ => return Ok(None),
        };
        Ok(Some(Read {
            entry: Entry {
                path: found.path,
                kind,
            },
            warning: None,
            file: None,
            list: None,
        }))
    }

    fn file(&self, found: Found, reach: &mut Reach<'_>) -> Result<Read, Offence> {
        let (hashed, file) = match self.known(&found) {
            Some(known) => (self.remembered(known), self.reading.clock.map(|_| *known)),
            None => self.read(&found, reach)?,
        };
        let secret = hashed.secret || warn::secret_name(found.path.as_bytes());
        Ok(Read {
            warning: secret.then(|| Warning::Secret {
                path: found.path.clone(),
            }),
            entry: Entry {
                path: found.path,
                kind: EntryKind::File {
                    executable: found.mode & 0o111 != 0,
                    size: hashed.size,
                    digest: hashed.digest,
                },
            },
            file,
            list: hashed.list,
        })
    }

    fn remembered(&self, known: &SeenFile) -> Hashed {
        self.progress.done(known.stamp.size);
        let seen = self.reading.seen.filter(|_| self.reading.cut);
        Hashed {
            digest: known.digest,
            size: known.stamp.size,
            secret: known.secret,
            list: seen.and_then(|seen| seen.list(known.digest)).cloned(),
        }
    }

    /// The file as it is, and what of it is to be remembered.
    fn read(&self, found: &Found, reach: &mut Reach<'_>) -> Result<(Hashed, Option<SeenFile>), Offence> {
        let at = self.reading.clock.map(|clock| clock());
        let path = found.path.as_bytes();
        let opened = reach.parents.read(path);
        let mut file = opened.map_err(Offence::unreadable(found))?;
        if has_capabilities(&file) {
            return Err(Offence::Capabilities {
                path: found.path.clone(),
            });
        }
        let hashed = self.hash(&mut file, found.stamp.size, &mut reach.buffer);
        let hashed = hashed.map_err(Offence::unreadable(found))?;
        let after = rustix::fs::fstat(&file).map_err(io::Error::from);
        let after = after.map_err(Offence::unreadable(found))?;
        let same = FileStamp::of(&after) == found.stamp && after.st_mode == found.mode;
        if !same || hashed.size != found.stamp.size || replaced(found, &mut reach.parents) {
            return Err(Offence::Changed {
                path: found.path.clone(),
            });
        }
        let seen = SeenFile {
            device: found.device,
            stamp: found.stamp,
            secret: hashed.secret,
            digest: hashed.digest,
        };
        Ok((
            hashed,
            Some(seen).filter(|seen| at.is_some_and(|at| seen.is_settled(at))),
        ))
    }

    fn hash(&self, file: &mut File, size: u64, buffer: &mut Vec<u8>) -> io::Result<Hashed> {
        let mut secret = false;
        let first = |first: &[u8]| secret = warn::secret_content(first);
        let (digest, size, list) = if self.only_open {
            (BlobDigest::from_bytes([0; 32]), size, None)
        } else if self.reading.cut && size > segments::LARGE {
            let list = segments::hash_and_cut(file, size, self.progress, first)?;
            (list.blob, list.size, Some(list))
        } else {
            let (digest, read) = content::hash(file, size, buffer, self.progress, first)?;
            (digest, read, None)
        };
        Ok(Hashed {
            digest,
            size,
            secret,
            list,
        })
    }
}

fn link(found: &Found, parents: &mut Parents<'_>) -> Result<EntryKind, Offence> {
    let target = parents
        .split(found.path.as_bytes())
        .and_then(|(parent, name)| Ok(rustix::fs::readlinkat(parent, name, Vec::new())?))
        .map_err(Offence::unreadable(found))?;
    Ok(EntryKind::Link {
        target: target.into_bytes().into(),
    })
}

/// Whether the name leads to another inode by now: the file that was read is an old one then.
fn replaced(found: &Found, parents: &mut Parents<'_>) -> bool {
    let now = parents
        .split(found.path.as_bytes())
        .and_then(|(parent, name)| Ok(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?));
    now.map_or(true, |stat| FileStamp::of(&stat) != found.stamp)
}

/// File capabilities give rights like setuid does, and a release would lose them silently.
fn has_capabilities(file: &File) -> bool {
    let mut value = [0_u8; 64];
    matches!(
        rustix::fs::fgetxattr(file, "security.capability", &mut value),
        Ok(1..)
    )
}
