//! Giving up what nothing keeps: marked, waited for, looked at again, and only then let go.
//!
//! The ledger's mark comes first and is the whole decision; the store's folder follows it, now or at the next start. What
//! a release that is published or promoted names is brought back before anybody relies on it: the bundles have all bytes.

use ship_durable::fault;
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;
use ship_model::retention::MAX_EXPIRED;

use super::{Evidence, Found, LookError, Scene, look};
use crate::ledger::{Act, ExpiredAsset, Ledger, LedgerError, UrlSet};
use crate::union::{AddAssetsError, ForgetExpiredError, Unions};

/// What was found that nothing keeps, to be looked at again.
#[derive(Debug, Default)]
pub struct Marked {
    pub urls: UrlSet,
    pub bytes: u64,
}

/// What was given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub assets: u64,
    pub bytes: u64,
    /// Marked, and then kept for some reason.
    pub spared: u64,
    /// Files removed from the store's own folder.
    pub files: u64,
}

/// Why nothing was given up, or why the store's folder does not show it yet.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error(transparent)]
    Look(#[from] LookError),
    #[error("cannot mark expired assets of {app}")]
    Ledger { app: AppName, source: LedgerError },
    #[error("expired assets of {app} still lie in the store: the next start removes them")]
    Forget {
        app: AppName,
        source: ForgetExpiredError,
    },
    #[error("the sweep was interrupted")]
    Interrupted(#[source] std::io::Error),
}

/// Who sweeps whose assets.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    pub ledger: &'a Ledger,
    pub unions: &'a Unions,
    pub evidence: &'a Evidence,
    pub app: &'a AppName,
}

impl Sweep<'_> {
    /// What nothing keeps in this scene. Changes nothing; blocks.
    pub fn mark(&self, scene: &Scene) -> Result<Marked, LookError> {
        let mut marked = Marked::default();
        self.unkept(scene, |found| {
            marked.urls.insert(found.url);
            marked.bytes += found.bytes;
        })?;
        Ok(marked)
    }

    fn unkept(&self, scene: &Scene, mut visit: impl FnMut(Found<'_>)) -> Result<(), LookError> {
        let Self {
            ledger,
            unions,
            evidence,
            app,
        } = self;
        scene.check_known(ledger, app)?;
        look(scene, ledger, unions, evidence, app, None, |found| {
            if !found.verdict.is_kept() {
                visit(found);
            }
            true
        })
    }

    /// Gives up what was marked and is kept for no reason in this scene either. Nothing may be published or promoted
    /// from when the scene was looked at until it returns. Blocks.
    pub fn sweep(&self, scene: &Scene, marked: &Marked, who: &str) -> Result<Swept, SweepError> {
        let (mut gone, mut swept) = (Vec::new(), Swept::default());
        let Self {
            ledger, unions, app, ..
        } = self;
        let failed = |source| SweepError::Ledger {
            app: (*app).clone(),
            source,
        };
        // Hosts take no longer list.
        let room = MAX_EXPIRED.saturating_sub(ledger.expired_urls(app).map_err(failed)?.len());
        self.unkept(scene, |found| {
            if marked.urls.contains(found.url) && gone.len() < room {
                swept.bytes += found.bytes;
                gone.push(ExpiredAsset {
                    url: found.url.to_owned(),
                    digest: found.digest,
                    at_ms: scene.now_ms,
                });
            }
        })?;
        swept.assets = gone.len() as u64;
        swept.spared = (marked.urls.len() - gone.len()) as u64;
        if !gone.is_empty() {
            let act = Act {
                at_ms: scene.now_ms,
                who: who.to_owned(),
                what: "sweep".to_owned(),
                subject: app.to_string(),
                detail: format!("{} expired assets, {} bytes", swept.assets, swept.bytes),
            };
            ledger.expire_assets(app, &gone, &act).map_err(failed)?;
        }
        drop(gone);
        fault::point("store.sweep.marked").map_err(SweepError::Interrupted)?;
        let forgotten = unions.forget_expired(ledger, app);
        let forgotten = forgotten.map_err(|source| SweepError::Forget {
            app: (*app).clone(),
            source,
        })?;
        swept.files = forgotten.files;
        Ok(swept)
    }
}

/// Why a release's expired assets are not all back.
#[derive(Debug, thiserror::Error)]
pub enum BringBackError {
    #[error("cannot tell which assets of {app} have expired")]
    Ledger { app: AppName, source: LedgerError },
    #[error("cannot bring back expired assets of {app}@{release}")]
    Add {
        app: AppName,
        release: ReleaseNumber,
        source: Box<AddAssetsError>,
    },
}

/// Makes the assets of `release` promised again, all of them: they stand in the store when it returns. Blocks.
pub fn bring_back(
    ledger: &Ledger,
    unions: &Unions,
    app: &AppName,
    release: ReleaseNumber,
) -> Result<(), BringBackError> {
    let failed = |source| BringBackError::Ledger {
        app: app.clone(),
        source,
    };
    let Some(record) = ledger.release(app, release).map_err(failed)? else {
        return Ok(());
    };
    let adding = |source| BringBackError::Add {
        app: app.clone(),
        release,
        source: Box::new(source),
    };
    let assets = unions.assets_of(&record).map_err(adding)?;
    let fingerprinted = assets.iter().filter(|asset| asset.fingerprinted);
    let urls = fingerprinted.map(|asset| &*asset.url_path);
    let back = ledger.unexpire(app, urls).map_err(failed)?;
    drop(assets);
    unions.add(&record).map_err(adding)?;
    if back > 0 {
        tracing::info!(%app, release = release.0, assets = back, "expired assets are back");
    }
    Ok(())
}
