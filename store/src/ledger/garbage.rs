//! What the collection of garbage goes by: publishes that were begun, what hosts have, and since when objects are marked.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use ship_model::digest::{BundleDigest, ReleaseId};
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::release::Target;

use super::{Ledger, LedgerError, put};
use crate::engine::{Change, Outcome, Version, Write};

const BEGUN: &str = "begun/";
const HELD: &str = "held/";
const MARKS: &str = "store/garbage";
/// Bundles that one begun publish relies on for their segments.
pub const MOST_BUNDLES: usize = 4096;

/// A publish that was begun: whatever its manifest names stays for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub app: AppName,
    /// Bundles with segments of large files that the publisher was told are there, and does not send.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub bundles: BTreeSet<BundleDigest>,
}

/// The releases that the hosts of an environment said they have, each host's last word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldReleases {
    pub hosts: BTreeMap<HostName, BTreeMap<AppName, Vec<Target>>>,
}

/// What was found that nothing needs, and since when; looked at again before it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// When it was looked last, in milliseconds since 1970, by the store's clock.
    pub at_ms: u64,
    /// `release web@3`, `bundle 3f9a…` → when it was first found so, and at every look since.
    pub since_ms: BTreeMap<String, u64>,
    /// Publishes that were begun, by release id → which time, and when that was first seen.
    #[serde(default)]
    pub begun: BTreeMap<String, (u64, u64)>,
}

fn begun_key(id: &ReleaseId) -> String {
    format!("{BEGUN}{id}")
}

impl Ledger {
    /// Says that a publish of this tree has begun, anew each time. Durable when it returns.
    pub fn begin_publish(&self, id: &ReleaseId, app: &AppName) -> Result<(), LedgerError> {
        let key = begun_key(id);
        loop {
            let (version, bundles) = match self.read::<Begun>(&key)? {
                Some(found) => (Some(found.version), found.record.bundles),
                None => (None, BTreeSet::new()),
            };
            let app = app.clone();
            let change = put(&*key, version, &Begun { app, bundles })?;
            if let Outcome::Committed(_) = self.commit(vec![change])? {
                return Ok(());
            }
        }
    }

    /// Says that a begun publish relies on segments in these bundles; false when none of this tree is begun, or when it would
    /// rely on more than [`MOST_BUNDLES`]. Durable when it returns true.
    pub fn rely_on(&self, id: &ReleaseId, bundles: &BTreeSet<BundleDigest>) -> Result<bool, LedgerError> {
        let key = begun_key(id);
        loop {
            let Some(found) = self.read::<Begun>(&key)? else {
                return Ok(false);
            };
            let mut begun = found.record;
            if begun.bundles.is_superset(bundles) {
                return Ok(true);
            }
            begun.bundles.extend(bundles);
            if begun.bundles.len() > MOST_BUNDLES {
                return Ok(false);
            }
            let change = put(&*key, Some(found.version), &begun)?;
            if let Outcome::Committed(_) = self.commit(vec![change])? {
                return Ok(true);
            }
        }
    }

    /// Bundles that begun publishes rely on.
    pub fn relied_on(&self) -> Result<BTreeSet<BundleDigest>, LedgerError> {
        let mut found = BTreeSet::new();
        self.walk::<Begun>(BEGUN, |_, begun| {
            found.extend(begun.record.bundles);
            true
        })?;
        Ok(found)
    }

    /// The begun publish of this tree, by the version that tells one time from the next.
    pub fn begun_publish(&self, id: &ReleaseId) -> Result<Option<Version>, LedgerError> {
        let found = self.read::<Begun>(&begun_key(id))?;
        Ok(found.map(|found| found.version))
    }

    /// The change that ends a begun publish: its release names from now on what stays.
    pub(super) fn end_begun(&self, id: &ReleaseId) -> Result<Option<Change>, LedgerError> {
        let key = begun_key(id);
        let found = self.read::<Begun>(&key)?;
        Ok(found.map(|found| Change {
            key,
            expected: Some(found.version),
            write: Write::Delete,
        }))
    }

    /// Every publish that was begun and not forgotten.
    pub fn begun_publishes(&self) -> Result<Vec<(ReleaseId, Begun, Version)>, LedgerError> {
        let mut found = Vec::new();
        self.walk::<Begun>(BEGUN, |key, begun| {
            let id = key.strip_prefix(BEGUN).and_then(|id| id.parse().ok());
            found.extend(id.map(|id| (id, begun.record, begun.version)));
            true
        })?;
        Ok(found)
    }

    /// Forgets a begun publish, unless it was begun anew meanwhile.
    pub fn forget_begun(&self, id: &ReleaseId, version: Version) -> Result<(), LedgerError> {
        let change = Change {
            key: begun_key(id),
            expected: Some(version),
            write: Write::Delete,
        };
        self.commit(vec![change]).map(drop)
    }

    /// What the hosts of each environment said they have.
    pub fn held(&self) -> Result<BTreeMap<EnvName, HeldReleases>, LedgerError> {
        let mut found = BTreeMap::new();
        self.walk::<HeldReleases>(HELD, |key, held| {
            let env = key.strip_prefix(HELD).and_then(|env| env.parse().ok());
            found.extend(env.map(|env| (env, held.record)));
            true
        })?;
        Ok(found)
    }

    /// Writes down what the hosts of `env` have, if that is news. Durable when it returns.
    pub fn put_held(&self, env: &EnvName, held: &HeldReleases) -> Result<(), LedgerError> {
        self.put_level(&format!("{HELD}{env}"), held)
    }

    /// What is marked.
    pub fn marks(&self) -> Result<Marks, LedgerError> {
        Ok(self.read(MARKS)?.map(|found| found.record).unwrap_or_default())
    }

    /// Replaces what is marked. Durable when it returns.
    pub fn put_marks(&self, marks: &Marks) -> Result<(), LedgerError> {
        self.put_level(MARKS, marks)
    }

    /// Whoever writes last is right.
    fn put_level<T>(&self, key: &str, level: &T) -> Result<(), LedgerError>
    where
        T: Serialize + serde::de::DeserializeOwned + PartialEq,
    {
        loop {
            let current = self.read::<T>(key)?;
            if current.as_ref().is_some_and(|found| found.record == *level) {
                return Ok(());
            }
            let change = put(key, current.map(|found| found.version), level)?;
            if let Outcome::Committed(_) = self.commit(vec![change])? {
                return Ok(());
            }
        }
    }

    /// Forgets what a bundle weighed that is no more.
    pub fn forget_bundle(&self, bundle: &BundleDigest) -> Result<(), LedgerError> {
        let key = super::releases::bundle_key(bundle);
        let Some(found) = self.read::<super::BundleFacts>(&key)? else {
            return Ok(());
        };
        let change = Change {
            key,
            expected: Some(found.version),
            write: Write::Delete,
        };
        self.commit(vec![change]).map(drop)
    }
}
