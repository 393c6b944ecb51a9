//! How careful a rollout is, and the way it takes through an environment's hosts.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{ClassName, HostName};
use crate::rollout::gates::Gate;

/// So many hosts: a count, or a share of those that are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AmountForm", into = "AmountForm")]
pub enum Amount {
    Count(u32),
    /// From 0 to 100.
    Percent(u8),
}

/// As it is written: `3`, `"25%"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum AmountForm {
    Count(u32),
    Text(String),
}

/// Why a text is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a number of hosts nor a share of them: write 3 or \"25%\"")]
pub struct AmountError(String);

impl Amount {
    /// At most so many of `total`.
    pub fn at_most(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(share) => share_of(total, share, 0),
        }
    }

    /// At least so many of `total`.
    pub fn at_least(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(share) => share_of(total, share, 99),
        }
    }
}

fn share_of(total: u32, share: u8, rounding: u64) -> u32 {
    let hosts = (u64::from(total) * u64::from(share) + rounding) / 100;
    u32::try_from(hosts).unwrap_or(u32::MAX)
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let bad = || AmountError(text.chars().take(64).collect());
        let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse::<u32>().map_err(|_| bad()),
            false => Err(bad()),
        };
        match text.strip_suffix('%') {
            None => number(text).map(Self::Count),
            Some(share) => match number(share)? {
                share @ 0..=100 => Ok(Self::Percent(u8::try_from(share).unwrap_or(100))),
                _ => Err(bad()),
            },
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl From<u32> for Amount {
    fn from(count: u32) -> Self {
        Self::Count(count)
    }
}

impl TryFrom<AmountForm> for Amount {
    type Error = AmountError;

    fn try_from(form: AmountForm) -> Result<Self, AmountError> {
        match form {
            AmountForm::Count(count) => Ok(Self::Count(count)),
            AmountForm::Text(text) => text.parse(),
        }
    }
}

impl From<Amount> for AmountForm {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Count(count) => Self::Count(count),
            Amount::Percent(_) => Self::Text(amount.to_string()),
        }
    }
}

/// How a promote is to be carried out, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Host by host, and three times the soak, unless the environment says otherwise.
    Careful,
    /// As the environment says.
    #[default]
    Normal,
    /// One host, then as many at once as may be away, without soak, unless the environment says otherwise. Where its steps
    /// have gates, steps and gates stay: only the environment can say that they are skipped.
    Emergency,
}

impl Profile {
    pub const ALL: [Self; 3] = [Self::Careful, Self::Normal, Self::Emergency];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Careful => "careful",
            Self::Normal => "normal",
            Self::Emergency => "emergency",
        }
    }

    /// What the word itself means, before an environment's own words about it.
    #[must_use]
    pub fn applied(self, policy: Policy) -> Policy {
        let policy = Policy {
            profile: self,
            ..policy
        };
        match self {
            Self::Normal => policy,
            Self::Careful => Policy {
                wave: Some(Amount::Count(1)),
                soak_ms: policy.soak_ms.saturating_mul(3),
                ..policy
            },
            Self::Emergency => Policy {
                wave: None,
                soak_ms: 0,
                steps: match policy.has_gates() {
                    true => policy.steps,
                    false => Vec::new(),
                },
                ..policy
            },
        }
    }
}

impl FromStr for Profile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let found = Self::ALL.into_iter().find(|profile| profile.as_str() == text);
        found.ok_or_else(|| ProfileError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// No such profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no profile {0:?}: there are careful, normal and emergency")]
pub struct ProfileError(String);

/// One step of an environment's way: when it is done, `until` of the hosts it is about run the release.
///
/// Its soak ends it; whatever else must hold before the next step begins is asked after that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayStep {
    pub name: String,
    pub until: Amount,
    /// Only hosts of this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassName>,
    /// Only hosts whose name one of these matches, `*` for any letters; empty: any host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// None: as policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_ms: Option<u64>,
    /// What must hold after that, before the next step begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
}

