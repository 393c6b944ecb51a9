//! What is no longer as it was when a plan was made.

use std::fmt;

use serde_json::Value;

use crate::desired::Epoch;
use crate::name::HostName;
use crate::release::Target;
use crate::rollout::plan::{Excuse, Plan, PlannedHost};

/// Differences that are told one by one; more are counted.
const TOLD: usize = 10;

/// One thing that has changed since a plan was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// The environment was changed in between: another deploy, or a host that joined.
    Moved {
        planned: Epoch,
        now: Epoch,
    },
    /// What the environment runs.
    From {
        planned: Option<Target>,
        now: Option<Target>,
    },
    /// The number has another content: the plan is of another store.
    Release {
        planned: Target,
        now: Target,
    },
    HostCame {
        host: HostName,
    },
    HostLeft {
        host: HostName,
    },
    HostRuns {
        host: HostName,
        planned: Option<Target>,
        now: Option<Target>,
    },
    /// Nothing waits for it, or something does again.
    HostExcused {
        host: HostName,
        planned: Option<Excuse>,
        now: Option<Excuse>,
    },
    /// Whether it runs the app or holds its assets.
    HostPart {
        host: HostName,
        runs_app: bool,
    },
    HostHeld {
        host: HostName,
        now: Option<Target>,
    },
    /// A key of the policy, with what it said and says.
    Policy {
        key: String,
        planned: String,
        now: String,
    },
    /// The hosts are the same and go in another order.
    Order,
}

/// What stands in the way of carrying `saved` out when `now` is what would be planned; empty: they are the same in all that
/// matters. What hosts have to fetch does not.
pub fn drift(saved: &Plan, now: &Plan) -> Vec<Drift> {
    let mut drifts = Vec::new();
    if saved.to != now.to {
        drifts.push(Drift::Release {
            planned: saved.to,
            now: now.to,
        });
    }
    if saved.from != now.from {
        drifts.push(Drift::From {
            planned: saved.from,
            now: now.from,
        });
    }
    of_hosts(saved, now, &mut drifts);
    of_policy(saved, now, &mut drifts);
    let allowed = (saved.max_unavailable, saved.min_healthy) == (now.max_unavailable, now.min_healthy);
    if drifts.is_empty() && !(allowed && saved.steps == now.steps) {
        drifts.push(Drift::Order);
    }
    if saved.parent != now.parent {
        drifts.push(Drift::Moved {
            planned: saved.parent,
            now: now.parent,
        });
    }
    drifts
}

fn of_hosts(saved: &Plan, now: &Plan, drifts: &mut Vec<Drift>) {
    for (name, planned) in &saved.hosts {
        match now.hosts.get(name) {
            None => drifts.push(Drift::HostLeft { host: name.clone() }),
            Some(now) => of_host(name, planned, now, drifts),
        }
    }
    let came = now.hosts.keys().filter(|name| !saved.hosts.contains_key(*name));
    drifts.extend(came.map(|host| Drift::HostCame { host: host.clone() }));
}

fn of_host(name: &HostName, planned: &PlannedHost, now: &PlannedHost, drifts: &mut Vec<Drift>) {
    let host = || name.clone();
    if planned.runs_app != now.runs_app {
        drifts.push(Drift::HostPart {
            host: host(),
            runs_app: now.runs_app,
        });
    }
    if planned.excused != now.excused {
        drifts.push(Drift::HostExcused {
            host: host(),
            planned: planned.excused,
            now: now.excused,
        });
    }
    // What a host that is away runs is not known, and does not change anything.
    if planned.runs != now.runs && now.excused != Some(Excuse::Away) {
        drifts.push(Drift::HostRuns {
            host: host(),
            planned: planned.runs,
            now: now.runs,
        });
    }
    if planned.held_on != now.held_on {
        drifts.push(Drift::HostHeld {
            host: host(),
            now: now.held_on,
        });
    }
}

/// By key, as both stand in their JSON: a key that came later is told as well.
fn of_policy(saved: &Plan, now: &Plan, drifts: &mut Vec<Drift>) {
    if saved.policy == now.policy {
        return;
    }
    let keys = |plan: &Plan| match serde_json::to_value(&plan.policy) {
        Ok(Value::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    };
    let (planned, now) = (keys(saved), keys(now));
    let mut names: Vec<&String> = planned.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    let said = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    for key in names.into_iter().filter(|key| planned.get(*key) != now.get(*key)) {
        drifts.push(Drift::Policy {
            key: key.clone(),
            planned: said(planned.get(key)),
            now: said(now.get(key)),
        });
    }
}

fn number(target: Option<Target>) -> String {
    target.map_or_else(
        || "nothing".to_owned(),
        |target| format!("release {}", target.number),
    )
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved { planned, now } => {
                write!(
                    f,
                    "the environment was changed in between (epoch {planned}, now {now})"
                )
            }
            Self::From { planned, now } => {
                write!(
                    f,
                    "the environment ran {}, now {}",
                    number(*planned),
                    number(*now)
                )
            }
            Self::Release { planned, .. } => {
                write!(
                    f,
                    "release {} has another content than was planned",
                    planned.number
                )
            }
            Self::HostCame { host } => write!(f, "{host} is new"),
            Self::HostLeft { host } => write!(f, "{host} is gone"),
            Self::HostRuns { host, planned, now } => {
                write!(f, "{host} ran {}, now {}", number(*planned), number(*now))
            }
            Self::HostExcused {
                host, now: Some(why), ..
            } => write!(f, "{host}: {why}"),
            Self::HostExcused {
                host,
                planned: Some(Excuse::Drained | Excuse::LeftOut),
                ..
            } => write!(f, "{host} takes part again"),
            Self::HostExcused { host, now: None, .. } => write!(f, "{host} reports again"),
            Self::HostPart { host, runs_app: true } => write!(f, "{host} runs the app now"),
            Self::HostPart { host, .. } => write!(f, "{host} only holds assets now"),
            Self::HostHeld { host, now: Some(now) } => {
                write!(
                    f,
                    "{host} was reverted on the host itself, to release {}",
                    now.number
                )
            }
            Self::HostHeld { host, now: None } => {
                write!(f, "{host} is no longer held by a revert on the host itself")
            }
            Self::Policy { key, planned, now } => write!(f, "policy: {key} was {planned}, now {now}"),
            Self::Order => f.write_str("the hosts would go in another order"),
        }
    }
}

/// All of them in one line.
pub(super) fn words(drifts: &[Drift]) -> String {
    let told: Vec<String> = drifts.iter().take(TOLD).map(Drift::to_string).collect();
    let more = match drifts.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("it is not as it was planned: {}{more}", told.join("; "))
}
