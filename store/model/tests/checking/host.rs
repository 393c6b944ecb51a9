//! One host: the agent's real rules over what is durable, what is only in memory and what the keeper does. Shared by the
//! checker and the simulation.

use serde::Serialize;
use ship_model::converge::{
    Action, Failed, Observed, Offer, OfferRefused, goal, held_elsewhere, next_action, offer, previous_after,
};
use ship_model::desired::{DeployNumber, DesiredApp, Epoch};
use ship_model::name::{AppName, EnvName};
use ship_model::release::Target;
use ship_model::report::{AppFailure, AppPhase, AppReport, LocalHold};

/// Guards of the agent that a mutant leaves out, by what the rules get to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentGuard {
    /// An older epoch is refused.
    Fence,
    /// A word for another environment is refused.
    Environment,
    /// The fence is durable before anything is done under it.
    DurableFirst,
    /// What somebody put the host on stays against the word it was taken under.
    Hold,
    /// A hold outlives a newer epoch that wants just what was taken away.
    HoldOutlives,
    /// What failed is not tried again under the same epoch.
    Failed,
    /// Nothing is switched to before it is whole on the disk.
    Staged,
    /// Nothing is switched to before its assets stand here.
    Assets,
    /// What a revert goes to is not removed.
    Pins,
}

/// What an agent must not forget of an app: as in its journal.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Memory {
    pub epoch: Epoch,
    pub desired: Option<DesiredApp>,
    pub failure: Option<AppFailure>,
    pub held: Option<LocalHold>,
}

impl Memory {
    fn take(&mut self, desired: DesiredApp, without: Option<AgentGuard>) {
        self.epoch = desired.epoch;
        self.failure = self.failure.take().filter(AppFailure::outlives_its_epoch);
        let outlives = without != Some(AgentGuard::HoldOutlives);
        let stands = |held: &LocalHold| outlives && held.stands_against(&desired);
        self.held = self.held.take().filter(stands);
        self.desired = Some(desired);
    }

    pub fn goal(&self) -> Option<Target> {
        goal(self.desired.as_ref(), self.held.as_ref())
    }
}

/// What a keeper was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Order {
    pub target: Target,
    pub epoch: Epoch,
}

/// What no part of the system knows, for the properties alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ghost {
    /// The newest epoch under which anything was switched.
    pub acted: Epoch,
    /// What a switch failed to, last, and under which epoch.
    pub failed: Option<(Epoch, Target)>,
    /// What somebody took away by hand; no operator has started anything since, and nothing else was wanted.
    pub taken_away: Option<Target>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Host {
    pub env: EnvName,
    /// On the disk.
    pub disk: Memory,
    /// In the agent's memory; the same, as long as it writes before it acts.
    pub memory: Memory,
    pub staged: Vec<Target>,
    pub assets: Vec<Target>,
    pub running: Option<Target>,
    pub healthy: bool,
    pub previous: Option<Target>,
    /// What the keeper is on its way to, whoever still wants it.
    pub switching: Option<Order>,
    /// Lost when the agent ends; the time is when it may be tried again, none: not under this epoch.
    pub given_up: Vec<(Target, Option<u64>)>,
    pub ghost: Ghost,
}

/// What a host did that a property wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// Asked its keeper to switch.
    Ordered(Target),
    Removed(Vec<Target>),
    Else,
}

impl Host {
    pub fn new(env: EnvName) -> Self {
        Self {
            env,
            disk: Memory::default(),
            memory: Memory::default(),
            staged: Vec::new(),
            assets: Vec::new(),
            running: None,
            healthy: false,
            previous: None,
            switching: None,
            given_up: Vec::new(),
            ghost: Ghost::default(),
        }
    }

    /// A desired state arrives; true when it was taken.
    pub fn hear(&mut self, desired: &DesiredApp, without: Option<AgentGuard>) -> bool {
        let (seen, taken) = (self.memory.epoch, self.memory.desired.as_ref());
        let take = match offer(seen, taken, desired, &self.env) {
            Offer::Known => false,
            Offer::Take => true,
            Offer::Refuse(OfferRefused::OlderEpoch) => without == Some(AgentGuard::Fence),
            Offer::Refuse(OfferRefused::OtherContent) => false,
            Offer::Refuse(OfferRefused::OtherEnvironment) => without == Some(AgentGuard::Environment),
        };
        if take {
            self.memory.take(desired.clone(), without);
            self.given_up.clear();
            // A newer wish for something else is an answer.
            self.ghost.taken_away = self
                .ghost
                .taken_away
                .filter(|_| desired.run == self.ghost.taken_away);
            if without != Some(AgentGuard::DurableFirst) {
                self.disk = self.memory.clone();
            }
            self.note();
        }
        take
    }

