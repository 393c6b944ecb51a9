//! Keeping the stamps of neighbours true, whose inodes our own linking and unlinking touches.
//!
//! Everything here is a saving, never a need: a stamp that stays stale makes the next look hash the file. So failures
//! are not told.

use std::collections::HashSet;

use rayon::prelude::*;
use rustix::fs::AtFlags;

use super::place::{Place, STAMPS_SUFFIX};
use super::staged::{StagedRelease, read_stamps};
use super::stamps::Stamps;
use crate::beneath::{NEIGHBOURS, Parents};
use crate::stamp::FileStamp;

/// What inodes looked like before they were touched; sorted, each once.
#[derive(Debug, Default)]
pub(super) struct Before(Box<[FileStamp]>);

impl Before {
    pub fn new(mut looks: Vec<FileStamp>) -> Self {
        looks.sort_unstable_by_key(|look| look.inode);
        looks.dedup_by_key(|look| look.inode);
        Self(looks.into())
    }

    fn has(&self, stamp: &FileStamp) -> bool {
        let at = self.0.binary_search_by_key(&stamp.inode, |look| look.inode);
        *stamp != FileStamp::NONE && at.ok().and_then(|at| self.0.get(at)) == Some(stamp)
    }
}

/// What inodes looked like before they got one more name, and after; sorted, each once.
#[derive(Debug, Default)]
pub(super) struct Linked(Box<[(FileStamp, FileStamp)]>);

impl Linked {
    pub fn new(mut looks: Vec<(FileStamp, FileStamp)>) -> Self {
        looks.sort_unstable_by_key(|(before, _)| before.inode);
        looks.dedup_by_key(|(before, _)| before.inode);
        Self(looks.into())
    }

    fn after(&self, stamp: &FileStamp) -> Option<FileStamp> {
        let at = self
            .0
            .binary_search_by_key(&stamp.inode, |(before, _)| before.inode);
        let (before, after) = self.0.get(at.ok()?)?;
        (*stamp != FileStamp::NONE && before == stamp).then_some(*after)
    }
}

/// Renews the stamps of files whose inodes were linked, which looked exactly as stamped before: now they look, under every name, as the
/// new name did when it was read back.
pub(super) fn renew_linked(except: Place<'_>, linked: &Linked) {
    if linked.0.is_empty() {
        return;
    }
    others(except, |_, stamps| {
        let mut renewed = false;
        for stamp in &mut stamps.entries {
            if let Some(after) = linked.after(stamp) {
                *stamp = after;
                renewed = true;
            }
        }
        renewed
    });
}

/// Renews the stamps of files that looked, just before we touched their inode, exactly as stamped.
///
/// Between that look and this one nobody but us should have touched the file; who changes a read-only file and sets its
/// mtime back within that time is found by the next full look.
pub(super) fn renew(except: Place<'_>, before: &Before) {
    if before.0.is_empty() {
        return;
    }
    others(except, |place, stamps| {
        if !stamps.entries.iter().any(|stamp| before.has(stamp)) {
            return false;
        }
        let Ok(release) = StagedRelease::open(place) else {
            return false;
        };
        let chunks = stamps.entries.par_chunks_mut(NEIGHBOURS).enumerate();
        let renewed = chunks.map(|(chunk, stamps)| renew_some(&release, chunk * NEIGHBOURS, stamps, before));
        renewed.reduce(|| false, |a, b| a || b)
    });
}

/// The stamps of entries from `from` on; whether one was renewed.
fn renew_some(release: &StagedRelease, from: usize, stamps: &mut [FileStamp], before: &Before) -> bool {
    let entries = release.manifest().entries();
    let mut parents = Parents::of(release.root());
    let mut renewed = false;
    for (at, stamp) in (from..).zip(stamps).filter(|(_, stamp)| before.has(stamp)) {
        let Some(entry) = entries.get(at) else { break };
        let now = parents
            .split(entry.path.as_bytes())
            .and_then(|(parent, name)| Ok(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?));
        let now = now.map(|stat| FileStamp::of(&stat));
        if let Ok(now) = now
            && now != *stamp
            && now.same_but_ctime(stamp)
        {
            *stamp = now;
            renewed = true;
        }
    }
    renewed
}

/// Takes the stamps of all files with one of these inodes.
pub(super) fn distrust(except: Place<'_>, inodes: &HashSet<u64>) {
    if inodes.is_empty() {
        return;
    }
    others(except, |_, stamps| {
        let mut changed = false;
        for stamp in &mut stamps.entries {
            if inodes.contains(&stamp.inode) && *stamp != FileStamp::NONE {
                *stamp = FileStamp::NONE;
                changed = true;
            }
        }
        changed
    });
}

/// Changes stamps of every other release beside this one; `change` tells whether it did.
fn others(except: Place<'_>, change: impl Fn(Place<'_>, &mut Stamps) -> bool) {
    for name in beside(except) {
        let Ok(place) = Place::new(except.releases(), &name) else {
            continue;
        };
        let Ok(mut stamps) = read_stamps(place) else {
            continue;
        };
        if change(place, &mut stamps) {
            let _ = ship_durable::write_file(&place.stamps(), &stamps.encode());
        }
    }
}

fn beside(place: Place<'_>) -> Vec<String> {
    let Ok(names) = std::fs::read_dir(place.releases()) else {
        return Vec::new();
    };
    let names = names
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| name.strip_suffix(STAMPS_SUFFIX).map(str::to_owned))
        .filter(|name| name != place.folder())
        .collect()
}
