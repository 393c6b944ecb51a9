//! Records on a local disk: our own journal is the truth, sled is an index that can be made anew.
//!
//! ```text
//! catalog/lock              one process
//! catalog/journal           every committed batch, fsynced before it is acknowledged
//! catalog/journal.next      a checkpoint being written; swept
//! catalog/index/            sled: newest value of each key, the number of the last batch applied
//! catalog/index.broken-1    an index that was damaged, kept for whoever wants to look
//! ```
//! sled's own `flush` does not survive a power cut, and its files do not survive everything; nothing here
//! rests on either. Each journal record carries a hash of the whole state after it, and opening compares
//! the index with that: whatever happened to sled is seen, and healed from the journal.

mod index;
mod open;
mod record;
mod writer;

pub use open::{CatalogOpenError, Opened};

use std::path::Path;
use std::sync::{Arc, OnceLock};

use ship_durable::LockFile;

use super::{Catalog, CatalogError, Change, Entry, Outcome, Value, check_batch, check_key};
use crate::engine::watch::{Announcer, Watch};
use index::{Index, IndexError};
use writer::Writer;

/// The embedded catalog.
#[derive(Debug)]
pub struct SledCatalog {
    // Dropped in this order: the writer ends, the index closes, and only then another process may come.
    writer: Writer,
    index: Arc<Index>,
    announcer: Announcer,
    failed: Arc<Failed>,
    _lock: LockFile,
}

/// The first failure after which nothing more may be acknowledged.
#[derive(Debug, Default)]
struct Failed(OnceLock<String>);

impl Failed {
    fn set(&self, reason: &dyn std::error::Error) {
        let mut text = reason.to_string();
        let mut source = reason.source();
        while let Some(inner) = source {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            source = inner.source();
        }
        let _first_counts = self.0.set(text);
    }

    fn refuse(&self) -> Result<(), CatalogError> {
        match self.0.get() {
            None => Ok(()),
            Some(reason) => Err(CatalogError::Failed {
                reason: reason.clone(),
            }),
        }
    }
}

impl SledCatalog {
    /// Opens the catalog in `dir`, making it when absent.
    ///
    /// A torn end of the journal, which nobody was told of, is cut; a missing, damaged or stale index is
    /// made anew from the journal.
    ///
    /// # Errors
    /// When another process has it open, or the journal itself is damaged.
    pub fn open(dir: &Path) -> Result<(Self, Opened), CatalogOpenError> {
        let (parts, opened) = open::open(dir)?;
        let index = Arc::new(parts.index);
        let announcer = Announcer::new();
        let failed = Arc::new(Failed::default());
        let writer = writer::start(
            dir,
            parts.journal,
            parts.state,
            index.clone(),
            announcer.clone(),
            failed.clone(),
        )
        .map_err(|source| CatalogOpenError::Io {
            action: "start the writer of",
            path: dir.to_owned(),
            source,
        })?;
        let catalog = Self {
            writer,
            index,
            announcer,
            failed,
            _lock: parts.lock,
        };
        Ok((catalog, opened))
    }

    /// Throws the index away and makes it anew from the journal, then closes the catalog.
    pub fn rebuild(dir: &Path) -> Result<Opened, CatalogOpenError> {
        open::discard_index(dir)?;
        let (_catalog, opened) = Self::open(dir)?;
        Ok(opened)
    }

    /// Replaces the journal's history by its outcome. Happens by itself when the journal has grown.
    pub fn checkpoint(&self) -> Result<(), CatalogError> {
        self.failed.refuse()?;
        self.writer.checkpoint()
    }

    /// A damaged index must not go on answering; the next opening finds and heals it.
    fn or_fail<T>(&self, answer: Result<T, IndexError>) -> Result<T, CatalogError> {
        answer.map_err(|error| {
            self.failed.set(&error);
            CatalogError::Storage {
                action: "read",
                source: Box::new(error),
            }
        })
    }
}

impl Catalog for SledCatalog {
    fn get(&self, key: &str) -> Result<Option<Value>, CatalogError> {
        check_key(key)?;
        self.failed.refuse()?;
        self.or_fail(self.index.get(key))
    }

    fn compare_and_swap(&self, batch: Vec<Change>) -> Result<Outcome, CatalogError> {
        check_batch(&batch)?;
        self.failed.refuse()?;
        self.writer.commit(batch)
    }

    fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, CatalogError> {
        self.failed.refuse()?;
        self.or_fail(self.index.range(prefix, after, limit))
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.announcer.watch(prefix)
    }
}
