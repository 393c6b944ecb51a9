//! `[content]`: which releases keep their content, and when the rest goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ship_model::name::{AppName, EnvName};
use ship_model::retention::Keeping;

use super::retention::span;

/// See the module. Any one reason keeps a release's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Content {
    /// Newest releases of each app.
    pub releases: u32,
    /// Since a release was published, or was last run.
    #[serde(rename = "min_age", with = "span")]
    pub min_age_ms: u64,
    /// Releases that ran well in each environment, and as many that reverts go to.
    pub ran: u32,
    /// From the look that finds that nothing needs something to the look that takes it away: longer than any transfer.
    #[serde(rename = "grace", with = "span")]
    pub grace_ms: u64,
    /// Whether the store looks by itself, once a day.
    pub daily: bool,
    /// Within which everything is read again, slowly, from the disk.
    #[serde(rename = "scrub", with = "span")]
    pub scrub_ms: u64,
    /// Bytes that are read again in a second at most; none: as many as `scrub` asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub_limit: Option<u64>,
    /// What is otherwise for one app.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub app: BTreeMap<AppName, OfApp>,
    /// What is otherwise for one environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<EnvName, OfEnvironment>,
}

/// `[content.app.web]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OfApp {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub releases: Option<u32>,
}

/// `[content.environment.production]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OfEnvironment {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ran: Option<u32>,
}

impl Default for Content {
    fn default() -> Self {
        let usual = Keeping::default();
        Self {
            releases: usual.newest,
            min_age_ms: usual.min_age_ms,
            ran: usual.ran,
            grace_ms: 3_600_000,
            daily: true,
            scrub_ms: 7 * 86_400_000,
            scrub_limit: None,
            app: BTreeMap::new(),
            environment: BTreeMap::new(),
        }
    }
}

impl Content {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The rule for one app.
    pub fn keeping(&self, app: &AppName) -> Keeping {
        let of_app = self.app.get(app).and_then(|of| of.releases);
        let ran_in = self.environment.iter();
        Keeping {
            newest: of_app.unwrap_or(self.releases),
            min_age_ms: self.min_age_ms,
            ran: self.ran,
            ran_in: ran_in
                .filter_map(|(env, of)| Some((env.clone(), of.ran?)))
                .collect(),
        }
    }

    /// What cannot be meant, with the key it stands at.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let mut newest = self.app.values().filter_map(|of| of.releases);
        let none = self.releases == 0 || newest.any(|releases| releases == 0);
        if none {
            return Some((
                "content.releases",
                "must be at least 1: an app keeps its newest release",
            ));
        }
        (self.scrub_limit == Some(0)).then_some((
            "content.scrub_limit",
            "must be from 1 byte a second up; leave it out to read as fast as `scrub` asks for",
        ))
    }
}

/// The defaults, for whoever opens the file of a new store.
pub(super) const TEMPLATE: &str = "\
# A release's record stays for ever. Its content stays while hosts or rollouts need it or may go back to it, while it is pinned
# (`shipctl pin`), or for one of these reasons. `shipctl gc --dry-run` tells all of them.
[content]
# It is among so many newest of its app. Otherwise for one: [content.app.NAME] releases = 50
releases = 20
# It was published, or was last run, less than this ago.
min_age = \"7d\"
# It is among the last so many that ran well in an environment, or that reverts go to. Otherwise for one:
# [content.environment.NAME] ran = 20
ran = 5
# What nothing needs is looked at again after this, and only then goes.
grace = \"1h\"
# Once a day, when no rollout is under way; false: only by `shipctl gc` and `shipstore gc`.
daily = true
# Within this everything that lies here is read again and compared with its digest, slowly. What rotted is brought back from
# mirrors and hosts that have it. scrub_limit = N bounds the reading: bytes a second.
scrub = \"7d\"
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn apps_and_environments_may_differ() {
        let read = |text: &str| toml::from_str::<Content>(text);
        assert!(read("").unwrap().is_default());
        let set =
            "releases = 3\nmin_age = \"2d\"\n[app.web]\nreleases = 50\n[environment.production]\nran = 9";
        let set = read(set).unwrap();
        let (web, shop) = (
            set.keeping(&"web".parse().unwrap()),
            set.keeping(&"shop".parse().unwrap()),
        );
        assert_eq!((web.newest, shop.newest, web.ran), (50, 3, 5));
        assert_eq!(web.ran_in, BTreeMap::from([("production".parse().unwrap(), 9)]));
        assert_eq!(read(&toml::to_string(&set).unwrap()).unwrap(), set);
        let template: toml::Table = toml::from_str(TEMPLATE).unwrap();
        let explained: Content = template["content"].clone().try_into().unwrap();
        assert!(explained.is_default());
        assert_eq!(explained.problem(), None);
        for none in ["releases = 0", "[app.web]\nreleases = 0", "scrub_limit = 0"] {
            assert!(read(none).unwrap().problem().is_some(), "{none}");
        }
        for bad in [
            "age = 1",
            "[app.web]\nran = 1",
            "[environment.Production]\nran = 1",
            "grace = \"soon\"",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
