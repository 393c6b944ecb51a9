//! What to do next for one app: a pure look at what should be and what is.

use ship_model::desired::DesiredApp;
use ship_model::release::Target;

/// What the rule looks at.
#[derive(Debug)]
pub struct Situation<'a> {
    /// What the fence let through last.
    pub desired: Option<&'a DesiredApp>,
    /// Where a local revert holds the app, whatever is desired.
    pub held: Option<Target>,
    pub running: Option<Target>,
    /// What is being switched to already.
    pub switching: Option<Target>,
    pub staged: &'a [Target],
    /// Releases whose assets are in the union.
    pub assets: &'a [Target],
    /// Releases not to be tried again, or not yet.
    pub given_up: &'a dyn Fn(&Target) -> bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// All is as it should be, or somebody else's turn.
    Nothing,
    Stage(Target),
    AddAssets(Target),
    Switch(Target),
    /// Nothing should run, and something does.
    Stop,
}

/// The next step. Switching comes before any fetching that it does not need; a switch needs the release staged and
/// its assets in the union, except back to where somebody on the host put the app.
pub fn next_action(situation: &Situation<'_>) -> Action {
    let Some(desired) = situation.desired else {
        return match situation.held {
            Some(held) => switch(situation, held, true),
            None => Action::Nothing,
        };
    };
    if desired.runs_app {
        let goal = situation.held.or(desired.run);
        let switch = match goal {
            Some(goal) => switch(situation, goal, situation.held.is_some()),
            // Only somebody who had it run something says that nothing is to run.
            None if situation.running.is_some() && situation.switching.is_none() => Action::Stop,
            None => Action::Nothing,
        };
        if switch != Action::Nothing {
            return switch;
        }
    }
    fetching(situation, desired)
}

fn switch(situation: &Situation<'_>, goal: Target, held: bool) -> Action {
    let wanted = situation.running != Some(goal) && situation.switching != Some(goal);
    let assets = situation.desired.is_none_or(|desired| {
        held || !desired.assets.contains(&goal) || situation.assets.contains(&goal)
    });
    if wanted && assets && situation.staged.contains(&goal) && !(situation.given_up)(&goal) {
        Action::Switch(goal)
    } else {
        Action::Nothing
    }
}

fn fetching(situation: &Situation<'_>, desired: &DesiredApp) -> Action {
    let worth = |target: &&Target| !(situation.given_up)(target);
    if desired.runs_app {
        let mut wanted = desired.run.iter().chain(&desired.stage).filter(worth);
        if let Some(target) = wanted.find(|target| !situation.staged.contains(target)) {
            return Action::Stage(*target);
        }
    }
    // The newest first: it is what a rollout waits for.
    let mut wanted: Vec<_> = desired.assets.iter().filter(worth).collect();
    wanted.sort_by_key(|target| std::cmp::Reverse(target.number));
    match wanted.into_iter().find(|target| !situation.assets.contains(target)) {
        Some(target) => Action::AddAssets(*target),
        None => Action::Nothing,
    }
}
