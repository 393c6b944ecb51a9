//! Fetching and unpacking beside the loop, so that a switch or a revert never waits for a download.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ship_assets::Union;
use ship_model::release::Target;
use ship_model::report::AppPhase;
use ship_model::retention::ExpiredList;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::mailbox::Mailbox;
use crate::fetch::{BundleSource, Fetcher};
use crate::layout::AppLayout;
use crate::session::chain;
use crate::stage::{self, Staged, Supply};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stage,
    Assets,
    /// Taking away a release that nobody needs.
    Remove,
}

/// How a job ended.
#[derive(Debug)]
pub struct Done {
    pub kind: Kind,
    pub target: Target,
    /// It was called off: what it says does not count.
    pub cancelled: bool,
    /// For [`Kind::Stage`] what was staged.
    pub result: Result<Option<Staged>, JobFailure>,
}

/// Why a job failed, in a report's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFailure {
    pub step: &'static str,
    pub reason: String,
    pub transient: bool,
}

/// What every job of an app works with.
#[derive(Debug, Clone)]
pub struct Workshop {
    pub layout: AppLayout,
    pub fetcher: Arc<Fetcher>,
    pub runtime: Handle,
    pub union: Arc<Union>,
    pub mailbox: Arc<Mailbox>,
    /// Held by whatever writes below `releases/`: one at a time.
    pub hands: Arc<Mutex<()>>,
}

/// A job under way. Dropping it calls it off.
#[derive(Debug)]
pub struct Job {
    pub kind: Kind,
    pub target: Target,
    cancel: CancellationToken,
    staging: Arc<AtomicBool>,
}

impl Job {
    /// Begins on a thread of its own; its end arrives in the mailbox. `gone` has expired and is not brought.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn begin(
        kind: Kind,
        target: Target,
        neighbours: Vec<Target>,
        gone: Option<Arc<ExpiredList>>,
        shop: &Workshop,
    ) -> io::Result<Self> {
        let cancel = CancellationToken::new();
        let staging = Arc::new(AtomicBool::new(false));
        let work = Work {
            kind,
            target,
            neighbours,
            gone,
            shop: shop.clone(),
            cancel: cancel.clone(),
            staging: Arc::clone(&staging),
        };
        std::thread::Builder::new()
            .name(format!("job-{}", shop.layout.app))
            .spawn(move || work.run())?;
        Ok(Self {
            kind,
            target,
            cancel,
            staging,
        })
    }

    pub fn phase(&self) -> AppPhase {
        match self.kind {
            Kind::Remove => AppPhase::Idle,
            _ if self.staging.load(Ordering::Relaxed) => AppPhase::Staging,
            _ => AppPhase::Fetching,
        }
    }

    /// Asks it to end; its [`Done`] still arrives.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

struct Work {
    kind: Kind,
    target: Target,
    neighbours: Vec<Target>,
    gone: Option<Arc<ExpiredList>>,
    shop: Workshop,
    cancel: CancellationToken,
    staging: Arc<AtomicBool>,
}

impl Work {
    fn run(self) {
        let span = tracing::info_span!("job", app = %self.shop.layout.app, release = %self.target.number);
        let _entered = span.enter();
        let result = {
            let _hands = self.shop.hands.lock().unwrap_or_else(PoisonError::into_inner);
            self.work()
        };
        self.shop.mailbox.done(Done {
            kind: self.kind,
            target: self.target,
            cancelled: self.cancel.is_cancelled(),
            result,
        });
    }

    /// The union may share inodes with what was mended.
    fn mend_assets(&self, staged: &Staged) {
        let shop = &self.shop;
        let mended = crate::assets::mend(&shop.layout, &shop.union, &self.target, &staged.mended);
        if let Err(error) = mended {
            tracing::error!(
                error = chain(&error),
                "assets that shared what was damaged are not mended"
            );
        }
    }

    fn work(&self) -> Result<Option<Staged>, JobFailure> {
        let shop = &self.shop;
        let supply = Supply {
            fetcher: Arc::clone(&shop.fetcher),
            runtime: shop.runtime.clone(),
            bundles: BundleSource::new(
                Arc::clone(&shop.fetcher),
                shop.runtime.clone(),
                self.cancel.clone(),
            ),
        };
        match self.kind {
            Kind::Stage => {
                let staging = || self.staging.store(true, Ordering::Relaxed);
                let staged = stage::stage(&shop.layout, &self.target, &supply, &self.neighbours, staging);
                let staged = staged.map_err(|error| JobFailure {
                    step: error.step(),
                    reason: chain(&error),
                    transient: error.is_transient(),
                })?;
                self.mend_assets(&staged);
                Ok(Some(staged))
            }
            Kind::Assets => {
                let is_gone = |url: &str| self.gone.as_ref().is_some_and(|gone| gone.contains(url));
                crate::assets::add(&shop.layout, &shop.union, &self.target, &supply, &is_gone)
                    .map(|()| None)
                    .map_err(|error| JobFailure {
                        step: "assets",
                        reason: chain(&error),
                        transient: error.is_transient(),
                    })
            }
            Kind::Remove => stage::remove(&shop.layout, &self.target)
                .map(|()| None)
                .map_err(|error| JobFailure {
                    step: "remove",
                    reason: chain(&error),
                    transient: true,
                }),
        }
    }
}
