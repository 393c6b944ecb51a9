//! Whether a release's content is kept: who pinned it, and that it was collected.
//!
//! Marks beside the release's own record, which stays as it is for ever.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ship_model::digest::ReleaseId;
use ship_model::name::AppName;
use ship_model::release::{ReleaseNumber, ReleaseRecord};
use ship_model::rollout::Content;

use super::{Act, Ledger, LedgerError, put};
use crate::engine::{Change, Outcome, Write};

/// Nothing but an operator's word takes the content of a pinned release away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Milliseconds since 1970, by the store's clock.
    pub at_ms: u64,
    /// Role and name, `operator/alice`.
    pub who: String,
    pub because: String,
}

/// A release of which nothing kept the content any longer. It is not taken back: the tree that is published again is a new
/// release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Milliseconds since 1970, by the store's clock.
    pub at_ms: u64,
    pub who: String,
    /// No asset of it is promised any more, so that nobody is told to have any.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bare: bool,
}

fn pins(app: &AppName) -> String {
    format!("pin/{app}/")
}

fn pin_key(app: &AppName, number: ReleaseNumber) -> String {
    format!("{}{:020}", pins(app), number.0)
}

fn all_collected(app: &AppName) -> String {
    format!("collected/{app}/")
}

fn collected_key(app: &AppName, number: ReleaseNumber) -> String {
    format!("{}{:020}", all_collected(app), number.0)
}

impl Ledger {
    /// Every pin of `app`.
    pub fn pins(&self, app: &AppName) -> Result<BTreeMap<ReleaseNumber, Pin>, LedgerError> {
        self.by_number(&pins(app))
    }

    /// Pins a release, or says anew why. Durable when it returns.
    pub fn pin(&self, app: &AppName, number: ReleaseNumber, pin: &Pin) -> Result<(), LedgerError> {
        let key = pin_key(app, number);
        let act = act("pin", app, number, pin);
        loop {
            let current = self.read::<Pin>(&key)?.map(|found| found.version);
            let change = put(&*key, current, pin)?;
            if let Outcome::Committed(_) = self.decide(vec![change], std::slice::from_ref(&act))? {
                return Ok(());
            }
        }
    }

    /// Takes a pin away; false where there is none. `said` tells who and why.
    pub fn unpin(&self, app: &AppName, number: ReleaseNumber, said: &Pin) -> Result<bool, LedgerError> {
        let key = pin_key(app, number);
        let act = act("unpin", app, number, said);
        loop {
            let Some(found) = self.read::<Pin>(&key)? else {
                return Ok(false);
            };
            let change = Change {
                key: key.clone(),
                expected: Some(found.version),
                write: Write::Delete,
            };
            if let Outcome::Committed(_) = self.decide(vec![change], std::slice::from_ref(&act))? {
                return Ok(true);
            }
        }
    }

    /// The mark of a release whose content was collected.
    pub fn collected(&self, app: &AppName, number: ReleaseNumber) -> Result<Option<Collected>, LedgerError> {
        Ok(self.read(&collected_key(app, number))?.map(|found| found.record))
    }

    /// Every such mark of `app`.
    pub fn all_collected(&self, app: &AppName) -> Result<BTreeMap<ReleaseNumber, Collected>, LedgerError> {
        self.by_number(&all_collected(app))
    }

    /// Marks a release as collected, or says anew whether it is bare. Durable when it returns; whoever asks from then on is told.
    pub fn collect(
        &self,
        app: &AppName,
        number: ReleaseNumber,
        mark: &Collected,
        act: Option<&Act>,
    ) -> Result<(), LedgerError> {
        let key = collected_key(app, number);
        loop {
            let current = self.read::<Collected>(&key)?.map(|found| found.version);
            let change = put(&*key, current, mark)?;
            let acts = act.map(std::slice::from_ref).unwrap_or_default();
            if let Outcome::Committed(_) = self.decide(vec![change], acts)? {
                return Ok(());
            }
        }
    }

    /// Whether there is a release of `id` whose content is kept, and if not, what is to be said of those that were collected.
    pub fn content_of(
        &self,
        id: &ReleaseId,
    ) -> Result<Option<(AppName, ReleaseNumber, Collected)>, LedgerError> {
        let mut last = None;
        for (app, number) in self.releases_of_id(id)? {
            match self.collected(&app, number)? {
                None => return Ok(None),
                Some(mark) => last = Some((app, number, mark)),
            }
        }
        Ok(last)
    }

    fn by_number<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<BTreeMap<ReleaseNumber, T>, LedgerError> {
        let mut found = BTreeMap::new();
        self.walk::<T>(prefix, |key, value| {
            let number = key.strip_prefix(prefix).and_then(|number| number.parse().ok());
            found.extend(number.map(|number| (ReleaseNumber(number), value.record)));
            true
        })?;
        Ok(found)
    }
}

/// What plans are told of the content of each of an app's releases, given the marks of those that were collected.
pub fn contents(
    records: &[ReleaseRecord],
    collected: &BTreeMap<ReleaseNumber, Collected>,
) -> BTreeMap<ReleaseNumber, Content> {
    let there: BTreeMap<ReleaseId, ReleaseNumber> = records
        .iter()
        .filter(|record| !collected.contains_key(&record.number))
        .map(|record| (record.id, record.number))
        .collect();
    let content = |record: &ReleaseRecord| match collected.get(&record.number) {
        None => Content::Kept,
        Some(mark) => Content::Collected {
            assets: !mark.bare,
            again: there.get(&record.id).copied(),
        },
    };
    records
        .iter()
        .map(|record| (record.number, content(record)))
        .collect()
}

fn act(what: &str, app: &AppName, number: ReleaseNumber, said: &Pin) -> Act {
    Act {
        at_ms: said.at_ms,
        who: said.who.clone(),
        what: what.to_owned(),
        subject: format!("{app}@{number}"),
        detail: said.because.clone(),
    }
}
