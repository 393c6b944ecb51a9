//! Small records under short keys, changed by compare-and-swap only.
//!
//! A record's [`Version`] is the number of the commit that wrote it, unique in the life of a catalog: a
//! record that was deleted and made again never has an old version. A batch is atomic: all of it, durable,
//! or nothing. What a reader sees is durable already.

mod memory;
mod sled;

pub use memory::MemoryCatalog;
pub use sled::{CatalogOpenError, Opened, SledCatalog};

use std::fmt;

use super::Watch;

/// Longest key in bytes.
pub const MAX_KEY: usize = 512;
/// Longest value in bytes.
pub const MAX_VALUE: usize = 1 << 20;
/// Most changes in one batch (etcd's default).
pub const MAX_BATCH: usize = 128;
/// Most bytes of values in one batch.
pub const MAX_BATCH_BYTES: usize = 4 << 20;

/// The number of the commit that wrote a record. Grows over the whole catalog; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A record's bytes and when they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub bytes: Vec<u8>,
    pub version: Version,
}

/// A record with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Value,
}

/// What is done to one key if its version is the expected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put(Vec<u8>),
    Delete,
    /// Nothing: the batch only depends on this key's version.
    Keep,
}

/// One part of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// The version the key must have; none: it must be absent.
    pub expected: Option<Version>,
    pub write: Write,
}

impl Change {
    pub fn put(key: impl Into<String>, expected: Option<Version>, bytes: Vec<u8>) -> Self {
        Self {
            key: key.into(),
            expected,
            write: Write::Put(bytes),
        }
    }

    pub fn keep(key: impl Into<String>, expected: Option<Version>) -> Self {
        Self {
            key: key.into(),
            expected,
            write: Write::Keep,
        }
    }
}

/// How a batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// All of it stands and is durable; what it wrote has this version.
    Committed(Version),
    /// Nothing was changed: this key, the first such, has another version than expected.
    Conflict { key: String, current: Option<Value> },
}

/// Why a catalog did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("a key of {len} bytes is refused: 1 to {MAX_KEY} are allowed")]
    Key { len: usize },
    #[error("a value of {len} bytes for {key:?} is refused: at most {MAX_VALUE} are allowed")]
    Value { key: String, len: usize },
    #[error(
        "a batch of {changes} changes and {bytes} bytes is refused: at most {MAX_BATCH} changes and {MAX_BATCH_BYTES} bytes are allowed"
    )]
    Batch { changes: usize, bytes: usize },
    #[error("{key:?} stands twice in one batch")]
    Twice { key: String },
    #[error("cannot {action} the catalog")]
    Storage {
        action: &'static str,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An earlier failure left it unknown what is durable: the process must open the catalog anew.
    #[error("the catalog failed earlier ({reason}); restart the store, which repairs it")]
    Failed { reason: String },
}

/// Records under keys. Every method blocks; every method may be called from any thread.
pub trait Catalog: Send + Sync + fmt::Debug {
    /// The record at `key`.
    fn get(&self, key: &str) -> Result<Option<Value>, CatalogError>;

    /// Makes all of `batch`, or nothing when a key has another version than expected.
    ///
    /// Durable when it returns [`Outcome::Committed`]. After an error it is unknown whether the batch
    /// stands; compare-and-swap makes it safe to try again.
    fn compare_and_swap(&self, batch: Vec<Change>) -> Result<Outcome, CatalogError>;

    /// Records whose key begins with `prefix`, sorted by key, the first `limit` of those after the key
    /// `after`. A commit between two calls may be seen by the second only.
    fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, CatalogError>;

    /// Listens to changes below `prefix` that are committed from now on.
    fn watch(&self, prefix: &str) -> Watch;
}

/// The limits every engine keeps, so that a record that fits one fits all.
pub(crate) fn check_batch(batch: &[Change]) -> Result<(), CatalogError> {
    let mut bytes = 0;
    let mut keys = std::collections::HashSet::new();
    for change in batch {
        check_key(&change.key)?;
        if !keys.insert(change.key.as_str()) {
            return Err(CatalogError::Twice {
                key: change.key.clone(),
            });
        }
        if let Write::Put(value) = &change.write {
            if value.len() > MAX_VALUE {
                return Err(CatalogError::Value {
                    key: change.key.clone(),
                    len: value.len(),
                });
            }
            bytes += value.len();
        }
    }
    if batch.len() > MAX_BATCH || bytes > MAX_BATCH_BYTES {
        return Err(CatalogError::Batch {
            changes: batch.len(),
            bytes,
        });
    }
    Ok(())
}

pub(crate) fn check_key(key: &str) -> Result<(), CatalogError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(CatalogError::Key { len: key.len() });
    }
    Ok(())
}
