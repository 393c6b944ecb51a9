//! Whose last word is to be taken in again after a step.

use crate::name::HostName;
use crate::rollout::state::{EnvState, Rollout, Switch};

/// See [`anew`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anew {
    /// Another step, or another deploy, is under way.
    All,
    /// These were asked for something, which they may have said to be so before; empty: nobody.
    Hosts(Vec<HostName>),
}

/// Reports are taken in when they say something new. A step may also make an old word mean something new: whoever keeps the
/// last words of hosts takes these in again after the step from `before` to `after`, or a rollout waits in vain for what it
/// was told already.
pub fn anew(before: &EnvState, after: &EnvState) -> Anew {
    let place = |state: &EnvState| {
        let rollout = state.rollout.as_ref();
        (
            state.last_deploy,
            rollout.map(|rollout| rollout.reached),
            rollout.is_some_and(|rollout| rollout.stop.is_some()),
        )
    };
    if place(before) != place(after) {
        return Anew::All;
    }
    let asked = after.rollout.iter().flat_map(|rollout| &rollout.hosts);
    let asked = asked.filter(|(name, host)| {
        let was = switch(before.rollout.as_ref(), name);
        host.switch.in_flight() && was != Some(host.switch)
    });
    Anew::Hosts(asked.map(|(name, _)| name.clone()).collect())
}

fn switch(rollout: Option<&Rollout>, host: &HostName) -> Option<Switch> {
    rollout?.hosts.get(host).map(|host| host.switch)
}
