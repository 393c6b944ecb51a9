//! The conductor of one app in one environment: the only one in this process who changes its state.
//!
//! It takes what happened, makes the model's step in memory, stores the result once by compare-and-swap, and only
//! then lets anyone see it. On a conflict (another store was first) it reads what stands, takes all it knows of the hosts
//! for new, and steps again. Reports
//! are levels: the newest is read from the [`Fleet`](super::fleet::Fleet) when its turn comes, so a burst of
//! heartbeats costs one step each at most, and a step that could not be stored is made again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ship_model::desired::DeployNumber;
use ship_model::host::HostState;
use ship_model::host::standing::Duty;
use ship_model::name::{ClassName, HostName};
use ship_model::rollout::{
    Anew, Effect, EnvState, Event, Plan, PlanStep, Rollout, StartRefused, Switch, anew, record_times, step,
    step_all,
};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::checks::Checks;
use super::controller::Core;
use super::fleet::Presence;
use super::steer::{Ask, Mailbox, Steer, SteerError, SteerVerb, Wanted};
use super::telling::{acts, tell};
use crate::engine::Version;
use crate::ledger::{EnvChange, Made, NotAcceptedError, RequestId, RequestRecord, Stored};

/// Asks that wait for one conductor at most; more are told to try again.
const WAITING: usize = 64;
/// Attempts to store a step before giving up on it.
const ATTEMPTS: usize = 8;
/// How long to wait after the ledger failed, and at least between two looks at the clock.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Conductor {
    core: Arc<Core>,
    mailbox: Arc<Mailbox>,
    asks: mpsc::Receiver<Ask>,
    checks: Checks,
    state: Arc<EnvState>,
    version: Option<Version>,
}

/// What is stored with a step besides the state.
struct Answer {
    id: RequestId,
    asked: String,
}

impl Conductor {
    pub fn new(core: Arc<Core>, state: Arc<EnvState>, version: Option<Version>) -> (Self, Arc<Mailbox>) {
        let (sender, asks) = mpsc::channel(WAITING);
        let mailbox = Arc::new(Mailbox::new(sender));
        let checks = Checks::new(Arc::clone(&core.offers));
        let conductor = Self {
            core,
            mailbox: Arc::clone(&mailbox),
            asks,
            checks,
            state,
            version,
        };
        (conductor, mailbox)
    }

    pub async fn run(mut self) {
        if let Some(held) = self.core.held.clone() {
            return self.refuse_all(&held).await;
        }
        // What was reported before this conductor began.
        self.mailbox.all_changed();
        loop {
            self.checks.tend(&self.state);
            let alarm = self.alarm();
            let done = tokio::select! {
                () = self.core.stop.cancelled() => return,
                ask = self.asks.recv() => match ask {
                    None => return,
                    Some((wish, reply)) => {
                        // Nobody may wait for the answer any longer; the wish counts all the same.
                        let _ = reply.send(self.steer(wish).await);
                        Ok(())
                    }
                },
                // A word that could not be stored is lost: its gate is asked again.
                word = self.checks.next() => self.listen(Some(word)).await.map(drop),
                () = self.mailbox.wake.notified() => self.listen(None).await.map(drop),
                // What is heard and not looked at yet is no reason for a deadline to pass.
                () = alarm => self.listen(None).await.map(drop),
            };
            if let Err(error) = done {
                tracing::error!(
                    app = %self.state.app, env = %self.state.env, error = &error as &dyn std::error::Error,
                    "a step could not be stored; it is tried again"
                );
                sleep(PAUSE).await;
                self.mailbox.all_changed();
            }
        }
    }

    /// A rollout that the backup was made in stands still, too: whatever this store did would be done with epochs that
    /// may have been given before.
    async fn refuse_all(mut self, held: &NotAcceptedError) {
        loop {
            let ask = tokio::select! {
                () = self.core.stop.cancelled() => return,
                ask = self.asks.recv() => ask,
            };
            let Some((_, reply)) = ask else { return };
            // Nobody may wait for the answer any longer.
            let _ = reply.send(Err(held.clone().into()));
        }
    }

    /// Sleeps until something in the state may be due; for ever when nothing waits for time.
    fn alarm(&self) -> impl Future<Output = ()> + use<> {
        let now = self.core.clock.now_ms();
        let due = self.state.running().map(|rollout| next_due(rollout, now));
        async move {
            match due {
                None => std::future::pending().await,
                Some(due) => sleep(Duration::from_millis(due - now)).await,
            }
        }
    }

