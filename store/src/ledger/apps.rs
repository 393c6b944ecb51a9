//! Apps, and the number each one's next release gets.

use serde::{Deserialize, Serialize};
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;

use super::{Ledger, LedgerError, Versioned, put};
use crate::engine::Outcome;

const PREFIX: &str = "app/";

/// One per app, made by its first release.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AppRecord {
    /// The number that the next release gets; grows only.
    pub next: ReleaseNumber,
}

pub(super) fn key(app: &AppName) -> String {
    format!("{PREFIX}{app}")
}

impl Ledger {
    /// Every app that has a release, sorted by name.
    pub fn apps(&self) -> Result<Vec<AppName>, LedgerError> {
        let mut apps = Vec::new();
        self.walk::<AppRecord>(PREFIX, |key, _| {
            apps.extend(key.strip_prefix(PREFIX).and_then(|name| AppName::new(name).ok()));
            true
        })?;
        Ok(apps)
    }

    /// Leaves out the next `count` numbers of `app`: they may have been given by a store that is lost.
    pub fn skip_numbers(&self, app: &AppName, count: u64) -> Result<(), LedgerError> {
        loop {
            let Some(found) = self.app(app)? else {
                return Ok(());
            };
            let next = ReleaseNumber(found.record.next.0.saturating_add(count));
            let change = put(key(app), Some(found.version), &AppRecord { next })?;
            if let Outcome::Committed(_) = self.decide(vec![change], &[])? {
                return Ok(());
            }
        }
    }

    pub(super) fn app(&self, app: &AppName) -> Result<Option<Versioned<AppRecord>>, LedgerError> {
        self.read(&key(app))
    }
}
