//! The one who moves every environment: loads all states at the start, has a conductor for each, and hands them what
//! hosts and operators say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ship_model::desired::DeployNumber;
use ship_model::digest::ReleaseId;
use ship_model::name::{AppName, ClassName, EnvName, HostName};
use ship_model::report::{AssetIncident, HostReport};
use ship_model::rollout::{
    EnvState, Forecast, HostView, Plan, PlanRefused, Policy, Profile, Wish, plan, plan_again,
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::checks::Offers;
use super::conductor::Conductor;
use super::facts::{Facts, ManifestSource, Releases};
use super::fleet::{Fleet, Known, Presence};
use super::policies::Policies;
use super::shares::Shares;
use super::standing::keeps_out;
use super::steer::{Mailbox, Steer, SteerError, Wanted};
use super::ways::HostWay;
use crate::bridge::Bridge;
use crate::clock::Clock;
use crate::desired::Board;
use crate::engine::Version;
use crate::ledger::{Act, HostRecord, Ledger, LedgerError, NotAcceptedError, Restored, Stored};
use crate::settings::GateSettings;

/// What a controller works with.
pub struct Parts {
    pub ledger: Ledger,
    pub bridge: Bridge,
    pub clock: Clock,
    pub board: Arc<Board>,
    pub fleet: Arc<Fleet>,
    pub policy: Policy,
    pub manifests: Arc<ManifestSource>,
    /// What gates may use on this machine.
    pub gates: GateSettings,
    pub stop: CancellationToken,
}

/// What all conductors share.
pub(super) struct Core {
    pub ledger: Ledger,
    pub bridge: Bridge,
    pub clock: Clock,
    pub board: Arc<Board>,
    pub stop: CancellationToken,
    /// Why nothing may be moved, for as long as this process lives.
    pub held: Option<NotAcceptedError>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) policy: Policy,
    pub(super) offers: Arc<Offers>,
    pub(super) facts: Arc<Facts>,
    shares: Arc<Shares>,
    /// Asset incidents that stand in the events, at most [`MOST_INCIDENTS`]: a host cannot fill the chain with them.
    incidents: Mutex<BTreeSet<String>>,
    /// Held while it is decided whether a host can be spared, until that is written.
    pub(super) standing: tokio::sync::Mutex<()>,
}

/// Incidents that one life of the store writes down, each host's and release's once.
const MOST_INCIDENTS: usize = 10_000;

type Conductors = BTreeMap<(EnvName, AppName), Arc<Mailbox>>;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Controller {
    pub(super) core: Arc<Core>,
    conductors: Arc<Mutex<Conductors>>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").finish_non_exhaustive()
    }
}

impl Core {
    fn is_new_incident(&self, env: &EnvName, host: &HostName, subject: &str) -> bool {
        let mut told = self.incidents.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MOST_INCIDENTS && told.insert(format!("{env}/{host} {subject}"))
    }

    pub fn fleet_of(&self, env: &EnvName) -> Vec<(HostName, Presence)> {
        let all = self.fleet.all(Some(env)).into_iter();
        all.map(|(_, host, presence)| (host, presence)).collect()
    }

    /// The classes that run a release; none, and a word in the log, when its manifest cannot be read.
    pub async fn classes_of(&self, id: ReleaseId) -> Option<BTreeSet<ClassName>> {
        let facts = Arc::clone(&self.facts);
        match self.bridge.run(move || facts.classes(id)).await.ok()? {
            Ok(classes) => Some(classes),
            Err(reason) => {
                tracing::warn!(release = %id, reason, "cannot tell which hosts run this release");
                None
            }
        }
    }

