//! Records in memory: the reference that the other engines are compared with, and for tests.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Catalog, CatalogError, Change, Entry, Outcome, Value, Version, Write, check_batch, check_key};
use crate::engine::watch::{Announcer, Watch};

#[derive(Debug, Default)]
struct Records {
    last: u64,
    map: BTreeMap<String, Value>,
}

/// A catalog that ends with the process.
#[derive(Debug)]
pub struct MemoryCatalog {
    records: Mutex<Records>,
    announcer: Announcer,
}

impl Default for MemoryCatalog {
    fn default() -> Self {
        Self {
            records: Mutex::default(),
            announcer: Announcer::new(),
        }
    }
}

impl MemoryCatalog {
    fn lock(&self) -> MutexGuard<'_, Records> {
        // Nothing between two changes of the map can panic, so a poisoned lock still guards whole batches.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog for MemoryCatalog {
    fn get(&self, key: &str) -> Result<Option<Value>, CatalogError> {
        check_key(key)?;
        Ok(self.lock().map.get(key).cloned())
    }

    fn compare_and_swap(&self, batch: Vec<Change>) -> Result<Outcome, CatalogError> {
        check_batch(&batch)?;
        let mut records = self.lock();
        for change in &batch {
            let current = records.map.get(&change.key);
            if current.map(|value| value.version) != change.expected {
                return Ok(Outcome::Conflict {
                    key: change.key.clone(),
                    current: current.cloned(),
                });
            }
        }
        records.last += 1;
        let version = Version(records.last);
        let mut keys = Vec::new();
        for change in batch {
            match change.write {
                Write::Put(bytes) => {
                    keys.push(change.key.clone());
                    records.map.insert(change.key, Value { bytes, version });
                }
                Write::Delete => {
                    records.map.remove(&change.key);
                    keys.push(change.key);
                }
                Write::Keep => {}
            }
        }
        self.announcer.announce(keys);
        Ok(Outcome::Committed(version))
    }

    fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, CatalogError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let records = self.lock();
        let found = records.map.range::<str, _>((from, Bound::Unbounded));
        Ok(found
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| Entry {
                key: key.clone(),
                value: value.clone(),
            })
            .collect())
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.announcer.watch(prefix)
    }
}
