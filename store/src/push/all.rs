//! All pushes of this store, by name: each with its place, and a lane on which one release goes there at a time.

use std::path::Path;
use std::sync::Arc;

use ship_bucket::Door;
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::release::ReleaseNumber;
use tokio_util::sync::CancellationToken;

use super::bucket::Bucket;
use super::folder::Folder;
use super::giving::{GivenUp, Giving};
use super::host::{Host, Pushing};
use super::place::{Cargo, Place, Tally};
use super::settings::PushSettings;
use crate::bridge::Bridge;
use crate::log::whole;

/// What `store.toml` tells to push.
#[derive(Debug)]
pub struct Pushes(Vec<Arc<Push>>);

/// One of them, for somebody who wants releases there now.
#[derive(Debug, Clone)]
pub struct PushHandle(Arc<Push>);

impl PushHandle {
    /// Its name in its environment.
    pub fn name(&self) -> &HostName {
        &self.0.settings.name
    }

    /// Brings what is missing there of one release, in words when it cannot. Waits for its turn; once begun it goes on when
    /// nobody waits for it any longer.
    pub async fn bring(
        &self,
        pushing: &Pushing,
        app: AppName,
        number: ReleaseNumber,
        tally: Arc<Tally>,
    ) -> Result<(), String> {
        self.0.release(pushing, app, number, tally).await
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Push {
    pub settings: PushSettings,
    /// Shared by all that go to the same place, so that each knows what was taken away there.
    pub place: Arc<dyn Place>,
    /// Of its place, and one job wide: a bucket that answers slowly holds nobody else up, and nothing is brought twice at once.
    lane: Bridge,
    /// Somebody who pushes there says that nothing is to be removed.
    pub keeps: bool,
}

impl Pushes {
    /// `dir` is the store's folder.
    pub fn new(pushes: Vec<PushSettings>, dir: &Path, stop: &CancellationToken) -> Self {
        let mut places: Vec<(PushSettings, Arc<dyn Place>, Bridge)> = Vec::new();
        let mut all = Vec::new();
        let keeping: Vec<PushSettings> = pushes.iter().filter(|push| push.keep).cloned().collect();
        for settings in pushes {
            let known = places.iter().find(|(other, ..)| settings.goes_where(other));
            let (place, lane) = match known {
                Some((_, place, lane)) => (Arc::clone(place), lane.clone()),
                // Settings without a place are refused when they are read.
                None => match open(&settings, dir, stop) {
                    Some(place) => (place, Bridge::new(1)),
                    None => continue,
                },
            };
            places.push((settings.clone(), Arc::clone(&place), lane.clone()));
            let keeps = keeping.iter().any(|other| settings.goes_where(other));
            all.push(Arc::new(Push {
                settings,
                place,
                lane,
                keeps,
            }));
        }
        Self(all)
    }

    /// Those of an environment that take an app's assets.
    pub fn of(&self, env: &EnvName, app: &AppName) -> Vec<PushHandle> {
        let of = |push: &&Arc<Push>| push.settings.env == *env && push.takes(app);
        let found = self.0.iter().filter(of);
        found.map(|push| PushHandle(Arc::clone(push))).collect()
    }

    /// Makes each the host that it is; they end with the store.
    pub fn start(&self, pushing: &Pushing) {
        for push in &self.0 {
            let host = Host::new(pushing.clone(), Arc::clone(push));
            tokio::spawn(host.run());
        }
    }
}

fn open(settings: &PushSettings, dir: &Path, stop: &CancellationToken) -> Option<Arc<dyn Place>> {
    Some(match (&settings.folder, &settings.s3) {
        (_, Some(bucket)) => {
            let name = format!("{}-{}", settings.env, settings.name);
            let remembered = dir.join("push").join(name);
            let door = Door::new(bucket.clone(), dir);
            Arc::new(Bucket::new(door, remembered, stop.clone()))
        }
        (Some(folder), None) => Arc::new(Folder::new(folder.clone())),
        (None, None) => return None,
    })
}

impl Push {
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
            let assets = all.into_iter().filter(|asset| asset.fingerprinted);
            let expired = ledger.expired_list(&app).map_err(|error| whole(&error))?;
            let (gone, assets): (Vec<_>, Vec<_>) =
                assets.partition(|asset| expired.contains(&asset.url_path));
            drop(expired);
            let cargo = Cargo {
                app: &app,
                release: record.target(),
                assets: &assets,
                gone: &gone,
                tally: &tally,
            };
            place.take(&unions, &cargo).map_err(|error| whole(&error))
        };
        self.lane.run(job).await.map_err(|broken| broken.to_string())?
    }

    /// Takes away there what has expired of an app, in words when it cannot.
    pub async fn give_up(&self, pushing: &Pushing, app: AppName) -> Result<GivenUp, String> {
        if self.keeps {
            return Ok(GivenUp::default());
        }
        let (place, unions) = (Arc::clone(&self.place), Arc::clone(&pushing.unions));
        let ledger = pushing.ledger.clone();
        let job = move || {
            let giving = Giving::read(&ledger, &app).map_err(|error| whole(&error))?;
            place.give_up(&unions, &giving).map_err(|error| whole(&error))
        };
        self.lane.run(job).await.map_err(|broken| broken.to_string())?
    }
}
