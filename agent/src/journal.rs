//! What an agent must not forget of an app: one small file, replaced whole and durable before the agent acts on it.
//!
//! After a crash the file is the old or the new one. It holds the fence (the newest epoch ever taken), the desired state
//! that came with it (so that a restart without a store goes on), the last failure, a local hold and the figures of
//! the last update. A file that cannot be read is kept aside and said, never deleted.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ship_model::desired::{DeployNumber, DesiredApp, Epoch};
use ship_model::release::Target;
use ship_model::report::{AppFailure, LocalHold, UpdateFigures};
use thiserror::Error;

const VERSION: u32 = 1;
/// A record is a few KiB; a file beyond this is not one.
const MAX_RECORD: u64 = 16 << 20;

/// What is remembered of one app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppRecord {
    version: u32,
    /// The newest epoch that was taken; older ones are refused, whoever sends them.
    #[serde(default)]
    pub epoch: Epoch,
    /// What came with that epoch.
    #[serde(default)]
    pub desired: Option<DesiredApp>,
    /// The deploy that brought what runs.
    #[serde(default)]
    pub deploy: DeployNumber,
    /// The switch of a static release that was begun and not known to be finished.
    #[serde(default)]
    pub switching: Option<LinkSwitch>,
    #[serde(default)]
    pub failure: Option<AppFailure>,
    #[serde(default)]
    pub held: Option<LocalHold>,
    #[serde(default)]
    pub update: UpdateFigures,
    /// The keeper's count of cut connections when the last switch was asked for.
    #[serde(default)]
    pub cut_before: u64,
    /// Balancers were, or are being, told to send users elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<OutOfRotation>,
    /// An operator keeps the host out of rotation, also while no store is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
}

/// Written before the first balancer is told; taken away when all were told that the host is back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfRotation {
    /// Milliseconds since 1970.
    pub since_ms: u64,
    /// Balancers in which somebody else had set the host aside: they are left as they are.
    #[serde(default)]
    pub aside: Vec<String>,
}

/// A switch of the links, written before the first of them is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSwitch {
    pub to: Target,
    /// What `previous` becomes; none: it is taken away.
    pub previous: Option<Target>,
}

impl Default for AppRecord {
    fn default() -> Self {
        Self {
            version: VERSION,
            epoch: Epoch(0),
            desired: None,
            deploy: DeployNumber(0),
            switching: None,
            failure: None,
            held: None,
            update: UpdateFigures::default(),
            cut_before: 0,
            out: None,
            drained: false,
        }
    }
}

impl AppRecord {
    /// Takes a desired state whose epoch is newer than all seen: what had failed under an older one may be tried again, and
    /// a local hold that the newer one answers is over.
    pub fn take(&mut self, desired: DesiredApp) {
        self.epoch = desired.epoch;
        self.failure = self.failure.take().filter(AppFailure::outlives_its_epoch);
        self.held = self.held.take().filter(|held| held.stands_against(&desired));
        self.desired = Some(desired);
    }

    /// The failure that still counts: nothing is tried again under the epoch under which it failed for good.
    pub fn standing_failure(&self) -> Option<&AppFailure> {
        let failure = self.failure.as_ref();
        failure.filter(|failure| failure.stands_under(self.epoch))
    }

    /// Forgets a failure of an older epoch when `running`, which serves as it should, answers it: the release that failed,
    /// or a newer one.
    pub fn answer_failure(&mut self, running: Target) {
        let epoch = self.epoch;
        let stands = |failure: &AppFailure| !failure.is_answered_by(running, epoch);
        self.failure = self.failure.take().filter(stands);
    }
}

/// Why a record could not be read.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("cannot read the record {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("record {} is damaged and could not be moved aside", path.display())]
    Quarantine {
        path: PathBuf,
        source: ship_durable::FileError,
    },
}

/// Why a record could not be made durable; what was remembered before still is.
#[derive(Debug, Error)]
pub enum SaveError {
    #[error("cannot encode the record {}", path.display())]
    Encode {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("cannot save the record {}", path.display())]
    Write {
        path: PathBuf,
        source: ship_durable::FileError,
    },
}

/// One app's record in memory and on disk; both are the same after every call.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    record: AppRecord,
}

