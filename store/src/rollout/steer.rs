//! What operators wish of a conductor, why it may be refused, and the mailbox in which wishes and news wait for its turn.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ship_model::desired::DeployNumber;
use ship_model::environment::{EnvironmentErrors, NotProven};
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::release::ReleaseNumber;
use ship_model::rollout::{Answer, Plan, PlanRefused, Profile, Request, StartRefused};
use tokio::sync::{Notify, mpsc, oneshot};

use super::facts::FactsError;
use crate::bridge::BrokenOff;
use crate::ledger::{LedgerError, NotAcceptedError, RequestId};

/// What an operator does to a rollout under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SteerVerb {
    Pause,
    Resume,
    Abort,
}

/// What is to be planned.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub request: Request,
    pub profile: Profile,
    /// A plan that was made before: exactly that, or nothing. It goes before the profile and all of the request but its
    /// message.
    pub saved: Option<Box<Plan>>,
}

/// An operator's wish that changes what an environment runs.
#[derive(Debug)]
pub enum Steer {
    Start {
        wanted: Box<Wanted>,
        who: String,
        id: RequestId,
        /// Digest of what was asked: a repeated id must ask the same.
        asked: String,
    },
    Control {
        verb: SteerVerb,
        who: String,
    },
    /// A word at the gates that it waits at.
    Answer {
        answer: Answer,
        who: String,
    },
}

/// Why a wish changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    #[error(transparent)]
    Plan(#[from] PlanRefused),
    #[error(transparent)]
    Refused(#[from] StartRefused),
    #[error("cannot plan")]
    Facts(#[from] FactsError),
    #[error("the file of {env}, version {version}, cannot be used by this store")]
    Environment {
        env: EnvName,
        version: u64,
        source: EnvironmentErrors,
    },
    #[error("{app}@{release} may not come here yet: {source}")]
    NotProven {
        app: AppName,
        wanted: EnvName,
        release: ReleaseNumber,
        source: Box<NotProven>,
    },
    #[error("this request id was used before for something else; choose a new one")]
    Reused,
    #[error(
        "{host} has seen epoch {seen} of {app} in {env}, this store knows {known} only: it was put back from an older backup and must not lead these hosts"
    )]
    Behind {
        env: EnvName,
        app: AppName,
        host: HostName,
        seen: u64,
        known: u64,
    },
    #[error(transparent)]
    NotAccepted(#[from] NotAcceptedError),
    #[error("cannot store the rollout")]
    Ledger(#[from] LedgerError),
    #[error("others changed the same state again and again; try again")]
    Contended,
    #[error("too many requests wait for {app} in {env}; try again")]
    Crowded { env: EnvName, app: AppName },
    #[error("cannot reach the ledger")]
    BrokenOff(#[from] BrokenOff),
    #[error("the store is ending; try again in a moment")]
    Ending,
}

/// How others reach a conductor.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// Hosts whose report, silence or return is to be looked at; all of them if `all`.
    changed: Mutex<Changed>,
    pub wake: Notify,
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug, Default)]
pub(super) struct Changed {
    pub all: bool,
    pub hosts: BTreeSet<HostName>,
}

pub(super) type Ask = (Steer, oneshot::Sender<Result<DeployNumber, SteerError>>);

impl Mailbox {
    pub fn new(asks: mpsc::Sender<Ask>) -> Self {
        Self {
            changed: Mutex::default(),
            wake: Notify::new(),
            asks,
        }
    }

    pub fn changed(&self, host: &HostName) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        if !changed.all {
            changed.hosts.insert(host.clone());
        }
        drop(changed);
        self.wake.notify_one();
    }

    pub fn all_changed(&self) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.all = true;
        changed.hosts.clear();
        drop(changed);
        self.wake.notify_one();
    }

    pub fn take(&self) -> Changed {
        std::mem::take(&mut self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub async fn ask(&self, env: &EnvName, app: &AppName, wish: Steer) -> Result<DeployNumber, SteerError> {
        let (reply, answer) = oneshot::channel();
        let crowded = || SteerError::Crowded {
            env: env.clone(),
            app: app.clone(),
        };
        self.asks.try_send((wish, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => crowded(),
            mpsc::error::TrySendError::Closed(_) => SteerError::Ending,
        })?;
        answer.await.unwrap_or(Err(SteerError::Ending))
    }
}
