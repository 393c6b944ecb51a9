//! How a process is replaced: the strategies, and the data each of them needs.
//!
//! A strategy says who carries the listening sockets from one generation to the next; what differs between servers of one
//! family (their signals, their pidfile dance) is data, kept in one table.

use serde::{Deserialize, Serialize};

/// How a new generation takes over; see the design, section 7.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Sockets are handed over as under `listen-fds`, and a bind of the process's own is joined to the group as under
    /// `bind-join`; what the process did decides, and is told.
    Auto,
    /// The process gets its sockets as `LISTEN_FDS`.
    #[default]
    ListenFds,
    /// The process gets its sockets as `SERVER_STARTER_PORT` and `EINHORN_FD_n`, and as `LISTEN_FDS` too.
    Starter,
    /// The process binds by itself; its socket joins the app's group while it does so.
    BindJoin,
    /// A signal makes the running main process start its successor, which inherits the sockets.
    SignalReexec,
    /// A signal makes the running main process replace its workers; it stays itself.
    SignalReload,
    /// A command of the release upgrades the running process from inside.
    Command,
    /// Two slots: the new one is started and proven beside the old one, takes all new connections at once, and the old one
    /// stays as a warm standby. Sockets are handed over or joined as under `auto`.
    CutOver,
    /// The old one is stopped, then the new one is started.
    StopStart,
}

impl Strategy {
    /// Every strategy with its name in a `ship.toml`.
    pub const ALL: [(&'static str, Self); 9] = [
        ("auto", Self::Auto),
        ("listen-fds", Self::ListenFds),
        ("starter", Self::Starter),
        ("bind-join", Self::BindJoin),
        ("signal-reexec", Self::SignalReexec),
        ("signal-reload", Self::SignalReload),
        ("command", Self::Command),
        ("cut-over", Self::CutOver),
        ("stop-start", Self::StopStart),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, strategy)| *strategy == self)
            .map_or("listen-fds", |(name, _)| name)
    }

    /// Whether the running main process lives on, or names its own successor: nothing is spawned beside it.
    pub const fn is_in_place(self) -> bool {
        matches!(self, Self::SignalReexec | Self::SignalReload | Self::Command)
    }

    /// Whether the process makes its listening sockets itself, so that none are handed to it.
    pub fn binds_itself(self) -> bool {
        self == Self::BindJoin || self.is_outside()
    }

    /// Whether its listening sockets are its own alone, and nobody else's to steer.
    pub fn is_outside(self) -> bool {
        self == Self::StopStart || self.is_in_place()
    }

    /// Whether a bind of the process's own joins the app's sockets.
    pub fn joins(self) -> bool {
        self == Self::BindJoin || self.takes_either()
    }

    /// Whether the process is handed its sockets, and may as well bind by itself.
    pub fn takes_either(self) -> bool {
        matches!(self, Self::Auto | Self::CutOver)
    }
}

/// What a strategy is carried out with. Signals are names without SIG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Restart {
    Reexec(Reexec),
    Reload(Reload),
    Command(Upgrade),
    Standby(Standby),
}

/// What stays of the generation before, after a cut-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standby {
    /// Counted from the cut-over; none: until the next switch needs its slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
}

impl Standby {
    /// The longer one.
    #[must_use]
    pub fn or_longer(self, other: Self) -> Self {
        Self {
            hold_ms: self.hold_ms.zip(other.hold_ms).map(|(one, two)| one.max(two)),
        }
    }
}

/// The dance of a main process that starts its successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reexec {
    /// Starts the successor.
    pub upgrade: String,
    /// Makes the old one's workers finish while the old main process stays to go back to; none: both serve until `stop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<String>,
    /// Brings a paused one's workers back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
    /// Where the successor writes its process id, below `SHIP_RUN_DIR`; none: it says `MAINPID=` on `NOTIFY_SOCKET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pidfile: Option<String>,
}

/// A main process that replaces its workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    pub signal: String,
}

/// Commands that upgrade a running process from inside; each is given `SHIP_OLD_DIR`, `SHIP_NEW_DIR` and `SHIP_MAIN_PID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// From the new release: makes the running process the new one.
    pub install: Vec<String>,
    /// From the new release: makes it last, once it is proven.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permanent: Vec<String>,
    /// From the new release: makes the running process the old one again; none: it is restarted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub back: Vec<String>,
    /// For each command.
    pub timeout_ms: u64,
}

/// New connections of a host that go to a proven generation first, by the client's address: who is in stays in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// 1 to 50; doubled each `hold_ms` until all are in.
    pub percent: u8,
    pub hold_ms: u64,
}

impl Canary {
    /// The share in per cent after so many holds: doubled each time, and all where that would be more than half. So 5 is
    /// followed by 10, 20, 40 and 100.
    pub fn share(self, holds: u32) -> u8 {
        let doubled = u64::from(self.percent) << holds.min(8);
        u8::try_from(doubled)
            .ok()
            .filter(|share| *share <= 50)
            .unwrap_or(100)
    }

    /// How many holds there are before all are in.
    pub fn holds(self) -> u32 {
        (0..).find(|holds| self.share(*holds) == 100).unwrap_or_default()
    }
}

/// A kind of server, by what its signals mean.
#[derive(Debug)]
pub(super) struct Server {
    pub name: &'static str,
    pub upgrade: Option<&'static str>,
    pub pause: Option<&'static str>,
    pub resume: Option<&'static str>,
    pub reload: Option<&'static str>,
    pub stop: &'static str,
    /// Why a reload loses requests, or an outage can follow.
    pub reload_risk: Option<&'static str>,
}

/// What each server's own documentation says of its signals.
pub(super) const SERVERS: [Server; 6] = [
    Server {
        name: "nginx",
        upgrade: Some("USR2"),
        pause: Some("WINCH"),
        resume: Some("HUP"),
        reload: Some("HUP"),
        stop: "QUIT",
        reload_risk: None,
    },
    Server {
        name: "haproxy",
        upgrade: None,
        pause: None,
        resume: None,
        reload: Some("USR2"),
        stop: "USR1",
        reload_risk: None,
    },
    Server {
        name: "unicorn",
        upgrade: Some("USR2"),
        pause: Some("WINCH"),
        resume: Some("HUP"),
        reload: Some("HUP"),
        stop: "QUIT",
        reload_risk: Some("it replaces all workers at once without waiting for their boot"),
    },
    Server {
        name: "gunicorn",
        upgrade: Some("USR2"),
        pause: Some("WINCH"),
        resume: Some("HUP"),
        reload: Some("HUP"),
        stop: "TERM",
        reload_risk: Some(
            "it kills the old workers before the new ones have booted: requests wait for the whole boot, and a release that cannot boot is a total outage",
        ),
    },
    Server {
        name: "puma",
        upgrade: None,
        pause: None,
        resume: None,
        reload: Some("USR1"),
        stop: "TERM",
        reload_risk: None,
    },
    Server {
        name: "php-fpm",
        upgrade: None,
        pause: None,
        resume: None,
        reload: Some("USR2"),
        stop: "QUIT",
        reload_risk: None,
    },
];

#[cfg(test)]
mod tests {
    use super::Canary;

    #[test]
    fn a_share_is_doubled_until_all_are_in() {
        for (percent, shares) in [(5, [5, 10, 20, 40, 100, 100]), (25, [25, 50, 100, 100, 100, 100])] {
            let canary = Canary { percent, hold_ms: 1 };
            assert_eq!([0, 1, 2, 3, 4, 99].map(|holds| canary.share(holds)), shares);
        }
    }
}