impl WayStep {
    /// Whether its words about names mean this host.
    pub fn names(&self, host: &HostName) -> bool {
        self.names.is_empty() || self.names.iter().any(|pattern| matches(pattern, host.as_str()))
    }
}

/// Whether `pattern` means `name`; a `*` stands for any letters, none included. Takes time linear in both for each `*`.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            None => return false,
            Some(at) => rest = &rest[at + part.len()..],
        }
    }
    rest.ends_with(last)
}

/// How careful a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// App hosts that may be away at once, switched ones counted; none: a quarter of them.
    pub max_unavailable: Option<Amount>,
    /// App hosts that must stay healthy, whatever `max_unavailable` says.
    pub min_healthy: Option<Amount>,
    /// How long a wave must stay healthy before the next.
    pub soak_ms: u64,
    pub prefetch_deadline_ms: u64,
    pub barrier_deadline_ms: u64,
    /// For one host, from being asked to being healthy, what the releases' own words let it take included.
    pub switch_deadline_ms: u64,
    /// Releases kept on hosts besides the running and the previous good one.
    pub keep: u32,
    /// Hosts that only hold assets and that nothing waits for while they do not report.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub optional_asset_hosts: BTreeSet<HostName>,
    /// Most app hosts in one wave; none: as many as may be away. Never more than those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<Amount>,
    /// For a wave, from its last progress on; none: as for one host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline_ms: Option<u64>,
    /// When a host fails, touched hosts go back; if not, the rollout waits for an operator.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub auto_revert: bool,
    /// The way through the hosts; empty: one host, then the rest. Hosts that no step is about come last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<WayStep>,
    /// The word by which this policy was chosen.
    #[serde(default, skip_serializing_if = "is_normal")]
    pub profile: Profile,
    /// Gates that its environment has and this profile goes without, by the environment's own word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped_gates: Vec<String>,
}

const fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_true(flag: &bool) -> bool {
    *flag
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_normal(profile: &Profile) -> bool {
    *profile == Profile::Normal
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_unavailable: None,
            min_healthy: None,
            soak_ms: 5_000,
            prefetch_deadline_ms: 30 * 60_000,
            barrier_deadline_ms: 10 * 60_000,
            switch_deadline_ms: 5 * 60_000,
            keep: 3,
            optional_asset_hosts: BTreeSet::new(),
            wave: None,
            progress_deadline_ms: None,
            auto_revert: true,
            steps: Vec::new(),
            profile: Profile::Normal,
            skipped_gates: Vec::new(),
        }
    }
}

impl Policy {
    pub fn has_gates(&self) -> bool {
        self.steps.iter().any(|step| !step.gates.is_empty())
    }

    /// The same without gates; it knows which ones.
    #[must_use]
    pub fn without_gates(mut self) -> Self {
        let gates = self.steps.iter_mut().flat_map(|step| step.gates.drain(..));
        let mut names: Vec<String> = gates.map(|gate| gate.name).collect();
        names.sort();
        names.dedup();
        self.skipped_gates = names;
        self
    }

    /// How many of `total` app hosts may be away at once: a quarter, but one at least, and with more than
    /// one host never all, whatever policy says. 0: no switch is possible.
    pub fn allowed_away(&self, total: usize) -> u32 {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        let quarter = (total / 4).max(1);
        let most = if total > 1 { total - 1 } else { total };
        let allowed = match self.max_unavailable {
            None => quarter,
            Some(Amount::Count(count)) => count,
            // A share of few hosts is one host at least: none would mean that nothing can ever be promoted.
            Some(share) => share.at_most(total).max(1),
        };
        let allowed = allowed.min(most.max(1));
        allowed.min(total.saturating_sub(self.must_stay(total as usize)))
    }

