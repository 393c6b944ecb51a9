//! Whether what is missing goes as a delta: decided once for a publish, until the store decides otherwise.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use tonic::{Code, Status};

use super::base::{Bases, NoBase};
use super::delta::{Delta, may_pay};
use crate::client::Client;
use crate::ui::Ui;
use crate::words::clean;

/// Deltas that break off before it is no longer tried: a store that dies of one takes a bundle.
const TRIES: u32 = 3;

/// Why whole files are sent.
#[derive(Debug, Clone)]
pub struct NoDelta {
    pub reason: String,
    /// Something is other than one would expect.
    told: bool,
}

impl NoDelta {
    pub fn quiet(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            told: false,
        }
    }

    pub fn told(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            told: true,
        }
    }

    /// What the store said of a delta that it did not take.
    fn refused(status: &Status) -> Self {
        // A store from before there were deltas refuses the call in its own words.
        let is_old = status.code() == Code::Unimplemented
            || (status.code() == Code::InvalidArgument && status.message().contains("has no call"));
        Self::told(if is_old {
            "this store takes none: update it".to_owned()
        } else {
            clean(status.message())
        })
    }
}

#[derive(Debug)]
enum Choice {
    Open,
    Delta(Arc<Delta>),
    Whole,
}

/// How content goes to the store.
#[derive(Debug)]
pub struct Way {
    bases: Bases,
    choice: Choice,
    broken: u32,
    /// The release against which a delta was sent that was not refused.
    pub delta_from: Option<u64>,
    /// Why there was none.
    pub no_delta: Option<String>,
}

impl Way {
    pub fn new(bases: Bases) -> Self {
        Self {
            bases,
            choice: Choice::Open,
            broken: 0,
            delta_from: None,
            no_delta: None,
        }
    }

    /// The delta to send, if one is to be sent.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn delta(
        &mut self,
        (app, dir, manifest): (&AppName, &Path, &Arc<Manifest>),
        wanted: &HashSet<BlobDigest>,
        client: &Client,
        ui: &Ui,
    ) -> Result<Option<Arc<Delta>>, Status> {
        match &self.choice {
            Choice::Delta(delta) => return Ok(Some(Arc::clone(delta))),
            Choice::Whole => return Ok(None),
            Choice::Open => {}
        }
        let found = match may_pay(manifest, wanted) {
            Ok(()) => self.bases.find(app, client, ui).await,
            Err(no) => Err(NoBase::No(no)),
        };
        let made = match found {
            Ok(base) => Delta::make(dir, manifest, wanted, base, ui).await,
            Err(NoBase::No(no)) => Err(no),
            Err(NoBase::Away(status)) => return Err(status),
        };
        match made {
            Ok(delta) => {
                let delta = Arc::new(delta);
                self.choice = Choice::Delta(Arc::clone(&delta));
                Ok(Some(delta))
            }
            Err(no) => {
                self.whole(no, ui);
                Ok(None)
            }
        }
    }

    /// It goes out now, and the store may take it though no answer comes.
    pub fn sent(&mut self, delta: &Delta) {
        self.delta_from = Some(delta.number);
    }

    /// The store did not take the delta.
    pub fn refused(&mut self, status: &Status, ui: &Ui) {
        self.whole(NoDelta::refused(status), ui);
    }

    /// No answer came.
    pub fn broke_off(&mut self, ui: &Ui) {
        self.broken += 1;
        if self.broken == TRIES {
            self.whole(NoDelta::told(format!("it broke off {TRIES} times")), ui);
        }
    }

    fn whole(&mut self, no: NoDelta, ui: &Ui) {
        if no.told || self.bases.folder.is_some() {
            ui.say(format!("files are sent whole, not as a delta: {}", no.reason));
        }
        if no.told
            && self.bases.folder.is_none()
            && let Some(last) = &self.bases.last
        {
            // If it has to do with what is kept here, the next publish must not meet it again.
            last.forget();
        }
        self.choice = Choice::Whole;
        self.delta_from = None;
        self.no_delta = Some(no.reason);
    }
}
