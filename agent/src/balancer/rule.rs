//! When a host leaves rotation and when it comes back.

use ship_model::name::ClassName;
use ship_model::spec::{ProcessSpec, ReleaseSpec, Strategy};

/// Why nobody serves for a moment between two releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// `strategy = "stop-start"`.
    StopStart,
    /// `coexist = false` in either release.
    Apart,
    /// An address goes from the keeper's hands into the app's own, or back.
    Hands,
}

/// The gap between what runs and what is wanted on a host of these classes; none: users notice nothing.
pub fn gap(running: &ReleaseSpec, wanted: &ReleaseSpec, classes: &[ClassName]) -> Option<Gap> {
    let here = |spec: &'_ ReleaseSpec| -> Vec<ProcessSpec> {
        let processes = spec.processes.values();
        let serves = |process: &&ProcessSpec| classes.contains(&process.class);
        processes.filter(serves).cloned().collect()
    };
    let (old, new) = (here(running), here(wanted));
    if old.iter().all(|process| process.listen.is_empty()) {
        return None;
    }
    if new.iter().any(|process| process.strategy == Strategy::StopStart) {
        Some(Gap::StopStart)
    } else if old.iter().chain(&new).any(|process| !process.coexist) {
        Some(Gap::Apart)
    } else if new.iter().any(|process| changes_hands(process, &old)) {
        Some(Gap::Hands)
    } else {
        None
    }
}

fn changes_hands(new: &ProcessSpec, old: &[ProcessSpec]) -> bool {
    let itself = new.strategy.binds_itself();
    old.iter()
        .filter(|old| old.strategy.binds_itself() != itself)
        .any(|old| {
            old.listen
                .values()
                .any(|address| new.listen.values().any(|own| own == address))
        })
}

/// What is under way with the balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// Whether they can be told at all; changes nothing.
    Look,
    Leave,
    Return,
}

/// Where the host stands with its balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stand {
    /// The record says that it was, or is being, taken out.
    pub out: bool,
    /// Known to be out, with nothing under way any more; not after a restart of the agent.
    pub left: bool,
    pub busy: Option<Way>,
}

/// What is due before a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Switch,
    Begin(Way),
    /// For what is under way, which must end first.
    Wait,
    /// As [`Before::Wait`], for something nobody wants any more.
    CallOff,
}

/// What is due before a switch with or without a gap.
pub fn before_switch(gap: bool, stand: Stand) -> Before {
    match stand.busy {
        Some(Way::Return) => Before::CallOff,
        Some(Way::Look | Way::Leave) if !gap => Before::CallOff,
        Some(Way::Look | Way::Leave) => Before::Wait,
        None if !gap || stand.left => Before::Switch,
        None if stand.out => Before::Begin(Way::Leave),
        None => Before::Begin(Way::Look),
    }
}

/// What is due on a host that operators keep out of rotation; none: nothing, or nothing yet.
pub fn kept_out(stand: Stand) -> Option<Before> {
    match before_switch(true, stand) {
        Before::Switch | Before::Wait => None,
        due => Some(due),
    }
}