    fn phase(&self) -> AppPhase {
        match self.switching {
            Some(order) if Some(order.target) == self.memory.goal() => AppPhase::Switching,
            // A keeper on its way elsewhere takes a newer word at any time.
            Some(_) if self.running != self.memory.goal() => AppPhase::Idle,
            Some(_) => AppPhase::Switching,
            None => AppPhase::Idle,
        }
    }

    fn failed(&self, without: Option<AgentGuard>) -> Vec<Failed> {
        let epoch = self.memory.epoch;
        let given_up = self.given_up.iter().map(|(release, retry_at_ms)| Failed {
            epoch,
            release: *release,
            retry_at_ms: *retry_at_ms,
        });
        let recorded = self.memory.failure.as_ref();
        let recorded = recorded.filter(|failure| failure.stands_under(epoch));
        let recorded = recorded.map(|failure| Failed {
            epoch,
            release: failure.release,
            retry_at_ms: None,
        });
        let guarded = without != Some(AgentGuard::Failed);
        given_up.chain(recorded).filter(|_| guarded).collect()
    }

    fn observed(&self, without: Option<AgentGuard>) -> Observed {
        let all = |has: &[Target], guard| {
            let wanted = self.memory.desired.as_ref().and_then(|desired| desired.run);
            let bent = wanted.filter(|wanted| without == Some(guard) && !has.contains(wanted));
            has.iter().copied().chain(bent).collect()
        };
        let held = self.memory.held.clone();
        let pinned = [
            self.running,
            self.previous,
            self.switching.map(|order| order.target),
        ];
        let pinned = pinned.into_iter().flatten();
        let held_at = held
            .iter()
            .flat_map(|held| held.from.into_iter().chain([held.to]));
        let pins = without != Some(AgentGuard::Pins);
        Observed {
            fence: Some(self.memory.epoch),
            staged: all(&self.staged, AgentGuard::Staged),
            assets: all(&self.assets, AgentGuard::Assets),
            faded: Vec::new(),
            running: self.running,
            phase: self.phase(),
            leaving: self.running == self.memory.goal() && self.phase() == AppPhase::Switching,
            failed: self.failed(without),
            pinned: pinned.chain(held_at).filter(|_| pins).collect(),
            held: held.filter(|_| without != Some(AgentGuard::Hold)),
        }
    }

    /// What the agent does next.
    pub fn decide(&self, now_ms: u64, without: Option<AgentGuard>) -> Action {
        let observed = self.observed(without);
        match held_elsewhere(&observed, now_ms) {
            Some(target) => Action::Switch(target),
            None => next_action(self.memory.desired.as_ref(), &observed, now_ms),
        }
    }

    /// Does it; a switch is only asked of the keeper.
    pub fn perform(&mut self, action: Action) -> Did {
        match action {
            Action::FetchAndStage(target) => {
                self.staged.push(target);
                self.worked(target);
            }
            Action::AddAssets(target) => {
                self.assets.push(target);
                self.worked(target);
            }
            Action::Switch(target) => {
                let epoch = self.memory.epoch;
                // One that is called back just stays.
                let order = Order { target, epoch };
                self.switching = Some(order).filter(|_| self.running != Some(target));
                self.ghost.acted = self.ghost.acted.max(epoch);
                return Did::Ordered(target);
            }
            Action::Stop => {
                self.running = None;
                self.switching = None;
            }
            Action::RemoveOld(old) => {
                self.staged.retain(|release| !old.contains(release));
                return Did::Removed(old);
            }
            Action::PersistFence(_) | Action::Wait(_) | Action::Nothing(_) => {}
        }
        Did::Else
    }

    fn worked(&mut self, target: Target) {
        self.staged.sort_by_key(|release| release.number);
        self.assets.sort_by_key(|release| release.number);
        self.given_up.retain(|(given_up, _)| *given_up != target);
        let epoch = self.memory.epoch;
        let cleared = |failure: &AppFailure| {
            let unpacking = matches!(failure.step.as_str(), "fetch" | "stage" | "assets");
            failure.release == target && (failure.transient || unpacking && failure.epoch < epoch)
        };
        if self.memory.failure.as_ref().is_some_and(cleared) {
            self.save(|memory| memory.failure = None);
        }
    }

