//! Out of rotation before a switch that has a gap, back in when the app serves; see [`crate::balancer`].
//!
//! Most gaps are known before the keeper is asked. One that shows on the way (no memory for two generations, an upgrade from
//! inside that fails) it announces, and waits until the host is out.
//!
//! That the host is out is in the record before any balancer is told. Killed at any line, the next agent finds it there
//! and goes on: out again for a switch that is still wanted, else back in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ship_keeper::Client;
use ship_model::release::Target;
use ship_model::report::{AppFailure, BALANCER_STEP as STEP};
use ship_model::spec::ReleaseSpec;

use super::app::App;
use super::mailbox::Mailbox;
use super::view::View;
use crate::balancer::rule::{self, Before, Stand, Way};
use crate::balancer::{Board, Direct, Passage, PassageError, Settings, passage};
use crate::clock;
use crate::fetch::Backoff;
use crate::journal::OutOfRotation;
use crate::session::chain;
use crate::stage::Here;

/// How a way ended.
#[derive(Debug)]
pub struct PassageDone {
    way: Way,
    result: Result<Vec<String>, PassageError>,
}

/// The app's balancers and what is under way with them.
#[derive(Debug)]
pub(super) struct Rotation {
    settings: Vec<Settings>,
    board: Arc<Board>,
    busy: Option<(Way, Arc<AtomicBool>)>,
    left: bool,
    /// Goes back although its balancer cannot be told.
    regardless: Option<Target>,
    retry: Option<Instant>,
    backoff: Backoff,
}

impl Rotation {
    pub fn new(settings: Vec<Settings>, board: Arc<Board>) -> Self {
        Self {
            settings,
            board,
            busy: None,
            left: false,
            regardless: None,
            retry: None,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
        }
    }

    /// What kinds of balancers there are.
    pub fn kinds(&self) -> Vec<String> {
        let kinds = self
            .settings
            .iter()
            .map(|settings| settings.kind.name().to_owned());
        kinds.collect()
    }

    /// When to look again, if something is waited for.
    pub fn retry(&self) -> Option<Instant> {
        self.retry
    }
}

impl App {
    /// What a crash may have left is shown to balancers that ask.
    pub(super) fn resume_rotation(&self) {
        let out = self.record().out.is_some();
        self.rotation.board.drain(&self.layout().app, out);
    }

    pub(super) fn show_health(&self, view: &View) {
        self.rotation.board.healthy(&self.layout().app, view.healthy);
    }

    fn stand(&self) -> Stand {
        Stand {
            out: self.record().out.is_some(),
            left: self.rotation.left,
            busy: self.rotation.busy.as_ref().map(|(way, _)| *way),
        }
    }

    /// Whether the keeper may be asked to switch now; begins what must be done before.
    pub(super) fn may_switch(&mut self, release: &Here, view: &View) -> bool {
        if self.rotation.settings.is_empty() || self.rotation.regardless == Some(release.target) {
            return true;
        }
        let gap = self.running_spec(view).and_then(|running| {
            let classes = &self.config.classes;
            rule::gap(running, &release.spec, classes)
        });
        if gap.is_none() && self.record().drained {
            // What is under way is to get it out, or is called off when the release runs.
            return true;
        }
        match rule::before_switch(gap.is_some(), self.stand()) {
            Before::Switch => true,
            Before::Begin(way) => {
                tracing::info!(release = %release.target.number, deploy = %self.deploy(), ?gap, ?way, "balancer");
                self.begin_passage(way, view);
                false
            }
            Before::Wait => false,
            Before::CallOff => {
                self.call_off();
                false
            }
        }
    }

    /// Through whom the keeper is asked to switch: it tells of a gap that shows on the way while the host is in rotation.
    pub(super) fn asking(&self) -> Client {
        let client = self.client.clone();
        if self.rotation.settings.is_empty() || self.rotation.left || self.rotation.regardless.is_some() {
            return client;
        }
        client.with_notice(passage::longest(&self.rotation.settings))
    }

