//! `[retention]`: how long the store keeps assets that no release in reach names.

use serde::{Deserialize, Serialize};
use ship_model::retention::Policy;

const DAY: u64 = 86_400_000;
/// Longest time that can be written.
const MOST_MS: u64 = 3650 * DAY;
const LEAST_MS: u64 = 1_000;

/// What hosts that serve assets and tell nothing of requests mean for the assets they serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Uncounted {
    /// Somebody may have asked for any of them: all are kept.
    #[default]
    Keep,
    /// What other hosts count is evidence enough.
    Ignore,
}

/// See the module. Any one reason keeps an asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Since the last release that names it was published, or was last run.
    #[serde(rename = "min_age", with = "span")]
    pub min_age_ms: u64,
    /// Since somebody last asked for it.
    #[serde(rename = "idle", with = "span")]
    pub idle_ms: u64,
    pub uncounted: Uncounted,
    /// Between the two looks of a sweep: longer than a page takes to load.
    #[serde(rename = "grace", with = "span")]
    pub grace_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        let Policy { min_age_ms, idle_ms } = Policy::default();
        Self {
            min_age_ms,
            idle_ms,
            uncounted: Uncounted::Keep,
            grace_ms: 60_000,
        }
    }
}

impl Retention {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub const fn policy(&self) -> Policy {
        Policy {
            min_age_ms: self.min_age_ms,
            idle_ms: self.idle_ms,
        }
    }
}

/// The defaults, for whoever opens the file of a new store.
pub(super) const TEMPLATE: &str = "\
# Fingerprinted assets are kept while a release that hosts run or may go back to names them, or for one of these reasons.
[retention]
# The last release that names it was published, or was last run, less than this ago.
min_age = \"30d\"
# Somebody asked for it less than this ago.
idle = \"14d\"
# Hosts without an asset port count no requests: \"keep\" keeps whatever they serve, \"ignore\" does not ask them.
uncounted = \"keep\"
# `shipctl asset gc` removes what no reason keeps at two looks, this far apart. Nothing is removed by itself.
grace = \"60s\"
";

/// `30d`, `12h`, `90m`, `45s`.
pub(super) mod span {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::{LEAST_MS, MOST_MS};

    const UNITS: [(&str, u64); 4] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

    pub fn serialize<S: Serializer>(ms: &u64, out: S) -> Result<S::Ok, S::Error> {
        let unit = UNITS.iter().find(|(_, length)| ms.is_multiple_of(*length));
        match unit {
            Some((unit, length)) => out.collect_str(&format_args!("{}{unit}", ms / length)),
            // Only whole seconds are ever read.
            None => out.collect_str(&format_args!("{}s", ms / 1_000)),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
        let text = String::deserialize(input)?;
        read(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "{:?} is not a time from one second to ten years: write \"30d\", \"12h\", \"90m\" or \"45s\"",
                text.chars().take(40).collect::<String>()
            ))
        })
    }

    /// Milliseconds; none for what is no time that can be written.
    pub fn read(text: &str) -> Option<u64> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, length) = UNITS.iter().find(|(known, _)| *known == unit)?;
        let ms = number.parse::<u64>().ok()?.checked_mul(*length)?;
        (LEAST_MS..=MOST_MS).contains(&ms).then_some(ms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them_and_mistakes_are_named() {
        let read = |text: &str| toml::from_str::<Retention>(text);
        assert_eq!(read("").unwrap(), Retention::default());
        let set = read("min_age = \"90m\"\nidle = \"45s\"\nuncounted = \"ignore\"").unwrap();
        assert_eq!((set.min_age_ms, set.idle_ms), (90 * 60_000, 45_000));
        assert_eq!(set.uncounted, Uncounted::Ignore);
        assert_eq!(read(&toml::to_string(&set).unwrap()).unwrap(), set);
        let template: toml::Table = toml::from_str(TEMPLATE).unwrap();
        let explained: Retention = template["retention"].clone().try_into().unwrap();
        assert!(explained.is_default());
        for bad in [
            "30",
            "d",
            "0d",
            "1w",
            "-1d",
            "1.5d",
            "4000d",
            "99999999999999999999d",
            "3é",
        ] {
            let error = read(&format!("idle = {bad:?}")).unwrap_err().to_string();
            assert!(error.contains("is not a time"), "{bad}: {error}");
            assert!(error.contains("line 1"), "{error}");
        }
        assert!(read("uncounted = \"maybe\"").is_err());
        assert!(read("age = \"1d\"").is_err());
    }
}
