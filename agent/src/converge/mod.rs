//! Brings what is to what should be: one loop for each app, each on a thread of its own.
//!
//! Desired states come in by one watch channel and reports leave by another; nothing here knows whether there is a store.

mod act;
mod app;
mod expired;
mod fence;
mod job;
mod lying;
mod mailbox;
mod retire;
mod rotation;
mod tell;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ship_assets::{Shelf, Union, UnionError};
use ship_keeper::Client;
use ship_model::desired::DesiredHost;
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;
use ship_model::report::AppReport;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use tell::report;
pub use view::View;

use crate::balancer::Board;
use crate::clock;
use crate::config::Config;
use crate::fetch::{Backoff, Fetcher};
use crate::journal::{Journal, OpenError};
use crate::keeper::{KeeperWatch, Seen};
use crate::layout::{AppLayout, HostLayout, PrepareError};
use crate::report::Reporter;
use crate::revert::RevertError;
use app::App;
use job::Workshop;
use mailbox::{Command, Mailbox, RevertCommand, Wish};
use rotation::Rotation;

/// For one request to a keeper.
pub const KEEPER_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the disk when no app says anything.
const TICK: Duration = Duration::from_secs(5);

/// Why an app's loop could not be begun; the host's other apps are not touched.
#[derive(Debug, Error)]
pub enum BeginError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("the record of app {app} cannot be opened")]
    Record { app: AppName, source: OpenError },
    #[error("the assets of app {app} cannot be opened")]
    Union { app: AppName, source: UnionError },
    #[error("no thread for app {app}")]
    Thread { app: AppName, source: io::Error },
}

/// All loops of the host.
#[derive(Debug)]
pub struct Converge {
    pub config: Arc<Config>,
    pub layout: HostLayout,
    pub fetcher: Arc<Fetcher>,
    pub shelf: Option<Arc<Shelf>>,
    pub reporter: Arc<Reporter>,
    pub runtime: Handle,
    pub board: Arc<Board>,
    apps: Mutex<BTreeMap<AppName, Loop>>,
}

#[derive(Debug)]
struct Loop {
    mailbox: Arc<Mailbox>,
    thread: JoinHandle<()>,
}

impl Converge {
    pub fn new(
        config: Arc<Config>,
        layout: HostLayout,
        fetcher: Arc<Fetcher>,
        shelf: Option<Arc<Shelf>>,
        reporter: Arc<Reporter>,
        runtime: Handle,
        board: Arc<Board>,
    ) -> Self {
        Self {
            config,
            layout,
            fetcher,
            shelf,
            reporter,
            runtime,
            board,
            apps: Mutex::default(),
        }
    }

    /// Begins a loop for every app that something is remembered of, so that they go on without a store.
    pub fn begin_known(&self) {
        for app in known_apps(&self.layout) {
            self.mailbox(&app);
        }
    }

