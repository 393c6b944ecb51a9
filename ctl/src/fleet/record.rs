//! `up.json`: what a fleet's folder remembers.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use ship_durable::{FileError, write_file};

use super::address::Net;
use super::process::ProcessId;

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub version: u32,
    pub net: Net,
    pub hosts: u8,
    /// Processes that were started for it and not seen to end, by name.
    #[serde(default)]
    pub processes: BTreeMap<String, ProcessId>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not what `shipctl up` writes", path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{} is of version {version}; this shipctl knows {VERSION}", path.display())]
    Version { path: PathBuf, version: u32 },
    #[error("encode the fleet's record")]
    Encode(#[source] serde_json::Error),
    #[error("write the fleet's record")]
    Write(#[source] FileError),
    #[error("no free piece of the loopback net was found")]
    NoNet,
    #[error("the fleet in {} has {have} hosts, which cannot become {want}: hosts can be added, not taken away", path.display())]
    Fewer { path: PathBuf, have: u8, want: u8 },
}

/// The record and its file, shared by whoever starts and ends processes.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    record: Mutex<Record>,
}

impl Book {
    /// Reads the record, or makes one with `hosts` hosts (3 when not said).
    pub fn open(path: PathBuf, hosts: Option<u8>) -> Result<Self, RecordError> {
        let record = match std::fs::read(&path) {
            Ok(bytes) => read(&path, &bytes, hosts)?,
            Err(source) if source.kind() == io::ErrorKind::NotFound => Record {
                version: VERSION,
                net: Net::draw().ok_or(RecordError::NoNet)?,
                hosts: hosts.unwrap_or(3),
                processes: BTreeMap::new(),
            },
            Err(source) => return Err(RecordError::Read { path, source }),
        };
        let book = Self {
            path,
            record: Mutex::new(record),
        };
        book.change(|_| ())?;
        Ok(book)
    }

    pub fn get(&self) -> Record {
        self.record
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Changes the record and writes it: after a crash the old or the new one is there.
    pub fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), RecordError> {
        let mut record = self
            .record
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut record);
        let bytes = serde_json::to_vec_pretty(&*record).map_err(RecordError::Encode)?;
        write_file(&self.path, &bytes).map_err(RecordError::Write)
    }
}

fn read(path: &std::path::Path, bytes: &[u8], hosts: Option<u8>) -> Result<Record, RecordError> {
    let mut record: Record = serde_json::from_slice(bytes).map_err(|source| RecordError::Parse {
        path: path.to_owned(),
        source,
    })?;
    if record.version != VERSION {
        return Err(RecordError::Version {
            path: path.to_owned(),
            version: record.version,
        });
    }
    match hosts {
        Some(want) if want < record.hosts => Err(RecordError::Fewer {
            path: path.to_owned(),
            have: record.hosts,
            want,
        }),
        Some(want) => {
            record.hosts = want;
            Ok(record)
        }
        None => Ok(record),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn a_folder_keeps_its_net_and_its_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("up.json");
        let first = Book::open(path.clone(), Some(2)).unwrap().get();
        assert_eq!(Book::open(path.clone(), None).unwrap().get(), first);
        assert_eq!(Book::open(path.clone(), Some(4)).unwrap().get().hosts, 4);
        let fewer = Book::open(path, Some(1)).unwrap_err();
        assert!(matches!(fewer, RecordError::Fewer { have: 4, want: 1, .. }));
    }
}
