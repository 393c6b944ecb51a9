//! What of which release cannot be given, and what a store's scrub found.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;

use crate::engine::Blobs;
use crate::ledger::{Ledger, LedgerError};
use crate::locate::Places;
use crate::union::read_manifest;

/// Releases that are told by name.
const MOST: usize = 100;

/// A release that cannot be given whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub app: AppName,
    /// The newest number that the tree has.
    pub release: ReleaseNumber,
    pub id: ReleaseId,
    /// Files whose bytes are nowhere; 0: nobody can tell, for the manifest itself is lost.
    pub files: u64,
    /// The first of them.
    pub path: String,
}

impl Lost {
    /// `web@3: 2 files are lost, app.js among them`.
    pub fn words(&self) -> String {
        let Self {
            app,
            release,
            files,
            path,
            ..
        } = self;
        match files {
            0 => format!("{app}@{release}: its manifest is lost"),
            1 => format!("{app}@{release}: {path} is lost"),
            files => format!("{app}@{release}: {files} files are lost, {path} among them"),
        }
    }
}

/// Every release whose content is kept and that cannot be given whole; hands each blob that is lost to `meet`, with the release
/// and its place in the manifest. Blocks; reads one manifest after another.
///
/// # Errors
/// When the ledger cannot be read.
pub fn lost(
    blobs: &dyn Blobs,
    places: &Places,
    ledger: &Ledger,
    mut meet: impl FnMut(&ship_model::manifest::Manifest, &BTreeSet<BlobDigest>),
) -> Result<Vec<Lost>, LedgerError> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for app in ledger.apps()? {
        let collected = ledger.all_collected(&app)?;
        for record in ledger.releases(&app, usize::MAX)? {
            if collected.contains_key(&record.number) || !seen.insert(record.id) {
                continue;
            }
            let mut lost = Lost {
                app: app.clone(),
                release: record.number,
                id: record.id,
                files: 0,
                path: String::new(),
            };
            // One that was damaged lies in quarantine now.
            let Ok(manifest) = read_manifest(blobs, record.id) else {
                found.push(lost);
                continue;
            };
            let missing = places.missing(manifest.files().map(|(_, _, _, digest)| digest));
            let missing: BTreeSet<_> = missing.into_iter().collect();
            let mut files = manifest
                .files()
                .filter(|(_, _, _, digest)| missing.contains(digest));
            if let Some((path, ..)) = files.next() {
                lost.path = path.to_string();
                lost.files = 1 + files.count() as u64;
                meet(&manifest, &missing);
                found.push(lost);
            }
        }
    }
    Ok(found)
}

/// What was found since the store's start.
#[derive(Debug, Default)]
pub struct Findings {
    read_bytes: AtomicU64,
    damaged: AtomicU64,
    healed: AtomicU64,
    ended_ms: AtomicU64,
    lost: Mutex<Arc<[Lost]>>,
}

impl Findings {
    /// Bytes that were read again.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Objects that were found damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Of these, those of which nothing is missing since.
    pub fn healed(&self) -> u64 {
        self.healed.load(Ordering::Relaxed)
    }

    /// When everything was last read, in milliseconds since 1970; 0: never.
    pub fn ended_ms(&self) -> u64 {
        self.ended_ms.load(Ordering::Relaxed)
    }

    /// Releases that cannot be given whole, and that nobody could heal.
    pub fn lost(&self) -> Arc<[Lost]> {
        Arc::clone(&self.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn any_lost(&self) -> bool {
        !self.lost().is_empty()
    }

    pub(super) fn read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn found_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn found_healed(&self) {
        self.healed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read_to_its_end(&self, ended_ms: u64) {
        self.ended_ms.store(ended_ms, Ordering::Relaxed);
    }

    /// Takes in what is lost now; gives what was not known to be.
    pub(super) fn take(&self, mut lost: Vec<Lost>) -> Vec<Lost> {
        lost.truncate(MOST);
        let mut known = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let news = lost
            .iter()
            .filter(|lost| !known.contains(lost))
            .cloned()
            .collect();
        *known = lost.into();
        news
    }
}