    /// The release that the keeper can only start when what runs has ended, as it found out on the way, and why.
    fn announced(&self, view: &View) -> Option<(Target, String)> {
        let announced = self.keeper.status()?.announced.as_ref()?;
        let wanted = self.goal().filter(|goal| view.switching == Some(*goal))?;
        (announced.release == wanted.number.0).then(|| (wanted, announced.reason.clone()))
    }

    /// Takes the host out for a gap that the keeper announces, and lets it begin then; false when there is none.
    pub(super) fn heed_gap(&mut self, view: &View) -> bool {
        let Some((release, reason)) = self.announced(view) else {
            return false;
        };
        let due = match self.rotation.regardless == Some(release) {
            true => Before::Switch,
            false => rule::before_switch(true, self.stand()),
        };
        match due {
            Before::Switch => {
                let _ = ship_durable::fault::point("agent.gap.left");
                match self.client.may_clear(release.number.0) {
                    Ok(_) => tracing::info!(release = %release.number, reason, "the gap may begin"),
                    Err(error) => {
                        tracing::warn!(release = %release.number, error = chain(&error), "keeper not told that the gap may begin");
                    }
                }
            }
            Before::Begin(way) => {
                tracing::info!(release = %release.number, deploy = %self.deploy(), reason, ?way, "balancer");
                self.begin_passage(way, view);
            }
            Before::Wait => {}
            Before::CallOff => self.call_off(),
        }
        true
    }

    /// Nobody will take the host out for the gap that the keeper announces: it stays with what runs.
    fn refuse_gap(&self, reason: &str) -> bool {
        let status = self.keeper.status();
        let announced = status.filter(|status| status.announced.is_some());
        let Some(running) = announced.and_then(|status| status.running.as_ref()) else {
            return false;
        };
        if let Err(error) = self.client.revert(Some(running.release), reason, None) {
            tracing::error!(error = chain(&error), "keeper not called back");
        }
        true
    }

    fn running_spec(&self, view: &View) -> Option<&ReleaseSpec> {
        let running = view.running?;
        let found = self.here.iter().find(|release| release.target == running);
        found.map(|release| release.spec.as_ref())
    }

    /// Puts the host back when nothing else is wanted, or takes it out where operators want it so.
    pub(super) fn mind_rotation(&mut self, view: &View) {
        if self.record().drained {
            return self.stay_out(view);
        }
        let stand = self.stand();
        if !stand.out && stand.busy.is_none() {
            return;
        }
        let settled = view.running.is_some()
            && view.healthy
            && view.switching.is_none()
            && self.asked.is_none()
            && self.rotation.retry.is_none_or(|retry| retry <= clock::now());
        match rule::otherwise(settled, stand) {
            Some(Before::Begin(way)) => self.begin_passage(way, view),
            Some(Before::CallOff) => self.call_off(),
            Some(Before::Switch | Before::Wait) | None => {}
        }
    }

    fn stay_out(&mut self, view: &View) {
        if self.rotation.settings.is_empty() || view.running.is_none() {
            return;
        }
        let due = self.rotation.retry.is_none_or(|retry| retry <= clock::now());
        match rule::kept_out(self.stand()) {
            Some(Before::Begin(way)) if due => self.begin_passage(way, view),
            Some(Before::CallOff) => self.call_off(),
            Some(_) | None => {}
        }
    }

    /// Whether an app that is to stop must first get out of rotation. One that a first deploy left behind, and that was taken
    /// back, stops at once.
    pub(super) fn must_leave_first(&self, view: &View) -> bool {
        let serves = view.running.is_some() && !self.rotation.settings.is_empty();
        self.record().drained && serves && !self.rotation.left
    }

