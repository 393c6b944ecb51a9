//! What stands at a path by the ledger, and how the store itself gets it when its file is missing.

use std::sync::Arc;

use ship_assets::miss::{Elsewhere, ElsewhereError, Promised, Standing};
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

/// What the first of `apps` that has it promises at `url`; that it has expired only where none does. Blocks.
pub fn standing(
    ledger: &Ledger,
    unions: &Unions,
    apps: &[AppName],
    url: &str,
) -> Result<Standing, PromisedError> {
    let mut found = Standing::Never;
    for app in apps {
        match promised(ledger, unions, app, url)? {
            Standing::Never => {}
            Standing::Expired => found = Standing::Expired,
            promised => return Ok(promised),
        }
    }
    Ok(found)
}

/// What stands at `url`, which has its canonical spelling, by what `app` published. Blocks.
pub fn promised(
    ledger: &Ledger,
    unions: &Unions,
    app: &AppName,
    url: &str,
) -> Result<Standing, PromisedError> {
    let failed = |source| PromisedError::Ledger {
        app: app.clone(),
        url: url.to_owned(),
        source,
    };
    let Some(published) = ledger.asset(app, url).map_err(failed)? else {
        return Ok(Standing::Never);
    };
    if ledger.expired(app, url).map_err(failed)?.is_some() {
        return Ok(Standing::Expired);
    }
    let Some(release) = ledger.release(app, published.first).map_err(failed)? else {
        return Ok(Standing::Never);
    };
    let size = unions.size(&release, url);
    let size = size.map_err(|source| PromisedError::Size {
        app: app.clone(),
        url: url.to_owned(),
        source: Box::new(source),
    })?;
    Ok(size.map_or(Standing::Never, |size| {
        Standing::Promised(Promised {
            app: app.clone(),
            release: release.target(),
            url: url.to_owned(),
            digest: published.digest,
            size,
        })
    }))
}

/// The store's own bundles, for its own folder.
#[derive(Debug)]
pub struct FromBundles {
    pub ledger: Ledger,
    pub unions: Arc<Unions>,
}

impl Elsewhere for FromBundles {
    fn find(&self, url: &str) -> Result<Standing, ElsewhereError> {
        Ok(standing(&self.ledger, &self.unions, &self.ledger.apps()?, url)?)
    }

    fn fetch(&self, promised: &Promised) -> Result<(), ElsewhereError> {
        let asset = promised.asset().ok_or("no file can be called so")?;
        Ok(self.unions.fetch(&promised.app, asset)?)
    }
}
