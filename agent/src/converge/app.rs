//! One app's loop: looks at what should be and what is, takes one step, waits for news.
//!
//! Everything in it blocks, so it has a thread of its own. Whatever it decides is in the journal before it is done; killed at
//! any line, it comes to the same end after a restart.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ship_assets::Shelf;
use ship_keeper::Client;
use ship_keeper::protocol::Outcome;
use ship_model::converge::{self, Action, Failed, Observed, next_action};
use ship_model::desired::DesiredApp;
use ship_model::release::Target;
use ship_model::report::{AppFailure, AppMemory, AppPhase, AppReport, LocalHold};
use tokio::sync::oneshot;

use super::expired::Expiry;
use super::job::{Done, Job, Kind, Workshop};
use super::mailbox::{Command, Mail, RevertCommand, Wish};
use super::rotation::Rotation;
use super::view::View;
use crate::clock;
use crate::config::Config;
use crate::fetch::Backoff;
use crate::journal::{AppRecord, Journal};
use crate::keeper::{KeeperWatch, Seen};
use crate::layout::AppLayout;
use crate::revert::{Choice, RevertError};
use crate::session::chain;
use crate::stage::Here;

/// Between two looks when nothing is heard.
const TICK: Duration = Duration::from_secs(1);

/// A release that did not work out.
#[derive(Debug)]
pub(super) struct GivenUp {
    /// None: not again under this epoch.
    pub retry: Option<Instant>,
    pub backoff: Backoff,
}

/// What was last asked of the keeper.
#[derive(Debug)]
pub(super) struct Asked {
    pub target: Target,
    /// The keeper's last outcome then: only another one is about this request.
    pub before: Option<Outcome>,
    pub at: Instant,
}

pub(super) struct App {
    pub config: Arc<Config>,
    pub journal: Journal,
    pub shop: Workshop,
    pub client: Client,
    pub keeper: Seen,
    pub shelf: Option<Arc<Shelf>>,
    pub tell: Box<dyn Fn(AppReport) + Send>,
    pub here: Vec<Here>,
    pub job: Option<Job>,
    pub given_up: HashMap<Target, GivenUp>,
    pub asked: Option<Asked>,
    /// An outcome that is known to be about something older than what is wanted now.
    pub stale: Option<Outcome>,
    /// Who waits for a revert to end.
    pub waiting: Vec<(Target, oneshot::Sender<Result<AppReport, RevertError>>)>,
    pub starting: Backoff,
    pub start_again: Instant,
    /// Since when there was nothing to do.
    pub settled: Instant,
    /// What the shelf serves the mutable files of.
    pub shelved: Option<Target>,
    pub refused: Option<DesiredApp>,
    /// Could not be saved; taken as soon as it can be.
    pub unsaved: Option<Wish>,
    /// Could not be saved; told all the same.
    pub unsaved_failure: Option<AppFailure>,
    pub watch: KeeperWatch,
    /// The version of the keeper that was asked to become this one's.
    pub upgraded: Option<String>,
    /// What is wanted has changed since unfinished stagings were looked at.
    pub untidy: bool,
    pub rotation: Rotation,
    pub expiry: Expiry,
    /// What its processes had of the memory, and when that was looked at.
    pub memory: Option<(Instant, Option<AppMemory>)>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("app", &self.layout().app)
            .finish_non_exhaustive()
    }
}

impl App {
    pub fn layout(&self) -> &AppLayout {
        &self.shop.layout
    }

    pub fn record(&self) -> &AppRecord {
        self.journal.record()
    }

    /// Runs until it is told to stop.
    pub fn run(mut self) {
        let span = tracing::info_span!("app", app = %self.layout().app);
        let _entered = span.enter();
        self.resume();
        loop {
            self.relist_if_gone();
            let view = View::look(self.layout(), &self.keeper, &self.here);
            self.note(&view);
            self.publish(&view);
            self.tidy();
            let acted = self.step(&view);
            let until = if acted { clock::now() } else { self.next_look() };
            let mailbox = Arc::clone(&self.shop.mailbox);
            let mail = mailbox.take(until);
            if mail.stop {
                return;
            }
            self.hear(mail);
        }
    }

