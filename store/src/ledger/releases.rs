//! Releases: numbered per app by one compare-and-swap, which comes last.

use serde::{Deserialize, Serialize};
use ship_model::digest::{BundleDigest, ReleaseId};
use ship_model::name::AppName;
use ship_model::release::{Provenance, ReleaseNumber, ReleaseRecord};

use super::apps::{self, AppRecord};
use super::assets::{ClaimToken, Claimed};
use super::{Act, Ledger, LedgerError, Made, RequestId, RequestRecord, put, requests};
use crate::engine::Outcome;

pub(super) const PREFIX: &str = "release/";

/// What a bundle weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFacts {
    pub bytes: u64,
    pub blobs: u64,
}

/// A release but for its number. All it names must be durable already.
#[derive(Debug, Clone)]
pub struct NewRelease {
    pub app: AppName,
    pub id: ReleaseId,
    pub provenance: Provenance,
    /// Role and name, `publisher/ci`.
    pub publisher: String,
    /// Milliseconds since 1970, by the store's clock.
    pub at_ms: u64,
    pub bundle: Option<(BundleDigest, BundleFacts)>,
    pub files: u64,
    pub bytes: u64,
    pub new_bytes: u64,
    pub stored_bytes: u64,
    /// The token its assets were claimed with.
    pub claim: ClaimToken,
    pub request: RequestId,
    /// Digest of what was asked.
    pub asked: String,
}

/// A release that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedRelease {
    pub record: ReleaseRecord,
    /// False when the same request had made it earlier.
    pub new: bool,
}

/// Why a release was not made.
#[derive(Debug, thiserror::Error)]
pub enum AddReleaseError {
    #[error("request {request} was used before with another content; choose a new request id")]
    Reused { request: RequestId },
    /// Another publish took the claims over; try again with a new token.
    #[error("the release's claim on its assets was taken over by another publish")]
    Voided,
    #[error("cannot record the release")]
    Ledger(#[from] LedgerError),
}

fn key(app: &AppName, number: ReleaseNumber) -> String {
    format!("{PREFIX}{app}/{:020}", number.0)
}

fn id_prefix(id: &ReleaseId) -> String {
    format!("id/{id}/")
}

fn id_key(id: &ReleaseId, app: &AppName, number: ReleaseNumber) -> String {
    format!("{}{app}/{:020}", id_prefix(id), number.0)
}

pub(super) fn bundle_key(bundle: &BundleDigest) -> String {
    format!("bundle/{bundle}")
}

impl Ledger {
    pub fn release(
        &self,
        app: &AppName,
        number: ReleaseNumber,
    ) -> Result<Option<ReleaseRecord>, LedgerError> {
        Ok(self.read(&key(app, number))?.map(|found| found.record))
    }

    /// The release of the highest number; none for an unknown app.
    pub fn newest_release(&self, app: &AppName) -> Result<Option<ReleaseRecord>, LedgerError> {
        Ok(self.releases(app, 1)?.pop())
    }

    /// The newest `limit` releases of an app, newest first; empty for an unknown app.
    pub fn releases(&self, app: &AppName, limit: usize) -> Result<Vec<ReleaseRecord>, LedgerError> {
        let mut found = Vec::new();
        let next = self.app(app)?.map_or(1, |app| app.record.next.0);
        for number in (1..next).rev() {
            if found.len() == limit {
                break;
            }
            found.extend(self.release(app, ReleaseNumber(number))?);
        }
        Ok(found)
    }

    /// Under which apps and numbers a tree was published.
    pub fn releases_of_id(&self, id: &ReleaseId) -> Result<Vec<(AppName, ReleaseNumber)>, LedgerError> {
        let prefix = id_prefix(id);
        let mut found = Vec::new();
        self.walk::<()>(&prefix, |key, _| {
            let rest = key.strip_prefix(&prefix).and_then(|rest| rest.split_once('/'));
            if let Some((app, number)) = rest
                && let (Ok(app), Ok(number)) = (AppName::new(app), number.parse())
            {
                found.push((app, ReleaseNumber(number)));
            }
            true
        })?;
        Ok(found)
    }

    /// What a bundle weighs; none for one that no release brought and that was not made here.
    pub fn bundle(&self, bundle: &BundleDigest) -> Result<Option<BundleFacts>, LedgerError> {
        Ok(self.read(&bundle_key(bundle))?.map(|found| found.record))
    }

