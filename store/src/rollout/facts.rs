//! What planning must know of releases: which classes run them, and where. Read from manifests once, since neither
//! ever changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ship_model::digest::ReleaseId;
use ship_model::manifest::Manifest;
use ship_model::name::{AppName, ClassName};
use ship_model::release::ReleaseNumber;
use ship_model::rollout::ReleaseInfo;
use ship_model::spec::ReleaseSpec;

use crate::ledger::{Ledger, LedgerError, contents};

/// Reads the manifest of a release; blocks.
pub type ManifestSource = dyn Fn(ReleaseId) -> Result<Manifest, String> + Send + Sync;

/// Why releases cannot be planned with.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error("cannot list the releases of {app}")]
    Ledger { app: AppName, source: LedgerError },
    #[error("the manifest of {app}@{release} cannot be read: {reason}")]
    Manifest {
        app: AppName,
        release: ReleaseNumber,
        reason: String,
    },
}

/// Facts of every release that was asked for, kept for good: some hundred bytes each.
pub(super) struct Facts {
    ledger: Ledger,
    manifests: Arc<ManifestSource>,
    /// By id; a release has its number only where it is asked for.
    known: Mutex<HashMap<ReleaseId, ReleaseInfo>>,
}

/// The releases of one app. One whose manifest cannot be read is listed without classes and named in `unread`, so
/// that a damaged old release hinders nobody who does not want it.
pub(super) struct Releases {
    pub infos: BTreeMap<ReleaseNumber, ReleaseInfo>,
    unread: BTreeMap<ReleaseNumber, String>,
}

impl Facts {
    pub fn new(ledger: Ledger, manifests: Arc<ManifestSource>) -> Self {
        Self {
            ledger,
            manifests,
            known: Mutex::default(),
        }
    }

    /// Every release of `app`; blocks.
    pub fn of(&self, app: &AppName) -> Result<Releases, FactsError> {
        let read = || -> Result<_, LedgerError> {
            let records = self.ledger.releases(app, usize::MAX)?;
            let contents = contents(&records, &self.ledger.all_collected(app)?);
            Ok((records, contents))
        };
        let (records, contents) = read().map_err(|source| FactsError::Ledger {
            app: app.clone(),
            source,
        })?;
        let mut releases = Releases {
            infos: BTreeMap::new(),
            unread: BTreeMap::new(),
        };
        for record in records {
            let target = record.target();
            let content = contents.get(&target.number).copied().unwrap_or_default();
            let info = self.info(target.id).unwrap_or_else(|reason| {
                if content.is_kept() {
                    releases.unread.insert(target.number, reason);
                }
                ReleaseInfo {
                    target,
                    classes: BTreeSet::new(),
                    platform: Vec::new(),
                    keep: None,
                    switch_waits_ms: 0,
                    content,
                }
            });
            let info = ReleaseInfo {
                target,
                content,
                ..info
            };
            releases.infos.insert(target.number, info);
        }
        Ok(releases)
    }

    /// The classes whose hosts run a release; blocks.
    pub fn classes(&self, id: ReleaseId) -> Result<BTreeSet<ClassName>, String> {
        Ok(self.info(id)?.classes)
    }

    /// What a release says of itself; blocks.
    pub fn spec(&self, id: ReleaseId) -> Result<ReleaseSpec, String> {
        Ok((self.manifests)(id)?.spec().clone())
    }

    fn info(&self, id: ReleaseId) -> Result<ReleaseInfo, String> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(info) = known().get(&id) {
            return Ok(info.clone());
        }
        let manifest = (self.manifests)(id)?;
        let target = ship_model::release::Target {
            number: ReleaseNumber(0),
            id,
        };
        let info = ReleaseInfo::of(target, manifest.spec());
        known().insert(id, info.clone());
        Ok(info)
    }
}

impl Releases {
    /// An error if what is to run could not be read.
    pub fn check(&self, app: &AppName, wanted: ReleaseNumber) -> Result<(), FactsError> {
        match self.unread.get(&wanted) {
            None => Ok(()),
            Some(reason) => Err(FactsError::Manifest {
                app: app.clone(),
                release: wanted,
                reason: reason.clone(),
            }),
        }
    }

    /// The newest of those that cannot be read.
    pub fn newest_unread(&self) -> Option<ReleaseNumber> {
        self.unread.keys().next_back().copied()
    }
}