    /// What a crash may have left: a half-made switch is ended, leftovers are swept.
    fn resume(&mut self) {
        if let Some(order) = self.record().switching {
            tracing::info!(release = %order.to.number, "ending the switch that was begun");
            if let Err(error) = crate::switch::switch(&self.shop.layout, &mut self.journal, order) {
                tracing::error!(error = chain(&error), release = %order.to.number, "switch not ended");
            }
        }
        self.resume_rotation();
        self.sweep();
        self.relist();
        self.shelve_union();
    }

    /// What should run, with everything considered.
    pub fn goal(&self) -> Option<Target> {
        let record = self.record();
        converge::goal(record.desired.as_ref(), record.held.as_ref())
    }

    /// Whether what should run needs no keeper; not told before it lies here.
    fn goal_is_static(&self) -> bool {
        let goal = self.goal();
        let mut here = self.here.iter();
        here.any(|release| Some(release.target) == goal && release.spec.is_static())
    }

    /// What did not work under this epoch, and when it may be tried again.
    fn failed(&self) -> Vec<Failed> {
        let epoch = self.record().epoch;
        let recorded = self.record().standing_failure();
        let recorded = recorded.map(|failure| Failed {
            epoch,
            release: failure.release,
            retry_at_ms: None,
        });
        let remembered = self.given_up.iter().map(|(release, given_up)| Failed {
            epoch,
            release: *release,
            retry_at_ms: given_up.retry.map(clock::steady_ms),
        });
        remembered.chain(recorded).collect()
    }

    /// The phase as the rule should see it: a keeper on its way to what is wanted is left alone, one on its way elsewhere
    /// is not waited for, since it takes a newer word at any time.
    fn phase(&self, view: &View) -> AppPhase {
        let goal = self.goal();
        let going = self.asked.as_ref().map(|asked| asked.target).or(view.switching);
        if going.is_some() && going == goal {
            AppPhase::Switching
        } else if view.running != goal && matches!(view.phase, AppPhase::Switching | AppPhase::Reverting) {
            AppPhase::Idle
        } else {
            view.phase
        }
    }

    /// A keeper that was asked for something nobody wants any more takes it live if it is not called back. One that leaves what
    /// keeps failing is let go.
    fn is_leaving(&self, view: &View) -> bool {
        let goal = self.goal().filter(|_| !view.given_up);
        let elsewhere = view.switching.is_some() && view.switching != goal;
        let stays = goal.is_some() && view.running == goal;
        self.asked.is_none() && stays && elsewhere && view.phase == AppPhase::Switching
    }

    fn observed(&self, view: &View) -> Observed {
        Observed {
            fence: Some(self.record().epoch),
            staged: self.lying(),
            assets: self.shop.union.holds(),
            faded: self.faded(),
            running: view.running,
            phase: self.phase(view),
            leaving: self.is_leaving(view),
            failed: self.failed(),
            held: self.record().held.clone(),
            pinned: self.pinned(view),
        }
    }

    fn step(&mut self, view: &View) -> bool {
        if view.keeper_missing && !self.goal_is_static() {
            return self.start_keeper();
        }
        if self.keeper == Seen::Unknown {
            // What runs cannot be told before the keeper was looked for.
            return false;
        }
        let observed = self.observed(view);
        let now = clock::steady_ms(clock::now());
        if let Some(target) = converge::held_elsewhere(&observed, now) {
            return self.switch_to(target, view);
        }
        let action = next_action(self.record().desired.as_ref(), &observed, now);
        if !matches!(action, Action::Switch(_)) && !self.heed_gap(view) {
            self.mind_rotation(view);
        }
        match action {
            Action::FetchAndStage(target) => self.begin(Kind::Stage, target, view),
            // What has expired is not brought; what is to run waits for nothing.
            Action::AddAssets(target) if Some(target) != self.goal() && self.expel(view) => false,
            Action::AddAssets(target) => self.begin(Kind::Assets, target, view),
            Action::Switch(target) => self.switch_to(target, view),
            Action::Stop if self.must_leave_first(view) => false,
            Action::Stop => self.stop_app(view),
            Action::RemoveOld(old) => {
                self.expel(view);
                self.retire(&old, view)
            }
            Action::Nothing(_) => {
                self.expel(view);
                self.mend_way_back(view)
            }
            // A newer epoch was made durable when it arrived.
            Action::PersistFence(_) | Action::Wait(_) => false,
        }
    }

