//! The host's report: every app's newest word, put together. The whole level each time, never a difference.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ship_assets::Mending;
use ship_assets::serve::Assets;
use ship_model::name::{AppName, ClassName};
use ship_model::report::{AppReport, HostFigures, HostReport, Privileges};
use tokio::sync::watch;

use crate::fetch::Fetcher;

/// Gathers the apps' reports into the host's.
#[derive(Debug)]
pub struct Reporter {
    classes: Vec<ClassName>,
    apps_dir: PathBuf,
    asset_url: Mutex<Option<String>>,
    apps: Mutex<BTreeMap<AppName, AppReport>>,
    assets: OnceLock<(Assets, Arc<Mending>)>,
    fetcher: OnceLock<Arc<Fetcher>>,
    privileges: OnceLock<Privileges>,
    peer_address: OnceLock<SocketAddr>,
    out: watch::Sender<HostReport>,
}

impl Reporter {
    pub fn new(classes: Vec<ClassName>, apps_dir: PathBuf) -> Arc<Self> {
        let reporter = Self {
            classes,
            apps_dir,
            asset_url: Mutex::new(None),
            apps: Mutex::default(),
            assets: OnceLock::new(),
            fetcher: OnceLock::new(),
            privileges: OnceLock::new(),
            peer_address: OnceLock::new(),
            out: watch::channel(HostReport::default()).0,
        };
        reporter.refresh();
        Arc::new(reporter)
    }

    pub fn subscribe(&self) -> watch::Receiver<HostReport> {
        self.out.subscribe()
    }

    pub fn serves_assets_at(&self, url: String) {
        *self.asset_url.lock().unwrap_or_else(PoisonError::into_inner) = Some(url);
        self.refresh();
    }

    /// Tells what is counted there from now on; only the first word counts.
    pub fn counts(&self, assets: Assets, mending: Arc<Mending>) {
        let _ = self.assets.set((assets, mending));
    }

    /// Tells how much this one received; only the first word counts.
    pub fn fetches_by(&self, fetcher: &Arc<Fetcher>) {
        let _ = self.fetcher.set(Arc::clone(fetcher));
    }

    /// Tells what this host lets us do; only the first word counts.
    pub fn may(&self, privileges: Privileges) {
        let _ = self.privileges.set(privileges);
        self.refresh();
    }

    /// Tells where other hosts get bundles from this one; only the first word counts.
    pub fn gives_at(&self, address: SocketAddr) {
        let _ = self.peer_address.set(address);
        self.refresh();
    }

    /// Takes one app's newest report.
    pub fn app(&self, report: AppReport) {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.insert(report.app.clone(), report);
        drop(apps);
        self.refresh();
    }

    /// Puts the report together anew, with the disk as it is now.
    pub fn refresh(&self) {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let (disk_free, disk_total) = disk(&self.apps_dir);
        let report = HostReport {
            classes: self.classes.clone(),
            apps: apps.values().map(|app| self.counted(app)).collect(),
            disk_free,
            disk_total,
            asset_url: self
                .asset_url
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: Some(crate::keeper::platform()),
            figures: self.figures(),
            privileges: self.privileges.get().cloned(),
            peer_address: self.peer_address.get().map(ToString::to_string),
            faults: self
                .fetcher
                .get()
                .map(|fetcher| fetcher.faults())
                .unwrap_or_default(),
        };
        // Still under the lock of `apps`, so that the newest report is the one that stays.
        self.out.send_if_modified(|known| {
            let news = level(known) != level(&report);
            *known = report;
            news
        });
    }
}

impl Reporter {
    fn figures(&self) -> HostFigures {
        let assets = self.assets.get().map(|(assets, _)| assets.figures());
        let fetcher = self.fetcher.get();
        let received = fetcher.map(|fetcher| fetcher.received()).unwrap_or_default();
        let served = fetcher.and_then(|fetcher| Some(fetcher.share()?.served()));
        HostFigures {
            fetched_bytes: received.all(),
            fetched_from_mirrors: received.mirrors,
            fetched_from_peers: received.peers,
            served_to_peers: served.unwrap_or(0),
            ..assets.unwrap_or_default()
        }
    }

    fn counted(&self, app: &AppReport) -> AppReport {
        let mut report = app.clone();
        let faults = self.fetcher.get().map(|fetcher| fetcher.faults());
        report
            .remarks
            .extend(faults.unwrap_or_default().into_iter().map(|fault| {
                format!(
                    "{}: {}; it was not asked again for an hour",
                    fault.source, fault.reason
                )
            }));
        if let Some((assets, mending)) = self.assets.get() {
            report.asked = assets.shelf.asked(&app.app);
            report.rot = mending.rot(&app.app);
        }
        report
    }
}

/// What of a report is worth telling at once; the rest goes with the next heartbeat.
fn level(report: &HostReport) -> HostReport {
    let mut level = report.clone();
    (level.disk_free, level.disk_total) = (0, 0);
    level.figures = HostFigures::default();
    for app in &mut level.apps {
        (app.connections, app.older_connections) = (0, 0);
        app.asked.clear();
        app.memory = None;
        // An app may say of itself what it likes, as often as it likes.
        app.processes.iter_mut().for_each(|process| process.said.clear());
    }
    level
}

/// Bytes free for this user, and in all.
fn disk(path: &std::path::Path) -> (u64, u64) {
    match rustix::fs::statvfs(path) {
        Ok(space) => (
            space.f_bavail.saturating_mul(space.f_frsize),
            space.f_blocks.saturating_mul(space.f_frsize),
        ),
        Err(_) => (0, 0),
    }
}