    /// Takes in what hosts said or failed to say, that time has passed, and an operator's wish. When another was first,
    /// everything that is known of the hosts is looked at again, by what stands then.
    async fn listen(&mut self, wish: Option<Event>) -> Result<Vec<Effect>, SteerError> {
        for _ in 0..ATTEMPTS {
            let mut events = self.news().await;
            events.extend(wish.clone());
            match self.advance(&events).await {
                Ok(Some(effects)) => return Ok(effects),
                Ok(None) => {}
                Err(error) => {
                    // What was heard was not taken in.
                    self.mailbox.all_changed();
                    return Err(error);
                }
            }
        }
        Err(SteerError::Contended)
    }

    /// What hosts said or failed to say since this was last asked.
    async fn news(&self) -> Vec<Event> {
        let changed = self.mailbox.take();
        let wanted = match self.state.current {
            Some(current) => self.core.classes_of(current.id).await,
            None => None,
        };
        let mut events = vec![Event::Tick];
        for (host, presence) in self.core.fleet_of(&self.state.env) {
            if !changed.all && !changed.hosts.contains(&host) {
                continue;
            }
            if let Some(event) = leaves(&presence, &host) {
                events.push(event);
                continue;
            }
            events.push(Event::HostDrained {
                drained: presence.known.duty() == Some(Duty::Drained),
                host: host.clone(),
            });
            let part = wanted
                .as_ref()
                .and_then(|wanted| part_of(&presence.known.classes, wanted));
            if let Some(runs_app) = part {
                events.push(Event::HostJoined {
                    host: host.clone(),
                    runs_app,
                });
            }
            match (presence.state, presence.report) {
                (HostState::Uncertain | HostState::Unavailable, _) => events.push(Event::HostSilent { host }),
                (_, None) => {}
                (_, Some(report)) => {
                    let app = report.apps.iter().find(|app| app.app == self.state.app);
                    events.push(Event::Report {
                        host,
                        app: app.cloned().map(Box::new),
                    });
                }
            }
        }
        events
    }

    async fn steer(&mut self, wish: Steer) -> Result<DeployNumber, SteerError> {
        match wish {
            Steer::Start {
                wanted,
                who,
                id,
                asked,
            } => self.start(&wanted, &who, Answer { id, asked }).await,
            Steer::Control { verb, who } => {
                let event = match verb {
                    SteerVerb::Pause => Event::Pause { who },
                    SteerVerb::Resume => Event::Resume { who },
                    SteerVerb::Abort => Event::Abort { who },
                };
                let effects = self.listen(Some(event)).await?;
                refusal(&effects)?;
                Ok(self.state.last_deploy)
            }
            Steer::Answer { answer, who } => {
                let effects = self.listen(Some(Event::Answer { answer, who })).await?;
                refusal(&effects)?;
                Ok(self.state.last_deploy)
            }
        }
    }

    async fn start(
        &mut self,
        wanted: &Wanted,
        who: &str,
        answer: Answer,
    ) -> Result<DeployNumber, SteerError> {
        for _ in 0..ATTEMPTS {
            if let Some(deploy) = self.answered(&answer).await? {
                return Ok(deploy);
            }
            self.core.refuse_behind(&self.state)?;
            let plan = self.core.plan(&self.state, wanted).await?;
            let begun = self.begin(plan, who, &answer).await?;
            if let Some(deploy) = begun {
                // What hosts have already counts for the new rollout at once.
                self.mailbox.all_changed();
                return Ok(deploy);
            }
        }
        Err(SteerError::Contended)
    }

    /// What this request started earlier.
    async fn answered(&self, answer: &Answer) -> Result<Option<DeployNumber>, SteerError> {
        let (ledger, id) = (self.core.ledger.clone(), answer.id);
        let found = self.core.bridge.run(move || ledger.request(id)).await??;
        let Some(found) = found else { return Ok(None) };
        match found.made {
            Made::Deploy { env, app, deploy }
                if found.asked == answer.asked && env == self.state.env && app == self.state.app =>
            {
                Ok(Some(deploy))
            }
            Made::Deploy { .. } | Made::Release { .. } => Err(SteerError::Reused),
        }
    }

    /// Starts a plan; none when the state had changed meanwhile and it must be planned again.
    async fn begin(
        &mut self,
        plan: Plan,
        who: &str,
        answer: &Answer,
    ) -> Result<Option<DeployNumber>, SteerError> {
        let now = self.core.clock.now_ms();
        let event = Event::Start {
            plan: Box::new(plan),
            who: who.to_owned(),
        };
        let (next, effects) = step(&self.state, event, now);
        match refusal(&effects) {
            Err(StartRefused::Drifted { .. }) => return Ok(None),
            refused => refused?,
        }
        let deploy = next.last_deploy;
        let record = RequestRecord {
            asked: answer.asked.clone(),
            made: Made::Deploy {
                env: next.env.clone(),
                app: next.app.clone(),
                deploy,
            },
        };
        let stored = self.store(next, &effects, Some((answer.id, record)), now).await?;
        Ok(stored.then_some(deploy))
    }

