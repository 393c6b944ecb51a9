//! Which releases keep their content, and every reason why.
//!
//! A release's record stays for ever; its content (manifest, and the blobs that nothing else needs) goes when **none** of these
//! holds:
//!
//! * it is among the newest of its app ([`Keeping::newest`]);
//! * it was published, or was last the one that an environment ran, less than `min_age` ago;
//! * an environment is concerned with it, or a host says that it has it: every [`Root`] but that it waits to be promoted, which
//!   would keep whatever is published and never promoted;
//! * it ran well in an environment, lately or as what a revert goes to ([`Keeping::ran_in`]);
//! * an operator pinned it;
//! * a host that may have it has not been heard;
//! * a release that is kept has the same tree.
//!
//! Environments are looked at one by one and each only adds reasons: what one of them does, however often, takes nothing away
//! from another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Root, live, until};
use crate::digest::ReleaseId;
use crate::name::{EnvName, HostName};
use crate::release::{ReleaseNumber, Target};
use crate::rollout::EnvState;

/// How much of one app is kept without anybody's doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeping {
    /// Its newest releases, at least one.
    pub newest: u32,
    /// Since it was published or last run, in milliseconds.
    pub min_age_ms: u64,
    /// In each environment: releases that ran well there before the one that runs, and as many that one revert after another
    /// goes to.
    pub ran: u32,
    /// The same for some environments.
    pub ran_in: BTreeMap<EnvName, u32>,
}

impl Default for Keeping {
    /// Twenty, a week, and five of each environment.
    fn default() -> Self {
        Self {
            newest: 20,
            min_age_ms: 7 * 86_400_000,
            ran: 5,
            ran_in: BTreeMap::new(),
        }
    }
}

/// A release whose content is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRelease {
    pub target: Target,
    pub published_at_ms: u64,
    /// Who pinned it and why.
    pub pin: Option<(String, String)>,
}

/// What is known of one app beside its releases.
#[derive(Debug, Clone, Default)]
pub struct Sight<'a> {
    /// What each environment runs of it.
    pub states: Vec<&'a EnvState>,
    /// What hosts said that they have.
    pub held: Vec<(&'a EnvName, &'a HostName, Target)>,
    /// Hosts that are known and never said what they have.
    pub unheard: Vec<(&'a EnvName, &'a HostName)>,
}

/// One reason to keep a release's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentReason {
    /// Among the newest `of` releases of the app.
    Newest {
        of: u32,
    },
    /// Published, or last run, less than `min_age` ago.
    Young {
        until_ms: u64,
    },
    /// An environment or a host is concerned with it.
    Reachable(Root),
    /// Among the last `of` that ran well there, or that reverts go to.
    Ran {
        env: EnvName,
        of: u32,
    },
    Pinned {
        who: String,
        because: String,
    },
    /// The host took part in the environment when it ran this, and nobody knows what it has.
    Unheard {
        env: EnvName,
        host: HostName,
    },
    /// The same tree was published as a release that is kept.
    SameTree {
        release: ReleaseNumber,
    },
}

impl ContentReason {
    /// One word for programs; stable.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Newest { .. } => "newest",
            Self::Young { .. } => "young",
            Self::Reachable(_) => "reachable",
            Self::Ran { .. } => "ran",
            Self::Pinned { .. } => "pinned",
            Self::Unheard { .. } => "unheard",
            Self::SameTree { .. } => "same-tree",
        }
    }

    /// When the reason ends by itself; none where something else has to change first.
    pub const fn until_ms(&self) -> Option<u64> {
        match self {
            Self::Young { until_ms } => Some(*until_ms),
            _ => None,
        }
    }
}

impl fmt::Display for ContentReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest { of } => write!(f, "among the newest {of}"),
            Self::Young { .. } => f.write_str("published or left less than min_age ago"),
            Self::Reachable(root) => root.fmt(f),
            Self::Ran { env, of } => {
                write!(
                    f,
                    "among the last {of} that ran well in {env} or that reverts go to"
                )
            }
            Self::Pinned { who, because } => write!(f, "pinned by {who}: {because}"),
            Self::Unheard { env, host } => {
                write!(
                    f,
                    "{host} in {env} may have it and was not heard: bring it back or retire it"
                )
            }
            Self::SameTree { release } => write!(f, "release {release} has the same tree"),
        }
    }
}