/// What is due when no switch is wanted. `settled`: one release runs and serves, and the keeper is on no way elsewhere.
pub fn otherwise(settled: bool, stand: Stand) -> Option<Before> {
    match stand.busy {
        Some(Way::Look | Way::Leave) => Some(Before::CallOff),
        Some(Way::Return) => None,
        None => (stand.out && settled).then_some(Before::Begin(Way::Return)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn spec(process: &str) -> ReleaseSpec {
        let text = format!("app = \"web\"\n[process.web]\ncommand = [\"x\"]\nclass = \"web\"\n{process}");
        ship_model::spec::read_ship_toml(&text, None).unwrap()
    }

    #[test]
    fn only_a_gap_needs_the_balancer() {
        let smooth = spec("listen = { http = \"tcp:80\" }\n");
        let stops = spec("listen = { http = \"tcp:80\" }\nstrategy = \"stop-start\"\n");
        let alone = spec("listen = { http = \"tcp:80\" }\ncoexist = false\n");
        let worker = spec("strategy = \"stop-start\"\n");
        let web = ["web".parse().unwrap()];
        for (old, new, expected) in [
            (&smooth, &smooth, None),
            (&stops, &stops, Some(Gap::StopStart)),
            (&smooth, &stops, Some(Gap::StopStart)),
            (&stops, &smooth, Some(Gap::Hands)),
            (&alone, &smooth, Some(Gap::Apart)),
            (&smooth, &alone, Some(Gap::Apart)),
            (&worker, &stops, None),
        ] {
            assert_eq!(gap(old, new, &web), expected);
        }
        assert_eq!(gap(&stops, &stops, &["assets".parse().unwrap()]), None);
    }

    /// Every history of wishes, endings and deaths of the agent: nothing is switched with a gap before users are gone, and
    /// whatever happens, a host that is left in peace ends in rotation.
    #[test]
    fn no_history_stops_a_server_that_has_users_or_leaves_a_host_outside() {
        for history in 0..5_u32.pow(7) {
            let mut host = Host::default();
            let mut rest = history;
            for _ in 0..7 {
                host.happens(rest % 5);
                rest /= 5;
            }
            for _ in 0..8 {
                host.wants_switch = false;
                host.happens(0);
                host.happens(1);
            }
            assert!(host.in_rotation && !host.stand.out, "{history}: {host:?}");
        }
    }

    /// Whatever was under way when the operator's word came, and wherever the agent dies: the host ends outside.
    #[test]
    fn a_drained_host_ends_outside() {
        for history in 0..4_u32.pow(6) {
            let mut host = Host::default();
            let mut rest = history;
            for _ in 0..6 {
                host.happens([0, 1, 2, 4][(rest % 4) as usize]);
                rest /= 4;
            }
            host.wants_switch = false;
            host.drained = true;
            for _ in 0..8 {
                host.happens(0);
                host.happens(1);
            }
            assert!(!host.in_rotation && host.stand.left, "{history}: {host:?}");
            host.drained = false;
            for _ in 0..8 {
                host.happens(0);
                host.happens(1);
            }
            assert!(host.in_rotation && !host.stand.out, "{history}: {host:?}");
        }
    }

    #[derive(Debug)]
    struct Host {
        drained: bool,
        stand: Stand,
        in_rotation: bool,
        wants_switch: bool,
        called_off: bool,
    }

    impl Default for Host {
        fn default() -> Self {
            Self {
                drained: false,
                stand: Stand::default(),
                in_rotation: true,
                wants_switch: false,
                called_off: false,
            }
        }
    }

    impl Host {
        fn happens(&mut self, what: u32) {
            match what {
                0 => self.step(),
                1 => self.ends(true),
                2 => self.ends(false),
                3 => self.wants_switch = !self.wants_switch,
                // The agent dies: only the record is left.
                _ => {
                    self.stand.left = false;
                    self.stand.busy = None;
                    self.called_off = false;
                }
            }
        }

        fn step(&mut self) {
            let due = match self.wants_switch {
                true => Some(before_switch(true, self.stand)),
                false if self.drained => kept_out(self.stand),
                false => otherwise(true, self.stand),
            };
            match due {
                Some(Before::Switch) => {
                    assert!(!self.in_rotation, "users were there: {self:?}");
                    self.wants_switch = false;
                }
                Some(Before::Begin(way)) => {
                    assert!(way != Way::Leave || self.stand.out, "not noted: {self:?}");
                    self.stand.busy = Some(way);
                    self.stand.left &= way != Way::Return;
                    self.called_off = false;
                }
                Some(Before::CallOff) => self.called_off = true,
                Some(Before::Wait) | None => {}
            }
        }

        fn ends(&mut self, well: bool) {
            let Some(way) = self.stand.busy.take() else { return };
            let counts = well && !self.called_off;
            match way {
                Way::Look => self.stand.out |= counts,
                // Also one that failed may have been heard.
                Way::Leave => {
                    self.in_rotation = false;
                    self.stand.left = counts;
                }
                Way::Return => {
                    self.in_rotation = true;
                    self.stand.out = !counts;
                }
            }
        }
    }
}
