//! Keeping the stamps of neighbours true, whose inodes our own linking and unlinking touches.
//!
//! Everything here is a saving, never a need: a stamp that stays stale makes the next look hash the file. So failures
//! are not told.

use std::collections::{HashMap, HashSet};

use rustix::fs::AtFlags;

use super::place::{Place, STAMPS_SUFFIX};
use super::staged::StagedRelease;
use crate::beneath::Parents;
use crate::stamp::FileStamp;

/// Renews the stamps of files that looked, just before we touched their inode, exactly as stamped.
///
/// `before`: by inode. Between that look and this one nobody but us should have touched the file; who changes a
/// read-only file and sets its mtime back within that time is found by the next full look.
pub(super) fn renew(except: Place<'_>, before: &HashMap<u64, FileStamp>) {
    if before.is_empty() {
        return;
    }
    others(except, |release| {
        let mut renewed = Vec::new();
        let mut parents = Parents::of(release.root());
        for (at, stamp) in release.stamps.entries.iter().enumerate() {
            if *stamp == FileStamp::NONE || before.get(&stamp.inode) != Some(stamp) {
                continue;
            }
            let path = release.manifest().entries()[at].path.as_bytes();
            let now = parents
                .split(path)
                .and_then(|(parent, name)| Ok(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?));
            let now = now.map(|stat| FileStamp::of(&stat));
            if let Ok(now) = now
                && now != *stamp
                && now.same_but_ctime(stamp)
            {
                renewed.push((at, now));
            }
        }
        renewed
    });
}

/// Takes the stamps of all files with one of these inodes.
pub(super) fn distrust(except: Place<'_>, inodes: &HashSet<u64>) {
    if inodes.is_empty() {
        return;
    }
    others(except, |release| {
        let stamps = release.stamps.entries.iter().enumerate();
        let rotten = stamps.filter(|(_, stamp)| inodes.contains(&stamp.inode) && **stamp != FileStamp::NONE);
        rotten.map(|(at, _)| (at, FileStamp::NONE)).collect()
    });
}

/// Changes stamps of every other release beside this one.
fn others(except: Place<'_>, change: impl Fn(&StagedRelease) -> Vec<(usize, FileStamp)>) {
    for name in beside(except) {
        let Ok(place) = Place::new(except.releases(), &name) else {
            continue;
        };
        let Ok(mut release) = StagedRelease::open(place) else {
            continue;
        };
        let changes = change(&release);
        if changes.is_empty() {
            continue;
        }
        for (at, stamp) in changes {
            release.stamps.entries[at] = stamp;
        }
        let _ = ship_durable::write_file(&place.stamps(), &release.stamps.encode());
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
