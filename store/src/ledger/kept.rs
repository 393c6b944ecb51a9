//! Which releases are kept as deltas, and against what.

use serde::{Deserialize, Serialize};
use ship_model::digest::{BundleDigest, DeltaDigest, ReleaseId};

use super::releases::{BundleFacts, bundle_key};
use super::{Act, Ledger, LedgerError, put};
use crate::engine::{Change, Outcome, Write};

const PREFIX: &str = "kept/";

/// That a release is given by a delta against another one. Written when the delta is durable and was decoded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRecord {
    pub delta: DeltaDigest,
    /// The release that the delta is made against: itself kept so, or carried whole by bundles.
    pub base: ReleaseId,
    /// Of the delta.
    pub bytes: u64,
}

fn key(release: &ReleaseId) -> String {
    format!("{PREFIX}{release}")
}

impl Ledger {
    /// Every release that is kept as a delta.
    pub fn kept(&self) -> Result<Vec<(ReleaseId, KeptRecord)>, LedgerError> {
        let mut found = Vec::new();
        self.walk::<KeptRecord>(PREFIX, |key, record| {
            let release = key.strip_prefix(PREFIX).and_then(|id| id.parse().ok());
            found.extend(release.map(|release| (release, record.record)));
            true
        })?;
        Ok(found)
    }

    /// Keeps `release` by `record` from now on, in place of what kept it before, if anything did.
    pub fn keep(&self, release: ReleaseId, record: &KeptRecord, act: &Act) -> Result<(), LedgerError> {
        self.change_kept(release, Some(record), act)
    }

    /// The release is carried whole by bundles again.
    pub fn unkeep(&self, release: ReleaseId, act: &Act) -> Result<(), LedgerError> {
        self.change_kept(release, None, act)
    }

    fn change_kept(
        &self,
        release: ReleaseId,
        record: Option<&KeptRecord>,
        act: &Act,
    ) -> Result<(), LedgerError> {
        let key = key(&release);
        loop {
            let expected = self.read::<KeptRecord>(&key)?.map(|found| found.version);
            let change = match record {
                Some(record) => put(&*key, expected, record)?,
                None if expected.is_none() => return Ok(()),
                None => Change {
                    key: key.clone(),
                    expected,
                    write: Write::Delete,
                },
            };
            ship_durable::fault::point("store.keeping.record.before").map_err(super::assets::injected)?;
            if let Outcome::Committed(_) = self.decide(vec![change], std::slice::from_ref(act))? {
                return Ok(());
            }
        }
    }

    /// Notes what a bundle weighs that no publisher brought: it was made here out of others.
    pub fn note_bundle(&self, bundle: BundleDigest, facts: BundleFacts) -> Result<(), LedgerError> {
        while self.bundle(&bundle)?.is_none() {
            if let Outcome::Committed(_) = self.decide(vec![put(bundle_key(&bundle), None, &facts)?], &[])? {
                break;
            }
        }
        Ok(())
    }
}