    /// The plan for what is wanted, from what is durable and what hosts said last.
    pub async fn plan(&self, state: &Arc<EnvState>, wanted: &Wanted) -> Result<Plan, SteerError> {
        let (facts, shares) = (Arc::clone(&self.facts), Arc::clone(&self.shares));
        let (state, wanted, ledger) = (Arc::clone(state), wanted.clone(), self.ledger.clone());
        let (mut views, store) = (self.fleet.views(&state.env), self.policy.clone());
        let now_ms = self.clock.now_ms();
        let planned = self.bridge.run(move || {
            let policies = match Policies::read(&ledger, &store, &state.env) {
                // The way back does not depend on a file.
                Err(SteerError::Environment { .. }) if wanted.goes_back() => {
                    Policies::of_the_store(&ledger, &store)
                }
                read => read?,
            };
            let policy = policies.of(wanted.profile());
            let releases = facts.of(&state.app)?;
            wanted.check_readable(&state, &releases)?;
            let plan = wanted.plan(&state, &views, &releases, &policy);
            match (&plan, releases.newest_unread()) {
                // Nobody runs a release of no class: the one that was picked is one that could not be read.
                (Err(PlanRefused::NoHosts { classes, .. }), Some(unread)) if classes.is_empty() => {
                    releases.check(&state.app, unread)?;
                }
                _ => {}
            }
            // Which release it is about is known only now; with the bytes the same plan comes out again.
            let plan = plan?;
            policies.check_after(&state.app, &plan, now_ms)?;
            shares.add(&mut views, &state.app, plan.to.id);
            Ok(wanted.plan(&state, &views, &releases, &policy)?)
        });
        planned.await?
    }

    /// What the app runs in an environment, as it is known here.
    pub fn state_of(&self, env: &EnvName, app: &AppName) -> Arc<EnvState> {
        let state = self.board.state(env, app);
        state.unwrap_or_else(|| Arc::new(EnvState::new(env.clone(), app.clone())))
    }

    /// Refuses to lead hosts that have seen a newer epoch than this store ever gave.
    pub fn refuse_behind(&self, state: &EnvState) -> Result<(), SteerError> {
        for (host, presence) in self.fleet_of(&state.env) {
            let Some(report) = presence.report else { continue };
            let seen = report
                .apps
                .iter()
                .find(|app| app.app == state.app)
                .map(|app| app.epoch);
            if let Some(seen) = seen.filter(|seen| *seen > state.epoch) {
                return Err(SteerError::Behind {
                    env: state.env.clone(),
                    app: state.app.clone(),
                    host,
                    seen: seen.0,
                    known: state.epoch.0,
                });
            }
        }
        Ok(())
    }
}

impl Wanted {
    fn profile(&self) -> Profile {
        self.saved
            .as_ref()
            .map_or(self.profile, |saved| saved.policy.profile)
    }

    fn goes_back(&self) -> bool {
        matches!(self.request.wish, Wish::Revert { .. })
    }

    fn check_readable(&self, state: &EnvState, releases: &Releases) -> Result<(), SteerError> {
        let number = match (&self.saved, self.request.wish) {
            (Some(saved), _) => Some(saved.to.number),
            (None, Wish::Promote { release }) => release,
            (None, Wish::Revert { to }) => to,
        };
        match number {
            Some(number) => Ok(releases.check(&state.app, number)?),
            None => Ok(()),
        }
    }

    fn plan(
        &self,
        state: &EnvState,
        views: &[HostView],
        releases: &Releases,
        policy: &Policy,
    ) -> Result<Plan, PlanRefused> {
        match &self.saved {
            None => plan(state, views, &releases.infos, &self.request, policy),
            Some(saved) => {
                let message = self.request.message.clone();
                plan_again(state, views, &releases.infos, saved, message, policy)
            }
        }
    }
}

