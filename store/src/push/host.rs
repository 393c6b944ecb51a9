//! The host that a push is: told what to have, it brings it there, and says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ship_model::desired::{DesiredApp, DesiredHost};
use ship_model::digest::ExpiredDigest;
use ship_model::name::{AppName, ClassName};
use ship_model::release::Target;
use ship_model::report::{AppFailure, AppReport, HostReport};
use ship_model::retention::Expired;
use ship_model::rollout::ASSET_CLASS;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::all::Push;
use super::place::Tally;
use crate::bridge::{Bridge, BrokenOff};
use crate::desired::Board;
use crate::ledger::Ledger;
use crate::rollout::Controller;
use crate::union::Unions;

/// After a push that failed for the first time.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_AT_MOST: Duration = Duration::from_secs(8);

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

impl std::fmt::Debug for Pushing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pushing")
            .field("heartbeat", &self.heartbeat)
            .finish_non_exhaustive()
    }
}

pub(super) struct Host {
    pushing: Pushing,
    push: Arc<Push>,
    failures: BTreeMap<AppName, Failed>,
    expired: BTreeMap<AppName, Acted>,
}

/// How far it has come with what expired of an app.
#[derive(Default)]
struct Acted {
    list: Option<ExpiredDigest>,
    /// Why not further, and when it is tried again.
    failed: Option<(String, Instant)>,
}

/// What of a place counts as there.
struct Standing {
    holds: Vec<Target>,
    faded: Vec<Target>,
}

struct Failed {
    failure: AppFailure,
    again: Instant,
    /// Doubled with each failure, up to [`AGAIN_AT_MOST`].
    wait: Duration,
}

impl Host {
    pub fn new(pushing: Pushing, push: Arc<Push>) -> Self {
        Self {
            pushing,
            push,
            failures: BTreeMap::new(),
            expired: BTreeMap::new(),
        }
    }

