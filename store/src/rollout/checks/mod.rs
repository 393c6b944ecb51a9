//! Checks of gates: what a rollout at a gate asks of programs and servers, again and again.
//!
//! One task for each gate of the present step: it makes the check, tells what it came to, waits, and begins again, so that no
//! gate is ever asked twice at once here. The tasks end when the step is over, with the programs they run. Nothing of them is
//! durable: what a word means is decided by the rollout's step, and one that was lost with the store is asked again. After a
//! kill of the store a program may still run while the next store asks it anew: programs of gates only look.

mod command;
mod http;

use std::sync::Arc;
use std::time::Duration;

use ship_model::desired::DeployNumber;
use ship_model::rollout::{Ask, Course, EnvState, Event, Gate, Rollout, Verdict};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::bridge::Bridge;
use crate::settings::GateSettings;

/// Words that wait for the conductor; a task with one more waits.
const WAITING: usize = 16;

/// A check's word.
type Word = (Verdict, String);

/// What checks need of this machine.
#[derive(Debug)]
pub struct Offers {
    pub settings: GateSettings,
    pub bridge: Bridge,
}

/// The checks of one conductor.
#[derive(Debug)]
pub(super) struct Checks {
    offers: Arc<Offers>,
    /// The deploy and the step that is asked for.
    at: Option<(DeployNumber, usize)>,
    tasks: JoinSet<()>,
    tell: mpsc::Sender<Event>,
    told: mpsc::Receiver<Event>,
}

/// What a program is told of what it judges.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub app: String,
    pub env: String,
    pub release: u64,
    /// What ran before; none: nothing.
    pub from: Option<u64>,
    pub deploy: u64,
    pub gate: String,
}

impl Checks {
    pub fn new(offers: Arc<Offers>) -> Self {
        let (tell, told) = mpsc::channel(WAITING);
        Self {
            offers,
            at: None,
            tasks: JoinSet::new(),
            tell,
            told,
        }
    }

    /// Asks what `state` waits for, and nothing else.
    pub fn tend(&mut self, state: &EnvState) {
        let place = state.running().and_then(place);
        let at = place.map(|(rollout, step, _)| (rollout.deploy, step));
        if at == self.at {
            return;
        }
        self.at = at;
        // Their last words are of no interest: the machine knows by deploy and step.
        self.tasks.abort_all();
        while self.tasks.try_join_next().is_some() {}
        let Some((rollout, step, gates)) = place else {
            return;
        };
        for gate in gates {
            let Some(pace) = gate.pace() else { continue };
            let (gate, about) = (gate.clone(), about(rollout, gate));
            let (offers, tell, deploy) = (Arc::clone(&self.offers), self.tell.clone(), rollout.deploy);
            self.tasks.spawn(async move {
                loop {
                    let (verdict, said) = check(&gate, &about, &offers).await;
                    let word = Event::GateSaid {
                        deploy,
                        step,
                        gate: gate.name.clone(),
                        verdict,
                        said,
                    };
                    if tell.send(word).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(pace.every_ms)).await;
                }
            });
        }
    }

    /// The next word of any check; waits for ever while nothing is asked.
    pub async fn next(&mut self) -> Event {
        match self.told.recv().await {
            Some(word) => word,
            None => std::future::pending().await,
        }
    }
}

fn place(rollout: &Rollout) -> Option<(&Rollout, usize, &[Gate])> {
    match rollout.course {
        Course::Forward { step } => Some((rollout, step, rollout.present_gates()?)),
        Course::Back | Course::Ended => None,
    }
}

fn about(rollout: &Rollout, gate: &Gate) -> About {
    About {
        app: rollout.plan.app.to_string(),
        env: rollout.plan.env.to_string(),
        release: rollout.plan.to.number.0,
        from: rollout.plan.from.map(|target| target.number.0),
        deploy: rollout.deploy.0,
        gate: gate.name.clone(),
    }
}

/// Makes one check.
async fn check(gate: &Gate, about: &About, offers: &Offers) -> Word {
    let made = match &gate.ask {
        Ask::Command { argv, pace } => {
            let timeout = Duration::from_millis(pace.timeout_ms);
            command::check(argv, about, timeout, offers).await
        }
        Ask::Http { url, expect, pace } => {
            let timeout = Duration::from_millis(pace.timeout_ms);
            http::check(url, expect, timeout, offers).await
        }
        Ask::Approval { .. } | Ask::Manual { .. } => Err("people are asked".to_owned()),
    };
    made.unwrap_or_else(|why| (Verdict::Unknown, why))
}
