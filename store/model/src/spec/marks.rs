//! Which files below an asset root carry a fingerprint, as publish found out.
//!
//! Names alone do not tell of every file, and the tools that made them do; but only publish sees what the tools wrote,
//! and store, agents and `shipctl` must come to the same list of assets for as long as the release exists, whatever
//! later versions know of names. So publish decides once, and the decision is part of the release's identity: a bit for
//! each file, where it differs from what [`fingerprint`](crate::assets::fingerprint) says of the names alone. A release
//! without it is read by that rule, which therefore never changes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What stands before the digits.
const VERSION: &str = "1:";
/// More bits than a release may have entries.
const MAX_BYTES: usize = 25_000;

/// One bit for each file below a root that browsers may fetch, in the order of the manifest; the first is the lowest
/// of the first byte. As text `1:` and hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Marks(Box<[u8]>);

/// Why a text is not marks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("marks of fingerprinted files are \"1:\" and hexadecimal digits, two for every eight files")]
pub struct MarksError;

impl Marks {
    /// Of each file, whether it carries a fingerprint.
    pub fn new(files: impl IntoIterator<Item = bool>) -> Self {
        let mut bytes: Vec<u8> = Vec::new();
        for (at, marked) in files.into_iter().enumerate() {
            if at % 8 == 0 {
                bytes.push(0);
            }
            if let Some(last) = bytes.last_mut() {
                *last |= u8::from(marked) << (at % 8);
            }
        }
        Self(bytes.into())
    }

    /// Whether they are of exactly `files` files.
    pub fn fits(&self, files: usize) -> bool {
        let beyond = self.0.last().map_or(0, |last| match files % 8 {
            0 => 0,
            bits => last >> bits,
        });
        self.0.len() == files.div_ceil(8) && beyond == 0
    }

    /// Whether the file of that number carries one.
    pub fn get(&self, file: usize) -> bool {
        self.0
            .get(file / 8)
            .is_some_and(|byte| byte >> (file % 8) & 1 == 1)
    }
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marked: u32 = self.0.iter().map(|byte| byte.count_ones()).sum();
        write!(f, "Marks({marked} files)")
    }
}

impl std::str::FromStr for Marks {
    type Err = MarksError;

    fn from_str(text: &str) -> Result<Self, MarksError> {
        let digits = text.strip_prefix(VERSION).ok_or(MarksError)?;
        if digits.len() > 2 * MAX_BYTES || digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(MarksError);
        }
        let bytes = hex::decode(digits).map_err(|_| MarksError)?;
        Ok(Self(bytes.into()))
    }
}

impl Serialize for Marks {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{VERSION}{}", hex::encode(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Marks {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    #[test]
    fn marks_read_back_and_know_their_number() {
        for count in [0, 1, 7, 8, 9, 64] {
            let bit = |at: usize| at % 3 == 1;
            let marks = Marks::new((0..count).map(bit));
            let text = serde_json::to_string(&marks).unwrap();
            let again: Marks = serde_json::from_str(&text).unwrap();
            assert_eq!(again, marks, "{text}");
            assert!((0..count).all(|at| marks.get(at) == bit(at)), "{text}");
            assert!(marks.fits(count) && !marks.fits(count + 8), "{text}");
            assert!(!marks.get(count) && !marks.get(usize::MAX));
        }
        assert_eq!(
            serde_json::to_string(&Marks::new([false, true])).unwrap(),
            "\"1:02\""
        );
        assert!(!"1:04".parse::<Marks>().unwrap().fits(2), "a bit of no file");
    }

    #[test]
    fn what_is_no_marks_is_refused() {
        let long = format!("1:{}", "00".repeat(MAX_BYTES + 1));
        for bad in ["", "02", "2:02", "1:0", "1:AA", "1:zz", long.as_str()] {
            assert_eq!(bad.parse::<Marks>(), Err(MarksError), "{bad:.10}");
        }
    }
}
