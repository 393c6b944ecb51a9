//! What operators want of a host, written into its record before anybody acts on it.
//!
//! After a crash the record tells it: the next life of the store puts it up again, and the conductors, which look at every host
//! when they begin, make of it what is still to be made.

use std::collections::BTreeMap;
use std::sync::Arc;

use ship_model::desired::DesiredHost;
use ship_model::host::HostState;
use ship_model::host::standing::{Duty, HostRefused, HostVerb, Servers, Standing, can_spare, duty_after};
use ship_model::name::{EnvName, HostName};
use ship_model::report::HostReport;
use ship_model::rollout::{EnvState, Profile};

use super::controller::Controller;
use super::fleet::Presence;
use super::policies::Policies;
use super::steer::SteerError;
use crate::bridge::BrokenOff;
use crate::ledger::{Act, HostRecord, Ledger, LedgerError, Stored};

/// An operator's word about a host.
#[derive(Debug, Clone)]
pub struct HostWish {
    pub verb: HostVerb,
    pub who: String,
    pub reason: String,
    /// Also when fewer would serve than policy asks for.
    pub force: bool,
}

/// Why a host's standing was not changed.
#[derive(Debug, thiserror::Error)]
pub enum StandError {
    #[error("no host {host} in {env}")]
    Unknown { env: EnvName, host: HostName },
    #[error(transparent)]
    Refused(#[from] HostRefused),
    /// What policy asks for cannot be told.
    #[error(transparent)]
    Policy(#[from] SteerError),
    #[error("cannot write the host's record")]
    Ledger(#[from] LedgerError),
    #[error("cannot reach the ledger")]
    BrokenOff(#[from] BrokenOff),
}

impl Controller {
    /// Carries an operator's word about a host out; durable when it returns. Asked twice, it changes nothing the second time.
    pub async fn stand(
        &self,
        env: &EnvName,
        host: &HostName,
        wish: HostWish,
    ) -> Result<Presence, StandError> {
        if wish.verb.takes_away() {
            self.core.fleet.settled(env).await;
        }
        // Two hosts may each be spared, and not both.
        let _one = self.core.standing.lock().await;
        let unknown = || StandError::Unknown {
            env: env.clone(),
            host: host.clone(),
        };
        let presence = self.core.fleet.get(env, host).ok_or_else(unknown)?;
        let now = presence.known.duty();
        let duty = duty_after(host, now, wish.verb)?;
        if duty == now {
            return Ok(presence);
        }
        if wish.verb.takes_away() && now.is_none() && !wish.force {
            can_spare(host, &self.servers(env).await?)?;
        }
        let act = Act {
            at_ms: self.core.clock.now_ms(),
            who: wish.who,
            what: wish.verb.as_str().to_owned(),
            subject: format!("{env}/{host}"),
            detail: match wish.force {
                true => format!("forced: {}", wish.reason),
                false => wish.reason.clone(),
            },
        };
        let standing = duty.map(|duty| Standing {
            duty,
            who: act.who.clone(),
            reason: wish.reason,
            at_ms: act.at_ms,
        });
        self.take_standing(env, host, standing, act).await?;
        self.core.fleet.get(env, host).ok_or_else(unknown)
    }

    /// A host that is being retired has said that nothing runs there any more.
    pub(super) async fn retire_if_empty(&self, env: &EnvName, host: &HostName, report: &HostReport) {
        let retiring = |presence: &Presence| presence.state == HostState::Retiring;
        if !self.core.fleet.get(env, host).as_ref().is_some_and(retiring) {
            return;
        }
        let _one = self.core.standing.lock().await;
        let presence = self.core.fleet.get(env, host).filter(retiring);
        let standing = presence.and_then(|presence| presence.known.standing);
        let Some(standing) = standing.filter(|_| is_empty(&self.core.board.desired(env, host), report))
        else {
            return;
        };
        let act = Act {
            at_ms: self.core.clock.now_ms(),
            who: "store".to_owned(),
            what: "host retired".to_owned(),
            subject: format!("{env}/{host}"),
            detail: "nothing runs there any more".to_owned(),
        };
        let retired = Standing {
            duty: Duty::Retired,
            at_ms: act.at_ms,
            ..standing
        };
        if let Err(error) = self.take_standing(env, host, Some(retired), act).await {
            // It says so again with its next report.
            let error = &error as &dyn std::error::Error;
            tracing::error!(%env, host = %host, error, "the host is empty, and that could not be written down");
        }
    }

    async fn take_standing(
        &self,
        env: &EnvName,
        host: &HostName,
        standing: Option<Standing>,
        act: Act,
    ) -> Result<(), StandError> {
        let what = act.what.clone();
        let (ledger, of, name, new) = (
            self.core.ledger.clone(),
            env.clone(),
            host.clone(),
            standing.clone(),
        );
        let write = move || put_standing(&ledger, &of, &name, new.as_ref(), &act);
        self.core.bridge.run(write).await??;
        let _ = ship_durable::fault::point("store.standing.written");
        let out = keeps_out(standing.as_ref());
        self.core.fleet.stand(env, host, standing);
        self.core.board.drain(env, host, out);
        tracing::info!(%env, host = %host, what, "what is wanted of a host has changed");
        self.changed(env, host);
        Ok(())
    }

    /// Who serves which app, and how many must.
    async fn servers(&self, env: &EnvName) -> Result<Vec<Servers>, StandError> {
        let (ledger, store, of) = (self.core.ledger.clone(), self.core.policy.clone(), env.clone());
        let policy = self.core.bridge.run(move || {
            let policies = Policies::read(&ledger, &store, &of)?;
            Ok::<_, SteerError>(policies.of(Profile::Normal))
        });
        let policy = policy.await??;
        let fleet: BTreeMap<HostName, Presence> = self.core.fleet_of(env).into_iter().collect();
        let states = self.core.board.states();
        let of_env = states.iter().filter(|state| state.env == *env);
        Ok(of_env
            .map(|state| {
                let runs = hosts_of(state, &fleet);
                Servers {
                    app: state.app.clone(),
                    must: policy.must_stay(runs.len()),
                    serving: runs
                        .into_iter()
                        .filter(|(name, presence)| serves(state, name, presence))
                        .map(|(name, _)| name.clone())
                        .collect(),
                }
            })
            .collect())
    }
}

/// Whether the host's users are to be sent elsewhere.
pub(super) fn keeps_out(standing: Option<&Standing>) -> bool {
    standing.is_some_and(|standing| matches!(standing.duty, Duty::Drained | Duty::Retiring))
}

/// The hosts that are to run an app and have not left.
fn hosts_of<'a>(
    state: &'a Arc<EnvState>,
    fleet: &'a BTreeMap<HostName, Presence>,
) -> Vec<(&'a HostName, &'a Presence)> {
    let runs = state.hosts.iter().filter(|(_, target)| target.runs_app);
    let present = runs.filter_map(|(name, _)| Some((name, fleet.get(name)?)));
    present
        .filter(|(_, presence)| !presence.state.is_leaving())
        .collect()
}

/// Whether users of the app are served there: it reports, healthy, and is in rotation.
fn serves(state: &EnvState, name: &HostName, presence: &Presence) -> bool {
    let report = presence.report.as_ref().filter(|_| !presence.state.is_away());
    let said = report.and_then(|report| report.apps.iter().find(|said| said.app == state.app));
    let wanted = state.hosts.get(name).is_some_and(|target| target.run.is_some());
    wanted
        && presence.known.duty().is_none()
        && said.is_some_and(|said| said.running.is_some() && said.healthy)
}

/// Whether a host that is to run nothing has heard that, and runs nothing.
fn is_empty(desired: &DesiredHost, report: &HostReport) -> bool {
    let rests = report
        .apps
        .iter()
        .all(|said| said.running.is_none() && said.processes.is_empty());
    let heard = desired.apps.iter().all(|wanted| {
        let said = report.apps.iter().find(|said| said.app == wanted.app);
        let heard = said.is_none_or(|said| said.epoch >= wanted.epoch);
        wanted.run.is_none() && !wanted.runs_app && heard
    });
    rests && heard
}

/// The host's record with its new standing, and the act, in one batch.
fn put_standing(
    ledger: &Ledger,
    env: &EnvName,
    host: &HostName,
    standing: Option<&Standing>,
    act: &Act,
) -> Result<(), LedgerError> {
    let missing = || LedgerError::Missing {
        key: format!("host/{env}/{host}"),
    };
    let mut found = ledger.host(env, host)?.ok_or_else(missing)?;
    loop {
        let record = HostRecord {
            standing: standing.cloned(),
            // What it served before was taken from it.
            served: found.record.served && !left(found.record.standing.as_ref()),
            ..found.record
        };
        match ledger.put_host(&record, Some(found.version), std::slice::from_ref(act))? {
            Stored::Done(_) => return Ok(()),
            Stored::Conflict(current) => found = current.ok_or_else(missing)?,
        }
    }
}

fn left(standing: Option<&Standing>) -> bool {
    standing.is_some_and(|standing| standing.duty.state().is_some())
}