    /// What a revert goes to is mended also where nobody desires it any more.
    fn mend_way_back(&mut self, view: &View) -> bool {
        let Some(previous) = view.previous else {
            return false;
        };
        let mut here = self.here.iter();
        let damaged = here.any(|release| release.target == previous && !release.is_whole());
        let given_up = self.given_up.get(&previous);
        let waits = given_up.is_some_and(|given_up| given_up.retry.is_none_or(|retry| retry > clock::now()));
        damaged && !waits && self.begin(Kind::Stage, previous, view)
    }

    /// Begins a job unless one is under way; one for something nobody wants any more is called off.
    pub fn begin(&mut self, kind: Kind, target: Target, view: &View) -> bool {
        if let Some(job) = &self.job {
            if (job.kind, job.target) != (kind, target) && !self.is_wanted(job) {
                job.cancel();
            }
            return false;
        }
        let newest = self.here.iter().rev().map(|release| release.target);
        let neighbours = view
            .running
            .into_iter()
            .chain(view.previous)
            .chain(newest)
            .collect();
        let gone = self.expired_of(&target, view).filter(|_| kind == Kind::Assets);
        match Job::begin(kind, target, neighbours, gone, &self.shop) {
            Ok(job) => {
                tracing::info!(release = %target.number, deploy = %self.deploy(), job = ?kind, "begun");
                self.settled = clock::now();
                self.job = Some(job);
                true
            }
            Err(error) => {
                tracing::error!(%error, "no thread for a job");
                false
            }
        }
    }

    fn is_wanted(&self, job: &Job) -> bool {
        let desired = self.record().desired.as_ref();
        desired.is_some_and(|desired| match job.kind {
            Kind::Stage => desired.run == Some(job.target) || desired.stage.contains(&job.target),
            Kind::Assets => desired.assets.contains(&job.target),
            Kind::Remove => true,
        })
    }

    fn next_look(&self) -> Instant {
        let retries = self.given_up.values().filter_map(|given_up| given_up.retry);
        let now = clock::now();
        let tick = now + TICK;
        let retries = retries.chain(self.rotation.retry()).chain(self.expiry_retry());
        retries.filter(|retry| *retry > now).fold(tick, Instant::min)
    }

    fn hear(&mut self, mail: Mail) {
        if let Some(keeper) = mail.keeper {
            if keeper == Seen::Gone {
                self.asked = None;
            }
            self.keeper = keeper;
        }
        if let Some(wish) = mail.desired.or_else(|| self.unsaved.clone()) {
            self.hear_wish(wish);
        }
        if let Some(result) = mail.expelled {
            self.expelled(result);
        }
        for done in mail.done {
            self.finished(done);
        }
        for done in mail.passages {
            self.passage_done(done);
        }
        for command in mail.commands {
            match command {
                Command::Recheck => self.relist(),
                Command::Revert(command) => self.revert(command),
            }
        }
    }

