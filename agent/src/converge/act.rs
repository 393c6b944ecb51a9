//! The steps of an app's loop that change what runs.

use std::time::Duration;

use ship_keeper::AskError;
use ship_keeper::protocol::{Intent, Refusal};
use ship_model::converge::previous_after;
use ship_model::release::Target;

use super::app::{App, Asked};
use super::view::View;
use crate::clock;
use crate::journal::LinkSwitch;
use crate::keeper::{self, Order};
use crate::session::chain;
use crate::stage::{self, Here, Verdict};
use crate::switch;

/// After so long without a word about it, a request to the keeper counts as lost.
const LOST: Duration = Duration::from_secs(5);

impl App {
    /// Brings a keeper back that should be there; it finds living processes again, or starts what `current` names.
    pub(super) fn start_keeper(&mut self) -> bool {
        if clock::now() < self.start_again {
            return false;
        }
        let started = keeper::start(self.layout(), &self.config.host, &self.config.cgroups);
        self.start_again = clock::now() + self.starting.failed().max(Duration::from_millis(100));
        match started {
            Ok(()) => {
                tracing::info!("keeper started");
                self.starting.succeeded();
                // The watch finds it a little later, or not at all if it dies before.
                self.watch.found();
                if let Ok(status) = self.client.status() {
                    self.keeper = keeper::Seen::Here(std::sync::Arc::new(status));
                }
                true
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "keeper not started");
                false
            }
        }
    }

    pub(super) fn switch_to(&mut self, target: Target, view: &View) -> bool {
        let Some(release) = self.here.iter().find(|release| release.target == target).cloned() else {
            return false;
        };
        if let Verdict::Damaged(damage) = self.trust(&target) {
            let reason = format!("release {} is damaged on this host: {damage}", target.number);
            self.fail(target, "switch", reason, Vec::new(), false);
            return true;
        }
        if release.spec.is_static() {
            self.switch_links(&release, view)
        } else {
            self.ask_switch(&release, view)
        }
    }

    /// A release somebody held the host at by force may be damaged; any other may not.
    fn trust(&self, target: &Target) -> Verdict {
        match &self.record().held {
            Some(held) if held.to == *target => Verdict::Whole,
            _ => stage::look_at(self.layout(), target),
        }
    }

    fn switch_links(&mut self, release: &Here, view: &View) -> bool {
        // Processes of an earlier release end first: a static release has none to hand over to.
        if self.keeper.status().is_some() {
            return self.stop_keeper();
        }
        let target = release.target;
        let order = LinkSwitch {
            to: target,
            previous: previous_after(view.running, target, &self.staged()),
        };
        let begun = clock::now();
        match switch::switch(&self.shop.layout, &mut self.journal, order) {
            Ok(()) => {
                let took = begun.elapsed().as_millis() as u64;
                tracing::info!(release = %target.number, deploy = %self.deploy(), switch_ms = took, "switched");
                self.save(|record| {
                    record.update.switch_ms = took;
                    record.failure = None;
                });
            }
            Err(error) => self.fail(target, "switch", chain(&error), Vec::new(), true),
        }
        true
    }

    pub(super) fn deploy(&self) -> ship_model::desired::DeployNumber {
        let record = self.record();
        record
            .desired
            .as_ref()
            .map_or(record.deploy, |desired| desired.deploy)
    }

    fn ask_switch(&mut self, release: &Here, view: &View) -> bool {
        let target = release.target;
        let Some(status) = self.keeper.status().cloned() else {
            return self.keeper == keeper::Seen::Gone && self.start_keeper();
        };
        let order = Order {
            target,
            epoch: self.record().epoch,
            deploy: self.deploy(),
        };
        if let Err(error) = stage::prepare_shared(self.layout(), &release.spec) {
            self.fail(target, "switch", chain(&error), Vec::new(), false);
            return true;
        }
        let intent = match keeper::intent(&release.spec, order, &self.config, self.layout()) {
            Ok(intent) => intent,
            Err(error) => {
                self.fail(target, "switch", error.to_string(), Vec::new(), false);
                return true;
            }
        };
        if !self.may_switch(release, view) {
            return false;
        }
        let cut = status.counters.connections_cut;
        self.save(|record| record.cut_before = cut);
        let _ = ship_durable::fault::point("agent.ask.before");
        let answer = self.ask(&status, intent);
        let _ = ship_durable::fault::point("agent.ask.after");
        match answer {
            Ok(taken) => {
                tracing::info!(release = %target.number, deploy = %order.deploy, ?taken, "keeper asked to switch");
                self.asked = Some(Asked {
                    target,
                    before: status.outcome,
                    at: clock::now(),
                });
            }
            Err(error) => self.refused_by_keeper(target, &error),
        }
        true
    }

    /// Going back is asked as a revert, which is instant while the old generation is warm, and which calls a keeper back that
    /// is on its way elsewhere; what the keeper does not know as a way back is asked as a switch.
    fn ask(
        &self,
        status: &ship_keeper::protocol::Status,
        intent: Intent,
    ) -> Result<ship_keeper::Taken, AskError> {
        let client = self.asking();
        let held = self.record().held.as_ref();
        let mut known = status.revert.to.iter().chain(&status.running);
        let back = held.is_some() || known.any(|to| to.release == intent.release && to.id == intent.id);
        if back {
            let reason = held.map_or_else(|| format!("deploy {}", intent.deploy), |held| held.reason.clone());
            let epoch = held.is_none().then_some(intent.epoch);
            match client.revert(Some(intent.release), &reason, epoch) {
                Err(AskError::Refused {
                    refusal: Refusal::NothingToRevertTo,
                    ..
                }) => {}
                other => return other,
            }
        }
        client.switch(intent)
    }

    fn refused_by_keeper(&mut self, target: Target, error: &AskError) {
        let transient = match error {
            AskError::Refused { refusal, .. } => matches!(refusal, Refusal::Journal | Refusal::Stopping),
            AskError::Connect { .. } | AskError::Talk { .. } => true,
            AskError::Answer { .. } | AskError::Unexpected { .. } => false,
        };
        let step = match error {
            AskError::Refused {
                refusal: Refusal::AddressTaken { .. },
                ..
            } => "spawn",
            _ => "switch",
        };
        self.fail(target, step, chain(error), Vec::new(), transient);
    }

    /// Nothing is to run here any more: a first deploy was taken back.
    pub(super) fn stop_app(&mut self, view: &View) -> bool {
        if self
            .keeper
            .status()
            .is_some_and(|status| status.running.is_some())
        {
            return self.stop_keeper();
        }
        let Some(running) = view.running else {
            return false;
        };
        tracing::warn!(release = %running.number, deploy = %self.deploy(), "nothing is to run here any more");
        for link in [self.layout().current(), self.layout().previous()] {
            if let Err(error) = switch::take_away(&link) {
                self.fail(running, "switch", chain(&error), Vec::new(), true);
            }
        }
        true
    }

    fn stop_keeper(&mut self) -> bool {
        // `current` first: a keeper that finds it would start the app again.
        if self.goal().is_none()
            && let Err(error) = switch::take_away(&self.layout().current())
        {
            tracing::error!(error = chain(&error), "link not taken away");
        }
        match self.client.stop() {
            Ok(_) => tracing::info!("keeper asked to stop the app"),
            Err(error) => tracing::warn!(error = chain(&error), "keeper not asked to stop"),
        }
        false
    }

    /// Takes note of what came of earlier steps.
    pub(super) fn note(&mut self, view: &View) {
        self.note_epoch();
        self.renew_keeper();
        self.conclude(view);
        self.note_failure(view);
        let reached = view.running.is_some() && view.running == self.goal();
        if let Some(running) = view
            .running
            .filter(|_| reached && view.healthy && self.record().failure.is_some())
        {
            self.save(|record| record.answer_failure(running));
        }
        if reached && self.record().held.is_none() && self.record().deploy != self.deploy() {
            let deploy = self.deploy();
            self.save(|record| record.deploy = deploy);
        }
        self.answer_waiting(view);
    }

    /// A keeper of an older version becomes the one that was installed with this agent; asked once, since it tells why not.
    fn renew_keeper(&mut self) {
        let Some(version) = self.keeper.status().map(|status| status.version.clone()) else {
            return;
        };
        let asked = self.upgraded.as_ref() == Some(&version);
        if asked || !keeper::is_older(&version, env!("CARGO_PKG_VERSION")) {
            return;
        }
        let Some(program) = ship_keeper::find::program(keeper::PROGRAM) else {
            return;
        };
        match self.client.upgrade(&program) {
            Ok(_) => tracing::info!(from = version, program = %program.display(), "keeper asked to upgrade"),
            Err(error) => tracing::warn!(from = version, error = chain(&error), "keeper not upgraded"),
        }
        self.upgraded = Some(version);
    }

    /// A record that was lost leaves the fence to the keeper's memory.
    fn note_epoch(&mut self) {
        let told = self.keeper.status().map_or(0, |status| status.epoch);
        if told > self.record().epoch.0 {
            tracing::warn!(epoch = told, "the keeper knows a newer epoch than the record");
            self.save(|record| {
                record.epoch = ship_model::desired::Epoch(told);
                record.desired = None;
            });
        }
    }

    fn conclude(&mut self, view: &View) {
        let Some(asked) = &self.asked else { return };
        let target = asked.target;
        let outcome = self.keeper.status().and_then(|status| status.outcome.clone());
        let told = outcome != asked.before;
        if view.running == Some(target) && view.switching.is_none() {
            if let Some(outcome) = outcome.filter(|outcome| told && outcome.release == target.number.0) {
                tracing::info!(release = %target.number, deploy = %self.deploy(), switch_ms = outcome.switch_ms,
                    boot_ms = outcome.boot_ms, "switched");
                self.save(|record| {
                    record.update.switch_ms = outcome.switch_ms;
                    record.update.gap_ms = outcome.gap_ms.or(record.update.gap_ms);
                });
            }
            self.save(|record| record.failure = None);
            self.asked = None;
        } else if view.switching.is_none() && (told || asked.at.elapsed() > LOST) {
            self.asked = None;
        }
    }

    /// A switch that the keeper undid, whoever asked for it, is this epoch's failure.
    fn note_failure(&mut self, view: &View) {
        let Some(goal) = self.goal() else { return };
        if self.asked.is_some() || view.running == Some(goal) || view.switching == Some(goal) {
            return;
        }
        self.note_fall_back(goal);
        let outcome = self.keeper.status().and_then(|status| status.outcome.clone());
        let Some(outcome) = outcome.filter(|outcome| Some(outcome) != self.stale.as_ref()) else {
            return;
        };
        let recorded = self.record().standing_failure();
        let known = recorded.is_some_and(|failure| failure.release == goal);
        // It went well, and the app was stopped later: with its host, or by hand.
        let went_well = outcome.running == Some(outcome.release);
        if went_well || outcome.epoch != self.record().epoch.0 || outcome.release != goal.number.0 || known {
            return;
        }
        let reason = outcome.reason.unwrap_or_else(|| "it was taken back".to_owned());
        self.fail(
            goal,
            keeper::step(outcome.failed_step),
            reason,
            outcome.last_lines,
            false,
        );
    }

    /// What ran as it should kept crashing, and the keeper has left it for the release before: it is not tried again under
    /// this epoch, and whoever rolls it out must know.
    fn note_fall_back(&mut self, goal: Target) {
        let Some(status) = self.keeper.status().cloned() else {
            return;
        };
        let epoch = self.record().epoch.0;
        let number = goal.number.0;
        let held = status.held.as_ref();
        let held = held.filter(|held| held.release == number && held.epoch >= epoch);
        let crash = status.crash.as_ref().filter(|crash| crash.release == number);
        let known = self.record().standing_failure();
        let known = known.is_some_and(|failure| failure.release == goal);
        if let (Some(held), Some(crash), false) = (held, crash, known) {
            let (reason, lines) = (held.reason.clone(), crash.last_lines.clone());
            self.fail(goal, "run", reason, lines, false);
        }
    }
}