    pub async fn run(mut self) {
        let stop = self.pushing.stop.clone();
        let (env, name) = (&self.push.settings.env, &self.push.settings.name);
        let mut desired = self.pushing.board.listen(env, name);
        loop {
            let wanted = desired.borrow_and_update().clone();
            let there = self.standing().await;
            self.tell(&wanted, &there.holds).await;
            // First: what lacks something that was brought back is known by that.
            if let Some(told) = self.overdue(&wanted) {
                self.give_up(told, &wanted, &there.holds).await;
            } else if let Some((app, release)) = self.next(&wanted, &there) {
                self.bring(&app, release, &wanted, &there.holds).await;
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

    async fn standing(&self) -> Standing {
        let push = Arc::clone(&self.push);
        let standing = move || Standing {
            holds: push.place.holds(),
            faded: push.place.faded(),
        };
        let standing = self.pushing.bridge.run(standing).await;
        standing.unwrap_or_else(|_| Standing {
            holds: Vec::new(),
            faded: Vec::new(),
        })
    }

    /// What is to be brought next, if anything is and it is time: the newest first, since somebody waits for that one.
    fn next(&self, wanted: &DesiredHost, there: &Standing) -> Option<(DesiredApp, Target)> {
        let ready = |app: &&DesiredApp| {
            let failed = self.failures.get(&app.app);
            self.push.takes(&app.app) && failed.is_none_or(|failed| failed.again <= Instant::now())
        };
        let lacks = |target: &&Target| !there.holds.contains(target) && !there.faded.contains(target);
        wanted.apps.iter().filter(ready).find_map(|app| {
            let newest = app
                .assets
                .iter()
                .filter(lacks)
                .max_by_key(|target| target.number)?;
            Some((app.clone(), *newest))
        })
    }

    /// An app of which other assets have expired than it has acted on, if it is time.
    fn overdue(&self, wanted: &DesiredHost) -> Option<Expired> {
        let mut told = wanted.expired.iter().filter(|told| self.push.takes(&told.app));
        let overdue = told.find(|told| {
            self.expired.get(&told.app).is_none_or(|acted| {
                let waits = acted
                    .failed
                    .as_ref()
                    .is_some_and(|(_, again)| *again > Instant::now());
                acted.list != Some(told.list) && !waits
            })
        });
        overdue.cloned()
    }

    /// What it gives up is what the ledger says then, which is what was told or newer.
    async fn give_up(&mut self, told: Expired, wanted: &DesiredHost, holds: &[Target]) {
        let app = told.app;
        // One that fails may have faded something all the same: whatever is told next is looked at anew.
        self.expired.entry(app.clone()).or_default().list = None;
        let (push, pushing, of) = (Arc::clone(&self.push), self.pushing.clone(), app.clone());
        let job = tokio::spawn(async move { push.give_up(&pushing, of).await });
        let Some(result) = self.while_telling(job, wanted, holds).await else {
            return;
        };
        let name = &self.push.settings.name;
        let acted = self.expired.entry(app.clone()).or_default();
        match result {
            Ok(given) => {
                if given.assets > 0 {
                    tracing::info!(push = %name, %app, assets = given.assets, bytes = given.bytes, "expired assets removed");
                }
                *acted = Acted {
                    list: Some(told.list),
                    failed: None,
                };
            }
            Err(reason) => {
                tracing::warn!(push = %name, %app, reason, "expired assets stay until the next try");
                acted.failed = Some((reason, Instant::now() + AGAIN_AT_MOST));
            }
        }
    }

    /// Waits for a job, and reports meanwhile; none when the store ends.
    async fn while_telling<T>(
        &self,
        mut job: JoinHandle<Result<T, String>>,
        wanted: &DesiredHost,
        holds: &[Target],
    ) -> Option<Result<T, String>> {
        loop {
            tokio::select! {
                result = &mut job => {
                    return Some(result.map_err(|_| BrokenOff.to_string()).and_then(|result| result));
                }
                () = self.pushing.stop.cancelled() => return None,
                () = tokio::time::sleep(self.pushing.heartbeat) => self.tell(wanted, holds).await,
            }
        }
    }

    /// Brings one release. Reports meanwhile: a large one takes longer than the silence after which a host is uncertain. When
    /// the store ends, what has begun is finished by its lane or by the next start.
    async fn bring(&mut self, app: &DesiredApp, release: Target, wanted: &DesiredHost, holds: &[Target]) {
        let (push, pushing) = (Arc::clone(&self.push), self.pushing.clone());
        let (of, tally) = (app.app.clone(), Arc::new(Tally::default()));
        let job = {
            let tally = Arc::clone(&tally);
            let number = release.number;
            tokio::spawn(async move { push.release(&pushing, of, number, tally).await })
        };
        let Some(result) = self.while_telling(job, wanted, holds).await else {
            return;
        };
        match result {
            Ok(()) => {
                self.failures.remove(&app.app);
                let (sent, bytes, there) = tally.read();
                tracing::info!(
                    push = %self.push.settings.name, app = %app.app, release = release.number.0, sent, bytes, there,
                    "assets pushed"
                );
            }
            Err(reason) => self.failed(app, release, reason),
        }
    }

    fn failed(&mut self, app: &DesiredApp, release: Target, reason: String) {
        tracing::warn!(push = %self.push.settings.name, app = %app.app, release = release.number.0, reason, "assets not pushed");
        let failure = AppFailure {
            epoch: app.epoch,
            release,
            step: "assets".to_owned(),
            reason,
            last_lines: Vec::new(),
            transient: true,
        };
        let last = self.failures.get(&app.app).map(|failed| failed.wait);
        let wait = last.map_or(AGAIN, |wait| (wait * 2).min(AGAIN_AT_MOST));
        let again = Instant::now() + wait;
        let failed = Failed { failure, again, wait };
        self.failures.insert(app.app.clone(), failed);
    }

    async fn tell(&self, wanted: &DesiredHost, holds: &[Target]) {
        let report = self.report(wanted, holds);
        let (env, name) = (&self.push.settings.env, &self.push.settings.name);
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
            asset_url: self.push.settings.url.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..HostReport::default()
        }
    }

    fn app_report(&self, app: &DesiredApp, holds: &[Target]) -> AppReport {
        // What does not go here is nothing to wait for.
        let there = |target: &&Target| !self.push.takes(&app.app) || holds.contains(target);
        let acted = self.expired.get(&app.app);
        let failed = acted.and_then(|acted| acted.failed.as_ref());
        let stays =
            failed.map(|(reason, _)| format!("expired assets stay there until the next try: {reason}"));
        AppReport {
            epoch: app.epoch,
            deploy: app.deploy,
            healthy: true,
            assets: app.assets.iter().filter(there).copied().collect(),
            failure: self.failures.get(&app.app).map(|failed| failed.failure.clone()),
            expired: acted.and_then(|acted| acted.list),
            remarks: stays.into_iter().collect(),
            ..AppReport::of(app.app.clone())
        }
    }
}