    fn finished(&mut self, done: Done) {
        self.job = None;
        match done.result {
            _ if done.cancelled && done.kind != Kind::Remove => {}
            Ok(staged) => {
                if done.kind == Kind::Assets {
                    self.lacks_no_more(&done.target);
                }
                self.given_up.remove(&done.target);
                let epoch = self.record().epoch;
                let clear = |failure: &AppFailure| {
                    let unpacking = matches!(failure.step.as_str(), "fetch" | "stage" | "assets");
                    failure.release == done.target
                        && (failure.transient || unpacking && failure.epoch < epoch)
                };
                let cost = staged.map(|staged| {
                    (
                        staged.fetched,
                        staged.elapsed.as_millis() as u64,
                        staged.delta_from,
                    )
                });
                self.save(|record| {
                    if record.failure.as_ref().is_some_and(clear) {
                        record.failure = None;
                    }
                    if let Some((fetched, elapsed, delta_from)) = cost {
                        record.update.fetched_bytes = fetched.all();
                        record.update.fetched_from_mirrors = fetched.mirrors;
                        record.update.fetched_from_peers = fetched.peers;
                        record.update.stage_ms = elapsed;
                        record.update.delta_from = delta_from;
                    }
                });
                tracing::info!(release = %done.target.number, job = ?done.kind, "done");
            }
            Err(failure) if done.kind == Kind::Remove => {
                tracing::warn!(release = %done.target.number, error = failure.reason, "old release not removed");
                self.put_off(done.target);
            }
            Err(failure) => self.fail(
                done.target,
                failure.step,
                failure.reason,
                Vec::new(),
                failure.transient,
            ),
        }
        match done.kind {
            Kind::Assets => self.shelve_union(),
            Kind::Stage | Kind::Remove => self.relist(),
        }
    }

    /// Records what went wrong; when it may help, it is tried again later, else not before a newer epoch.
    pub fn fail(
        &mut self,
        release: Target,
        step: &str,
        reason: String,
        last_lines: Vec<String>,
        transient: bool,
    ) {
        tracing::error!(release = %release.number, deploy = %self.deploy(), step, transient, reason, "failed");
        if transient {
            self.put_off(release);
        } else {
            let given_up = self.given_up.entry(release).or_insert_with(fresh);
            given_up.retry = None;
        }
        let failure = AppFailure {
            epoch: self.record().epoch,
            release,
            step: step.to_owned(),
            reason,
            last_lines,
            transient,
        };
        let told = failure.clone();
        self.save(|record| record.failure = Some(told));
        self.unsaved_failure =
            Some(failure).filter(|failure| self.record().failure.as_ref() != Some(failure));
    }

    pub fn put_off(&mut self, release: Target) {
        let given_up = self.given_up.entry(release).or_insert_with(fresh);
        given_up.retry = Some(clock::now() + given_up.backoff.failed());
    }

    /// Saves what is only told, not acted on: a disk that takes no more must not stop the loop.
    pub fn save(&mut self, change: impl FnOnce(&mut AppRecord)) {
        if let Err(error) = self.journal.change(change) {
            tracing::error!(error = chain(&error), "record not saved");
        }
    }

    fn revert(&mut self, command: RevertCommand) {
        let view = View::look(self.layout(), &self.keeper, &self.here);
        // Damaged ones as well: they are refused by their names.
        let staged: Vec<Target> = self.here.iter().map(|release| release.target).collect();
        let choice = Choice {
            layout: &self.shop.layout,
            asked: command.to,
            running: view.running,
            previous: view.previous,
            staged: &staged,
            force: command.force,
        };
        let target = match choice.make() {
            Ok(target) => target,
            Err(error) => {
                // Whoever asked may be gone; that is no reason to do anything else.
                let _ = command.reply.send(Err(error));
                return;
            }
        };
        let wanted = self.record().desired.as_ref().and_then(|desired| desired.run);
        let hold = LocalHold {
            epoch: self.record().epoch,
            from: view.taken_away(wanted, target),
            to: target,
            reason: command.reason,
            at_ms: clock::wall_ms(),
        };
        if let Err(error) = crate::revert::note(&self.shop.layout, &mut self.journal, &hold) {
            // Whoever asked may be gone; nothing was begun.
            let _ = command.reply.send(Err(error));
            return;
        }
        let _ = ship_durable::fault::point("agent.revert.noted");
        self.shop.union.word();
        tracing::warn!(release = %target.number, "reverting by a word on this host");
        self.given_up.remove(&target);
        self.asked = None;
        self.stale = self.keeper.status().and_then(|status| status.outcome.clone());
        self.waiting.push((target, command.reply));
    }
}

fn fresh() -> GivenUp {
    GivenUp {
        retry: None,
        backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
    }
}
