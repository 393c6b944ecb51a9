//! What stands at a path by the ledger, and how the store itself gets it when its file is missing.

use std::sync::Arc;

use ship_assets::miss::{Elsewhere, ElsewhereError, Promised};
use ship_model::name::AppName;

use crate::ledger::{Ledger, LedgerError};
use crate::union::{AddAssetsError, Unions};

/// Why it cannot be told what stands at a path.
#[derive(Debug, thiserror::Error)]
pub enum PromisedError {
    #[error("cannot look up asset {url} of {app}")]
    Ledger {
        app: AppName,
        url: String,
        source: LedgerError,
    },
    #[error("cannot tell the size of asset {url} of {app}")]
    Size {
        app: AppName,
        url: String,
        source: Box<AddAssetsError>,
    },
}

/// The asset that `app` published at `url`, which has its canonical spelling; none when it never did. Blocks.
pub fn promised(
    ledger: &Ledger,
    unions: &Unions,
    app: &AppName,
    url: &str,
) -> Result<Option<Promised>, PromisedError> {
    let failed = |source| PromisedError::Ledger {
        app: app.clone(),
        url: url.to_owned(),
        source,
    };
    let Some(published) = ledger.asset(app, url).map_err(failed)? else {
        return Ok(None);
    };
    let Some(release) = ledger.release(app, published.first).map_err(failed)? else {
        return Ok(None);
    };
    let size = unions.size(&release, url);
    let size = size.map_err(|source| PromisedError::Size {
        app: app.clone(),
        url: url.to_owned(),
        source: Box::new(source),
    })?;
    Ok(size.map(|size| Promised {
        app: app.clone(),
        release: release.target(),
        url: url.to_owned(),
        digest: published.digest,
        size,
    }))
}

/// The store's own bundles, for its own folder.
#[derive(Debug)]
pub struct FromBundles {
    pub ledger: Ledger,
    pub unions: Arc<Unions>,
}

impl Elsewhere for FromBundles {
    fn find(&self, url: &str) -> Result<Option<Promised>, ElsewhereError> {
        for app in self.ledger.apps()? {
            if let Some(found) = promised(&self.ledger, &self.unions, &app, url)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn fetch(&self, promised: &Promised) -> Result<(), ElsewhereError> {
        let asset = promised.asset().ok_or("no file can be called so")?;
        Ok(self.unions.fetch(&promised.app, asset)?)
    }
}
