//! Who counts requests for assets, since when, and when each asset was last asked for.
//!
//! ```text
//! asset-requests
//!   {"version":1,"clean":true,"counters":[{"name":"production/h1","run":7,"since_ms":…}, …]}⏎
//!   digest:32  at_s:u32  counter:u16        integers little-endian, until the end of the file
//! ```
//! Times are the store's own: a word that a host sends counts as of the moment it is heard. Nothing here is worth a
//! journal: what is lost is not known, and not knowing keeps. A host whose agent was started anew has forgotten what it
//! had not told, and a store that did not end by itself what it had heard since it last wrote; both count from then.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use ship_durable::{FileError, write_file};
use ship_model::digest::BlobDigest;

const VERSION: u8 = 1;
const FILE: &str = "asset-requests";
/// Contents that are remembered at most, some 48 bytes each; more, and all counting begins anew.
const MOST: usize = 1_000_000;
/// Largest file read, in bytes.
const MAX_FILE: u64 = 64 << 20;
const ENTRY: usize = 38;

/// Why what was heard of requests was not written down.
#[derive(Debug, thiserror::Error)]
pub enum SaveEvidenceError {
    #[error("cannot encode what was heard of asset requests")]
    Encode(#[source] serde_json::Error),
    #[error("cannot write what was heard of asset requests")]
    Write(#[from] FileError),
}

/// What is known of requests. Every method may be called from any thread; only [`Evidence::open`] and
/// [`Evidence::save`] touch the disk.
#[derive(Debug)]
pub struct Evidence {
    path: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    counters: Vec<Counter>,
    by_name: BTreeMap<String, u16>,
    last: HashMap<BlobDigest, Last>,
    changed: bool,
    /// The last word of this process is written: nothing more is taken.
    closed: bool,
}

/// Somebody who counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Counter {
    name: String,
    run: u64,
    since_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    /// Seconds since 1970, until 2106.
    at_s: u32,
    counter: u16,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u8,
    clean: bool,
    counters: Vec<Counter>,
}

impl Evidence {
    /// Reads what an earlier process wrote into `folder`; what cannot be read is not known.
    pub fn open(folder: &Path, now_ms: u64) -> Self {
        let path = folder.join(FILE);
        let held = match read(&path) {
            Ok(bytes) => parse(&bytes, now_ms).unwrap_or_else(|| {
                tracing::warn!(path = %path.display(), "damaged: when assets were asked for is not known any more");
                Held::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Held::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "when assets were asked for cannot be read");
                Held::default()
            }
        };
        Self {
            path,
            held: Mutex::new(held),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `name`, in this `run` of it, was asked for `digests`; false when it is too late for that, and whoever
    /// tells it must keep it.
    #[must_use]
    pub fn hear(
        &self,
        name: &str,
        run: u64,
        digests: impl IntoIterator<Item = BlobDigest>,
        now_ms: u64,
    ) -> bool {
        let mut held = self.held();
        if held.closed {
            return false;
        }
        let Some(counter) = held.counter(name, run, now_ms) else {
            return false;
        };
        let at_s = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        for digest in digests {
            held.last.insert(digest, Last { at_s, counter });
            held.changed = true;
        }
        if held.last.len() > MOST {
            tracing::warn!("too many assets to remember when each was asked for: counting begins anew");
            held.last.clear();
            held.counters
                .iter_mut()
                .for_each(|counter| counter.since_ms = now_ms);
        }
        true
    }

    /// Since when `name` has counted without a gap; none: it does not count.
    pub fn counts_since(&self, name: &str) -> Option<u64> {
        let held = self.held();
        let at = held.by_name.get(name)?;
        held.counters
            .get(usize::from(*at))
            .map(|counter| counter.since_ms)
    }

    /// When this content was last asked for, as far as it was told, and who told of it.
    pub fn last(&self, digest: &BlobDigest) -> Option<(u64, String)> {
        let held = self.held();
        let last = held.last.get(digest)?;
        let counter = held.counters.get(usize::from(last.counter))?;
        Some((u64::from(last.at_s) * 1000, counter.name.clone()))
    }

    /// Writes everything down, durably. `clean` when nothing more will be heard by this process.
    pub fn save(&self, clean: bool) -> Result<(), SaveEvidenceError> {
        let bytes = {
            let mut held = self.held();
            if !clean && !std::mem::take(&mut held.changed) {
                return Ok(());
            }
            held.closed |= clean;
            held.encode(clean).map_err(SaveEvidenceError::Encode)?
        };
        let written = write_file(&self.path, &bytes);
        if written.is_err() {
            self.held().changed = true;
        }
        Ok(written?)
    }
}

impl Held {
    /// The counter's place; none when there are more than a fleet has.
    fn counter(&mut self, name: &str, run: u64, now_ms: u64) -> Option<u16> {
        if let Some(at) = self.by_name.get(name) {
            let counter = self.counters.get_mut(usize::from(*at))?;
            if counter.run != run {
                (counter.run, counter.since_ms) = (run, now_ms);
                self.changed = true;
            }
            return Some(*at);
        }
        let at = u16::try_from(self.counters.len()).ok()?;
        self.by_name.insert(name.to_owned(), at);
        self.counters.push(Counter {
            name: name.to_owned(),
            run,
            since_ms: now_ms,
        });
        self.changed = true;
        Some(at)
    }

    fn encode(&self, clean: bool) -> Result<Vec<u8>, serde_json::Error> {
        let head = Head {
            version: VERSION,
            clean,
            counters: self.counters.clone(),
        };
        let mut bytes = serde_json::to_vec(&head)?;
        bytes.push(b'\n');
        bytes.reserve_exact(self.last.len() * ENTRY);
        for (digest, last) in &self.last {
            bytes.extend_from_slice(digest.as_bytes());
            bytes.extend_from_slice(&last.at_s.to_le_bytes());
            bytes.extend_from_slice(&last.counter.to_le_bytes());
        }
        Ok(bytes)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// None when it is not what this program writes.
fn parse(bytes: &[u8], now_ms: u64) -> Option<Held> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (head, entries) = (bytes.get(..end)?, bytes.get(end + 1..)?);
    let head: Head = serde_json::from_slice(head).ok()?;
    let (entries, rest) = entries.as_chunks::<ENTRY>();
    if head.version != VERSION || !rest.is_empty() || head.counters.len() > usize::from(u16::MAX) {
        return None;
    }
    let mut held = Held {
        counters: head.counters,
        // A file of a process that dies from here on must not be taken for a clean one.
        changed: true,
        ..Held::default()
    };
    for (at, counter) in (0..).zip(&mut held.counters) {
        held.by_name.insert(counter.name.clone(), at);
        if !head.clean {
            counter.since_ms = now_ms;
        }
    }
    for entry in entries {
        let digest = BlobDigest::from_slice(&entry[..32])?;
        let at_s = u32::from_le_bytes(entry[32..36].try_into().ok()?);
        let counter = u16::from_le_bytes(entry[36..].try_into().ok()?);
        held.last.insert(digest, Last { at_s, counter });
    }
    Some(held)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    const NOW: u64 = 1_760_000_000_000;

    #[test]
    fn what_was_heard_survives_an_end_and_a_crash_makes_it_uncertain() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (BlobDigest::of(b"one"), BlobDigest::of(b"two"));
        let evidence = Evidence::open(dir.path(), NOW);
        assert_eq!(evidence.counts_since("prod/h1"), None);
        assert!(evidence.hear("prod/h1", 1, [one], NOW));
        assert!(evidence.hear("prod/h2", 1, [], NOW + 1_000));
        assert_eq!(evidence.last(&one), Some((NOW, "prod/h1".to_owned())));
        assert_eq!(evidence.last(&two), None);
        evidence.save(true).unwrap();

        let again = Evidence::open(dir.path(), NOW + 9_000);
        assert_eq!(again.last(&one), Some((NOW, "prod/h1".to_owned())));
        assert_eq!(
            again.counts_since("prod/h2"),
            Some(NOW + 1_000),
            "it ended by itself"
        );
        again.save(false).unwrap();
        assert!(again.hear("prod/h2", 1, [one], NOW + 10_000));
        assert_eq!(again.last(&one), Some((NOW + 10_000, "prod/h2".to_owned())));

        let after_crash = Evidence::open(dir.path(), NOW + 20_000);
        assert_eq!(after_crash.counts_since("prod/h2"), Some(NOW + 20_000));
        // Another life of the agent has forgotten what the one before had not told.
        assert!(again.hear("prod/h1", 2, [], NOW + 30_000));
        assert_eq!(again.counts_since("prod/h1"), Some(NOW + 30_000));
        assert_eq!(again.counts_since("prod/h2"), Some(NOW + 1_000));
    }

    #[test]
    fn what_is_damaged_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let good = {
            let evidence = Evidence::open(dir.path(), NOW);
            assert!(evidence.hear("prod/h1", 1, [BlobDigest::of(b"one")], NOW));
            evidence.save(true).unwrap();
            fs::read(&path).unwrap()
        };
        let cut = good.len() - 1;
        let newer = String::from_utf8_lossy(&good).replace("\"version\":1", "\"version\":2");
        for bad in [&good[..cut], b"", b"\n", b"{}\n", newer.as_bytes()] {
            write_file(&path, bad).unwrap();
            let evidence = Evidence::open(dir.path(), NOW);
            assert_eq!(evidence.counts_since("prod/h1"), None);
            assert_eq!(evidence.last(&BlobDigest::of(b"one")), None);
        }
    }
}
