//! Which published assets have expired: nothing keeps them any more, so that nobody has to have them.
//!
//! A mark beside the asset's own record, which stays for ever: the path never gets other bytes. Whoever publishes or
//! promotes a release that names the path takes the mark away first.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use ship_model::digest::BlobDigest;
use ship_model::name::AppName;
use ship_model::retention::{ExpiredList, UrlHash};

use super::{Act, Ledger, LedgerError, put};
use crate::engine::catalog::MAX_BATCH;
use crate::engine::catalog::Write;
use crate::engine::{Change, Outcome};

/// Marks written at once; a link of the audit chain and its head have room beside them.
const AT_ONCE: usize = MAX_BATCH / 2;

/// An asset that nothing keeps any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiredAsset {
    pub url: String,
    pub digest: BlobDigest,
    /// When it was given up, in milliseconds since 1970, by the store's clock.
    pub at_ms: u64,
}

/// Paths, 16 bytes each: by the hash that their records are found by.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UrlSet(HashSet<UrlHash>);

impl UrlSet {
    pub fn insert(&mut self, url: &str) {
        self.0.insert(UrlHash::of(url));
    }

    pub fn contains(&self, url: &str) -> bool {
        self.0.contains(&UrlHash::of(url))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn prefix(app: &AppName) -> String {
    format!("expired/{app}/")
}

fn key(app: &AppName, url: &str) -> String {
    format!("{}{}", prefix(app), UrlHash::of(url))
}

impl Ledger {
    /// The mark of the asset at `url`, if it has expired.
    pub fn expired(&self, app: &AppName, url: &str) -> Result<Option<ExpiredAsset>, LedgerError> {
        Ok(self.read(&key(app, url))?.map(|found| found.record))
    }

    /// Whether any asset of `app` has expired.
    pub fn has_expired(&self, app: &AppName) -> Result<bool, LedgerError> {
        let mut found = false;
        self.walk::<ExpiredAsset>(&prefix(app), |_, _| {
            found = true;
            false
        })?;
        Ok(found)
    }

    /// Every path of `app` that has expired.
    pub fn expired_urls(&self, app: &AppName) -> Result<UrlSet, LedgerError> {
        let mut urls = UrlSet::default();
        self.walk::<ExpiredAsset>(&prefix(app), |_, mark| {
            urls.insert(&mark.record.url);
            true
        })?;
        Ok(urls)
    }

    /// The same, as hosts are told it.
    pub fn expired_list(&self, app: &AppName) -> Result<ExpiredList, LedgerError> {
        let mut hashes = Vec::new();
        self.walk::<ExpiredAsset>(&prefix(app), |_, mark| {
            hashes.push(UrlHash::of(&mark.record.url));
            true
        })?;
        Ok(hashes.into_iter().collect())
    }

    /// Marks `assets` as expired. Durable when it returns; the act is written with the first of them, so that none is
    /// marked without it. Safe to repeat.
    pub fn expire_assets(
        &self,
        app: &AppName,
        assets: &[ExpiredAsset],
        act: &Act,
    ) -> Result<(), LedgerError> {
        for (at, part) in assets.chunks(AT_ONCE).enumerate() {
            let acts = std::slice::from_ref(act);
            let acts = if at == 0 { acts } else { &[] };
            loop {
                let mut batch = Vec::new();
                for asset in part {
                    let key = key(app, &asset.url);
                    let found = self.read::<ExpiredAsset>(&key)?;
                    if found.is_none() {
                        batch.push(put(key, None, asset)?);
                    }
                }
                ship_durable::fault::point("store.ledger.expire.before").map_err(super::assets::injected)?;
                if matches!(self.decide(batch, acts)?, Outcome::Committed(_)) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes the marks of `urls` away, where they have one; how many had.
    pub fn unexpire<'a>(
        &self,
        app: &AppName,
        urls: impl IntoIterator<Item = &'a str>,
    ) -> Result<u64, LedgerError> {
        let mut taken = 0;
        let mut urls = urls.into_iter().peekable();
        while urls.peek().is_some() {
            let part: Vec<&str> = urls.by_ref().take(AT_ONCE).collect();
            loop {
                let mut batch = Vec::new();
                for url in &part {
                    batch.extend(self.unmark(app, url)?);
                }
                let marks = batch.len() as u64;
                if marks == 0 || matches!(self.commit(batch)?, Outcome::Committed(_)) {
                    taken += marks;
                    break;
                }
            }
        }
        Ok(taken)
    }

    /// Takes every mark of `app` away; how many there were.
    pub fn unexpire_all(&self, app: &AppName) -> Result<u64, LedgerError> {
        let mut urls = Vec::new();
        self.walk::<ExpiredAsset>(&prefix(app), |_, mark| {
            urls.push(mark.record.url);
            true
        })?;
        self.unexpire(app, urls.iter().map(String::as_str))
    }

    /// The change that takes one mark away; none where there is none.
    pub(super) fn unmark(&self, app: &AppName, url: &str) -> Result<Option<Change>, LedgerError> {
        let key = key(app, url);
        let found = self.read::<ExpiredAsset>(&key)?;
        Ok(found.map(|found| Change {
            key,
            expected: Some(found.version),
            write: Write::Delete,
        }))
    }
}
