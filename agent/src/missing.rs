//! An asset that this host was asked for and does not have: the store knows whether it was published, and has it.

use std::sync::Arc;

use ship_assets::Shelf;
use ship_assets::miss::{Elsewhere, ElsewhereError, Promised, Standing};
use ship_model::name::AppName;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::fetch::{BundleSource, Fetcher};
use crate::layout::HostLayout;
use crate::stage::Supply;

/// The store, for this host's folders.
#[derive(Debug)]
pub struct FromStore {
    pub shelf: Arc<Shelf>,
    pub layout: HostLayout,
    pub fetcher: Arc<Fetcher>,
    pub runtime: Handle,
    pub stop: CancellationToken,
}

impl Elsewhere for FromStore {
    fn find(&self, url: &str) -> Result<Standing, ElsewhereError> {
        let unions = self.shelf.app_unions();
        let apps: Vec<AppName> = unions.into_iter().map(|(app, _)| app).collect();
        if apps.is_empty() {
            return Ok(Standing::Never);
        }
        Ok(self.runtime.block_on(self.fetcher.find_asset(&apps, url))?)
    }

    fn fetch(&self, promised: &Promised) -> Result<(), ElsewhereError> {
        let unions = self.shelf.app_unions();
        let union = unions.into_iter().find(|(app, _)| *app == promised.app);
        let (_, union) = union.ok_or("this host does not serve the app's assets")?;
        let asset = promised.asset().ok_or("no file can be called so")?;
        let supply = Supply {
            fetcher: Arc::clone(&self.fetcher),
            runtime: self.runtime.clone(),
            bundles: BundleSource::new(Arc::clone(&self.fetcher), self.runtime.clone(), self.stop.clone()),
        };
        let layout = self.layout.app(&promised.app);
        crate::assets::fetch(
            &layout,
            &union,
            &promised.release,
            std::slice::from_ref(&asset),
            &supply,
        )?;
        union.adopt(&asset);
        Ok(())
    }
}