impl Controller {
    /// Loads every state and every host, and goes on with whatever was under way.
    pub async fn start(parts: Parts) -> Result<Self, SteerError> {
        let shares = Shares::new(Arc::clone(&parts.manifests));
        let facts = Facts::new(parts.ledger.clone(), parts.manifests);
        let ledger = parts.ledger.clone();
        let mark = parts.bridge.run(move || ledger.restored()).await??;
        let offers = Offers {
            settings: parts.gates,
            bridge: parts.bridge.clone(),
        };
        let core = Core {
            offers: Arc::new(offers),
            held: mark.map(Restored::not_accepted),
            ledger: parts.ledger,
            bridge: parts.bridge,
            clock: parts.clock,
            board: parts.board,
            stop: parts.stop,
            fleet: parts.fleet,
            policy: parts.policy,
            facts: Arc::new(facts),
            shares: Arc::new(shares),
            incidents: Mutex::default(),
            standing: tokio::sync::Mutex::default(),
        };
        let controller = Self {
            core: Arc::new(core),
            conductors: Arc::default(),
            tasks: TaskTracker::new(),
        };
        controller.load().await?;
        controller.tasks.spawn(controller.clone().watch_silence());
        Ok(controller)
    }

    async fn load(&self) -> Result<(), SteerError> {
        let ledger = self.core.ledger.clone();
        let read = move || Ok::<_, LedgerError>((ledger.env_states(None)?, ledger.hosts(None)?));
        let (states, hosts) = self.core.bridge.run(read).await??;
        for host in hosts {
            let known = Known {
                classes: host.record.classes,
                asset_url: host.record.asset_url,
                served: host.record.served,
                standing: host.record.standing,
            };
            let (env, name) = (&host.record.env, &host.record.host);
            self.core
                .board
                .drain(env, name, keeps_out(known.standing.as_ref()));
            self.core.fleet.recall(host.record.env, host.record.host, known);
        }
        for state in states {
            let record = Arc::new(state.record);
            self.core.board.put_up(Arc::clone(&record));
            self.conductor(&mut self.conductors(), record, Some(state.version));
        }
        Ok(())
    }

    fn conductors(&self) -> MutexGuard<'_, Conductors> {
        self.conductors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn conductor(
        &self,
        conductors: &mut Conductors,
        state: Arc<EnvState>,
        version: Option<Version>,
    ) -> Arc<Mailbox> {
        let key = (state.env.clone(), state.app.clone());
        let made = conductors.entry(key).or_insert_with(|| {
            let (conductor, mailbox) = Conductor::new(Arc::clone(&self.core), state, version);
            self.tasks.spawn(conductor.run());
            mailbox
        });
        Arc::clone(made)
    }

