//! The whole world in a few numbers: the stored record, what each controller believes, what each host is, what is still on its
//! way, and how much more may go wrong.

use serde::Serialize;

use crate::search::Key;

pub const CONTROLLERS: usize = 2;
pub const HOSTS: usize = 3;

/// What may happen only so often; everything else may happen at any time, any number of times. A message that never arrives
/// is among the latter: nothing makes one arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    Promote,
    /// By force: also what was taken back, and what runs already.
    PromoteAgain,
    Revert,
    Abort,
    Pause,
    /// Somebody reverts on a host.
    HandRevert,
    SwitchFails,
    AppCrash,
    ControllerCrash,
    AgentCrash,
    /// A controller has not heard of a host for too long.
    Silence,
    /// A report that arrives later than newer ones, or twice.
    HeldReport,
    /// A desired state that arrives later than newer ones, or twice.
    HeldWord,
    /// A plan that is begun later than it was made.
    LatePlan,
    ClockBack,
    /// A word for another environment reaches a host.
    Foreign,
    /// An operator keeps a host out of rotation, or puts it back.
    Drain,
    /// An operator takes a host out of the fleet.
    Retire,
}

/// How often each may still happen, at most fifteen times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget(pub u64);

impl Budget {
    pub fn of(limits: &[(Dimension, u8)]) -> Self {
        let counted = limits
            .iter()
            .filter(|(dimension, _)| *dimension < Dimension::Drain);
        counted.fold(Self(0), |budget, (dimension, times)| {
            Self(budget.0 | u64::from(*times) << (4 * *dimension as u32))
        })
    }

    pub const fn left(self, dimension: Dimension) -> u64 {
        self.0 >> (4 * dimension as u32) & 15
    }

    /// One less; none when there is none left.
    pub fn spend(self, dimension: Dimension) -> Option<Self> {
        (self.left(dimension) > 0).then(|| Self(self.0 - (1 << (4 * dimension as u32))))
    }
}

/// What operators want of hosts: bits 0 to 3 drained, 4 to 7 retiring, then how often either may still be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standings(pub u32);

impl Standings {
    pub fn of(limits: &[(Dimension, u8)]) -> Self {
        let times = |wanted| limits.iter().find(|(dimension, _)| *dimension == wanted);
        let times = |wanted| times(wanted).map_or(0, |(_, times)| u32::from(*times));
        Self(times(Dimension::Drain) << 8 | times(Dimension::Retire) << 12)
    }

    pub const fn drained(self, host: usize) -> bool {
        self.0 >> host & 1 == 1
    }

    pub const fn retiring(self, host: usize) -> bool {
        self.0 >> (4 + host) & 1 == 1
    }

    /// A host is drained, or put back; none when that was asked often enough.
    pub fn turn(self, host: usize) -> Option<Self> {
        (self.0 >> 8 & 15 > 0).then(|| Self((self.0 - (1 << 8)) ^ (1 << host)))
    }

    pub fn retire(self, host: usize) -> Option<Self> {
        (self.0 >> 12 & 15 > 0 && !self.retiring(host)).then(|| Self((self.0 - (1 << 12)) | 1 << (4 + host)))
    }
}

/// What one controller has in memory: the record as it last stored or read it, and what it heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Controller {
    pub cache: u32,
    pub mind: u32,
}

/// What a controller has heard of the hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mind(pub Vec<Presence>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Presence {
    pub report: Option<u32>,
    pub silent: bool,
}

/// Something that left and has not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum OnItsWay {
    Report { to: usize, host: usize, report: u32 },
    Word { host: usize, word: u32 },
    Plan { to: usize, plan: u32 },
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    pub ledger: u32,
    pub controllers: [Controller; CONTROLLERS],
    pub hosts: [u32; HOSTS],
    pub mail: u32,
    pub budget: Budget,
    pub standings: Standings,
}

impl World {
    pub fn key(&self) -> Key {
        let [a, b] = self.controllers;
        let [x, y, z] = self.hosts;
        let (low, high) = (self.budget.0 as u32, (self.budget.0 >> 32) as u32);
        [
            self.ledger,
            a.cache,
            a.mind,
            b.cache,
            b.mind,
            x,
            y,
            z,
            self.mail,
            low,
            high,
            self.standings.0,
        ]
    }

    pub fn of(key: &Key) -> Self {
        let [
            ledger,
            cache,
            mind,
            other_cache,
            other_mind,
            x,
            y,
            z,
            mail,
            low,
            high,
            standings,
        ] = *key;
        Self {
            ledger,
            controllers: [
                Controller { cache, mind },
                Controller {
                    cache: other_cache,
                    mind: other_mind,
                },
            ],
            hosts: [x, y, z],
            mail,
            budget: Budget(u64::from(low) | u64::from(high) << 32),
            standings: Standings(standings),
        }
    }
}