    /// How many of `total` app hosts must stay healthy.
    pub fn must_stay(&self, total: usize) -> u32 {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        self.min_healthy.map_or(0, |amount| amount.at_least(total))
    }

    /// How many hosts go in one wave when `allowed` may be away, of `total`.
    pub fn wave_of(&self, allowed: usize, total: usize) -> usize {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        let most = self.wave.map_or(u32::MAX, |wave| wave.at_most(total));
        allowed.min(most as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn amounts_are_counts_or_shares() {
        for (text, amount) in [
            ("0", Amount::Count(0)),
            ("3", Amount::Count(3)),
            ("25%", Amount::Percent(25)),
            ("100%", Amount::Percent(100)),
        ] {
            assert_eq!(text.parse(), Ok(amount));
            assert_eq!(amount.to_string(), text);
            let json = serde_json::to_string(&amount).unwrap();
            assert_eq!(serde_json::from_str::<Amount>(&json).unwrap(), amount, "{json}");
        }
        for text in ["", "%", "101%", "-1", "+1", "1.5", "25 %", "4294967296", "٣"] {
            assert!(text.parse::<Amount>().is_err(), "{text:?} was accepted");
        }
        let share = Amount::Percent(25);
        for (total, most, least) in [
            (0, 0, 0),
            (1, 0, 1),
            (4, 1, 1),
            (10, 2, 3),
            (u32::MAX, 1_073_741_823, 1_073_741_824),
        ] {
            assert_eq!(
                (share.at_most(total), share.at_least(total)),
                (most, least),
                "{total}"
            );
        }
    }

    #[test]
    fn never_all_at_once_unless_there_is_one() {
        let with = |max: Option<Amount>, min: Option<Amount>| Policy {
            max_unavailable: max,
            min_healthy: min,
            ..Policy::default()
        };
        for (max, min, total, allowed) in [
            (None, None, 1, 1),
            (None, None, 3, 1),
            (None, None, 12, 3),
            (Some(Amount::Count(9)), None, 3, 2),
            (Some(Amount::Percent(100)), None, 3, 2),
            (Some(Amount::Percent(10)), None, 3, 1),
            (Some(Amount::Percent(50)), Some(Amount::Percent(75)), 8, 2),
            (None, Some(Amount::Count(3)), 3, 0),
            (Some(Amount::Count(0)), None, 3, 0),
        ] {
            assert_eq!(
                with(max, min).allowed_away(total),
                allowed,
                "{max:?} {min:?} of {total}"
            );
        }
    }

    #[test]
    fn names_match_with_stars() {
        for (pattern, name, is_meant) in [
            ("web-1", "web-1", true),
            ("web-1", "web-12", false),
            ("web-*", "web-12", true),
            ("*", "h1", true),
            ("*-1", "web-1", true),
            ("e*-*-1", "eu-web-1", true),
            ("e*-*-1", "eu-1", false),
            ("a*a", "a", false),
            ("**", "", true),
        ] {
            assert_eq!(matches(pattern, name), is_meant, "{pattern} {name}");
        }
    }

    #[test]
    fn a_profile_is_a_word_for_more_or_less_care() {
        let policy = Policy {
            soak_ms: 10_000,
            steps: vec![WayStep {
                name: "one".to_owned(),
                until: Amount::Count(1),
                class: None,
                names: Vec::new(),
                soak_ms: None,
                gates: Vec::new(),
            }],
            ..Policy::default()
        };
        assert_eq!(Profile::Normal.applied(policy.clone()), policy);
        let careful = Profile::Careful.applied(policy.clone());
        assert_eq!((careful.soak_ms, careful.wave_of(3, 12)), (30_000, 1));
        let emergency = Profile::Emergency.applied(policy);
        assert!(emergency.soak_ms == 0 && emergency.steps.is_empty());
        assert_eq!(
            emergency.allowed_away(4),
            1,
            "haste takes no more hosts away at once"
        );
        assert!("carefull".parse::<Profile>().is_err());
    }
}