    /// Every bundle that a release brought.
    pub fn bundles(&self) -> Result<Vec<BundleDigest>, LedgerError> {
        let mut found = Vec::new();
        self.walk::<BundleFacts>("bundle/", |key, _| {
            found.extend(
                key.strip_prefix("bundle/")
                    .and_then(|digest| digest.parse::<BundleDigest>().ok()),
            );
            true
        })?;
        Ok(found)
    }

    /// Gives the release its number and makes it known: app, record, claim, request and audit in one batch.
    ///
    /// Durable when it returns. The same request made twice makes one release.
    pub fn add_release(&self, new: &NewRelease) -> Result<AddedRelease, AddReleaseError> {
        loop {
            if let Some(made) = self.made_earlier(new)? {
                return Ok(made);
            }
            let found = self.app(&new.app)?;
            let version = found.as_ref().map(|app| app.version);
            let number = found.map_or(ReleaseNumber(1), |app| app.record.next);
            let record = new.record(number);
            let mut batch = vec![
                put(
                    apps::key(&new.app),
                    version,
                    &AppRecord {
                        next: ReleaseNumber(number.0 + 1),
                    },
                )?,
                put(key(&new.app, number), None, &record)?,
                put(id_key(&new.id, &new.app, number), None, &())?,
                put(requests::key(new.request), None, &new.request_record(number))?,
                put(new.claim.key(), None, &new.claimed(number))?,
            ];
            if let Some((digest, facts)) = &new.bundle
                && self.bundle(digest)?.is_none()
            {
                batch.push(put(bundle_key(digest), None, facts)?);
            }
            batch.extend(self.end_begun(&new.id)?);
            match self.decide(batch, &[new.act(number)])? {
                Outcome::Committed(_) => return Ok(AddedRelease { record, new: true }),
                Outcome::Conflict { key, .. } if key == new.claim.key() => self.refuse_void(new)?,
                // Another publish was first: the next number is another one.
                Outcome::Conflict { .. } => {}
            }
        }
    }

    /// A claim that is taken is either void, or this very request was carried out meanwhile.
    fn refuse_void(&self, new: &NewRelease) -> Result<(), AddReleaseError> {
        match self.claimed(&new.claim)? {
            Some(Claimed::Void) => Err(AddReleaseError::Voided),
            Some(Claimed::Release { .. }) | None => Ok(()),
        }
    }

    fn made_earlier(&self, new: &NewRelease) -> Result<Option<AddedRelease>, AddReleaseError> {
        match self.request_release(new.request, &new.asked)? {
            Some(record) => Ok(Some(AddedRelease { record, new: false })),
            None => Ok(None),
        }
    }

    /// The release that a request made, if it asked for the same.
    pub fn request_release(
        &self,
        request: RequestId,
        asked: &str,
    ) -> Result<Option<ReleaseRecord>, AddReleaseError> {
        let Some(found) = self.request(request)? else {
            return Ok(None);
        };
        match found.made {
            Made::Release { app, number } if found.asked == asked => {
                let record = self.release(&app, number)?;
                Ok(Some(record.ok_or_else(|| LedgerError::Missing {
                    key: key(&app, number),
                })?))
            }
            Made::Release { .. } | Made::Deploy { .. } => Err(AddReleaseError::Reused { request }),
        }
    }
}

impl NewRelease {
    fn record(&self, number: ReleaseNumber) -> ReleaseRecord {
        ReleaseRecord {
            app: self.app.clone(),
            number,
            id: self.id,
            provenance: self.provenance.clone(),
            publisher: self.publisher.clone(),
            published_at_ms: self.at_ms,
            bundle: self.bundle.map(|(digest, _)| digest),
            files: self.files,
            bytes: self.bytes,
            new_bytes: self.new_bytes,
            stored_bytes: self.stored_bytes,
        }
    }

    fn request_record(&self, number: ReleaseNumber) -> RequestRecord {
        RequestRecord {
            asked: self.asked.clone(),
            made: Made::Release {
                app: self.app.clone(),
                number,
            },
        }
    }

    fn claimed(&self, number: ReleaseNumber) -> Claimed {
        Claimed::Release {
            app: self.app.clone(),
            number,
        }
    }

    fn act(&self, number: ReleaseNumber) -> Act {
        Act {
            at_ms: self.at_ms,
            who: self.publisher.clone(),
            what: "publish".to_owned(),
            subject: format!("{}@{number}", self.app),
            detail: match &self.provenance.label {
                Some(label) => format!("{} {label}", self.id),
                None => self.id.to_string(),
            },
        }
    }
}
