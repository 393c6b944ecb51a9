//! Letting go of assets that have expired, by the newest list the store told of.
//!
//! It is done beside the loop, on a thread that shares the workshop's hands with the jobs. What the loop hears meanwhile
//! makes its word void ([`Union::word`]): from then on no release stops to count as held because of an older list, so that
//! what this host reports of a newer wish is true for as long as it may be relied on.
//!
//! Nothing of it is written down: an agent that was killed keeps what it has, hears the list again from the store, and
//! ends what was begun.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ship_assets::{ForgetError, Forgotten, RecordError, Union, Word};
use ship_durable::fault;
use ship_model::digest::ExpiredDigest;
use ship_model::release::Target;
use ship_model::retention::{Expired, ExpiredList, Sparing, UrlHash};
use thiserror::Error;

use super::app::App;
use super::job::Workshop;
use super::view::View;
use crate::clock;
use crate::fetch::{Backoff, FetchError};
use crate::session::chain;

/// Why expired assets are still here. They are tried again.
#[derive(Debug, Error)]
pub enum ExpireError {
    #[error("the list of expired assets cannot be had")]
    Fetch(#[from] FetchError),
    #[error("cannot tell which assets releases here have")]
    Record(#[from] RecordError),
    #[error(transparent)]
    Forget(#[from] ForgetError),
    #[error("interrupted")]
    Interrupted(#[source] io::Error),
}

/// What an app's loop knows of expired assets.
#[derive(Debug)]
pub struct Expiry {
    /// The newest that came with what is desired; none: the store did not say, and all stays.
    told: Option<Expired>,
    list: Option<(ExpiredDigest, Arc<ExpiredList>)>,
    acted: Option<(ExpiredDigest, Sparing)>,
    /// Faded releases that lack what has not expired any more.
    lacking: Vec<Target>,
    busy: bool,
    again: Option<Instant>,
    backoff: Backoff,
}

impl Default for Expiry {
    fn default() -> Self {
        Self {
            told: None,
            list: None,
            acted: None,
            lacking: Vec::new(),
            busy: false,
            again: None,
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
        }
    }
}

impl Expiry {
    /// The list that is known to be the newest.
    fn newest(&self) -> Option<&Arc<ExpiredList>> {
        let (known, list) = self.list.as_ref()?;
        (self.told.as_ref()?.list == *known).then_some(list)
    }
}

/// How one turn ended.
#[derive(Debug)]
pub struct Expelled {
    list: (ExpiredDigest, Arc<ExpiredList>),
    sparing: Sparing,
    lacking: Vec<Target>,
    forgotten: Forgotten,
}

impl App {
    /// Takes note of what has expired, as it came with a wish that stands.
    pub(super) fn hear_expired(&mut self, told: Option<Expired>) {
        // Also when it says the same: the wish that it came with may need what was not needed.
        self.shop.union.word();
        if self.expiry.told != told {
            self.expiry.told = told;
            self.expiry.again = None;
        }
    }

    /// Releases of which nothing lacks here but what has expired. One that lacks more by the newest list is known from when
    /// that was looked at.
    pub(super) fn faded(&self) -> Vec<Target> {
        let mut faded = self.shop.union.faded();
        faded.retain(|release| !self.expiry.lacking.contains(release));
        faded
    }

    /// What need not be brought of a release's assets.
    pub(super) fn expired_of(&self, release: &Target, view: &View) -> Option<Arc<ExpiredList>> {
        let list = self.expiry.newest()?;
        let spared = self.sparing(view)?.spares(release);
        (!spared).then(|| Arc::clone(list))
    }

    pub(super) fn acted_on(&self) -> Option<ExpiredDigest> {
        self.expiry.acted.as_ref().map(|(list, _)| *list)
    }

    /// A release's assets were brought by the newest list.
    pub(super) fn lacks_no_more(&mut self, release: &Target) {
        self.expiry.lacking.retain(|lacking| lacking != release);
    }

    fn sparing(&self, view: &View) -> Option<Sparing> {
        let desired = self.record().desired.as_ref()?;
        let here = self.here.iter().map(|release| release.target);
        let shown = view.running.into_iter().chain(view.previous).chain(view.unknown);
        let all = here.chain(shown).chain(self.pinned(view));
        Some(Sparing::new(desired, all))
    }

    /// Begins to do what the newest list says, if that is not done yet; true when it is under way, so that nothing is brought
    /// which it says has expired.
    pub(super) fn expel(&mut self, view: &View) -> bool {
        if self.expiry.busy {
            return true;
        }
        let later = self.expiry.again.is_some_and(|again| again > clock::now());
        let Some((told, sparing)) = self.expiry.told.clone().zip(self.sparing(view)) else {
            return false;
        };
        let acted = self.expiry.acted.as_ref();
        if later || acted.is_some_and(|(list, by)| *list == told.list && *by == sparing) {
            return false;
        }
        // One that does not come to its end may have faded something all the same: whatever is told next is looked at anew.
        self.expiry.acted = None;
        let turn = Turn {
            shop: self.shop.clone(),
            known: self.expiry.list.clone().filter(|(known, _)| *known == told.list),
            told,
            sparing,
            word: self.shop.union.word(),
        };
        let begun = std::thread::Builder::new()
            .name(format!("expel-{}", self.layout().app))
            .spawn(move || turn.run());
        match begun {
            Ok(_) => self.expiry.busy = true,
            Err(error) => tracing::error!(%error, "no thread to let go of expired assets"),
        }
        self.expiry.busy
    }

    pub(super) fn expelled(&mut self, result: Result<Expelled, ExpireError>) {
        let expiry = &mut self.expiry;
        expiry.busy = false;
        match result {
            Ok(done) => {
                expiry.backoff.succeeded();
                let Forgotten { files, bytes } = done.forgotten;
                if files > 0 {
                    tracing::info!(files, bytes, "expired assets removed");
                }
                expiry.lacking = done.lacking;
                expiry.acted = Some((done.list.0, done.sparing));
                expiry.list = Some(done.list);
            }
            // Something newer was heard, and is acted on at once.
            Err(ExpireError::Forget(ForgetError::Overtaken)) => {}
            Err(error) => {
                tracing::warn!(error = chain(&error), "expired assets stay until the next try");
                expiry.again = Some(clock::now() + expiry.backoff.failed());
            }
        }
    }

    /// When something is to be tried again.
    pub(super) fn expiry_retry(&self) -> Option<Instant> {
        self.expiry.again
    }
}

/// One turn.
struct Turn {
    shop: Workshop,
    told: Expired,
    /// The list, when it is known already.
    known: Option<(ExpiredDigest, Arc<ExpiredList>)>,
    sparing: Sparing,
    word: Word,
}

impl Turn {
    fn run(self) {
        let span = tracing::info_span!("expel", app = %self.shop.layout.app);
        let _entered = span.enter();
        let mailbox = Arc::clone(&self.shop.mailbox);
        mailbox.expelled(self.work());
    }

    fn work(self) -> Result<Expelled, ExpireError> {
        let list = match self.known {
            Some((_, list)) => list,
            None => {
                let fetcher = &self.shop.fetcher;
                let list = self.shop.runtime.block_on(fetcher.expired_list(&self.told))?;
                Arc::new(list)
            }
        };
        // Not while assets are added.
        let hands = self.shop.hands.lock();
        let _hands = hands.unwrap_or_else(std::sync::PoisonError::into_inner);
        let union = &self.shop.union;
        let mut forgotten = Forgotten::default();
        // Reading what all releases name takes a while, and most often nothing has expired.
        if !list.is_empty() {
            let spared = spared(union, &self.sparing)?;
            let is_gone = |url: &str| list.contains(url) && !spared.contains(&UrlHash::of(url));
            fault::point("agent.expel.before").map_err(ExpireError::Interrupted)?;
            forgotten = union.forget(self.word, &is_gone)?;
        }
        let lacking = lacking(union, &list)?;
        Ok(Expelled {
            list: (self.told.list, list),
            sparing: self.sparing,
            lacking,
            forgotten,
        })
    }
}

/// Paths that a release names which this host keeps whole.
fn spared(union: &Union, sparing: &Sparing) -> Result<HashSet<UrlHash>, RecordError> {
    let mut spared = HashSet::new();
    union.walk_records(|release, url, _, _| {
        if sparing.spares(&release) {
            spared.insert(UrlHash::of(url));
        }
    })?;
    Ok(spared)
}

/// Faded releases of which something went that is not on the list.
fn lacking(union: &Union, list: &ExpiredList) -> Result<Vec<Target>, RecordError> {
    let mut lacking: Vec<Target> = Vec::new();
    union.walk_forgotten(|release, url, _, _| {
        if lacking.last() != Some(&release) && !list.contains(url) {
            lacking.push(release);
        }
    })?;
    Ok(lacking)
}
