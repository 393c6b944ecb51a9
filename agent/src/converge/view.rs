//! What is, for one app: asked of the keeper where there are processes, of the link where there are none.

use ship_keeper::protocol::Status;
use ship_model::desired::DeployNumber;
use ship_model::release::Target;
use ship_model::report::{AppPhase, LocalHold};

use crate::keeper::{self, Seen};
use crate::layout::AppLayout;
use crate::stage::Here;
use crate::switch::Links;

/// One look at an app.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What serves; none also when nobody can tell.
    pub running: Option<Target>,
    /// What should serve, where its keeper cannot be asked: it may well serve, and nobody can tell.
    pub unknown: Option<Target>,
    /// What a revert goes to.
    pub previous: Option<Target>,
    pub healthy: bool,
    /// What is being switched to.
    pub switching: Option<Target>,
    pub phase: AppPhase,
    /// What `current` leads to, if it is a complete release.
    pub current: Option<Here>,
    /// Whether a keeper should be there and is not.
    pub keeper_missing: bool,
    /// The keeper's word on the deploy that brought what runs.
    pub deploy: Option<DeployNumber>,
    /// The keeper has given up what runs, as it kept failing, and leaves it of its own accord.
    pub given_up: bool,
}

impl View {
    /// What a revert to `to` takes away; `wanted` is what the fleet wants.
    pub fn taken_away(&self, wanted: Option<Target>, to: Target) -> Option<Target> {
        LocalHold::taken_away(self.running, self.unknown, wanted, to)
    }

    /// Looks at links and keeper. `here` are the complete releases.
    pub fn look(layout: &AppLayout, keeper: &Seen, here: &[Here]) -> Self {
        let links = Links::read(layout);
        let find = |folder: Option<String>| {
            let folder = folder?;
            here.iter().find(|release| release.target.folder() == folder)
        };
        let current = find(links.current).cloned();
        let previous = find(links.previous).map(|release| release.target);
        match keeper.status().filter(|status| owns(status)) {
            Some(status) => Self::of_keeper(status, current, here),
            None => Self::of_links(keeper, current, previous),
        }
    }

    fn of_keeper(status: &Status, current: Option<Here>, here: &[Here]) -> Self {
        let staged = |target: &Target| here.iter().any(|release| release.target == *target);
        let to = status.revert.to.as_ref().and_then(keeper::target);
        let next = status.queued.as_ref().or(status.switching_to.as_ref());
        Self {
            running: keeper::running(status),
            unknown: None,
            previous: to.filter(staged),
            healthy: keeper::is_healthy(status),
            switching: next.and_then(keeper::target),
            phase: keeper::phase(status),
            current,
            keeper_missing: false,
            given_up: status
                .held
                .as_ref()
                .zip(status.running.as_ref())
                .is_some_and(|(held, running)| held.release == running.release),
            deploy: status
                .running
                .as_ref()
                .map(|running| DeployNumber(running.deploy)),
        }
    }

    fn of_links(keeper: &Seen, current: Option<Here>, previous: Option<Target>) -> Self {
        let is_static = current.as_ref().is_some_and(|release| release.spec.is_static());
        let running = current
            .as_ref()
            .filter(|_| is_static)
            .map(|release| release.target);
        let unasked = keeper.status().is_none() && !is_static;
        let unknown = current.as_ref().filter(|_| unasked);
        Self {
            running,
            unknown: unknown.map(|release| release.target),
            previous: previous.filter(|previous| Some(*previous) != running),
            healthy: is_static,
            keeper_missing: current.is_some() && !is_static && *keeper == Seen::Gone,
            current,
            ..Self::default()
        }
    }
}

/// Whether the keeper has, or is to have, anything running: only then is it the one to ask.
fn owns(status: &Status) -> bool {
    status.running.is_some()
        || status.switching_to.is_some()
        || status.queued.is_some()
        || !status.generations.is_empty()
}