    /// True when the word is in the record.
    pub(super) fn hear_drained(&mut self, drained: bool) -> bool {
        if self.record().drained == drained {
            return true;
        }
        tracing::info!(drained, "an operator's word on rotation");
        self.rotation.retry = None;
        self.save(|record| {
            record.drained = drained;
            // What kept it from getting out, or from getting back, is asked anew.
            let rotation = |failure: &AppFailure| failure.step == STEP && failure.transient;
            record.failure = record.failure.take().filter(|failure| !rotation(failure));
        });
        let _ = ship_durable::fault::point("agent.drained.noted");
        self.record().drained == drained
    }

    /// What an operator who drained the host should know.
    pub(super) fn drain_remark(&self) -> Option<String> {
        let drained = self.record().drained;
        drained.then(|| match (self.rotation.settings.is_empty(), self.rotation.left) {
            (true, _) => {
                "drained, and no balancer is known here: whoever sends users must be told".to_owned()
            }
            (false, true) => "drained: out of rotation".to_owned(),
            (false, false) => "drained: not out of rotation yet".to_owned(),
        })
    }

    fn call_off(&self) {
        if let Some((_, called_off)) = &self.rotation.busy {
            called_off.store(true, Ordering::Relaxed);
        }
    }

    fn begin_passage(&mut self, way: Way, view: &View) {
        let called_off = Arc::new(AtomicBool::new(false));
        let passage = Passage {
            app: self.layout().app.clone(),
            host: self.config.host.clone(),
            settings: self.rotation.settings.clone(),
            keeper: self.client.clone(),
            board: Arc::clone(&self.rotation.board),
            called_off: Arc::clone(&called_off),
        };
        let aside = self
            .record()
            .out
            .as_ref()
            .map(|out| out.aside.clone())
            .unwrap_or_default();
        let direct = self.direct(view);
        let mailbox = Arc::clone(&self.shop.mailbox);
        let span = tracing::info_span!("balancer", app = %self.layout().app);
        let walk = move || {
            let _entered = span.enter();
            walk(way, &passage, &aside, direct.as_ref(), &mailbox);
        };
        let begun = std::thread::Builder::new()
            .name(format!("balancer-{}", self.layout().app))
            .spawn(walk);
        match begun {
            Ok(_) => {
                // Once it is being put back it is not known to be out.
                self.rotation.left &= way != Way::Return;
                self.rotation.busy = Some((way, called_off));
            }
            Err(error) => tracing::error!(%error, "no thread for the balancers"),
        }
    }

    /// How the running release is asked at its own address.
    fn direct(&self, view: &View) -> Option<Direct> {
        Direct::of(
            self.running_spec(view)?,
            &self.config.classes,
            self.keeper.status()?,
        )
    }

    pub(super) fn passage_done(&mut self, done: PassageDone) {
        let called_off = self
            .rotation
            .busy
            .take()
            .is_some_and(|(_, called_off)| called_off.load(Ordering::Relaxed));
        match done.result {
            Ok(aside) => self.walked(done.way, aside, called_off),
            Err(PassageError::CalledOff) => {}
            Err(error) => self.stumbled(done.way, &error),
        }
    }

    fn walked(&mut self, way: Way, aside: Vec<String>, called_off: bool) {
        match way {
            Way::Look if called_off => {}
            Way::Look => {
                let out = OutOfRotation {
                    since_ms: clock::wall_ms(),
                    aside,
                };
                self.save(|record| record.out = Some(out));
                if self.record().out.is_none() {
                    return self.not_noted();
                }
                let _ = ship_durable::fault::point("agent.balancer.noted");
            }
            Way::Leave => {
                self.rotation.left = !called_off;
                self.rotation.retry = None;
                if self.rotation.left && self.record().drained {
                    self.forget_the_balancer();
                }
            }
            Way::Return => {
                let _ = ship_durable::fault::point("agent.balancer.ready");
                self.returned();
            }
        }
    }

