//! The worlds that are searched: each dimension of trouble with those it may meet.

use crate::space::Setting;
use crate::world::Dimension::{
    self, Abort, AgentCrash, AppCrash, ClockBack, ControllerCrash, Drain, Foreign, HandRevert, HeldReport,
    HeldWord, LatePlan, Pause, Promote, PromoteAgain, Retire, Revert, Silence, SwitchFails,
};

fn setting(name: &'static str, hosts: usize, controllers: usize, limits: &[(Dimension, u8)]) -> Setting {
    Setting {
        name,
        hosts,
        asset_host: false,
        controllers,
        gated: false,
        limits: limits.to_vec(),
    }
}

/// Searched to the end in every run.
pub fn small() -> Vec<Setting> {
    vec![
        setting(
            "a failing host",
            2,
            1,
            &[(Promote, 1), (SwitchFails, 1), (Silence, 1)],
        ),
        setting("a host is drained and returns", 2, 1, &[(Promote, 1), (Drain, 2)]),
        setting(
            "a host is retired",
            2,
            1,
            &[(Promote, 1), (Retire, 1), (SwitchFails, 1)],
        ),
        setting(
            "by hand",
            2,
            1,
            &[(Promote, 1), (HandRevert, 1), (AgentCrash, 1), (Foreign, 1)],
        ),
        setting(
            "an operator in doubt",
            1,
            1,
            &[
                (Promote, 1),
                (PromoteAgain, 1),
                (Revert, 1),
                (Abort, 1),
                (Pause, 1),
            ],
        ),
        setting(
            "a plan begun late",
            1,
            1,
            &[(Promote, 1), (Revert, 1), (LatePlan, 1)],
        ),
        setting(
            "late messages",
            1,
            1,
            &[(Promote, 1), (Abort, 1), (HeldReport, 1), (HeldWord, 1)],
        ),
        setting(
            "two controllers",
            1,
            2,
            &[(Promote, 1), (Abort, 1), (ControllerCrash, 1), (ClockBack, 1)],
        ),
        setting("two hosts and two controllers", 2, 2, &[(Promote, 1)]),
        Setting {
            gated: true,
            ..setting("a gate", 2, 1, &[(Promote, 1)])
        },
        Setting {
            asset_host: true,
            ..setting(
                "an asset host",
                1,
                1,
                &[(Promote, 1), (Silence, 1), (AppCrash, 1)],
            )
        },
    ]
}

/// Searched to the end, or as far as memory lets, in the long run.
pub fn large() -> Vec<Setting> {
    vec![
        setting("three hosts", 3, 1, &[(Promote, 1)]),
        Setting {
            gated: true,
            ..setting("a gate and a revert", 2, 1, &[(Promote, 1), (Revert, 1)])
        },
        Setting {
            gated: true,
            ..setting(
                "a gate in trouble",
                2,
                1,
                &[
                    (Promote, 1),
                    (Revert, 1),
                    (Pause, 1),
                    (Silence, 1),
                    (ControllerCrash, 1),
                ],
            )
        },
        setting(
            "a host is drained and returns, another falls silent",
            2,
            1,
            &[(Promote, 1), (Drain, 2), (Silence, 1)],
        ),
        setting(
            "two and two, a controller crashes",
            2,
            2,
            &[(Promote, 1), (ControllerCrash, 1)],
        ),
        setting(
            "two hosts, two controllers",
            2,
            2,
            &[
                (Promote, 1),
                (Revert, 1),
                (HandRevert, 1),
                (SwitchFails, 1),
                (ControllerCrash, 1),
                (AgentCrash, 1),
                (Silence, 1),
                (HeldReport, 1),
                (HeldWord, 1),
            ],
        ),
        setting(
            "three hosts, one controller",
            3,
            1,
            &[
                (Promote, 1),
                (HandRevert, 1),
                (SwitchFails, 1),
                (ControllerCrash, 1),
                (AgentCrash, 1),
                (Silence, 1),
                (HeldReport, 1),
                (HeldWord, 1),
            ],
        ),
    ]
}