/// Every reason to keep each of `releases`, which are those of one app whose content is there; none: it may go.
pub fn judge_content(
    sight: &Sight<'_>,
    releases: &[KnownRelease],
    keeping: &Keeping,
    now_ms: u64,
) -> BTreeMap<ReleaseNumber, Vec<ContentReason>> {
    let mut reasons: BTreeMap<ReleaseNumber, Vec<ContentReason>> = BTreeMap::new();
    for release in releases {
        reasons.insert(release.target.number, of_itself(release));
    }
    let newest = keeping.newest.max(1);
    for (_, of) in reasons.iter_mut().rev().take(newest as usize) {
        of.push(ContentReason::Newest { of: newest });
    }
    of_sight(sight, releases, keeping, now_ms, &mut reasons);
    of_environments(sight, keeping, &mut reasons);
    of_trees(releases, &mut reasons);
    reasons
}

fn of_itself(release: &KnownRelease) -> Vec<ContentReason> {
    let pinned = release.pin.clone();
    let pinned = pinned.map(|(who, because)| ContentReason::Pinned { who, because });
    pinned.into_iter().collect()
}

type Reasons = BTreeMap<ReleaseNumber, Vec<ContentReason>>;

fn add(reasons: &mut Reasons, release: ReleaseNumber, reason: ContentReason) {
    // What is not listed has no content any more, or never was of this app.
    if let Some(of) = reasons.get_mut(&release)
        && !of.contains(&reason)
    {
        of.push(reason);
    }
}

fn of_sight(
    sight: &Sight<'_>,
    releases: &[KnownRelease],
    keeping: &Keeping,
    now_ms: u64,
    reasons: &mut Reasons,
) {
    let published = releases
        .iter()
        .map(|release| (release.target.number, release.published_at_ms));
    let live = live(sight.states.iter().copied(), [], published);
    for release in releases {
        let number = release.target.number;
        let last_ms = live.last_ms(number).unwrap_or(now_ms);
        let until_ms = until(last_ms, keeping.min_age_ms, now_ms);
        if now_ms < until_ms {
            add(reasons, number, ContentReason::Young { until_ms });
        }
        let roots = live.roots(number).filter(|root| **root != Root::Waits);
        for root in roots {
            add(reasons, number, ContentReason::Reachable(root.clone()));
        }
    }
    for (env, host, target) in &sight.held {
        let root = Root::Held {
            env: (*env).clone(),
            host: (*host).clone(),
        };
        add(reasons, target.number, ContentReason::Reachable(root));
    }
}

fn of_environments(sight: &Sight<'_>, keeping: &Keeping, reasons: &mut Reasons) {
    for state in &sight.states {
        let of = keeping.ran_in.get(&state.env).copied().unwrap_or(keeping.ran);
        for number in ran_lately(state, of as usize) {
            let env = state.env.clone();
            add(reasons, number, ContentReason::Ran { env, of });
        }
        let mut unheard = sight.unheard.iter().filter(|(env, host)| {
            // One that never took part may have been told of it all the same: its record came first.
            **env == state.env && (state.hosts.contains_key(*host) || state.hosts.is_empty())
        });
        let Some((env, host)) = unheard.next() else {
            continue;
        };
        let ran = state.history.iter().map(|entry| entry.release);
        for target in ran.chain(state.current) {
            let (env, host) = ((*env).clone(), (*host).clone());
            add(reasons, target.number, ContentReason::Unheard { env, host });
        }
    }
}

/// The last `of` releases that ran well before what runs, and the first `of` that one revert after another goes to.
fn ran_lately(state: &EnvState, of: usize) -> BTreeSet<ReleaseNumber> {
    let mut lately: Vec<ReleaseNumber> = Vec::new();
    let before = state.ran_well().filter(|target| Some(*target) != state.current);
    for target in before {
        if lately.len() == of {
            break;
        }
        if !lately.contains(&target.number) {
            lately.push(target.number);
        }
    }
    let back = |from: &Target| state.last_good_before(*from);
    let reverts = std::iter::successors(state.current.and_then(|current| back(&current)), back);
    let reverts = reverts.take(of).map(|target| target.number);
    lately.into_iter().chain(reverts).collect()
}

/// A tree's content is there or not, whatever its numbers.
fn of_trees(releases: &[KnownRelease], reasons: &mut Reasons) {
    let mut kept: BTreeMap<ReleaseId, ReleaseNumber> = BTreeMap::new();
    for release in releases {
        let Target { number, id } = release.target;
        if reasons.get(&number).is_some_and(|of| !of.is_empty()) {
            let newest = kept.entry(id).or_insert(number);
            *newest = number.max(*newest);
        }
    }
    for release in releases {
        let Target { number, id } = release.target;
        if let Some(kept) = kept.get(&id).filter(|kept| **kept != number) {
            add(reasons, number, ContentReason::SameTree { release: *kept });
        }
    }
}

#[cfg(test)]
mod tests;
