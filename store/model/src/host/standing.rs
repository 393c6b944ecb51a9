//! What operators want of a host: drained, retiring, retired. It is kept in the host's record, and holds whatever the host says.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{HostEvent, HostState};
use crate::name::{AppName, HostName};

/// A host's standing where it is not simply one of those that serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub duty: Duty,
    /// Role and name, `operator/alice`.
    pub who: String,
    /// To be escaped before it is shown.
    pub reason: String,
    /// Milliseconds since 1970, by the store's clock.
    pub at_ms: u64,
}

/// What is wanted of a host that does not simply serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// Out of rotation and kept up to date.
    Drained,
    Retiring,
    Retired,
    Archived,
    Terminated,
}

impl Duty {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
            Self::Archived => "archived",
            Self::Terminated => "terminated",
        }
    }

    /// The state that this says by itself; none: the host's own word counts.
    pub const fn state(self) -> Option<HostState> {
        match self {
            Self::Drained => None,
            Self::Retiring => Some(HostState::Retiring),
            Self::Retired => Some(HostState::Retired),
            Self::Archived => Some(HostState::Archived),
            Self::Terminated => Some(HostState::Terminated),
        }
    }

    const fn of(state: HostState) -> Option<Self> {
        match state {
            HostState::Retiring => Some(Self::Retiring),
            HostState::Retired => Some(Self::Retired),
            HostState::Archived => Some(Self::Archived),
            HostState::Terminated => Some(Self::Terminated),
            _ => None,
        }
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an operator asks of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostVerb {
    /// Out of rotation, and kept up to date.
    Drain,
    /// Back into rotation when it is healthy; also ends a retirement.
    Undrain,
    /// Out of rotation, then out of the fleet.
    Retire,
    /// The machine is gone, whatever it said last.
    Gone,
    /// No longer listed.
    Archive,
}

impl HostVerb {
    /// Every verb.
    pub const ALL: [Self; 5] = [
        Self::Drain,
        Self::Undrain,
        Self::Retire,
        Self::Gone,
        Self::Archive,
    ];

    /// As the audit chain names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "host drain",
            Self::Undrain => "host undrain",
            Self::Retire => "host retire",
            Self::Gone => "host gone",
            Self::Archive => "host archive",
        }
    }

    /// Whether users of the host are sent elsewhere by it.
    pub const fn takes_away(self) -> bool {
        matches!(self, Self::Drain | Self::Retire)
    }

    const fn event(self) -> Option<HostEvent> {
        match self {
            Self::Drain => None,
            Self::Undrain => Some(HostEvent::Recall),
            Self::Retire => Some(HostEvent::Retire),
            Self::Gone => Some(HostEvent::Vanish),
            Self::Archive => Some(HostEvent::Archive),
        }
    }
}

/// Why a host was not drained, retired or taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostRefused {
    #[error("{host} is {}: {}", .duty, next(*.duty, *.verb))]
    Standing {
        host: HostName,
        verb: HostVerb,
        duty: Duty,
    },
    #[error("{host} is in service: retire it first, or say `--gone` when its machine is gone")]
    InService { host: HostName },
    #[error(
        "without {host}, {} would serve {app}, and {must} must: {}",
        count(.left.len()), names(.left)
    )]
    TooFew {
        host: HostName,
        app: AppName,
        left: Vec<HostName>,
        must: u32,
    },
}

const fn next(duty: Duty, verb: HostVerb) -> &'static str {
    match (duty, verb) {
        (Duty::Retiring, HostVerb::Archive) => "archive it when it is retired",
        (Duty::Retiring | Duty::Retired, _) => "take it back first with `shipctl host undrain`",
        _ => "a machine of that name joins as a new host",
    }
}

fn count(hosts: usize) -> String {
    match hosts {
        0 => "no host".to_owned(),
        1 => "1 host".to_owned(),
        more => format!("{more} hosts"),
    }
}

