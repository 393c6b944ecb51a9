//! The ledger of fingerprinted assets: a url has one content, for ever.
//!
//! A release may have more assets than a batch has room for, so they are claimed first and the release is
//! made last. A claim counts for nothing until its token became a release. A publish that died leaves
//! claims whose token became nothing: the next one that needs such a url voids the token first, so that
//! the dead one, should it still be alive in another process, cannot become a release any more.

use serde::{Deserialize, Serialize};
use ship_model::digest::BlobDigest;
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;

use super::{Ledger, LedgerError, RequestId, Versioned, put};
use crate::engine::catalog::MAX_BATCH;
use crate::engine::{Change, Outcome};

/// Names one try to make a release.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimToken(String);

impl ClaimToken {
    /// The token of the `attempt`th try to carry out `request`.
    pub fn new(request: RequestId, attempt: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&request.0);
        hasher.update(&attempt.to_le_bytes());
        Self(hasher.finalize().to_hex()[..32].to_owned())
    }

    pub(super) fn key(&self) -> String {
        format!("claim/{}", self.0)
    }
}

/// What a claim became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Claimed {
    Release {
        app: AppName,
        number: ReleaseNumber,
    },
    /// Will never be a release.
    Void,
}

/// A fingerprinted asset that a release brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssetClaim {
    /// The path pages ask for: `/static/main.3f9a12bc.js`.
    pub url: String,
    pub digest: BlobDigest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AssetRecord {
    url: String,
    digest: BlobDigest,
    claim: ClaimToken,
}

/// An asset of a release that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedAsset {
    pub url: String,
    pub digest: BlobDigest,
    /// The release that first brought it.
    pub first: ReleaseNumber,
}

/// The same url with other bytes than an earlier release published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{url} was published by {app}@{first} with content {theirs} and comes now with {ours}: a fingerprinted name never changes its bytes; rebuild with a new fingerprint, or list it as mutable"
)]
pub struct Clash {
    pub app: AppName,
    pub url: String,
    pub theirs: BlobDigest,
    pub first: ReleaseNumber,
    pub ours: BlobDigest,
}

/// Why assets were not claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Some claims may stand already; they count for nothing.
    #[error("{} of the release's assets clash with earlier releases", .0.len())]
    Clash(Vec<Clash>),
    /// Somebody else publishes the same url at this moment.
    #[error("{url} is being published by somebody else; publish again")]
    Contended { url: String },
    #[error("cannot claim the release's assets")]
    Ledger(#[from] LedgerError),
}

fn key(app: &AppName, url: &str) -> String {
    format!(
        "asset/{app}/{}",
        &blake3::hash(url.as_bytes()).to_hex().as_str()[..32]
    )
}

/// Clashes that are told at once.
const MOST_CLASHES: usize = 50;

impl Ledger {
    /// The asset at `url`, if a release of `app` ever brought it.
    pub fn asset(&self, app: &AppName, url: &str) -> Result<Option<PublishedAsset>, LedgerError> {
        let Some(found) = self.read::<AssetRecord>(&key(app, url))? else {
            return Ok(None);
        };
        let record = found.record;
        Ok(match self.claimed(&record.claim)? {
            Some(Claimed::Release { number, .. }) => Some(PublishedAsset {
                url: record.url,
                digest: record.digest,
                first: number,
            }),
            Some(Claimed::Void) | None => None,
        })
    }

    /// Which of `assets` clash with a release that exists; at most 50 are told.
    pub fn asset_clashes(&self, app: &AppName, assets: &[AssetClaim]) -> Result<Vec<Clash>, LedgerError> {
        let mut clashes = Vec::new();
        for asset in assets {
            if let Some(theirs) = self.asset(app, &asset.url)?
                && theirs.digest != asset.digest
            {
                clashes.push(clash(app, asset, &theirs));
                if clashes.len() == MOST_CLASHES {
                    break;
                }
            }
        }
        Ok(clashes)
    }

    /// Claims `assets` for the release that `token` is to become. Durable when it returns; claiming the
    /// same again is fine.
    pub fn claim_assets(
        &self,
        app: &AppName,
        token: &ClaimToken,
        assets: &[AssetClaim],
    ) -> Result<(), ClaimError> {
        let clashes = self.asset_clashes(app, assets)?;
        if !clashes.is_empty() {
            return Err(ClaimError::Clash(clashes));
        }
        for part in assets.chunks(MAX_BATCH / 2) {
            self.claim_part(app, token, part)?;
        }
        Ok(())
    }

    fn claim_part(&self, app: &AppName, token: &ClaimToken, part: &[AssetClaim]) -> Result<(), ClaimError> {
        // A conflict means that another process claimed at the same moment: look again, a few times.
        for _ in 0..8 {
            let mut batch: Vec<Change> = Vec::new();
            for asset in part {
                batch.extend(self.claim(app, token, asset)?);
                // Whoever names it keeps it, also while this is not a release yet.
                batch.extend(self.unmark(app, &asset.url)?);
            }
            ship_durable::fault::point("store.ledger.claim.before").map_err(injected)?;
            if batch.is_empty() || matches!(self.commit(batch)?, Outcome::Committed(_)) {
                return Ok(());
            }
        }
        let url = part.first().map(|asset| asset.url.clone()).unwrap_or_default();
        Err(ClaimError::Contended { url })
    }

    /// The change that claims one asset; none when it is ours, or a release's with the same content.
    fn claim(
        &self,
        app: &AppName,
        token: &ClaimToken,
        asset: &AssetClaim,
    ) -> Result<Option<Change>, ClaimError> {
        let key = key(app, &asset.url);
        let record = AssetRecord {
            url: asset.url.clone(),
            digest: asset.digest,
            claim: token.clone(),
        };
        let Some(found) = self.read::<AssetRecord>(&key)? else {
            return Ok(Some(put(key, None, &record)?));
        };
        if found.record == record {
            return Ok(None);
        }
        match self.settled(&found)? {
            Claimed::Void => Ok(Some(put(key, Some(found.version), &record)?)),
            Claimed::Release { .. } if found.record.digest == asset.digest => Ok(None),
            Claimed::Release { number, .. } => {
                let theirs = PublishedAsset {
                    url: found.record.url,
                    digest: found.record.digest,
                    first: number,
                };
                Err(ClaimError::Clash(vec![clash(app, asset, &theirs)]))
            }
        }
    }

    /// What became of a claim; one that became nothing yet is voided here and now.
    fn settled(&self, found: &Versioned<AssetRecord>) -> Result<Claimed, LedgerError> {
        let token = &found.record.claim;
        loop {
            if let Some(claimed) = self.claimed(token)? {
                return Ok(claimed);
            }
            let void = put(token.key(), None, &Claimed::Void)?;
            // Whoever is first decides; then it is read.
            let _outcome = self.commit(vec![void])?;
        }
    }

    pub(super) fn claimed(&self, token: &ClaimToken) -> Result<Option<Claimed>, LedgerError> {
        Ok(self.read(&token.key())?.map(|found| found.record))
    }
}

fn clash(app: &AppName, ours: &AssetClaim, theirs: &PublishedAsset) -> Clash {
    Clash {
        app: app.clone(),
        url: ours.url.clone(),
        theirs: theirs.digest,
        first: theirs.first,
        ours: ours.digest,
    }
}

pub(super) fn injected(source: std::io::Error) -> LedgerError {
    LedgerError::Catalog {
        action: "write",
        key: "asset/".to_owned(),
        source: crate::engine::CatalogError::Storage {
            action: "write",
            source: Box::new(source),
        },
    }
}