    /// The app's mailbox; its loop is begun if there is none.
    fn mailbox(&self, app: &AppName) -> Option<Arc<Mailbox>> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = apps.get(app).filter(|known| !known.thread.is_finished()) {
            return Some(Arc::clone(&known.mailbox));
        }
        match self.begin(app) {
            Ok(begun) => {
                let mailbox = Arc::clone(&begun.mailbox);
                apps.insert(app.clone(), begun);
                Some(mailbox)
            }
            Err(error) => {
                tracing::error!(%app, error = crate::session::chain(&error), "app not taken in hand");
                None
            }
        }
    }

    fn begin(&self, app: &AppName) -> Result<Loop, BeginError> {
        let layout = self.layout.app(app);
        layout.prepare()?;
        let journal = self.open_record(&layout)?;
        let union = Union::open(&layout.assets(), &layout.asset_records());
        let union = union.map_err(|source| BeginError::Union {
            app: app.clone(),
            source,
        })?;
        let thread = |source| BeginError::Thread {
            app: app.clone(),
            source,
        };
        let mailbox = Arc::new(Mailbox::default());
        let ear = Arc::clone(&mailbox);
        let watch = KeeperWatch::begin(&layout.run, move |seen| ear.saw_keeper(seen)).map_err(thread)?;
        let reporter = Arc::clone(&self.reporter);
        let balancers = self.config.balancers.iter();
        let balancers = balancers.filter(|one| one.app == *app).cloned().collect();
        let app_loop = App {
            config: Arc::clone(&self.config),
            journal,
            client: Client::new(&layout.run, KEEPER_PATIENCE),
            keeper: Seen::Unknown,
            shelf: self.shelf.clone(),
            tell: Box::new(move |report| reporter.app(report)),
            here: Vec::new(),
            job: None,
            given_up: HashMap::new(),
            asked: None,
            stale: None,
            waiting: Vec::new(),
            starting: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            start_again: clock::now(),
            settled: clock::now(),
            shelved: None,
            refused: None,
            unsaved: None,
            unsaved_failure: None,
            watch,
            upgraded: None,
            untidy: true,
            rotation: Rotation::new(balancers, Arc::clone(&self.board)),
            memory: None,
            expiry: expired::Expiry::default(),
            shop: Workshop {
                layout,
                fetcher: Arc::clone(&self.fetcher),
                runtime: self.runtime.clone(),
                union: Arc::new(union),
                mailbox: Arc::clone(&mailbox),
                hands: Arc::default(),
            },
        };
        let run = std::thread::Builder::new()
            .name(format!("app-{app}"))
            .spawn(move || app_loop.run());
        Ok(Loop {
            mailbox,
            thread: run.map_err(thread)?,
        })
    }

    fn open_record(&self, layout: &AppLayout) -> Result<Journal, BeginError> {
        let opened = Journal::open(&layout.record).map_err(|source| BeginError::Record {
            app: layout.app.clone(),
            source,
        })?;
        if let Some((aside, reason)) = opened.quarantined {
            tracing::error!(app = %layout.app, aside = %aside.display(), reason,
                "the record was damaged and is kept aside; the fence begins anew");
        }
        Ok(opened.journal)
    }

    /// Hands desired states on to the apps until `stop`.
    pub async fn run(
        self: Arc<Self>,
        mut desired: watch::Receiver<Option<DesiredHost>>,
        stop: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => self.reporter.refresh(),
                changed = desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = desired.borrow_and_update().clone();
                    let converge = Arc::clone(&self);
                    // Beginning a loop opens files.
                    let handed = tokio::task::spawn_blocking(move || converge.hand_on(wanted));
                    if handed.await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn hand_on(&self, desired: Option<DesiredHost>) {
        let Some(DesiredHost {
            apps,
            expired,
            drained,
        }) = desired
        else {
            return;
        };
        for app in apps {
            let expired = expired.iter().find(|expired| expired.app == app.app).cloned();
            if let Some(mailbox) = self.mailbox(&app.app) {
                mailbox.desire(Wish {
                    app,
                    expired,
                    drained,
                });
            }
        }
    }

    fn known(&self, app: &AppName) -> Option<Arc<Mailbox>> {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.get(app).map(|known| Arc::clone(&known.mailbox))
    }

    pub fn apps(&self) -> Vec<AppName> {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.keys().cloned().collect()
    }

    /// Has an app look again at what lies on disk.
    pub fn recheck(&self, app: &AppName) {
        if let Some(mailbox) = self.known(app) {
            // A full mailbox means that it looks at everything soon anyway.
            mailbox.command(Command::Recheck).ok();
        }
    }

    /// Takes an app back by a word on this host; answers when the release runs.
    ///
    /// # Errors
    /// [`RevertError`].
    pub async fn revert(
        &self,
        app: &AppName,
        to: Option<ReleaseNumber>,
        reason: String,
        force: bool,
        patience: Duration,
    ) -> Result<AppReport, RevertError> {
        let mailbox = self
            .known(app)
            .ok_or_else(|| RevertError::UnknownApp { app: app.clone() })?;
        let (reply, answer) = oneshot::channel();
        let command = RevertCommand {
            to,
            reason,
            force,
            reply,
        };
        let busy = |_| RevertError::Busy { app: app.clone() };
        mailbox.command(Command::Revert(command)).map_err(busy)?;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RevertError::Busy { app: app.clone() }),
            Err(_) => Err(RevertError::Slow {
                app: app.clone(),
                seconds: patience.as_secs(),
            }),
        }
    }

    /// Ends the loops; keepers and apps run on.
    pub fn stop(&self) {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let loops = std::mem::take(&mut *apps);
        for known in loops.values() {
            known.mailbox.stop();
        }
        for (app, known) in loops {
            if known.thread.join().is_err() {
                tracing::error!(%app, "its loop had broken down");
            }
        }
    }
}

/// Apps that have a record, or a folder with a release in use.
pub fn known_apps(layout: &HostLayout) -> Vec<AppName> {
    let names = |folder: &std::path::Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect::<Vec<_>>()
    };
    let records = names(&layout.records());
    let records = records.iter().filter_map(|name| name.strip_suffix(".json"));
    let folders = names(&layout.apps);
    let folders = folders
        .iter()
        .map(String::as_str)
        .filter(|name| layout.apps.join(name).join("current").symlink_metadata().is_ok());
    // An app that was adopted and never promoted has a keeper and nothing else.
    let kept = names(&layout.keepers());
    let kept = kept.iter().map(String::as_str);
    let kept = kept.filter(|name| layout.keepers().join(name).join("journal").is_file());
    let mut apps: Vec<AppName> = records
        .chain(folders)
        .chain(kept)
        .filter_map(|name| name.parse().ok())
        .collect();
    apps.sort();
    apps.dedup();
    apps
}