fn names(hosts: &[HostName]) -> String {
    match hosts {
        [] => "nobody is left".to_owned(),
        hosts => hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// What a host's duty becomes by an operator's word; none: it simply serves.
pub fn duty_after(host: &HostName, now: Option<Duty>, verb: HostVerb) -> Result<Option<Duty>, HostRefused> {
    let refused = |duty| HostRefused::Standing {
        host: host.clone(),
        verb,
        duty,
    };
    match (now, verb) {
        (None | Some(Duty::Drained), HostVerb::Drain) => Ok(Some(Duty::Drained)),
        (None | Some(Duty::Drained), HostVerb::Undrain) => Ok(None),
        (None | Some(Duty::Drained), HostVerb::Archive) => Err(HostRefused::InService { host: host.clone() }),
        // Asked again, it is as it should be.
        (Some(Duty::Retiring | Duty::Retired), HostVerb::Retire)
        | (Some(Duty::Archived), HostVerb::Archive)
        | (Some(Duty::Terminated), HostVerb::Gone) => Ok(now),
        (now, verb) => {
            let state = now.and_then(Duty::state).unwrap_or(HostState::Available);
            let then = verb.event().and_then(|event| state.after(event));
            match (then, now) {
                (Some(then), _) => Ok(Duty::of(then)),
                (None, Some(duty)) => Err(refused(duty)),
                (None, None) => Err(HostRefused::InService { host: host.clone() }),
            }
        }
    }
}

/// The hosts that run one app, as far as taking one of them away concerns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    pub app: AppName,
    /// Of the hosts that run it, those that are in rotation and serve.
    pub serving: BTreeSet<HostName>,
    /// How many must go on serving, by policy.
    pub must: u32,
}

/// Whether `host` can be taken out of rotation: enough others go on serving every app that it serves, one at least. A host that
/// serves nobody is not missed.
pub fn can_spare(host: &HostName, apps: &[Servers]) -> Result<(), HostRefused> {
    for app in apps.iter().filter(|app| app.serving.contains(host)) {
        let left: Vec<HostName> = app
            .serving
            .iter()
            .filter(|other| *other != host)
            .cloned()
            .collect();
        let must = app.must.max(1);
        if left.len() < must as usize {
            return Err(HostRefused::TooFew {
                host: host.clone(),
                app: app.app.clone(),
                left,
                must,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    #[test]
    fn a_word_is_taken_or_told_what_comes_first() {
        use Duty::{Archived, Drained, Retired, Retiring, Terminated};
        let after = |now, verb| duty_after(&host("h1"), now, verb).map_err(|error| error.to_string());
        for (now, verb, then) in [
            (None, HostVerb::Drain, Some(Drained)),
            (Some(Drained), HostVerb::Drain, Some(Drained)),
            (Some(Drained), HostVerb::Undrain, None),
            (None, HostVerb::Undrain, None),
            (Some(Retiring), HostVerb::Undrain, None),
            (Some(Retired), HostVerb::Undrain, None),
            (None, HostVerb::Retire, Some(Retiring)),
            (Some(Drained), HostVerb::Retire, Some(Retiring)),
            (Some(Retired), HostVerb::Retire, Some(Retired)),
            (Some(Retired), HostVerb::Archive, Some(Archived)),
            (None, HostVerb::Gone, Some(Terminated)),
            (Some(Retiring), HostVerb::Gone, Some(Terminated)),
            (Some(Retired), HostVerb::Gone, Some(Terminated)),
        ] {
            assert_eq!(after(now, verb), Ok(then), "{now:?} {verb:?}");
        }
        for (now, verb, word) in [
            (Some(Retiring), HostVerb::Drain, "take it back first"),
            (Some(Retired), HostVerb::Drain, "take it back first"),
            (Some(Retiring), HostVerb::Archive, "when it is retired"),
            (None, HostVerb::Archive, "retire it first"),
            (Some(Drained), HostVerb::Archive, "retire it first"),
            (Some(Archived), HostVerb::Undrain, "joins as a new host"),
            (Some(Archived), HostVerb::Retire, "joins as a new host"),
            (Some(Terminated), HostVerb::Undrain, "joins as a new host"),
        ] {
            let error = after(now, verb).unwrap_err();
            assert!(error.contains(word), "{now:?} {verb:?}: {error}");
        }
    }

    /// Every word on every standing: what has left comes back by `undrain` alone, and never once it is off the list.
    #[test]
    fn nobody_returns_by_accident() {
        let all = [
            None,
            Some(Duty::Drained),
            Some(Duty::Retiring),
            Some(Duty::Retired),
            Some(Duty::Archived),
            Some(Duty::Terminated),
        ];
        for now in all {
            for verb in HostVerb::ALL {
                let leaves = now > Some(Duty::Drained);
                if let Ok(then) = duty_after(&host("h1"), now, verb)
                    && leaves
                    && then <= Some(Duty::Drained)
                {
                    assert_eq!(verb, HostVerb::Undrain);
                    assert!(now < Some(Duty::Archived), "{now:?}");
                }
            }
        }
    }

    #[test]
    fn who_is_needed_stays() {
        let apps = |serving: &[&str], must| {
            vec![Servers {
                app: AppName::new("web").unwrap(),
                serving: serving.iter().map(|name| host(name)).collect(),
                must,
            }]
        };
        for (serving, must, spared) in [
            (&["h1", "h2"][..], 0, true),
            (&["h1"], 0, false),
            (&["h1", "h2", "h3"], 2, true),
            (&["h1", "h2"], 2, false),
            (&["h2"], 3, true),
            (&[], 3, true),
        ] {
            let answer = can_spare(&host("h1"), &apps(serving, must));
            assert_eq!(answer.is_ok(), spared, "{serving:?} {must}");
        }
        let refused = can_spare(&host("h1"), &apps(&["h1", "h2"], 2)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "without h1, 1 host would serve web, and 2 must: h2"
        );
    }
}
