//! What records mean: the only room that touches a catalog.
//!
//! ```text
//! app/<app>                          the number its next release gets
//! release/<app>/<20 digits>          a release record; never changes
//! id/<release id>/<app>/<20 digits>  the numbers that a tree was published under
//! bundle/<digest>                    what a bundle weighs that a release brought, or that was made here out of others
//! kept/<release id>                  the delta that a release is kept by, and the release it is made against
//! asset/<app>/<hash of url>          the one content a fingerprinted url ever has, and who claimed it
//! expired/<app>/<hash of url>        that nothing keeps the asset any more
//! pin/<app>/<20 digits>              that an operator keeps a release's content, and why
//! collected/<app>/<20 digits>        that nothing kept a release's content any longer
//! begun/<release id>                 a publish that was begun: what it names stays for a while
//! held/<env>                         the releases that hosts said they have
//! store/garbage                      what is marked as needed by nothing, and since when
//! claim/<token>                      the release that a claim became; void when it never will
//! env/<env>/<app>                    what an environment runs, and its rollout
//! environment/<env>                  the file that an environment is told by
//! environment-version/<env>/<20 digits>  every such file that was applied, by whom and when
//! host/<env>/<host>                  a host that said hello
//! request/<id>                       what a request made, so that it is made once
//! audit/<20 digits>, audit-head      the chain of acts
//! told/<route>                       how far a `[[notify]]` has told the chain of acts
//! store/restored                     set when the folder was put back from a backup
//! ```
//! A value is a version byte, a coding byte (`j` JSON, `z` JSON in zstd) and the record. Every act writes
//! its link of the audit chain in the same batch.

mod apps;
mod assets;
mod audit;
mod content;
mod environment_files;
mod environments;
mod expired;
mod garbage;
mod hosts;
mod kept;
mod record;
mod releases;
mod requests;
mod restored;
mod told;

pub use assets::{AssetClaim, ClaimError, ClaimToken, Clash, PublishedAsset};
pub use audit::{Act, AuditDefect, AuditLink, AuditReport};
pub use content::{Collected, Pin, contents};
pub use environment_files::EnvironmentFile;
pub use environments::EnvChange;
pub use expired::{ExpiredAsset, UrlSet};
pub use garbage::{HeldReleases, Marks};
pub use hosts::HostRecord;
pub use kept::KeptRecord;
pub use record::RecordError;
pub use releases::{AddReleaseError, AddedRelease, BundleFacts, NewRelease};
pub use requests::{Made, RequestId, RequestRecord};
pub use restored::{ACCEPT_HINT, NotAcceptedError, Restored};

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{Catalog, CatalogError, Change, Outcome, Value, Version, Watch};

/// Records read at once while a range is walked.
const PAGE: usize = 256;

/// The typed face of a catalog. Cheap to clone; every method blocks.
#[derive(Debug, Clone)]
pub struct Ledger {
    catalog: Arc<dyn Catalog>,
    /// Held while the audit head is read and replaced, so that acts of one process do not race for it.
    /// Other processes may: compare-and-swap decides, the loser reads again.
    acting: Arc<Mutex<()>>,
}

/// A record with the version it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    pub record: T,
    pub version: Version,
}

/// How a change of one record ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Stored<T> {
    Done(Version),
    /// Somebody else was first; this is what stands now. Nothing was changed.
    Conflict(Option<Versioned<T>>),
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot {action} {key}")]
    Catalog {
        action: &'static str,
        key: String,
        source: CatalogError,
    },
    #[error("record {key} cannot be used")]
    Record { key: String, source: RecordError },
    #[error("the ledger has no {key}, which another record names")]
    Missing { key: String },
}

impl Ledger {
    pub fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self {
            catalog,
            acting: Arc::default(),
        }
    }

    /// Listens to what environments run: keys are read by [`Ledger::env_of_key`].
    pub fn watch_environments(&self) -> Watch {
        self.catalog.watch(environments::PREFIX)
    }

    /// Listens to new releases of every app.
    pub fn watch_releases(&self) -> Watch {
        self.catalog.watch(releases::PREFIX)
    }

    /// Listens to the audit chain.
    pub fn watch_audit(&self) -> Watch {
        self.catalog.watch(audit::HEAD)
    }

    fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Versioned<T>>, LedgerError> {
        let value = self.catalog.get(key).map_err(|source| LedgerError::Catalog {
            action: "read",
            key: key.to_owned(),
            source,
        })?;
        value.map(|value| decoded(key, &value)).transpose()
    }

    /// Hands each record below `prefix` to `visit`, by key, until it says stop.
    fn walk<T: DeserializeOwned>(
        &self,
        prefix: &str,
        mut visit: impl FnMut(&str, Versioned<T>) -> bool,
    ) -> Result<(), LedgerError> {
        let mut after: Option<String> = None;
        loop {
            let page = self
                .catalog
                .range(prefix, after.as_deref(), PAGE)
                .map_err(|source| LedgerError::Catalog {
                    action: "list",
                    key: prefix.to_owned(),
                    source,
                })?;
            for entry in &page {
                if !visit(&entry.key, decoded(&entry.key, &entry.value)?) {
                    return Ok(());
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// Commits `changes`, with a link of the audit chain for each act.
    ///
    /// A conflict of the chain itself is nobody's business: it is read again and tried again.
    fn decide(&self, changes: Vec<Change>, acts: &[Act]) -> Result<Outcome, LedgerError> {
        let _turn = self.acting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut batch = changes.clone();
            self.chain(&mut batch, acts)?;
            match self.commit(batch)? {
                Outcome::Conflict { key, .. } if key == audit::HEAD || key.starts_with(audit::PREFIX) => {}
                outcome => return Ok(outcome),
            }
        }
    }

    fn commit(&self, batch: Vec<Change>) -> Result<Outcome, LedgerError> {
        let key = batch.first().map(|change| change.key.clone()).unwrap_or_default();
        self.catalog
            .compare_and_swap(batch)
            .map_err(|source| LedgerError::Catalog {
                action: "write",
                key,
                source,
            })
    }
}

fn decoded<T: DeserializeOwned>(key: &str, value: &Value) -> Result<Versioned<T>, LedgerError> {
    let record = record::decode(&value.bytes).map_err(|source| LedgerError::Record {
        key: key.to_owned(),
        source,
    })?;
    Ok(Versioned {
        record,
        version: value.version,
    })
}

fn put<T: Serialize>(
    key: impl Into<String>,
    expected: Option<Version>,
    record: &T,
) -> Result<Change, LedgerError> {
    let key = key.into();
    match record::encode(record) {
        Ok(bytes) => Ok(Change::put(key, expected, bytes)),
        Err(source) => Err(LedgerError::Record { key, source }),
    }
}

/// What stands in the way of a change, when it is a record of the kind that was to be changed.
fn conflict<T: DeserializeOwned>(key: &str, current: Option<Value>) -> Result<Stored<T>, LedgerError> {
    let current = current.map(|value| decoded(key, &value)).transpose()?;
    Ok(Stored::Conflict(current))
}
