//! Reading a staged release again, slowly, whatever its stamps say: a disk that rots changes neither size nor times.
//!
//! A scrub goes over the files in the order of the manifest and can stop after any of them; where it stopped is the
//! caller's to keep. An inode that several names share is read once, as long as the caller hands the same `seen` on.

use std::collections::HashSet;
use std::io::{self, Read};

use rustix::fs::Advice;
use ship_model::digest::BlobDigest;
use ship_model::manifest::EntryKind;

use super::check::{Defect, Problem, VerifyStagedError};
use super::place::Place;
use super::refresh;
use super::staged::{StagedRelease, file_mode};
use crate::content::{self, PIECE};
use crate::stamp::FileStamp;

/// Most problems told by one scrub; all files that are wrong lose their stamps.
const MAX_PROBLEMS: usize = 100;

/// How far a scrub came and what it found.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// Entry to go on with; none: the release was read to its end.
    pub next: Option<u64>,
    pub read_files: u64,
    pub read_bytes: u64,
    /// The first hundred files that are not as published.
    pub problems: Vec<Problem>,
}

/// Reads files of the release at `place` from entry `from` on, until `pace` says to stop.
///
/// `pace` is told the bytes of each piece that was read, at most 128 KiB, and 0 before each file; it may sleep, and false
/// ends the scrub after the last file that was read whole. A file that is right gets a new stamp; one that is wrong loses its stamp, here and in
/// every other release with the same inode, so that each of them is looked at before it is switched to.
///
/// May run while others stage or remove: the worst that a lost stamp costs is hashing. Memory: the manifest.
///
/// # Errors
/// [`VerifyStagedError`] when the release's record cannot be used.
pub fn scrub_staged(
    place: Place<'_>,
    from: u64,
    seen: &mut HashSet<u64>,
    pace: &mut dyn FnMut(u64) -> bool,
) -> Result<Scrubbed, VerifyStagedError> {
    let staged = StagedRelease::open(place)?;
    let mut scrub = Scrub {
        staged: &staged,
        changes: Vec::new(),
        rotten: HashSet::new(),
        buffer: vec![0; PIECE],
        done: Scrubbed::default(),
    };
    for at in usize::try_from(from).unwrap_or(usize::MAX)..staged.manifest().entries().len() {
        // The first file is begun whatever `pace` says of the time: else none might ever be.
        let begin = at as u64 == from || pace(0);
        if !begin || !scrub.entry(at, seen, pace) {
            scrub.done.next = Some(at as u64);
            break;
        }
    }
    let (changes, rotten, done) = (scrub.changes, scrub.rotten, scrub.done);
    keep(place, &staged, &changes);
    refresh::distrust(place, &rotten);
    Ok(done)
}

/// Writes what was learnt into the stamps as they are now; who staged meanwhile may have renewed others.
fn keep(place: Place<'_>, read: &StagedRelease, changes: &[(usize, FileStamp, FileStamp)]) {
    if changes.is_empty() {
        return;
    }
    // A record that is gone or another release's by now needs nothing; one that cannot be written costs hashing.
    let Ok(mut now) = StagedRelease::open(place) else {
        return;
    };
    if now.id() != read.id() {
        return;
    }
    for (at, before, after) in changes {
        if now.stamps.entries[*at] == *before || *after == FileStamp::NONE {
            now.stamps.entries[*at] = *after;
        }
    }
    let _ = ship_durable::write_file(&place.stamps(), &now.stamps.encode());
}

struct Scrub<'a> {
    staged: &'a StagedRelease,
    /// Entry, its stamp when this began, its stamp now.
    changes: Vec<(usize, FileStamp, FileStamp)>,
    rotten: HashSet<u64>,
    buffer: Vec<u8>,
    done: Scrubbed,
}

impl Scrub<'_> {
    /// False when it was told to stop before the file was read whole.
    fn entry(&mut self, at: usize, seen: &mut HashSet<u64>, pace: &mut dyn FnMut(u64) -> bool) -> bool {
        let EntryKind::File {
            executable,
            size,
            digest,
        } = self.staged.manifest().entries().at(at).kind
        else {
            return true;
        };
        match self.file(at, (executable, size, digest), seen, pace) {
            Ok(Some(go_on)) => go_on,
            Ok(None) => {
                self.wrong(at, None, Defect::Content);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.wrong(at, None, Defect::Missing);
                true
            }
            Err(error) => {
                self.wrong(at, None, Defect::Unreadable(error));
                true
            }
        }
    }

    /// None for a file that is wrong by its looks; false when it was told to stop.
    fn file(
        &mut self,
        at: usize,
        (executable, size, digest): (bool, u64, BlobDigest),
        seen: &mut HashSet<u64>,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> io::Result<Option<bool>> {
        let path = self.staged.manifest().entries().at(at).path.as_bytes();
        let mut file = self.staged.root().read(path)?;
        let stat = rustix::fs::fstat(&file)?;
        let stamp = content::stamp_of(&file)?;
        if stamp.size != size || stat.st_mode & 0o7777 != file_mode(executable) {
            return Ok(None);
        }
        if seen.contains(&stamp.inode) && self.staged.stamps.entries[at] == stamp {
            return Ok(Some(true));
        }
        let Some(found) = self.hash(&mut file, pace)? else {
            return Ok(Some(false));
        };
        if content::stamp_of(&file)? != stamp {
            // It got or lost a name meanwhile, or was replaced: the next round looks again.
            return Ok(Some(true));
        }
        self.done.read_files += 1;
        if found == digest {
            seen.insert(stamp.inode);
            self.change(at, stamp);
        } else {
            self.wrong(at, Some(stamp.inode), Defect::Content);
        }
        Ok(Some(true))
    }

    fn hash(
        &mut self,
        file: &mut std::fs::File,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> io::Result<Option<BlobDigest>> {
        // Advice only: where it is refused, memory is compared.
        let _ = rustix::fs::fadvise(&*file, 0, None, Advice::DontNeed);
        let mut hasher = blake3::Hasher::new();
        loop {
            let got = match file.read(&mut self.buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if got == 0 {
                return Ok(Some(hasher.finalize().into()));
            }
            hasher.update(&self.buffer[..got]);
            self.done.read_bytes += got as u64;
            if !pace(got as u64) {
                return Ok(None);
            }
        }
    }

    fn change(&mut self, at: usize, stamp: FileStamp) {
        let before = self.staged.stamps.entries[at];
        if before != stamp {
            self.changes.push((at, before, stamp));
        }
    }

    fn wrong(&mut self, at: usize, inode: Option<u64>, defect: Defect) {
        self.rotten.extend(inode);
        self.change(at, FileStamp::NONE);
        if self.done.problems.len() < MAX_PROBLEMS {
            self.done.problems.push(Problem {
                path: self.staged.manifest().entries().at(at).path.to_string(),
                defect,
            });
        }
    }
}
