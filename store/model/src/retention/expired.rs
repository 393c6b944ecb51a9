//! Which assets have expired, as the store tells it to hosts, and by what rule a host lets go of them.
//!
//! The store decides ([`super::judge`], at two looks) and marks; what is marked is one sorted list of paths by their hash,
//! named by its digest. Desired state carries the name ([`Expired`]); a host that knows another list asks for this one and
//! checks that it has that digest. It is a level: the newest list is all that counts, a host that was away for weeks acts
//! on the newest as well, and a path that was brought back is simply not in it any more.
//!
//! A host does not take the list's word alone ([`Sparing`]). It spares every path that a release names which it runs,
//! has unpacked, is to run or may go back to, and every path of a release that the store did not speak of: one that was
//! put back from a backup does not know what was published since.
//!
//! A release of which assets went that way is **faded**: it does not count as held, so that a barrier waits for it, and
//! yet lacks nothing ([`ExpiredList::agrees`]) as long as the list names all that went.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::desired::DesiredApp;
use crate::digest::ExpiredDigest;
use crate::name::AppName;
use crate::release::Target;

/// Paths that a list may have, 16 bytes each; a longer one is neither sent nor taken, and nothing goes.
pub const MAX_EXPIRED: usize = 2_000_000;
const HASH: usize = 16;
const FORM: &[u8] = b"ship expired assets 1\n";

/// A path as pages name it, by the first 16 bytes of its BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UrlHash(u128);

impl UrlHash {
    /// Of a path in its canonical spelling.
    pub fn of(url: &str) -> Self {
        let first = blake3::hash(url.as_bytes()).as_bytes().first_chunk().copied();
        Self::from_bytes(first.unwrap_or_default())
    }

    pub const fn from_bytes(bytes: [u8; HASH]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    pub const fn to_bytes(self) -> [u8; HASH] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for UrlHash {
    /// 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for UrlHash {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// Every path of an app that has expired, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpiredList(Vec<UrlHash>);

/// Why bytes are not a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpiredListError {
    #[error("{len} bytes are no list of paths of {HASH} bytes each")]
    Length { len: usize },
    #[error("more than {MAX_EXPIRED} paths are listed")]
    TooMany,
    #[error("the paths are not sorted, or one is there twice")]
    Order,
}

impl ExpiredList {
    pub fn contains(&self, url: &str) -> bool {
        self.has(UrlHash::of(url))
    }

    pub fn has(&self, hash: UrlHash) -> bool {
        self.0.binary_search(&hash).is_ok()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn hashes(&self) -> impl Iterator<Item = UrlHash> {
        self.0.iter().copied()
    }

    /// Whether a release of which `forgotten` went lacks nothing.
    pub fn agrees<'a>(&self, mut forgotten: impl Iterator<Item = &'a str>) -> bool {
        forgotten.all(|url| self.contains(url))
    }

    /// The name of the list as one of `app`'s: of its form, the app and its bytes.
    pub fn digest(&self, app: &AppName) -> ExpiredDigest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(FORM);
        hasher.update(app.as_str().as_bytes());
        hasher.update(b"\n");
        for hash in &self.0 {
            hasher.update(&hash.to_bytes());
        }
        hasher.finalize().into()
    }

    /// Its bytes in parts of at most `most` paths, as they are sent.
    pub fn parts(&self, most: usize) -> impl Iterator<Item = Vec<u8>> {
        let bytes = |part: &[UrlHash]| part.iter().flat_map(|hash| hash.to_bytes()).collect();
        self.0.chunks(most.max(1)).map(bytes)
    }

    /// Takes the next part in.
    ///
    /// # Errors
    /// [`ExpiredListError`]; the list is of no use then.
    pub fn take(&mut self, part: &[u8]) -> Result<(), ExpiredListError> {
        let (hashes, rest) = part.as_chunks::<HASH>();
        if !rest.is_empty() {
            return Err(ExpiredListError::Length { len: part.len() });
        }
        if self.0.len() + hashes.len() > MAX_EXPIRED {
            return Err(ExpiredListError::TooMany);
        }
        for hash in hashes {
            let hash = UrlHash::from_bytes(*hash);
            if self.0.last().is_some_and(|last| *last >= hash) {
                return Err(ExpiredListError::Order);
            }
            self.0.push(hash);
        }
        Ok(())
    }
}

impl FromIterator<UrlHash> for ExpiredList {
    fn from_iter<I: IntoIterator<Item = UrlHash>>(hashes: I) -> Self {
        let mut all: Vec<UrlHash> = hashes.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self(all)
    }
}

/// The newest list of an app, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    pub app: AppName,
    pub list: ExpiredDigest,
    /// Paths in it; 0: nothing has expired.
    pub paths: u64,
}

/// Whose names a host keeps, whatever the list says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sparing {
    /// Releases that the store has judged.
    judged: Vec<Target>,
    /// Those of them that the host needs whole.
    whole: Vec<Target>,
}

impl Sparing {
    /// `desired` is what the list came with; `here` is all that the host runs, has unpacked or may go back to.
    pub fn new(desired: &DesiredApp, here: impl IntoIterator<Item = Target>) -> Self {
        let mut whole: Vec<Target> = desired.run.into_iter().collect();
        whole.extend(desired.stage.iter().copied());
        whole.extend(here);
        whole.sort_by_key(|target| (target.number, target.id));
        whole.dedup();
        Self {
            judged: desired.assets.clone(),
            whole,
        }
    }

    /// Whether every path that this release names stays.
    pub fn spares(&self, release: &Target) -> bool {
        self.whole.contains(release) || !self.judged.contains(release)
    }
}

#[cfg(test)]
mod tests;
