//! Descriptors that processes leave with the keeper (`FDSTORE=1`) for the next process of their name: after a crash, or of
//! the next release.
//!
//! They are handed out after the listeners, in the order they came, and stay here until they are removed by name, are
//! hung up, or no release that lives has such a process. They live in the keeper's memory and nowhere else: they survive its
//! upgrade in place, but a keeper that dies takes them along, and the app starts without them then, as after a boot.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::handed::{ClaimError, Claims, Given};

/// Descriptors in all.
const MAX_STORED: usize = 64;
/// Names of descriptors in all.
const MAX_NAMES: usize = 16;
/// What one without a name is called.
const UNNAMED: &str = "stored";

/// Why a descriptor was not stored.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum StoreError {
    #[error("its descriptors are not stored: {MAX_STORED} are stored already; let it remove some")]
    Full,
    #[error("its descriptors are not stored: there are {MAX_NAMES} names already; let it use fewer")]
    Names,
}

#[derive(Debug)]
struct Stored {
    name: String,
    descriptor: OwnedFd,
    /// Kept though its other side hangs up.
    keep: bool,
}

/// One descriptor as one program leaves it to the next.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredRecord {
    process: String,
    name: String,
    descriptor: RawFd,
    keep: bool,
}

/// Stored descriptors by process name.
#[derive(Debug, Default)]
pub(super) struct Stores {
    by_process: BTreeMap<String, Vec<Stored>>,
}

impl Stores {
    /// Takes `descriptors` in; one that is here already is dropped.
    pub(super) fn keep(
        &mut self,
        process: &str,
        name: Option<&str>,
        keep: bool,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), StoreError> {
        self.drop_hung_up();
        let name = name.unwrap_or(UNNAMED);
        let all = || self.by_process.values().flatten();
        let mut names: BTreeSet<&str> = all().map(|stored| stored.name.as_str()).collect();
        names.insert(name);
        if names.len() > MAX_NAMES {
            return Err(StoreError::Names);
        }
        let room = MAX_STORED.saturating_sub(all().count());
        let stored = self.by_process.entry(process.to_owned()).or_default();
        let mut left = room;
        for descriptor in descriptors {
            if stored.iter().any(|known| is_same(&known.descriptor, &descriptor)) {
                continue;
            }
            left = left.checked_sub(1).ok_or(StoreError::Full)?;
            stored.push(Stored {
                name: name.to_owned(),
                descriptor,
                keep,
            });
        }
        Ok(())
    }

    /// Drops those with this name; without one, those that have none.
    pub(super) fn remove(&mut self, process: &str, name: Option<&str>) {
        if let Some(stored) = self.by_process.get_mut(process) {
            stored.retain(|known| known.name != name.unwrap_or(UNNAMED));
        }
    }

    /// What a process of this name is handed: names and numbers, good until the next change.
    pub(super) fn of(&mut self, process: &str) -> Vec<(String, RawFd)> {
        self.drop_hung_up();
        let stored = self.by_process.get(process).into_iter().flatten();
        stored
            .map(|stored| (stored.name.clone(), stored.descriptor.as_raw_fd()))
            .collect()
    }

    /// All that is stored, to be taken by [`Stores::take_over`].
    pub(super) fn hand_over(&self, given: &mut Given) -> Vec<StoredRecord> {
        let all = self.by_process.iter();
        let all = all.flat_map(|(process, stored)| stored.iter().map(move |stored| (process, stored)));
        all.map(|(process, stored)| StoredRecord {
            process: process.clone(),
            name: stored.name.clone(),
            descriptor: given.give(&stored.descriptor),
            keep: stored.keep,
        })
        .collect()
    }

    /// What the program before had stored.
    pub(super) fn take_over(records: Vec<StoredRecord>, claims: &mut Claims) -> Result<Self, ClaimError> {
        let mut stores = Self::default();
        for record in records {
            let stored = Stored {
                name: record.name,
                descriptor: claims.take(record.descriptor)?,
                keep: record.keep,
            };
            stores.by_process.entry(record.process).or_default().push(stored);
        }
        Ok(stores)
    }

    /// Drops what was stored by processes of other names.
    pub(super) fn keep_only(&mut self, processes: &BTreeSet<String>) {
        self.by_process.retain(|process, _| processes.contains(process));
    }

    fn drop_hung_up(&mut self) {
        for stored in self.by_process.values_mut() {
            stored.retain(|stored| stored.keep || !is_hung_up(&stored.descriptor));
        }
        self.by_process.retain(|_, stored| !stored.is_empty());
    }
}

/// Whether both are the same open thing, as far as an inode tells; anonymous ones all have one and count as different.
fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let identity = |descriptor: &OwnedFd| {
        let found = rustix::fs::fstat(descriptor).ok()?;
        let kind = rustix::fs::FileType::from_raw_mode(found.st_mode);
        (kind != rustix::fs::FileType::Unknown).then_some((found.st_dev, found.st_ino))
    };
    let one = identity(one);
    one.is_some() && one == identity(other)
}

fn is_hung_up(descriptor: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(descriptor, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::{MAX_NAMES, MAX_STORED, StoreError, Stores};

    fn names(stores: &mut Stores, process: &str) -> Vec<String> {
        stores.of(process).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn keeps_by_process_and_name_in_order_and_each_once() {
        let mut stores = Stores::default();
        let (one, _other) = UnixStream::pair().unwrap();
        let copy = OwnedFd::from(one.try_clone().unwrap());
        stores.keep("web", Some("a"), false, vec![one.into()]).unwrap();
        stores.keep("web", Some("b"), false, vec![copy]).unwrap();
        assert_eq!(names(&mut stores, "web"), ["a"]);
        let (two, _other_two) = UnixStream::pair().unwrap();
        stores.keep("web", None, false, vec![two.into()]).unwrap();
        assert_eq!(names(&mut stores, "web"), ["a", "stored"]);
        assert!(stores.of("worker").is_empty());
        stores.remove("web", Some("a"));
        assert_eq!(names(&mut stores, "web"), ["stored"]);
        stores.keep_only(&["worker".to_owned()].into());
        assert!(stores.of("web").is_empty());
    }

    #[test]
    fn what_is_hung_up_goes_unless_it_was_to_stay() {
        let mut stores = Stores::default();
        for (name, keep) in [("stays", true), ("goes", false)] {
            let (one, other) = UnixStream::pair().unwrap();
            stores.keep("web", Some(name), keep, vec![one.into()]).unwrap();
            drop(other);
        }
        assert_eq!(names(&mut stores, "web"), ["stays"]);
    }

    #[test]
    fn is_bounded() {
        let mut stores = Stores::default();
        let mut ends = Vec::new();
        let mut fresh = |count: usize| -> Vec<OwnedFd> {
            (0..count)
                .map(|_| {
                    let (one, other) = UnixStream::pair().unwrap();
                    ends.push(other);
                    one.into()
                })
                .collect()
        };
        for number in 0..MAX_NAMES {
            let name = format!("n{number}");
            stores.keep("web", Some(&name), false, fresh(1)).unwrap();
        }
        let more = stores.keep("web", Some("one-more"), false, fresh(1));
        assert_eq!(more, Err(StoreError::Names));
        let flood = stores.keep("web", Some("n0"), false, fresh(MAX_STORED));
        assert_eq!(flood, Err(StoreError::Full));
        assert_eq!(stores.of("web").len(), MAX_STORED);
    }
}
