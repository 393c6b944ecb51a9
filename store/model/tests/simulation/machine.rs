//! One simulated machine: the agent's real rules, and how long things take it.

use ship_model::converge::{Action, Wait};
use ship_model::desired::DesiredApp;
use ship_model::name::{EnvName, HostName};
use ship_model::release::Target;

use crate::chance::Chance;
use crate::host::{Did, Host};
use crate::properties::{Verdict, Violation};
use crate::rules::{check, may_switch, nothing_needed};

/// Between two attempts of something that may work later.
const RETRY: u64 = 5_000;

/// See the module.
#[derive(Debug)]
pub struct Machine {
    pub name: HostName,
    pub host: Host,
    /// Its agent lives.
    pub up: bool,
    /// It and the store hear each other.
    pub reached: bool,
    pub disk_full: bool,
    /// Everything takes it so many times as long.
    pub slow: u64,
    /// Releases that do not come up here.
    pub broken: Vec<Target>,
    /// What it is at, until when.
    job: Option<(Action, u64)>,
    switch_until: u64,
    /// A word that the full disk did not take.
    unsaved: Option<DesiredApp>,
}

/// What a look at it came to.
#[derive(Debug, Default)]
pub struct Look {
    /// It says something else than before.
    pub changed: bool,
    /// Its keeper was asked to switch to this.
    pub ordered: Option<Target>,
    /// When to look again.
    pub again_ms: Option<u64>,
}

impl Machine {
    pub fn new(name: HostName, env: EnvName) -> Self {
        Self {
            name,
            host: Host::new(env),
            up: true,
            reached: true,
            disk_full: false,
            slow: 1,
            broken: Vec::new(),
            job: None,
            switch_until: 0,
            unsaved: None,
        }
    }

    pub fn hear(&mut self, word: DesiredApp) {
        if self.disk_full {
            self.unsaved = Some(word);
        } else {
            self.host.hear(&word, None);
        }
    }

    /// The agent is killed; keeper and app live on.
    pub fn agent_dies(&mut self) {
        self.up = false;
        self.job = None;
        self.unsaved = None;
        self.host.agent_restarts();
    }

    /// Ends what is over, begins what is next.
    pub fn look(&mut self, now: u64, chance: &mut Chance) -> Result<Look, Violation> {
        let mut look = Look::default();
        self.keeper(now, &mut look);
        if self.up {
            self.agent(now, chance, &mut look)?;
        }
        check(&self.host)?;
        Ok(look)
    }

    fn keeper(&mut self, now: u64, look: &mut Look) {
        let Some(order) = self.host.switching else { return };
        if now < self.switch_until {
            look.again_ms = Some(self.switch_until);
            return;
        }
        self.host.switch_ends(!self.broken.contains(&order.target));
        look.changed = true;
    }

    fn agent(&mut self, now: u64, chance: &mut Chance, look: &mut Look) -> Verdict {
        if !self.disk_full
            && let Some(word) = self.unsaved.take()
        {
            look.changed |= self.host.hear(&word, None);
        }
        if let Some((action, until)) = self.job.take() {
            if now < until {
                self.job = Some((action, until));
                look.again_ms = Some(look.again_ms.map_or(until, |again| again.min(until)));
                return Ok(());
            }
            self.finish(action, now, look);
        }
        for _ in 0..16 {
            let action = self.host.decide(now, None);
            match action {
                Action::FetchAndStage(_) | Action::AddAssets(_) => {
                    let most = if matches!(action, Action::AddAssets(_)) {
                        2_000
                    } else {
                        15_000
                    };
                    let until = now + chance.between(100, most) * self.slow;
                    self.job = Some((action, until));
                    look.again_ms = Some(look.again_ms.map_or(until, |again| again.min(until)));
                    return Ok(());
                }
                Action::Switch(target) => {
                    may_switch(&self.host, target)?;
                    self.host.perform(action);
                    look.ordered = Some(target);
                    self.switch_until = now + chance.between(300, 6_000) * self.slow;
                    look.changed = true;
                    look.again_ms = Some(self.switch_until);
                }
                Action::Stop | Action::RemoveOld(_) => {
                    let before = self.host.clone();
                    if let Did::Removed(old) = self.host.perform(action) {
                        nothing_needed(&before, &old)?;
                    }
                    look.changed = true;
                }
                Action::Wait(Wait::Retry { at_ms }) => {
                    look.again_ms = Some(look.again_ms.map_or(at_ms, |again| again.min(at_ms)));
                    return Ok(());
                }
                Action::PersistFence(_) | Action::Wait(_) | Action::Nothing(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn finish(&mut self, action: Action, now: u64, look: &mut Look) {
        look.changed = true;
        match action {
            // Nobody wants it any more.
            Action::FetchAndStage(target) if self.host.staged.contains(&target) => {}
            Action::AddAssets(target) if self.host.assets.contains(&target) => {}
            Action::FetchAndStage(target) if self.disk_full => {
                self.host.put_off(target, "fetch", now + RETRY)
            }
            Action::AddAssets(target) if self.disk_full => self.host.put_off(target, "assets", now + RETRY),
            action => drop(self.host.perform(action)),
        }
    }

    /// Runs what it should, or was put elsewhere by hand, or has said why not.
    pub fn rests(&self, told: Option<Target>) -> bool {
        let failed = self
            .host
            .memory
            .failure
            .as_ref()
            .is_some_and(|failure| !failure.transient);
        self.host.memory.held.is_some() || self.host.running == told || failed
    }
}