    /// Waits until every conductor has put down its work; `stop` was cancelled before.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Takes a host's report. Nothing of it is journalled, but what planning needs after a restart is kept when it
    /// changes.
    pub async fn hear(&self, env: &EnvName, host: &HostName, report: HostReport) {
        let (report, now) = (Arc::new(report), self.core.clock.now_ms());
        let desired = self.core.board.desired(env, host);
        let before = self.core.fleet.get(env, host).and_then(|known| known.report);
        let heard = self
            .core
            .fleet
            .hear(env, host, Arc::clone(&report), &desired, now);
        if heard.known_changed {
            self.remember(env, host, &report, now).await;
        }
        if heard.changed || heard.returned || heard.known_changed {
            self.changed(env, host);
        }
        self.retire_if_empty(env, host, &report).await;
        let mut acts = incidents(env, host, before.as_deref(), &report, now);
        acts.retain(|act| self.core.is_new_incident(env, host, &act.subject));
        if !acts.is_empty() {
            let ledger = self.core.ledger.clone();
            let told = self.core.bridge.run(move || ledger.audit(&acts)).await;
            if let Ok(Err(error)) = told {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%env, host = %host, error, "cannot write down what the host could not serve");
            }
        }
    }

    pub(super) fn changed(&self, env: &EnvName, host: &HostName) {
        for ((of, _), mailbox) in self.conductors().iter() {
            if of == env {
                mailbox.changed(host);
            }
        }
    }

    async fn remember(&self, env: &EnvName, host: &HostName, report: &HostReport, now_ms: u64) {
        let known = self.core.fleet.get(env, host);
        let record = HostRecord {
            env: env.clone(),
            host: host.clone(),
            classes: report.classes.clone(),
            asset_url: report.asset_url.clone(),
            served: known.is_some_and(|presence| presence.known.served),
            agent_version: report.agent_version.clone(),
            first_seen_ms: now_ms,
            standing: None,
        };
        let ledger = self.core.ledger.clone();
        let kept = self.core.bridge.run(move || keep_host(&ledger, record)).await;
        if let Ok(Err(error)) = kept {
            // Planning works as long as the store runs; the next change is written again.
            tracing::warn!(
                %env, host = %host, error = &error as &dyn std::error::Error, "cannot remember this host"
            );
        }
    }

    /// What would be done, changing nothing.
    pub async fn plan(&self, env: &EnvName, app: &AppName, wanted: &Wanted) -> Result<Plan, SteerError> {
        self.core.fleet.settled(env).await;
        self.core.plan(&self.core.state_of(env, app), wanted).await
    }

    /// What to expect of a plan.
    pub async fn forecast(&self, plan: &Plan) -> Result<Forecast, SteerError> {
        self.core.forecast(plan).await
    }

    /// How the processes of a plan take over, host by host.
    pub async fn ways(&self, plan: &Plan) -> Vec<HostWay> {
        self.core.ways(plan).await
    }

    /// Carries an operator's wish out; the deploy it started or touched.
    pub async fn steer(&self, env: &EnvName, app: &AppName, wish: Steer) -> Result<DeployNumber, SteerError> {
        if matches!(wish, Steer::Start { .. }) {
            self.core.fleet.settled(env).await;
        }
        let state = self.core.state_of(env, app);
        // An app that never ran here has no record; another store may have made one, which the first step finds.
        let mailbox = self.conductor(&mut self.conductors(), state, None);
        mailbox.ask(env, app, wish).await
    }

    /// Notices hosts that fell silent.
    async fn watch_silence(self) {
        let mut turns = interval(Duration::from_millis(250));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.core.stop.cancelled() => return,
                _ = turns.tick() => {}
            }
            for (env, host, state) in self.core.fleet.sweep(self.core.clock.now_ms()) {
                tracing::warn!(%env, host = %host, state = %state, "host does not report");
                self.changed(&env, &host);
            }
        }
    }
}

/// The first incident of each release that a host tells of: one event for all that follow, until the agent's next life.
fn incidents(
    env: &EnvName,
    host: &HostName,
    before: Option<&HostReport>,
    report: &HostReport,
    now_ms: u64,
) -> Vec<Act> {
    // What was said before this store began is known to the one before.
    let Some(before) = before else {
        return Vec::new();
    };
    let mut acts = Vec::new();
    for app in &report.apps {
        let said = before.apps.iter().filter(|said| said.app == app.app);
        let known: Vec<_> = said.flat_map(|said| &said.incidents).collect();
        let is_new = |incident: &&AssetIncident| !known.iter().any(|known| known.release == incident.release);
        acts.extend(app.incidents.iter().filter(is_new).map(|incident| Act {
            at_ms: now_ms,
            who: "store".to_owned(),
            what: "asset-incident".to_owned(),
            subject: format!("{}@{}", app.app, incident.release.number),
            detail: format!("{host} in {env} could not serve {}", incident.url),
        }));
    }
    acts
}

fn keep_host(ledger: &Ledger, mut record: HostRecord) -> Result<(), LedgerError> {
    let mut found = ledger.host(&record.env, &record.host)?;
    loop {
        if let Some(found) = &found {
            record.first_seen_ms = found.record.first_seen_ms;
            record.standing.clone_from(&found.record.standing);
        }
        match ledger.put_host(&record, found.map(|found| found.version), &[])? {
            Stored::Done(_) => return Ok(()),
            Stored::Conflict(current) => found = current,
        }
    }
}
