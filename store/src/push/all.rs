//! All pushes of this store, by name: each with its place, and a lane on which one release goes there at a time.

use std::path::Path;
use std::sync::Arc;

use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;
use tokio_util::sync::CancellationToken;

use super::bucket::Bucket;
use super::door::Door;
use super::folder::Folder;
use super::host::{Host, Pushing};
use super::place::{Cargo, Place, Tally};
use super::settings::PushSettings;
use crate::bridge::Bridge;
use crate::log::whole;

/// What `store.toml` tells to push.
#[derive(Debug)]
pub struct Pushes(Vec<Arc<Push>>);

/// One of them.
#[derive(Debug)]
pub(super) struct Push {
    pub settings: PushSettings,
    pub place: Arc<dyn Place>,
    /// Of its own, and one job wide: a bucket that answers slowly holds nobody else up, and nothing is brought twice at once.
    lane: Bridge,
}

impl Pushes {
    /// `dir` is the store's folder.
    pub fn new(pushes: Vec<PushSettings>, dir: &Path, stop: &CancellationToken) -> Self {
        let push = |settings| Some(Arc::new(Push::new(settings, dir, stop)?));
        Self(pushes.into_iter().filter_map(push).collect())
    }

    /// Makes each the host that it is; they end with the store.
    pub fn start(&self, pushing: &Pushing) {
        for push in &self.0 {
            let host = Host::new(pushing.clone(), Arc::clone(push));
            tokio::spawn(host.run());
        }
    }
}

impl Push {
    /// None for settings without a place, which are refused when they are read.
    fn new(settings: PushSettings, dir: &Path, stop: &CancellationToken) -> Option<Self> {
        let place: Arc<dyn Place> = match (&settings.folder, &settings.s3) {
            (_, Some(bucket)) => {
                let name = format!("{}-{}", settings.env, settings.name);
                let remembered = dir.join("push").join(name);
                let door = Door::new(bucket.clone(), dir);
                Arc::new(Bucket::new(door, remembered, stop.clone()))
            }
            (Some(folder), None) => Arc::new(Folder::new(folder.clone())),
            (None, None) => return None,
        };
        Some(Self {
            settings,
            place,
            lane: Bridge::new(1),
        })
    }

    /// Whether the assets of an app go there.
    pub fn takes(&self, app: &AppName) -> bool {
        self.settings.apps.is_empty() || self.settings.apps.contains(app)
    }

    /// Brings what is missing there of one release, in words when it cannot.
    pub async fn release(
        &self,
        pushing: &Pushing,
        app: AppName,
        number: ReleaseNumber,
        tally: Arc<Tally>,
    ) -> Result<(), String> {
        let (place, unions) = (Arc::clone(&self.place), Arc::clone(&pushing.unions));
        let ledger = pushing.ledger.clone();
        let job = move || {
            let found = ledger.release(&app, number).map_err(|error| whole(&error))?;
            let record = found.ok_or_else(|| format!("{app}@{number} is not in the ledger"))?;
            let all = unions.assets_of(&record).map_err(|error| whole(&error))?;
            let assets: Vec<_> = all.into_iter().filter(|asset| asset.fingerprinted).collect();
            let cargo = Cargo {
                app: &app,
                release: record.target(),
                assets: &assets,
                tally: &tally,
            };
            place.take(&unions, &cargo).map_err(|error| whole(&error))
        };
        self.lane.run(job).await.map_err(|broken| broken.to_string())?
    }
}
