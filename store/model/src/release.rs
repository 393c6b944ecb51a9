//! Releases by number, and the record kept beside a manifest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{BundleDigest, ReleaseId};
use crate::name::{AppName, NameError};

/// A release's number: 1, 2, 3 … per app, never used twice; gaps are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseNumber(pub u64);

impl fmt::Display for ReleaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which release, exactly: its number for people, its id for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    pub number: ReleaseNumber,
    pub id: ReleaseId,
}

impl Target {
    /// The folder's name below `releases/` on a host: `455-<first 12 digits of the id>`.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.number, self.id.short())
    }
}

/// What people type: `web@455`, `web`, `@455` or `455`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseRef {
    pub app: Option<AppName>,
    pub number: Option<ReleaseNumber>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseRefError {
    #[error("{text:?} does not name a release: write APP, APP@NUMBER or NUMBER")]
    Shape { text: String },
    #[error("{text:?} does not name a release")]
    App { text: String, source: NameError },
}

impl FromStr for ReleaseRef {
    type Err = ReleaseRefError;

    fn from_str(text: &str) -> Result<Self, ReleaseRefError> {
        let shape = || ReleaseRefError::Shape {
            text: text.chars().take(80).collect(),
        };
        let number = |digits: &str| match digits.parse::<u64>() {
            Ok(number) if number > 0 && !digits.starts_with('+') => Ok(ReleaseNumber(number)),
            _ => Err(shape()),
        };
        let name = |name: &str| {
            let app = AppName::new(name);
            app.map_err(|source| ReleaseRefError::App {
                text: text.chars().take(80).collect(),
                source,
            })
        };
        match text.split_once('@') {
            Some(("", digits)) => Ok(Self {
                app: None,
                number: Some(number(digits)?),
            }),
            Some((app, digits)) => Ok(Self {
                app: Some(name(app)?),
                number: Some(number(digits)?),
            }),
            None if text.is_empty() => Err(shape()),
            None if text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self {
                app: None,
                number: Some(number(text)?),
            }),
            None => Ok(Self {
                app: Some(name(text)?),
                number: None,
            }),
        }
    }
}

/// Where a release came from, as its publisher tells it. Shown, never believed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Free text of at most 200 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Commit the tree was built from, where it lies in a git checkout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether the checkout had uncommitted changes.
    #[serde(default)]
    pub dirty: bool,
}

/// What the store keeps beside a manifest. Never changes once the number is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    pub app: AppName,
    pub number: ReleaseNumber,
    pub id: ReleaseId,
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Role and name of the certificate that published it, `publisher/ci`.
    pub publisher: String,
    /// Milliseconds since 1970, by the store's clock.
    pub published_at_ms: u64,
    /// The bundle that brought what was new; none when nothing was.
    pub bundle: Option<BundleDigest>,
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of files whose content the store did not have.
    pub new_bytes: u64,
    /// Bytes by which the store grew.
    pub stored_bytes: u64,
}

impl ReleaseRecord {
    pub fn target(&self) -> Target {
        Target {
            number: self.number,
            id: self.id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_as_people_type_them() {
        let parse = |text: &str| {
            text.parse::<ReleaseRef>()
                .map(|r| (r.app.map(|a| a.to_string()), r.number))
        };
        let web = Some("web".to_owned());
        assert_eq!(parse("web"), Ok((web.clone(), None)));
        assert_eq!(parse("web@455"), Ok((web, Some(ReleaseNumber(455)))));
        assert_eq!(parse("455"), Ok((None, Some(ReleaseNumber(455)))));
        assert_eq!(parse("@455"), Ok((None, Some(ReleaseNumber(455)))));
        for bad in [
            "",
            "@",
            "web@",
            "web@0",
            "web@x",
            "web@+1",
            "Web",
            "0",
            "99999999999999999999999",
            "a@1@2",
        ] {
            assert!(parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
