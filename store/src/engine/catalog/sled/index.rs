//! The newest value of each key, in sled: quick to ask, never believed without a check.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use super::record::{Applied, weight};
use crate::engine::catalog::{Entry, Value, Version};

/// Tries to open while a dying process still holds sled's own lock, and the pause between them.
const OPEN_TRIES: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of pages that sled keeps in memory.
const CACHE: u64 = 16 << 20;
/// Bytes before the value: version and checksum.
const HEAD: usize = 12;
/// Key of the number of the last batch applied; keys of records begin with `k`.
const APPLIED: &[u8] = b"applied";

/// Why the index cannot be used; the journal makes a new one.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    #[error("the index failed")]
    Sled(#[source] Box<sled::Error>),
    #[error("the index's engine panicked: {message}")]
    Panic { message: String },
    #[error("the index is damaged at {key:?}")]
    Damaged { key: String },
    #[error("the index is stale or damaged: its content is not what the journal says")]
    Differs,
    #[error("the index has batch {index}, and the journal ends at {journal}")]
    Ahead { index: u64, journal: u64 },
    #[error("the index ends at batch {index}, before the journal's checkpoint of {checkpoint}")]
    Behind { index: u64, checkpoint: u64 },
}

#[derive(Debug)]
pub(super) struct Index {
    db: sled::Db,
    records: sled::Tree,
}

/// What a look at every record gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Sum of the records' weights.
    pub state: u128,
    /// Bytes of keys and values.
    pub bytes: u64,
}

impl Index {
    pub(super) fn open(path: &Path) -> Result<Self, IndexError> {
        let mut tries = 0;
        loop {
            match guard(|| open_once(path)) {
                Err(IndexError::Sled(error)) if is_locked(&error) && tries < OPEN_TRIES => {
                    tries += 1;
                    std::thread::sleep(OPEN_PAUSE);
                }
                other => return other,
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Value>, IndexError> {
        let found = guard(|| Ok(self.records.get(sled_key(key))?))?;
        found.map(|bytes| read_value(key, &bytes)).transpose()
    }

    pub(super) fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, IndexError> {
        let mut entries = Vec::new();
        self.visit(prefix, after, |entry| {
            if entries.len() < limit {
                entries.push(entry);
            }
            Ok(entries.len() < limit)
        })?;
        Ok(entries)
    }

    /// Hands records to `visit`, by key, until it says stop.
    pub(super) fn visit(
        &self,
        prefix: &str,
        after: Option<&str>,
        mut visit: impl FnMut(Entry) -> Result<bool, IndexError>,
    ) -> Result<(), IndexError> {
        let mut from = sled_key(prefix);
        if let Some(after) = after.filter(|after| *after >= prefix) {
            from = sled_key(after);
            // The least key that is greater.
            from.push(0);
        }
        let prefix = sled_key(prefix);
        guard(|| {
            for found in self.records.range(from..) {
                let (key, value) = found?;
                if !key.starts_with(&prefix) {
                    break;
                }
                let key = String::from_utf8_lossy(&key[1..]).into_owned();
                let value = read_value(&key, &value)?;
                if !visit(Entry { key, value })? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The number of the last batch applied; 0 for none.
    pub(super) fn applied(&self) -> Result<u64, IndexError> {
        let found = guard(|| Ok(self.records.get(APPLIED)?))?;
        match found {
            None => Ok(0),
            Some(bytes) => match bytes.as_ref().try_into() {
                Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
                Err(_) => Err(IndexError::Damaged {
                    key: "applied".to_owned(),
                }),
            },
        }
    }

    /// Applies changes and notes their batch, all or nothing.
    pub(super) fn apply(&self, seq: u64, changes: &[Applied]) -> Result<(), IndexError> {
        let mut batch = sled::Batch::default();
        for change in changes {
            match &change.value {
                Some(value) => batch.insert(
                    sled_key(&change.key),
                    value_bytes(&change.key, change.version, value),
                ),
                None => batch.remove(sled_key(&change.key)),
            }
        }
        batch.insert(APPLIED, &seq.to_le_bytes());
        guard(|| Ok(self.records.apply_batch(batch)?))
    }

    /// Reads every record, checking each.
    pub(super) fn extent(&self) -> Result<Extent, IndexError> {
        let mut extent = Extent::default();
        self.visit("", None, |entry| {
            let value = &entry.value;
            let weight = weight(&entry.key, value.version.0, &value.bytes);
            extent.state = extent.state.wrapping_add(weight);
            extent.bytes += (entry.key.len() + value.bytes.len()) as u64;
            Ok(true)
        })?;
        Ok(extent)
    }

    /// Writes out what sled still holds in memory, so that less is to be replayed. No promise rests on it.
    pub(super) fn flush(&self) -> Result<(), IndexError> {
        guard(|| Ok(self.db.flush()?)).map(drop)
    }
}

fn open_once(path: &Path) -> Result<Index, IndexError> {
    let db = sled::Config::new()
        .path(path)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None)
        .cache_capacity(CACHE)
        .open()?;
    let records = db.open_tree("records")?;
    Ok(Index { db, records })
}

impl From<sled::Error> for IndexError {
    fn from(error: sled::Error) -> Self {
        Self::Sled(Box::new(error))
    }
}

fn is_locked(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => {
            error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("WouldBlock")
        }
        _ => false,
    }
}

/// sled panics on some damage where it should return an error.
fn guard<T>(call: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(IndexError::Panic {
                message: text.unwrap_or("without a word").chars().take(300).collect(),
            })
        }
    }
}

fn sled_key(key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 2);
    bytes.push(b'k');
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

fn checksum(key: &str, version: &[u8], value: &[u8]) -> [u8; 4] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(version);
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(value);
    let mut first = [0; 4];
    hasher.finalize_xof().fill(&mut first);
    first
}

fn value_bytes(key: &str, version: u64, value: &[u8]) -> Vec<u8> {
    let version = version.to_le_bytes();
    let mut bytes = Vec::with_capacity(HEAD + value.len());
    bytes.extend_from_slice(&version);
    bytes.extend_from_slice(&checksum(key, &version, value));
    bytes.extend_from_slice(value);
    bytes
}

fn read_value(key: &str, bytes: &[u8]) -> Result<Value, IndexError> {
    let damaged = || IndexError::Damaged { key: key.to_owned() };
    let (version, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (sum, value) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    if checksum(key, version, value) != *sum {
        return Err(damaged());
    }
    Ok(Value {
        bytes: value.to_vec(),
        version: Version(u64::from_le_bytes(*version)),
    })
}
