//! With the agent dead: the same words from the same files, and the keeper asked directly.
//!
//! Whatever is changed here is changed under the agent's own lock, so that an agent that comes back finds either the old state
//! or the new one, and carries out what was noted.

mod rotation;

use std::time::{Duration, Instant};

use ship_durable::{LockError, LockFile};
use ship_keeper::{AskError, Client};
use ship_model::converge::previous_after;
use ship_model::name::AppName;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::{AppReport, LocalHold};

use crate::balancer::PassageError;
use crate::clock;
use crate::config::Config;
use crate::converge::{KEEPER_PATIENCE, View};
use crate::journal::{Journal, LinkSwitch};
use crate::keeper::Seen;
use crate::layout::{AppLayout, HostLayout};
use crate::revert::{Choice, RevertError};
use crate::session::chain;
use crate::stage::{self, Here};
use crate::switch;
use rotation::Rotation;

/// For a keeper to bring the release up.
const PATIENCE: Duration = Duration::from_secs(120);
/// For a keeper that was just started to have something running.
const SETTLE: Duration = Duration::from_secs(30);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);

/// What lies on the host, of one app.
struct Scene {
    layout: AppLayout,
    client: Client,
    here: Vec<Here>,
    keeper: Seen,
    view: View,
}

impl Scene {
    fn look(layout: AppLayout) -> Self {
        let client = Client::new(&layout.run, KEEPER_PATIENCE);
        let keeper = match client.status() {
            Ok(status) => Seen::Here(std::sync::Arc::new(status)),
            Err(_) => Seen::Gone,
        };
        let here = stage::list(&layout).unwrap_or_default();
        let view = View::look(&layout, &keeper, &here);
        Self {
            layout,
            client,
            here,
            keeper,
            view,
        }
    }

    fn staged(&self) -> Vec<Target> {
        self.here.iter().map(|release| release.target).collect()
    }
}

/// The app as its files and its keeper tell it; its record is read, not changed.
pub fn report(layout: &HostLayout, app: &AppName) -> AppReport {
    let scene = Scene::look(layout.app(app));
    let record = crate::journal::peek(&scene.layout.record).unwrap_or_default();
    let assets = ship_assets::Union::open(&scene.layout.assets(), &scene.layout.asset_records());
    let assets = assets.map(|union| union.holds()).unwrap_or_default();
    crate::converge::report(app, &record, &scene.view, &scene.keeper, &scene.here, assets)
}

/// Takes the agent's lock.
///
/// # Errors
/// [`LockError::Held`] with the pid of an agent that lives but does not answer.
pub fn lock(layout: &HostLayout) -> Result<LockFile, LockError> {
    LockFile::acquire(&layout.lock())
}

/// What is to be taken back, and why.
#[derive(Debug)]
pub struct Wish<'a> {
    pub app: &'a AppName,
    /// None: the previous release.
    pub to: Option<ReleaseNumber>,
    pub reason: &'a str,
    /// Also to a release whose files were found damaged.
    pub force: bool,
}

/// Takes an app back. The caller holds the agent's lock. `say` hears what goes on without.
///
/// # Errors
/// [`RevertError`].
pub fn revert(
    config: &Config,
    layout: &HostLayout,
    wish: &Wish<'_>,
    say: &dyn Fn(&str),
) -> Result<AppReport, RevertError> {
    let app = wish.app;
    let mut scene = Scene::look(layout.app(app));
    if scene.here.is_empty() && scene.view.running.is_none() {
        return Err(RevertError::UnknownApp { app: app.clone() });
    }
    let staged = scene.staged();
    let target = Choice {
        layout: &scene.layout,
        asked: wish.to,
        running: scene.view.running,
        previous: scene.view.previous,
        staged: &staged,
        force: wish.force,
    }
    .make()?;
    let mut journal = note(&scene, target, wish.reason)?;
    let is_static = scene
        .here
        .iter()
        .any(|release| release.target == target && release.spec.is_static());
    if is_static && scene.keeper.status().is_none() {
        let order = LinkSwitch {
            to: target,
            previous: previous_after(scene.view.running, target, &staged),
        };
        switch::switch(&scene.layout, &mut journal, order).map_err(|source| RevertError::Switch {
            app: app.clone(),
            source,
        })?;
    } else {
        if scene.keeper.status().is_none() {
            scene.start_keeper(config)?;
        }
        let mut rotation = Rotation::leave(config, &scene, target, &mut journal, say);
        let notice = rotation
            .is_none()
            .then(|| rotation::notice(config, app))
            .flatten();
        let asked = ask_keeper(&scene, target, wish.reason, notice, || {
            rotation = Rotation::leave_now(config, &scene, &mut journal, say);
        });
        let back = rotation.map_or(Ok(()), |rotation| rotation.come_back(&mut journal));
        asked?;
        settle(app, target, back, say)?;
    }
    Ok(report(layout, app))
}