/// An opened record, and what had to be done for it.
#[derive(Debug)]
pub struct Opened {
    pub journal: Journal,
    /// Where a damaged file was put, and what is wrong with it. The fence is then lost: the caller asks the keeper.
    pub quarantined: Option<(PathBuf, String)>,
}

impl Journal {
    /// Reads the record at `path`; an absent file is an empty record.
    ///
    /// # Errors
    /// [`OpenError`]; a damaged file is no error.
    pub fn open(path: &Path) -> Result<Opened, OpenError> {
        let bytes = match read_bounded(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Opened {
                    journal: Self::with(path, AppRecord::default()),
                    quarantined: None,
                });
            }
            Err(source) => {
                return Err(OpenError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        match decode(&bytes) {
            Ok(record) => Ok(Opened {
                journal: Self::with(path, record),
                quarantined: None,
            }),
            Err(reason) => Self::quarantine(path, reason),
        }
    }

    fn with(path: &Path, record: AppRecord) -> Self {
        Self {
            path: path.to_owned(),
            record,
        }
    }

    fn quarantine(path: &Path, reason: String) -> Result<Opened, OpenError> {
        let aside = path.with_extension("json.damaged");
        ship_durable::rename(path, &aside).map_err(|source| OpenError::Quarantine {
            path: path.to_owned(),
            source,
        })?;
        Ok(Opened {
            journal: Self::with(path, AppRecord::default()),
            quarantined: Some((aside, reason)),
        })
    }

    pub fn record(&self) -> &AppRecord {
        &self.record
    }

    /// Changes the record; when this returns the change is durable. A change that changes nothing writes nothing.
    ///
    /// # Errors
    /// [`SaveError`]; the record is as before, in memory too.
    pub fn change(&mut self, change: impl FnOnce(&mut AppRecord)) -> Result<(), SaveError> {
        let mut next = self.record.clone();
        change(&mut next);
        if next == self.record {
            return Ok(());
        }
        let bytes = serde_json::to_vec_pretty(&next).map_err(|source| SaveError::Encode {
            path: self.path.clone(),
            source,
        })?;
        ship_durable::write_private_file(&self.path, &bytes).map_err(|source| SaveError::Write {
            path: self.path.clone(),
            source,
        })?;
        self.record = next;
        Ok(())
    }
}

/// The record at `path` as it is, for those who only look; none when there is none that can be read.
pub fn peek(path: &Path) -> Option<AppRecord> {
    decode(&read_bounded(path).ok()?).ok()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > MAX_RECORD {
        return Ok(Vec::new());
    }
    std::fs::read(path)
}

fn decode(bytes: &[u8]) -> Result<AppRecord, String> {
    let record: AppRecord = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if record.version == VERSION {
        Ok(record)
    } else {
        Err(format!(
            "its version is {}, this program knows {VERSION}",
            record.version
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a failed unwrap fails the test, and what a test writes need not be durable"
    )]

    use super::*;

    #[test]
    fn what_was_changed_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.json");
        let mut journal = Journal::open(&path).unwrap().journal;
        journal.change(|record| record.epoch = Epoch(7)).unwrap();
        assert_eq!(Journal::open(&path).unwrap().journal.record().epoch, Epoch(7));
    }

    #[test]
    fn a_failed_change_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&folder.path().join("gone/web.json"))
            .unwrap()
            .journal;
        assert!(journal.change(|record| record.epoch = Epoch(7)).is_err());
        assert_eq!(journal.record().epoch, Epoch(0));
    }

    #[test]
    fn a_damaged_record_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.json");
        for damaged in [&b""[..], b"{", b"{\"version\":9}", b"\0\0\0"] {
            std::fs::write(&path, damaged).unwrap();
            let opened = Journal::open(&path).unwrap();
            let (aside, _) = opened.quarantined.unwrap();
            assert_eq!(std::fs::read(aside).unwrap(), damaged);
            assert_eq!(opened.journal.record(), &AppRecord::default());
        }
    }

    /// A record of version 1 as it lies on hosts: every later program must read it.
    #[test]
    fn reads_the_first_version() {
        let record = decode(br#"{"version":1,"epoch":4,"deploy":2,"held":null}"#).unwrap();
        assert_eq!((record.epoch, record.deploy), (Epoch(4), DeployNumber(2)));
    }
}
