//! What has expired of an app, for a place where its assets were pushed to.
//!
//! A place may have assets of several apps, and, where a store was put back from a backup, of releases that nobody knows
//! any more: neither loses a path for it.

use std::collections::HashSet;

use ship_model::name::AppName;
use ship_model::release::Target;
use ship_model::retention::ExpiredList;

use crate::ledger::{Ledger, LedgerError};

/// What there is to give up, by the ledger.
#[derive(Debug)]
pub(super) struct Giving<'a> {
    pub app: &'a AppName,
    pub list: ExpiredList,
    ledger: &'a Ledger,
    others: Vec<AppName>,
    own: HashSet<Target>,
    all: HashSet<Target>,
}

/// What was given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct GivenUp {
    pub assets: u64,
    pub bytes: u64,
}

impl<'a> Giving<'a> {
    pub fn read(ledger: &'a Ledger, app: &'a AppName) -> Result<Self, LedgerError> {
        let (mut own, mut all, mut others) = (HashSet::new(), HashSet::new(), Vec::new());
        for of in ledger.apps()? {
            let releases = ledger.releases(&of, usize::MAX)?;
            let targets = releases.iter().map(|release| release.target());
            match of == *app {
                true => own.extend(targets),
                false => {
                    all.extend(targets);
                    others.push(of);
                }
            }
        }
        all.extend(own.iter().copied());
        Ok(Self {
            app,
            list: ledger.expired_list(app)?,
            ledger,
            others,
            own,
            all,
        })
    }

    /// Whether the path has expired, and no other app promises it.
    pub fn is_gone(&self, url: &str) -> bool {
        self.list.contains(url) && !self.others.iter().any(|other| self.promises(other, url))
    }

    /// What cannot be read is promised.
    fn promises(&self, app: &AppName, url: &str) -> bool {
        let promised = || -> Result<bool, LedgerError> {
            Ok(self.ledger.asset(app, url)?.is_some() && self.ledger.expired(app, url)?.is_none())
        };
        promised().unwrap_or(true)
    }

    /// Whether it is a release of the app.
    pub fn owns(&self, release: &Target) -> bool {
        self.own.contains(release)
    }

    /// Whether it is a release of any app.
    pub fn knows(&self, release: &Target) -> bool {
        self.all.contains(release)
    }
}
