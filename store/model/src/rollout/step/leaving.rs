//! Hosts that operators keep out of rotation, or take out of the fleet.

use crate::name::HostName;
use crate::rollout::event::Happening;
use crate::rollout::plan::Excuse;
use crate::rollout::state::{Rollout, Switch};
use crate::rollout::step::Turn;

impl Turn {
    /// Nothing waits for a drained host; one that is on its way to the new release is first waited for. Back in service it goes
    /// with the last wave.
    pub(super) fn drained(&mut self, rollout: &mut Rollout, host: &HostName, drained: bool) {
        let Some(progress) = rollout.hosts.get_mut(host) else {
            return;
        };
        let rests = matches!(progress.switch, Switch::Untouched | Switch::Running { .. });
        match (drained, progress.excused) {
            (true, None | Some(Excuse::Away)) if rests => {
                progress.excused = Some(Excuse::Drained);
                let (host, reason) = (host.clone(), Excuse::Drained.to_string());
                self.announce(rollout, Happening::HostExcused { host, reason });
            }
            (false, Some(Excuse::Drained)) => {
                progress.excused = None;
                progress.late = true;
                // Whether a silent one is waited for is asked as if it fell silent now.
                if std::mem::take(&mut progress.silent) {
                    self.silent(rollout, host);
                }
            }
            _ => {}
        }
    }

    /// Tells a host to run and to hold nothing any more. Nothing waits for it.
    pub(super) fn retiring(&mut self, host: &HostName) {
        if self.state.hosts.contains_key(host) {
            let deploy = self.state.last_deploy;
            self.set(host, |target| {
                if target.run.take().is_some() {
                    target.deploy = deploy;
                }
                target.runs_app = false;
                target.stage.clear();
                target.assets.clear();
            });
        }
        self.with_rollout(|_, rollout| {
            rollout.hosts.remove(host);
        });
    }

    pub(super) fn left(&mut self, host: &HostName) {
        self.state.hosts.remove(host);
        self.state.took.remove(host);
        self.with_rollout(|_, rollout| {
            rollout.hosts.remove(host);
        });
    }
}
