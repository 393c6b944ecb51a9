//! How far each `[[notify]]` has told the chain of acts.

use serde::{Deserialize, Serialize};
use ship_model::name::HostName;

use super::{Ledger, LedgerError, put};
use crate::engine::{Change, Outcome, Write};

const PREFIX: &str = "told/";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct ToldRecord {
    /// Number of the last link that needs nothing any more.
    seq: u64,
}

fn key(route: &HostName) -> String {
    format!("{PREFIX}{route}")
}

impl Ledger {
    /// The last link that `route` needs no more; one that the ledger does not know begins at the chain's end, durably.
    pub fn told(&self, route: &HostName) -> Result<u64, LedgerError> {
        if let Some(found) = self.read::<ToldRecord>(&key(route))? {
            return Ok(found.record.seq);
        }
        let newest = self.audit_tail(1)?.last().map_or(0, |link| link.seq);
        self.set_told(route, newest)?;
        Ok(newest)
    }

    /// Sets it. Durable when it returns; a store that dies before tells what a sink has taken again.
    pub fn set_told(&self, route: &HostName, seq: u64) -> Result<(), LedgerError> {
        ship_durable::fault::point("store.notify.told.before").map_err(super::assets::injected)?;
        let key = key(route);
        loop {
            let expected = self.read::<ToldRecord>(&key)?.map(|found| found.version);
            let change = put(&*key, expected, &ToldRecord { seq })?;
            if let Outcome::Committed(_) = self.commit(vec![change])? {
                return Ok(());
            }
        }
    }

    /// Forgets all routes but these: one that comes back later begins anew.
    pub fn keep_told(&self, routes: &[HostName]) -> Result<(), LedgerError> {
        let kept: Vec<_> = routes.iter().map(key).collect();
        let mut gone = Vec::new();
        self.walk::<ToldRecord>(PREFIX, |key, found| {
            if !kept.iter().any(|kept| kept == key) {
                gone.push(Change {
                    key: key.to_owned(),
                    expected: Some(found.version),
                    write: Write::Delete,
                });
            }
            true
        })?;
        if !gone.is_empty() {
            // Who else writes them? Another process on the same folder, which then knows better.
            let _outcome = self.commit(gone)?;
        }
        Ok(())
    }
}
