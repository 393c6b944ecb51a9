//! Out of rotation and back in by the one who takes an app back while the agent is dead; see [`crate::balancer`].
//!
//! The record says that the host is out before any balancer is told. Killed at any line, it is put back by the next agent.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ship_model::name::AppName;
use ship_model::release::Target;
use ship_model::spec::ReleaseSpec;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Scene;
use crate::balancer::board::ServeError;
use crate::balancer::{Board, Direct, Kind, Passage, PassageError, Settings, board, passage, rule};
use crate::clock;
use crate::config::Config;
use crate::journal::{Journal, OutOfRotation};
use crate::keeper;
use crate::session::chain;

/// A host that was taken out, or could not wholly be.
pub struct Rotation<'a> {
    config: &'a Config,
    scene: &'a Scene,
    passage: Passage,
    aside: Vec<String>,
    /// Until the host is back.
    _answering: Option<Answering>,
}

/// How long taking the host out may take; none where no balancer is to be told.
pub fn notice(config: &Config, app: &AppName) -> Option<Duration> {
    let own = of(config, app);
    (!own.is_empty()).then(|| passage::longest(&own))
}

fn of(config: &Config, app: &AppName) -> Vec<Settings> {
    let own = config.balancers.iter().filter(|one| one.app == *app);
    own.cloned().collect()
}

impl<'a> Rotation<'a> {
    /// Takes the host out if nobody serves for a moment on the way to `target`, or if an agent died while it was out. A
    /// balancer that cannot be told is said and passed over: what runs is bad, and users stay with it otherwise.
    pub fn leave(
        config: &'a Config,
        scene: &'a Scene,
        target: Target,
        journal: &mut Journal,
        say: &dyn Fn(&str),
    ) -> Option<Self> {
        let own = of(config, &scene.layout.app);
        let out = &journal.record().out;
        let gap = || {
            let (running, wanted) = (scene.spec(scene.view.running?)?, scene.spec(target)?);
            rule::gap(running, wanted, &config.classes)
        };
        if own.is_empty() || (out.is_none() && gap().is_none()) {
            return None;
        }
        Self::leave_now(config, scene, journal, say)
    }

    /// As [`Self::leave`], whether or not a gap was to be seen before.
    pub fn leave_now(
        config: &'a Config,
        scene: &'a Scene,
        journal: &mut Journal,
        say: &dyn Fn(&str),
    ) -> Option<Self> {
        let own = of(config, &scene.layout.app);
        let out = journal.record().out.clone();
        let mut rotation = Self::prepare(config, scene, own, say);
        match rotation.go(out, journal) {
            Ok(left) => {
                if left > 0 {
                    say(&format!(
                        "not all that was under way has ended in time: {left} are left"
                    ));
                }
            }
            Err(error) => say(&format!("going back without the balancer: {error}")),
        }
        journal.record().out.is_some().then_some(rotation)
    }

    fn prepare(config: &'a Config, scene: &'a Scene, mut own: Vec<Settings>, say: &dyn Fn(&str)) -> Self {
        let board = Arc::new(Board::default());
        let healthy = scene.keeper.status().is_some_and(keeper::is_healthy);
        board.healthy(&scene.layout.app, healthy);
        let asks = |one: &Settings| matches!(one.kind, Kind::AgentCheck { .. } | Kind::Readiness { .. });
        let mut answering = None;
        if own.iter().any(asks) {
            match Answering::begin(&own, &board) {
                Ok(begun) => answering = Some(begun),
                Err(error) => {
                    say(&format!("going back without them: {}", chain(&error)));
                    own.retain(|one| !asks(one));
                }
            }
        }
        let passage = Passage {
            app: scene.layout.app.clone(),
            host: config.host.clone(),
            settings: own,
            keeper: scene.client.clone(),
            board,
            called_off: Arc::new(AtomicBool::new(false)),
        };
        Self {
            config,
            scene,
            passage,
            aside: Vec::new(),
            _answering: answering,
        }
    }

    fn go(&mut self, out: Option<OutOfRotation>, journal: &mut Journal) -> Result<u64, String> {
        match out {
            Some(out) => self.aside = out.aside,
            None => {
                let aside = self.passage.look(self.direct(self.scene.view.running).as_ref());
                self.aside = aside.map_err(|error| chain(&error))?;
                let out = OutOfRotation {
                    since_ms: clock::wall_ms(),
                    aside: self.aside.clone(),
                };
                // Without the note nobody is told: the next agent would leave the host outside.
                journal
                    .change(|record| record.out = Some(out))
                    .map_err(|error| chain(&error))?;
            }
        }
        let _ = ship_durable::fault::point("agent.offline.noted");
        self.passage.leave(&self.aside).map_err(|error| chain(&error))
    }

    fn direct(&self, running: Option<Target>) -> Option<Direct> {
        let spec = self.scene.spec(running?)?;
        let status = self.scene.client.status().ok()?;
        Direct::of(spec, &self.config.classes, &status)
    }

    /// Puts the host back with what runs now.
    ///
    /// # Errors
    /// [`PassageError`]; unless it is a fault of the balancer's that hosts are in rotation with, the record still says that
    /// the host is out.
    pub fn come_back(self, journal: &mut Journal) -> Result<(), PassageError> {
        let status = self.scene.client.status().ok();
        let healthy = status.as_ref().is_some_and(keeper::is_healthy);
        self.passage.board.healthy(&self.passage.app, healthy);
        let direct = self.direct(status.as_ref().and_then(keeper::running));
        let back = self.passage.come_back(&self.aside, direct.as_ref());
        if matches!(back, Ok(()) | Err(PassageError::ProxyFault { ready: true, .. })) {
            // Not noted, the agent only puts it back once more.
            let _ = journal.change(|record| record.out = None);
        }
        back
    }
}

impl Scene {
    fn spec(&self, target: Target) -> Option<&ReleaseSpec> {
        let found = self.here.iter().find(|release| release.target == target);
        found.map(|release| release.spec.as_ref())
    }
}

/// Answers balancers that ask, in the agent's place; ends when dropped.
struct Answering {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    fn begin(settings: &[Settings], board: &Arc<Board>) -> Result<Self, ServeError> {
        let stop = CancellationToken::new();
        let (tell, told) = mpsc::sync_channel(1);
        let (settings, board, ending) = (settings.to_vec(), Arc::clone(board), stop.clone());
        // A runtime of its own: all else here blocks.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let tasks = TaskTracker::new();
                let served = board::serve(&settings, &board, &tasks, &ending).await;
                if served.is_err() {
                    ending.cancel();
                }
                // Whoever waits for this is the one who began it.
                let _ = tell.send(served);
                ending.cancelled().await;
                tasks.close();
                tasks.wait().await;
            });
        });
        let answering = Self {
            stop,
            thread: Some(thread),
        };
        match told.recv() {
            Ok(served) => served.map(|()| answering),
            Err(_) => Ok(answering),
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
