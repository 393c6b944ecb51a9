//! What must be true of one host, whatever the rest of the world does. Shared by the checker and the simulation.

use ship_model::name::HostName;
use ship_model::release::Target;
use ship_model::rollout::Rollout;

use crate::host::Host;
use crate::properties::{Property, Verdict, must, required};

/// What must be true of every order to the keeper.
pub fn may_switch(host: &Host, target: Target) -> Verdict {
    let number = target.number;
    must(
        Property::RunsOnlyWhatIsWhole,
        host.staged.contains(&target),
        || format!("release {number} is not whole"),
    )?;
    must(Property::AssetsReallyFirst, host.assets.contains(&target), || {
        format!("goes to {number} without its assets")
    })?;
    must(
        Property::FenceHolds,
        host.memory.epoch >= host.ghost.acted,
        || format!("acts under {} after {}", host.memory.epoch, host.ghost.acted),
    )?;
    must(
        Property::DurableBeforeActing,
        host.disk.epoch >= host.memory.epoch,
        || format!("acts under {} before that is durable", host.memory.epoch),
    )?;
    must(
        Property::NoFlapping,
        host.ghost.failed != Some((host.memory.epoch, target)),
        || format!("tries {number} again under {}", host.memory.epoch),
    )?;
    must(
        Property::HandsAreNotOverruled,
        host.ghost.taken_away != Some(target),
        || format!("goes to {number}, which was taken away by hand"),
    )
}

pub fn nothing_needed(host: &Host, removed: &[Target]) -> Verdict {
    let desired = host.memory.desired.as_ref();
    let wanted = desired.and_then(|desired| desired.run);
    let switching = host.switching.map(|order| order.target);
    let held = host.memory.held.as_ref().map(|held| held.to);
    let mut needed = [host.running, host.previous, wanted, switching, held]
        .into_iter()
        .flatten();
    must(
        Property::NothingNeededIsRemoved,
        !needed.any(|needed| removed.contains(&needed)),
        || format!("removes {removed:?}"),
    )
}

/// What must be true of every host.
pub fn check(host: &Host) -> Verdict {
    let lies = |release: &Option<Target>| release.is_none_or(|release| host.staged.contains(&release));
    must(Property::RunsOnlyWhatIsWhole, lies(&host.running), || {
        format!("{:?} runs and does not lie here", host.running)
    })?;
    must(Property::WayBackLies, lies(&host.previous), || {
        format!("the way back, {:?}, does not lie here", host.previous)
    })?;
    let desired = host.memory.desired.as_ref();
    must(
        Property::OwnEnvironmentOnly,
        desired.is_none_or(|desired| desired.env == host.env),
        || "it follows another environment".to_owned(),
    )
}

/// What must be true of the others when a host goes to what is promoted.
pub fn assets_stand(rollout: &Rollout, has: impl Fn(&HostName) -> bool) -> Verdict {
    let lacks = required(rollout).iter().find(|name| {
        let known = rollout.hosts.get(*name);
        let excused = known.is_none_or(|host| host.excused.is_some() || host.late);
        !excused && !has(name)
    });
    must(Property::AssetsReallyFirst, lacks.is_none(), || {
        format!("a host is switched while {lacks:?} lacks the assets")
    })
}
