//! Digests by kind: a blob's can never be passed where a release's is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest: 64 lower-case hexadecimal digits are expected")]
pub struct DigestError {
    text: String,
}

/// Reads 64 lower-case hexadecimal digits; upper case is refused so that one digest has one spelling.
fn parse(text: &str) -> Result<[u8; 32], DigestError> {
    let refused = || DigestError {
        text: text.chars().take(80).collect(),
    };
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(refused());
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| refused())?;
    Ok(bytes)
}

macro_rules! digest_kind {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The digest of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// Takes 32 bytes that are already known to be a digest.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Takes a digest that came from outside, if it has the right length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first 12 digits, for people; never for looking anything up.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..6])
            }
        }

        impl From<blake3::Hash> for $name {
            fn from(hash: blake3::Hash) -> Self {
                Self(*hash.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = DigestError;
            fn from_str(text: &str) -> Result<Self, DigestError> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

digest_kind!(
    /// BLAKE3 of a file's whole content.
    BlobDigest
);
digest_kind!(
    /// BLAKE3 of a bundle's bytes as they lie in the store.
    BundleDigest
);
digest_kind!(
    /// BLAKE3 of a delta's bytes as they lie in the store.
    DeltaDigest
);
digest_kind!(
    /// BLAKE3 of a release's canonical manifest: the release's identity.
    ReleaseId
);
digest_kind!(
    /// BLAKE3 of a rollout plan's content: what an operator saw is what runs.
    PlanId
);
digest_kind!(
    /// BLAKE3 of a list of expired assets.
    ExpiredDigest
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_digest_has_one_spelling() {
        let digest = BlobDigest::of(b"ship");
        assert_eq!(digest.to_string().parse::<BlobDigest>(), Ok(digest));
        let upper = digest.to_string().to_uppercase();
        for bad in [
            "",
            "ab",
            upper.as_str(),
            &"g".repeat(64),
            &"a".repeat(63),
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<BlobDigest>().is_err(), "{bad:?} was accepted");
        }
    }
}