    /// What cannot be done yet, and may be from `retry_at_ms` on.
    pub fn put_off(&mut self, release: Target, step: &str, retry_at_ms: u64) {
        self.given_up.retain(|(given_up, _)| *given_up != release);
        self.given_up.push((release, Some(retry_at_ms)));
        let epoch = self.memory.epoch;
        self.save(|memory| memory.failure = Some(failure(epoch, release, step, true)));
    }

    /// The keeper's switch ends.
    pub fn switch_ends(&mut self, well: bool) {
        let Some(order) = self.switching.take() else {
            return;
        };
        let target = order.target;
        if well {
            self.previous = match self.running == Some(target) {
                true => self.previous,
                false => previous_after(self.running, target, &self.staged),
            };
            self.running = Some(target);
            self.healthy = true;
            if self.memory.goal() == Some(target) {
                self.save(|memory| memory.failure = None);
            }
        } else {
            self.ghost.failed = Some((order.epoch, target));
            // What failed under an older word is tried again, if it is still wanted.
            if order.epoch == self.memory.epoch && self.memory.goal() == Some(target) {
                self.fails(target, "probe");
            }
        }
        self.note();
    }

    fn fails(&mut self, release: Target, step: &str) {
        self.given_up.retain(|(given_up, _)| *given_up != release);
        self.given_up.push((release, None));
        let epoch = self.memory.epoch;
        self.save(|memory| memory.failure = Some(failure(epoch, release, step, false)));
    }

    /// What runs keeps crashing, and the keeper leaves it for the release before.
    pub fn app_crashes(&mut self) {
        let (Some(running), Some(previous)) = (self.running, self.previous) else {
            return;
        };
        self.previous = previous_after(self.running, previous, &self.staged);
        self.running = Some(previous);
        self.ghost.failed = Some((self.memory.epoch, running));
        if self.memory.goal() == Some(running) {
            self.fails(running, "run");
        }
    }

    /// A word on the host itself; false when there is nothing to go back to.
    pub fn revert(&mut self) -> bool {
        let Some(to) = self.previous.filter(|to| self.running != Some(*to)) else {
            return false;
        };
        let wanted = self.memory.desired.as_ref().and_then(|desired| desired.run);
        let hold = LocalHold {
            epoch: self.memory.epoch,
            from: LocalHold::taken_away(self.running, None, wanted, to),
            to,
            reason: "by hand".to_owned(),
            at_ms: 0,
        };
        self.ghost.taken_away = hold.from;
        self.ghost.failed = self.ghost.failed.filter(|(_, failed)| *failed != to);
        self.given_up.retain(|(given_up, _)| *given_up != to);
        self.save(|memory| {
            memory.held = Some(hold.clone());
            memory.failure = None;
        });
        true
    }

    /// The agent is killed and begins again; keeper and app live on.
    pub fn agent_restarts(&mut self) {
        self.memory = self.disk.clone();
        self.given_up.clear();
        self.note();
    }

    fn save(&mut self, change: impl Fn(&mut Memory)) {
        change(&mut self.memory);
        change(&mut self.disk);
    }

    /// What runs as it should answers an older failure.
    fn note(&mut self) {
        let (epoch, goal) = (self.memory.epoch, self.memory.goal());
        let running = self
            .running
            .filter(|running| self.healthy && goal == Some(*running));
        if let (Some(running), Some(failure)) = (running, &self.memory.failure)
            && failure.is_answered_by(running, epoch)
        {
            self.save(|memory| memory.failure = None);
        }
    }

    pub fn report(&self, app: &AppName) -> AppReport {
        let deploy = self.memory.desired.as_ref().map(|desired| desired.deploy);
        AppReport {
            epoch: self.memory.epoch,
            running: self.running,
            deploy: deploy.unwrap_or(DeployNumber(0)),
            healthy: self.running.is_some() && self.healthy,
            phase: match self.switching {
                Some(_) => AppPhase::Switching,
                None => AppPhase::Idle,
            },
            previous: self.previous,
            staged: self.staged.clone(),
            assets: self.assets.clone(),
            failure: self.memory.failure.clone(),
            held: self.memory.held.clone(),
            ..AppReport::of(app.clone())
        }
    }
}

fn failure(epoch: Epoch, release: Target, step: &str, transient: bool) -> AppFailure {
    AppFailure {
        epoch,
        release,
        step: step.to_owned(),
        reason: format!("{step} failed"),
        last_lines: Vec::new(),
        transient,
    }
}
