//! Opening: replay what the index lacks, compare it with the journal, make it anew when they differ.

use std::io;
use std::path::{Path, PathBuf};

use ship_durable::{Journal, LockError, LockFile, OpenError};

use super::index::{Extent, Index, IndexError};
use super::record::{Kind, MAX_RECORD, Record, decode_group, weight};

pub(super) const JOURNAL: &str = "journal";
pub(super) const NEXT: &str = "journal.next";
const INDEX: &str = "index";

/// What was found when the catalog was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
    /// Why the index was made anew, if it was.
    pub rebuilt: Option<String>,
    /// Bytes of a torn write that were cut off the journal's end: nobody was told they stood.
    pub cut: Option<u64>,
    /// Batches committed in the catalog's life.
    pub batches: u64,
}

/// Why a catalog could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum CatalogOpenError {
    #[error("the store's catalog is in use")]
    Locked(#[source] LockError),
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot read the catalog's journal")]
    Journal(#[source] OpenError),
    #[error("the catalog's journal {} is damaged: {reason}; restore the store from a backup", path.display())]
    Inconsistent { path: PathBuf, reason: String },
    #[error("cannot make the catalog's index anew")]
    Rebuild {
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An open catalog's parts.
#[derive(Debug)]
pub(super) struct Parts {
    pub lock: LockFile,
    pub journal: Journal,
    pub index: Index,
    pub state: State,
}

/// Where the journal stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The last batch.
    pub seq: u64,
    pub extent: Extent,
}

pub(super) fn open(dir: &Path) -> Result<(Parts, Opened), CatalogOpenError> {
    let lock = lock(dir)?;
    let next = dir.join(NEXT);
    ship_durable::remove_tree(&next).map_err(|error| CatalogOpenError::Io {
        action: "remove",
        path: next,
        source: error.source,
    })?;
    let existed = dir.join(INDEX).exists();
    let first = Index::open(&dir.join(INDEX));
    let reason = match first.map_err(Trouble::Index).and_then(|index| attach(dir, index)) {
        Ok((index, journal, cut, state)) => {
            let lost = (!existed && state.seq > 0).then(|| "the index was missing".to_owned());
            return Ok(finish(lock, index, journal, cut, state, lost));
        }
        Err(Trouble::Journal(error)) => return Err(error),
        Err(Trouble::Index(error)) => chain(&error),
    };
    set_aside(dir)?;
    let again = Index::open(&dir.join(INDEX)).map_err(Trouble::Index);
    match again.and_then(|index| attach(dir, index)) {
        Ok((index, journal, cut, state)) => Ok(finish(lock, index, journal, cut, state, Some(reason))),
        Err(Trouble::Journal(error)) => Err(error),
        Err(Trouble::Index(IndexError::Differs)) => Err(CatalogOpenError::Inconsistent {
            path: dir.join(JOURNAL),
            reason: "its records do not add up to the state they tell".to_owned(),
        }),
        Err(Trouble::Index(error)) => Err(CatalogOpenError::Rebuild {
            source: Box::new(error),
        }),
    }
}

fn finish(
    lock: LockFile,
    index: Index,
    journal: Journal,
    cut: Option<u64>,
    state: State,
    rebuilt: Option<String>,
) -> (Parts, Opened) {
    let opened = Opened {
        rebuilt,
        cut,
        batches: state.seq,
    };
    let parts = Parts {
        lock,
        journal,
        index,
        state,
    };
    (parts, opened)
}

/// Removes the index; the next opening makes it anew.
pub(super) fn discard_index(dir: &Path) -> Result<(), CatalogOpenError> {
    let _lock = lock(dir)?;
    let index = dir.join(INDEX);
    ship_durable::remove_tree(&index).map_err(|error| CatalogOpenError::Io {
        action: "remove",
        path: index,
        source: error.source,
    })
}

fn lock(dir: &Path) -> Result<LockFile, CatalogOpenError> {
    std::fs::create_dir_all(dir).map_err(|source| CatalogOpenError::Io {
        action: "create",
        path: dir.to_owned(),
        source,
    })?;
    LockFile::acquire(&dir.join("lock")).map_err(CatalogOpenError::Locked)
}

/// Renames the index to the first free `index.broken-N`.
fn set_aside(dir: &Path) -> Result<(), CatalogOpenError> {
    let index = dir.join(INDEX);
    if !index.exists() {
        return Ok(());
    }
    let free = (1_u32..).map(|n| dir.join(format!("index.broken-{n}")));
    let Some(aside) = free.into_iter().find(|path| !path.exists()) else {
        return Ok(());
    };
    ship_durable::rename(&index, &aside).map_err(|error| CatalogOpenError::Io {
        action: "put aside",
        path: index,
        source: io::Error::other(error),
    })
}

enum Trouble {
    /// The journal can make a new one.
    Index(IndexError),
    Journal(CatalogOpenError),
}

type Attached = (Index, Journal, Option<u64>, State);

/// Reads the whole journal, applies to the index what it lacks, and compares the two.
fn attach(dir: &Path, index: Index) -> Result<Attached, Trouble> {
    let path = dir.join(JOURNAL);
    let applied = index.applied().map_err(Trouble::Index)?;
    let mut replay = Replay {
        index: &index,
        applied,
        seq: 0,
        state: 0,
        parts: 0,
        trouble: None,
    };
    let opened = Journal::open_with(&path, MAX_RECORD, |record| replay.take(&record.payload));
    let (journal, cut) = opened.map_err(|error| Trouble::Journal(CatalogOpenError::Journal(error)))?;
    let Replay {
        seq, state, trouble, ..
    } = replay;
    match trouble {
        None if applied > seq => {
            return Err(Trouble::Index(IndexError::Ahead {
                index: applied,
                journal: seq,
            }));
        }
        None => {}
        Some(Defect::Index(error)) => return Err(Trouble::Index(error)),
        Some(Defect::Journal(reason)) => {
            return Err(Trouble::Journal(CatalogOpenError::Inconsistent { path, reason }));
        }
    }
    let extent = index.extent().map_err(Trouble::Index)?;
    if extent.state != state {
        return Err(Trouble::Index(IndexError::Differs));
    }
    Ok((index, journal, cut.map(|cut| cut.bytes), State { seq, extent }))
}

enum Defect {
    Index(IndexError),
    Journal(String),
}

struct Replay<'a> {
    index: &'a Index,
    /// The last batch that the index has.
    applied: u64,
    seq: u64,
    state: u128,
    /// Sum over the parts of the checkpoint being read.
    parts: u128,
    trouble: Option<Defect>,
}

impl Replay<'_> {
    fn take(&mut self, payload: &[u8]) {
        if self.trouble.is_some() {
            return;
        }
        self.trouble = match decode_group(payload) {
            None => Some(Defect::Journal(format!(
                "what follows batch {} is no record of ours",
                self.seq
            ))),
            Some(records) => records.iter().try_for_each(|record| self.step(record)).err(),
        };
    }

    fn step(&mut self, record: &Record) -> Result<(), Defect> {
        match record.kind {
            Kind::Part | Kind::End if self.seq == 0 => self.checkpoint(record),
            Kind::Batch if record.seq == self.seq + 1 => {
                self.seq = record.seq;
                self.state = record.state;
                if record.seq > self.applied {
                    self.apply(record)?;
                }
                Ok(())
            }
            _ => Err(Defect::Journal(format!(
                "batch {} follows batch {}",
                record.seq, self.seq
            ))),
        }
    }

    fn checkpoint(&mut self, record: &Record) -> Result<(), Defect> {
        if self.applied > 0 && self.applied < record.seq && !self.rebuilding() {
            return Err(Defect::Index(IndexError::Behind {
                index: self.applied,
                checkpoint: record.seq,
            }));
        }
        for change in &record.changes {
            let value = change.value.as_deref().unwrap_or_default();
            self.parts = self
                .parts
                .wrapping_add(weight(&change.key, change.version, value));
        }
        if self.applied < record.seq {
            self.apply_part(record)?;
        }
        if record.kind == Kind::End {
            if self.parts != record.state {
                return Err(Defect::Journal("its checkpoint is not whole".to_owned()));
            }
            self.seq = record.seq;
            self.state = record.state;
        }
        Ok(())
    }

    /// An index that was empty takes a checkpoint in parts.
    fn rebuilding(&self) -> bool {
        self.applied == 0
    }

    fn apply_part(&self, record: &Record) -> Result<(), Defect> {
        // A crash half-way must not leave an index that claims the checkpoint: only its end is numbered.
        let seq = if record.kind == Kind::End { record.seq } else { 0 };
        self.index.apply(seq, &record.changes).map_err(Defect::Index)
    }

    fn apply(&self, record: &Record) -> Result<(), Defect> {
        self.index
            .apply(record.seq, &record.changes)
            .map_err(Defect::Index)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