    /// Steps through `events`, stores the result if it differs, and lets it be seen; none when another was first.
    async fn advance(&mut self, events: &[Event]) -> Result<Option<Vec<Effect>>, SteerError> {
        let now = self.core.clock.now_ms();
        let (next, effects) = step_all(&self.state, events.iter().cloned(), now);
        let stands = next == *self.state || self.store(next, &effects, None, now).await?;
        Ok(stands.then_some(effects))
    }

    /// True when `next` stands, durable and seen; false when another was first and the state was read again.
    async fn store(
        &mut self,
        mut next: EnvState,
        effects: &[Effect],
        request: Option<(RequestId, RequestRecord)>,
        now: u64,
    ) -> Result<bool, SteerError> {
        record_times(&self.state, &mut next, now);
        let next = Arc::new(next);
        let (ledger, expected) = (self.core.ledger.clone(), self.version);
        let acts = acts(&next, effects, now);
        let stored = self.core.bridge.run({
            let next = Arc::clone(&next);
            move || {
                ledger.put_env_state(EnvChange {
                    state: &next,
                    expected,
                    acts: &acts,
                    request: request.as_ref().map(|(id, record)| (*id, record)),
                })
            }
        });
        match stored.await?? {
            Stored::Done(version) => {
                let again = anew(&self.state, &next);
                self.version = Some(version);
                self.state = next;
                self.core.board.put_up(Arc::clone(&self.state));
                tell(&self.state, effects);
                match again {
                    Anew::All => self.mailbox.all_changed(),
                    Anew::Hosts(hosts) => hosts.iter().for_each(|host| self.mailbox.changed(host)),
                }
                Ok(true)
            }
            Stored::Conflict(current) => {
                let (state, version) = match current {
                    Some(current) => (current.record, Some(current.version)),
                    None => (EnvState::new(next.env.clone(), next.app.clone()), None),
                };
                self.state = Arc::new(state);
                self.version = version;
                self.core.board.put_up(Arc::clone(&self.state));
                self.mailbox.all_changed();
                Ok(false)
            }
        }
    }
}

/// What a host that leaves the fleet is to be told, or that it has left.
fn leaves(presence: &Presence, host: &HostName) -> Option<Event> {
    let host = host.clone();
    match presence.state {
        HostState::Retiring => Some(Event::HostRetiring { host }),
        state if state.is_gone() => Some(Event::HostLeft { host }),
        _ => None,
    }
}

/// Which part a host of classes `has` takes in a release that classes `wanted` run: some(true) runs the app,
/// some(false) holds its assets.
fn part_of(has: &[ClassName], wanted: &BTreeSet<ClassName>) -> Option<bool> {
    if has.iter().any(|class| wanted.contains(class)) {
        return Some(true);
    }
    has.iter()
        .any(|class| class.as_str() == "assets")
        .then_some(false)
}

/// When time alone may change something next; always later than `now`.
fn next_due(rollout: &Rollout, now: u64) -> u64 {
    let patience = rollout.plan.policy.switch_deadline_ms;
    let soak = match (rollout.present(), rollout.soak_since_ms) {
        (Some(PlanStep::Wave { soak_ms, .. }), Some(since)) => Some(since.saturating_add(*soak_ms)),
        _ => None,
    };
    let asked = rollout.hosts.values().filter_map(|host| match host.switch {
        Switch::Asked { at_ms, .. } | Switch::BackAsked { at_ms, .. } => Some(at_ms.saturating_add(patience)),
        _ => None,
    });
    // What is past already waits for something else as well, such as the end of a pause: it is looked at now and
    // then, not all the time.
    let pause = u64::try_from(PAUSE.as_millis()).unwrap_or(1000);
    let all = asked.chain(soak).chain([rollout.deadline_ms]);
    let due = all.filter(|due| *due > now).min().unwrap_or(now + pause);
    due.min(now.saturating_add(60_000))
}

fn refusal(effects: &[Effect]) -> Result<(), StartRefused> {
    effects.iter().try_for_each(|effect| match effect {
        Effect::Refused(why) => Err(why.clone()),
        _ => Ok(()),
    })
}
