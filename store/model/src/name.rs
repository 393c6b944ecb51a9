//! Names of apps, hosts, environments, classes and processes: short, printable, safe as a file name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name in bytes; a DNS label's limit, so that a host's name fits.
pub const MAX_NAME: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not {what}: use 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit"
)]
pub struct NameError {
    what: &'static str,
    text: String,
}

fn well_formed(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    first && text.len() <= MAX_NAME && text.bytes().all(inner) && !text.contains("..")
}

macro_rules! name_kind {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks `text` and takes it.
            pub fn new(text: &str) -> Result<Self, NameError> {
                if well_formed(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { what: $what, text: text.chars().take(80).collect() })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                Self::new(&String::deserialize(input)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_kind!(
    /// An app: what releases are numbered by.
    AppName,
    "an app's name"
);
name_kind!(
    /// A host, as its certificate names it.
    HostName,
    "a host's name"
);
name_kind!(
    /// An environment: `production`, `dev`.
    EnvName,
    "an environment's name"
);
name_kind!(
    /// A role of hosts: `web`, `worker`, `assets`.
    ClassName,
    "a class's name"
);
name_kind!(
    /// A process of an app: the `web` of `[process.web]`.
    ProcessName,
    "a process's name"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names() {
        for good in ["web", "a", "0", "shop-2", "h1.example.com", "a_b"] {
            assert!(AppName::new(good).is_ok(), "{good:?} was refused");
        }
        let long = "a".repeat(64);
        for bad in [
            "", ".", "..", "-a", "_a", "a/b", "a..b", "Web", "a b", "a\n", "ä", "a\0", &long,
        ] {
            assert!(AppName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