    /// Without the note nobody is told: a restart would leave the host outside.
    fn not_noted(&mut self) {
        let Some(goal) = self.goal() else { return };
        self.rotation.regardless = self.record().held.as_ref().map(|held| held.to);
        let reason = "nothing was stopped: the record could not be saved".to_owned();
        let goes_on = self.rotation.regardless == Some(goal);
        // One that was called back is not taken again under this epoch.
        let called_back = !goes_on && self.refuse_gap(&reason);
        self.fail(goal, STEP, reason, Vec::new(), !called_back);
    }

    /// A balancer that could not be told, and now was, is not told of any more.
    fn forget_the_balancer(&mut self) {
        self.rotation.backoff.succeeded();
        let told = |failure: &AppFailure| failure.step == STEP && failure.transient;
        self.save(|record| record.failure = record.failure.take().filter(|failure| !told(failure)));
    }

    fn returned(&mut self) {
        self.rotation.retry = None;
        self.rotation.regardless = None;
        self.rotation.backoff.succeeded();
        let running = self.keeper.status().and_then(crate::keeper::running);
        self.save(|record| {
            record.out = None;
            // One about another release is why that is not here, and stands.
            let answered = |failure: &AppFailure| {
                failure.step == STEP && (failure.transient || Some(failure.release) == running)
            };
            record.failure = record.failure.take().filter(|failure| !answered(failure));
        });
        tracing::info!("back in rotation");
    }

    fn stumbled(&mut self, way: Way, error: &PassageError) {
        if way == Way::Return {
            return self.not_back(error);
        }
        if self.record().drained && self.not_out(error) {
            return;
        }
        let Some(goal) = self.goal() else { return };
        let running = crate::keeper::running;
        let running = self.keeper.status().and_then(running);
        let back =
            self.record().held.is_some() || running.is_some_and(|running| goal.number < running.number);
        if back {
            // What runs is bad. Users who come while it is replaced may be lost; those who stay with it are.
            tracing::warn!(release = %goal.number, error = chain(error), "going back without the balancer");
            self.rotation.regardless = Some(goal);
        } else {
            let reason = format!("nothing was stopped: {}", chain(error));
            self.refuse_gap(&reason);
            self.fail(goal, STEP, reason, Vec::new(), false);
        }
    }

    /// Tells that a drained host is not out yet, and tries again later; false when something else is wanted there at once.
    fn not_out(&mut self, error: &PassageError) -> bool {
        let running = self.keeper.status().and_then(crate::keeper::running);
        let Some(running) = running.filter(|running| self.goal().is_none_or(|goal| goal == *running)) else {
            return false;
        };
        self.rotation.retry = Some(clock::now() + self.rotation.backoff.failed());
        self.fail(
            running,
            STEP,
            format!("not out of rotation: {}", chain(error)),
            Vec::new(),
            true,
        );
        true
    }

    fn not_back(&mut self, error: &PassageError) {
        let Some(running) = self.keeper.status().and_then(crate::keeper::running) else {
            return;
        };
        let fault = matches!(error, PassageError::ProxyFault { .. });
        if matches!(error, PassageError::ProxyFault { ready: true, .. }) {
            self.returned();
        } else {
            self.rotation.retry = Some(clock::now() + self.rotation.backoff.failed());
        }
        self.fail(running, STEP, chain(error), Vec::new(), !fault);
    }
}

fn walk(way: Way, passage: &Passage, aside: &[String], direct: Option<&Direct>, mailbox: &Mailbox) {
    let result = match way {
        Way::Look => passage.look(direct),
        Way::Leave => passage.leave(aside).map(|left| {
            if left > 0 {
                tracing::warn!(left, "not all that was under way has ended in time");
            }
            Vec::new()
        }),
        Way::Return => passage.come_back(aside, direct).map(|()| Vec::new()),
    };
    mailbox.passage(PassageDone { way, result });
}
