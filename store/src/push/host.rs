//! The host that a push is: told what to have, it brings it there, and says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ship_model::desired::{DesiredApp, DesiredHost};
use ship_model::name::{AppName, ClassName};
use ship_model::release::Target;
use ship_model::report::{AppFailure, AppReport, HostReport};
use ship_model::rollout::ASSET_CLASS;
use tokio_util::sync::CancellationToken;

use super::folder::Folder;
use super::place::Place;
use super::settings::PushSettings;
use crate::bridge::{Bridge, BrokenOff};
use crate::desired::Board;
use crate::ledger::Ledger;
use crate::log::whole;
use crate::rollout::Controller;
use crate::union::Unions;

/// After a push that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// What pushes need of the store.
#[derive(Clone)]
pub struct Pushing {
    pub ledger: Ledger,
    pub bridge: Bridge,
    pub board: Arc<Board>,
    pub controller: Controller,
    pub unions: Arc<Unions>,
    pub heartbeat: Duration,
    pub stop: CancellationToken,
}

/// Starts what `store.toml` tells to push; it ends with the store.
pub fn start(pushing: &Pushing, pushes: Vec<PushSettings>) {
    for settings in pushes {
        let place: Arc<dyn Place> = Arc::new(Folder::new(settings.folder.clone()));
        let host = Host {
            pushing: pushing.clone(),
            settings,
            place,
            failures: BTreeMap::new(),
        };
        tokio::spawn(host.run());
    }
}

impl std::fmt::Debug for Pushing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pushing")
            .field("heartbeat", &self.heartbeat)
            .finish_non_exhaustive()
    }
}

struct Host {
    pushing: Pushing,
    settings: PushSettings,
    place: Arc<dyn Place>,
    failures: BTreeMap<AppName, Failed>,
}

struct Failed {
    failure: AppFailure,
    again: Instant,
}

impl Host {
    async fn run(mut self) {
        let stop = self.pushing.stop.clone();
        let (env, name) = (&self.settings.env, &self.settings.name);
        let mut desired = self.pushing.board.listen(env, name);
        loop {
            let wanted = desired.borrow_and_update().clone();
            let holds = self.holds().await;
            self.tell(&wanted, &holds).await;
            if let Some((app, release)) = self.next(&wanted, &holds) {
                self.push(&app, release, &wanted, &holds).await;
            } else {
                tokio::select! {
                    () = tokio::time::sleep(self.pushing.heartbeat) => {}
                    changed = desired.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => {}
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    async fn holds(&self) -> Vec<Target> {
        let place = Arc::clone(&self.place);
        let holds = self.pushing.bridge.run(move || place.holds()).await;
        holds.unwrap_or_default()
    }

    /// What is to be brought next, if anything is and it is time: the newest first, since somebody waits for that one.
    fn next(&self, wanted: &DesiredHost, holds: &[Target]) -> Option<(DesiredApp, Target)> {
        let ready = |app: &&DesiredApp| {
            let failed = self.failures.get(&app.app);
            self.takes(&app.app) && failed.is_none_or(|failed| failed.again <= Instant::now())
        };
        wanted.apps.iter().filter(ready).find_map(|app| {
            let missing = app.assets.iter().filter(|target| !holds.contains(target));
            let newest = missing.max_by_key(|target| target.number)?;
            Some((app.clone(), *newest))
        })
    }

    fn takes(&self, app: &AppName) -> bool {
        self.settings.apps.is_empty() || self.settings.apps.contains(app)
    }

    /// Brings one release. Reports meanwhile: a large one takes longer than the silence after which a host is uncertain. When
    /// the store ends, what has begun is finished by the bridge or by the next start.
    async fn push(&mut self, app: &DesiredApp, release: Target, wanted: &DesiredHost, holds: &[Target]) {
        let (place, unions) = (Arc::clone(&self.place), Arc::clone(&self.pushing.unions));
        let (ledger, of) = (self.pushing.ledger.clone(), app.app.clone());
        let bridge = self.pushing.bridge.clone();
        let mut job = tokio::spawn(async move {
            let pushed = bridge.run(move || {
                let found = ledger
                    .release(&of, release.number)
                    .map_err(|error| whole(&error))?;
                let record = found.ok_or_else(|| format!("{of}@{} is not in the ledger", release.number))?;
                place.take(&unions, &record).map_err(|error| whole(&error))
            });
            pushed.await.map_err(|broken| broken.to_string())?
        });
        let result = loop {
            tokio::select! {
                result = &mut job => break result.map_err(|_| BrokenOff.to_string()).and_then(|result| result),
                () = self.pushing.stop.cancelled() => return,
                () = tokio::time::sleep(self.pushing.heartbeat) => self.tell(wanted, holds).await,
            }
        };
        match result {
            Ok(()) => {
                self.failures.remove(&app.app);
                tracing::info!(push = %self.settings.name, app = %app.app, release = release.number.0, "assets pushed");
            }
            Err(reason) => self.failed(app, release, reason),
        }
    }

    fn failed(&mut self, app: &DesiredApp, release: Target, reason: String) {
        tracing::warn!(push = %self.settings.name, app = %app.app, release = release.number.0, reason, "assets not pushed");
        let failure = AppFailure {
            epoch: app.epoch,
            release,
            step: "assets".to_owned(),
            reason,
            last_lines: Vec::new(),
            transient: true,
        };
        let again = Instant::now() + AGAIN;
        self.failures.insert(app.app.clone(), Failed { failure, again });
    }

    async fn tell(&self, wanted: &DesiredHost, holds: &[Target]) {
        let report = self.report(wanted, holds);
        let (env, name) = (&self.settings.env, &self.settings.name);
        self.pushing.controller.hear(env, name, report).await;
    }

    fn report(&self, wanted: &DesiredHost, holds: &[Target]) -> HostReport {
        HostReport {
            classes: ClassName::new(ASSET_CLASS).into_iter().collect(),
            apps: wanted
                .apps
                .iter()
                .map(|app| self.app_report(app, holds))
                .collect(),
            asset_url: self.settings.url.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..HostReport::default()
        }
    }

    fn app_report(&self, app: &DesiredApp, holds: &[Target]) -> AppReport {
        // What does not go here is nothing to wait for.
        let there = |target: &&Target| !self.takes(&app.app) || holds.contains(target);
        AppReport {
            epoch: app.epoch,
            deploy: app.deploy,
            healthy: true,
            assets: app.assets.iter().filter(there).copied().collect(),
            failure: self.failures.get(&app.app).map(|failed| failed.failure.clone()),
            ..AppReport::of(app.app.clone())
        }
    }
}
