//! Which fingerprinted assets are kept, and every reason why.
//!
//! A page that somebody opened names assets of the release that rendered it, and asks for some of them much later. So an
//! asset is kept for **any one** of these reasons, and may go only when none of them holds:
//!
//! * a release that names it is reachable: an environment runs it or may go back to it, a rollout comes from it or goes
//!   to it, a host has it, or it waits to be promoted ([`Root`]);
//! * it is young: the last release that names it was published, or was last the one that an environment ran, less than
//!   `min_age` ago ([`Policy::min_age_ms`]). How old the file is does not matter, nor how many releases came since;
//! * somebody asked for it within `idle`, or may have without being counted ([`Asked`]).
//!
//! A clock that was set back keeps more, never less: what lies in the future counts as now.
//!
//! What was given up is told to hosts as an [`ExpiredList`].
//!
//! Which releases keep the rest of their content is another question: [`judge_content`].

mod content;
mod expired;
mod roots;

pub use content::{ContentReason, Keeping, KnownRelease, Sight, judge_content};
pub use expired::{Expired, ExpiredList, ExpiredListError, MAX_EXPIRED, Sparing, UrlHash};
pub use roots::{Live, Root, held_by, live};

use std::fmt;

use crate::release::ReleaseNumber;

/// How long assets are kept that no reachable release names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Since the last release that names it was published or left, in milliseconds.
    pub min_age_ms: u64,
    /// Since somebody last asked for it, in milliseconds.
    pub idle_ms: u64,
}

impl Default for Policy {
    /// 30 days and 14 days: a tab that stays open over a long leave still finds its assets.
    fn default() -> Self {
        const DAY: u64 = 86_400_000;
        Self {
            min_age_ms: 30 * DAY,
            idle_ms: 14 * DAY,
        }
    }
}

/// What is known of the requests for an asset. Times are milliseconds since 1970, by the store's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Whoever serves it counts, all of them since `since_ms`; what was asked before is not known.
    Counted {
        since_ms: u64,
        /// The last request, and the host that told of it.
        last: Option<(u64, String)>,
    },
    /// These serve it, or may, and tell nothing: nginx over the folder, a host that is away.
    Uncounted { by: Vec<String> },
}

/// One reason to keep an asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason<'a> {
    /// A release that names it is reachable.
    Reachable { release: ReleaseNumber, root: &'a Root },
    /// The newest release that names it was published or left less than `min_age` ago.
    Young { release: ReleaseNumber, until_ms: u64 },
    /// Somebody asked for it within `idle`.
    Requested { at_ms: u64, host: String, until_ms: u64 },
    /// Nobody has counted for as long as `idle` yet.
    NotCountedYet { since_ms: u64, until_ms: u64 },
    /// Somebody serves it without counting.
    Uncounted { by: Vec<String> },
}

impl Reason<'_> {
    /// One word for programs; stable.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Reachable { .. } => "reachable",
            Self::Young { .. } => "young",
            Self::Requested { .. } => "requested",
            Self::NotCountedYet { .. } => "not-counted-yet",
            Self::Uncounted { .. } => "uncounted",
        }
    }

    /// When the reason ends by itself; none where something else has to change first.
    pub const fn until_ms(&self) -> Option<u64> {
        match self {
            Self::Young { until_ms, .. }
            | Self::Requested { until_ms, .. }
            | Self::NotCountedYet { until_ms, .. } => Some(*until_ms),
            Self::Reachable { .. } | Self::Uncounted { .. } => None,
        }
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reachable { release, root } => write!(f, "release {release}: {root}"),
            Self::Young { release, .. } => {
                write!(f, "release {release} was published or left less than min_age ago")
            }
            Self::Requested { host, .. } => write!(f, "somebody asked {host} for it within idle"),
            Self::NotCountedYet { .. } => {
                f.write_str("requests have not been counted for as long as idle yet")
            }
            Self::Uncounted { by } => write!(f, "served without counting by {}", by.join(", ")),
        }
    }
}

/// What is to become of an asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// All reasons, at least one.
    Kept(Vec<Reason<'a>>),
    /// No reason has held since then.
    Collectable { since_ms: u64 },
}

impl Verdict<'_> {
    pub const fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }
}

/// Judges one asset, which `releases` name. An asset of no release, or of one that `live` does not know, counts as named
/// just now.
pub fn judge<'a>(
    live: &'a Live,
    releases: &[ReleaseNumber],
    asked: &Asked,
    policy: Policy,
    now_ms: u64,
) -> Verdict<'a> {
    let mut reasons: Vec<Reason<'a>> = Vec::new();
    for release in releases {
        let roots = live.roots(*release);
        reasons.extend(roots.map(|root| Reason::Reachable {
            release: *release,
            root,
        }));
    }
    let named = releases.iter().map(|release| (live.last_ms(*release), *release));
    // Of releases that were left at the same moment the newest is told.
    let (named_ms, newest) = named
        .map(|(at_ms, release)| (at_ms.unwrap_or(now_ms), release))
        .max()
        .unwrap_or((now_ms, ReleaseNumber(0)));
    let young_until = until(named_ms, policy.min_age_ms, now_ms);
    if now_ms < young_until {
        reasons.push(Reason::Young {
            release: newest,
            until_ms: young_until,
        });
    }
    let idle_from = judge_asked(asked, policy, now_ms, &mut reasons);
    if reasons.is_empty() {
        let since_ms = young_until.max(idle_from);
        Verdict::Collectable { since_ms }
    } else {
        Verdict::Kept(reasons)
    }
}

/// Adds what requests are a reason for; tells when that ended.
fn judge_asked(asked: &Asked, policy: Policy, now_ms: u64, reasons: &mut Vec<Reason<'_>>) -> u64 {
    match asked {
        Asked::Uncounted { by } => {
            reasons.push(Reason::Uncounted { by: by.clone() });
            u64::MAX
        }
        Asked::Counted { since_ms, last } => {
            let counted_until = until(*since_ms, policy.idle_ms, now_ms);
            if now_ms < counted_until {
                reasons.push(Reason::NotCountedYet {
                    since_ms: *since_ms,
                    until_ms: counted_until,
                });
            }
            let Some((at_ms, host)) = last else {
                return counted_until;
            };
            let until_ms = until(*at_ms, policy.idle_ms, now_ms);
            if now_ms < until_ms {
                reasons.push(Reason::Requested {
                    at_ms: *at_ms,
                    host: host.clone(),
                    until_ms,
                });
            }
            counted_until.max(until_ms)
        }
    }
}

/// The end of a time of grace. One that began in the future begins now.
fn until(from_ms: u64, length_ms: u64, now_ms: u64) -> u64 {
    // A moment at least, so that what is said to have just happened is kept whatever the policy.
    from_ms.min(now_ms).saturating_add(length_ms.max(1))
}

#[cfg(test)]
mod tests;