impl Scene {
    /// The keeper has died, too: another takes over what lives, or starts what `current` names, and can go back from there.
    fn start_keeper(&mut self, config: &Config) -> Result<(), RevertError> {
        crate::keeper::start(&self.layout, &config.host, &config.cgroups).map_err(|source| {
            RevertError::Start {
                app: self.layout.app.clone(),
                source: Box::new(source),
            }
        })?;
        let deadline = Instant::now() + SETTLE;
        loop {
            // After a boot it has nothing to go back from before something runs.
            let status = self.client.status().ok();
            let settled = status.as_ref().is_some_and(|status| {
                status.running.is_some() || status.switching_to.is_none() && status.queued.is_none()
            });
            if let Some(status) = status.filter(|_| settled || Instant::now() >= deadline) {
                self.keeper = Seen::Here(std::sync::Arc::new(status));
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// What a balancer that does not lead here any more means to whoever took the app back.
fn settle(
    app: &AppName,
    target: Target,
    back: Result<(), PassageError>,
    say: &dyn Fn(&str),
) -> Result<(), RevertError> {
    match back {
        Err(error @ PassageError::ProxyFault { ready: true, .. }) => {
            say(&chain(&error));
            Ok(())
        }
        other => other.map_err(|source| RevertError::Rotation {
            app: app.clone(),
            number: target.number,
            source: Box::new(source),
        }),
    }
}

fn note(scene: &Scene, target: Target, reason: &str) -> Result<Journal, RevertError> {
    let app = || scene.layout.app.clone();
    let opened =
        Journal::open(&scene.layout.record).map_err(|source| RevertError::Record { app: app(), source })?;
    let mut journal = opened.journal;
    let wanted = journal.record().desired.as_ref().and_then(|desired| desired.run);
    let hold = LocalHold {
        epoch: journal.record().epoch,
        from: scene.view.taken_away(wanted, target),
        to: target,
        reason: reason.to_owned(),
        at_ms: clock::wall_ms(),
    };
    crate::revert::note(&scene.layout, &mut journal, &hold)?;
    Ok(journal)
}

/// Asks the keeper and waits for what comes of it. With `notice` it tells of a gap that shows on the way, and waits for that
/// long until `leave` has been done.
fn ask_keeper(
    scene: &Scene,
    target: Target,
    reason: &str,
    notice: Option<Duration>,
    mut leave: impl FnMut(),
) -> Result<(), RevertError> {
    let failed = |source: AskError| RevertError::Keeper {
        app: scene.layout.app.clone(),
        source: Box::new(source),
    };
    let before = scene.keeper.status().and_then(|status| status.outcome.clone());
    let client = scene.client.clone();
    let client = match notice {
        Some(notice) => client.with_notice(notice),
        None => client,
    };
    client
        .revert(Some(target.number.0), reason, None)
        .map_err(failed)?;
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.status().map_err(failed)?;
        if status
            .announced
            .as_ref()
            .is_some_and(|gap| gap.release == target.number.0)
        {
            leave();
            // Refused when its time is over: it goes on by itself then.
            let _ = client.may_clear(target.number.0);
            deadline = Instant::now() + PATIENCE;
            continue;
        }
        let going = status.switching_to.is_some() || status.queued.is_some();
        let runs = crate::keeper::running(&status) == Some(target);
        if runs && !going {
            return Ok(());
        }
        if !going && status.outcome != before {
            let reason = status.outcome.and_then(|outcome| outcome.reason);
            return Err(RevertError::Failed {
                app: scene.layout.app.clone(),
                number: target.number,
                reason: reason.unwrap_or_else(|| "the keeper did not say why".to_owned()),
            });
        }
        if Instant::now() >= deadline {
            return Err(RevertError::Slow {
                app: scene.layout.app.clone(),
                seconds: PATIENCE.as_secs(),
            });
        }
        std::thread::sleep(LOOK);
    }
}
