//! What all services share, and the checks they have in common.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use ship_model::name::{AppName, EnvName, HostName};
use ship_proto::v1;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::sessions::Sessions;
use super::sources::Sources;
use super::{status, view};
use crate::bridge::Bridge;
use crate::clock::Clock;
use crate::desired::Board;
use crate::identity::Caller;
use crate::ledger::{Ledger, LedgerError};
use crate::notify::Routes;
use crate::retention::Evidence;
use crate::rollout::Controller;
use crate::rollout::fleet::Fleet;
use crate::scrub::{Findings, Wants};

/// The answer of a call that streams.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Everything the services work with.
#[derive(Debug, Clone)]
pub struct Face {
    pub ledger: Ledger,
    pub bridge: Bridge,
    pub clock: Clock,
    pub board: Arc<Board>,
    pub fleet: Arc<Fleet>,
    pub controller: Controller,
    pub sessions: Arc<Sessions>,
    /// Where hosts are told to get content besides the store.
    pub sources: Arc<Sources>,
    /// What was told of requests for assets.
    pub evidence: Arc<Evidence>,
    /// What hosts are asked to give back.
    pub wants: Arc<Wants>,
    /// What was found damaged, and is lost.
    pub findings: Arc<Findings>,
    /// How telling others of events goes.
    pub routes: Arc<Routes>,
    pub heartbeat_ms: u64,
    /// Where the store itself serves assets.
    pub asset_url: String,
    /// Held for reading by whoever makes a release needed that was not, for writing by whoever decides that one is not.
    pub deciding: Arc<RwLock<()>>,
    pub stop: CancellationToken,
}

impl Face {
    /// Reads from or writes to the ledger.
    pub async fn ledger<T, F>(&self, work: F) -> Result<T, Status>
    where
        F: FnOnce(&Ledger) -> Result<T, LedgerError> + Send + 'static,
        T: Send + 'static,
    {
        let ledger = self.ledger.clone();
        let done = self.bridge.run(move || work(&ledger)).await;
        done.map_err(status::broken_off)?
            .map_err(|error| status::ledger(&error))
    }

    /// An app that has a release.
    pub async fn known_app(&self, name: &str) -> Result<AppName, Status> {
        let app: AppName = name.parse().map_err(|error| status::bad_name(&error))?;
        let apps = self.ledger(Ledger::apps).await?;
        if apps.contains(&app) {
            return Ok(app);
        }
        Err(status::not_found(
            "app",
            name,
            apps.iter().map(ToString::to_string),
        ))
    }

    /// Says in a view of the app's rollout what its hosts wait for.
    pub fn add_waits(&self, env: &EnvName, app: &AppName, shown: &mut v1::RolloutView) {
        let waits = |host: &str| {
            let presence = self.fleet.get(env, &host.parse().ok()?)?;
            let report = presence.report?;
            let said = report.apps.iter().find(|said| said.app == *app)?;
            said.waits.clone()
        };
        view::add_waits(shown, self.clock.now_ms(), waits);
    }

    /// An environment that has hosts, or ran something once.
    pub fn known_env(&self, name: &str) -> Result<EnvName, Status> {
        let env: EnvName = name.parse().map_err(|error| status::bad_name(&error))?;
        let states = self.board.states();
        if self.fleet.has_env(&env) || states.iter().any(|state| state.env == env) {
            return Ok(env);
        }
        let hosts = self.fleet.all(None);
        let known = hosts
            .iter()
            .map(|(env, ..)| env)
            .chain(states.iter().map(|state| &state.env));
        Err(status::not_found(
            "environment",
            name,
            known.map(ToString::to_string),
        ))
    }

    /// A host that has spoken for this environment.
    pub fn known_host(&self, env: &EnvName, name: &str) -> Result<HostName, Status> {
        let host: HostName = name.parse().map_err(|error| status::bad_name(&error))?;
        if self.fleet.get(env, &host).is_some() {
            return Ok(host);
        }
        let hosts = self.fleet.all(Some(env));
        let known = hosts.iter().map(|(_, host, _)| host.to_string());
        Err(status::not_found("host", name, known))
    }
}

/// Whom the certificate of this call names; every call that gets here was admitted.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| status::invalid("the call came without a caller", "caller"))
}
