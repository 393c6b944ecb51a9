//! What a release's files looked like when they were last hashed.
//!
//! ```text
//! "SHIPSTMP" | version u8 = 1 | release id, 32 bytes | stamps u64 | stamp … | BLAKE3 of all before, 32 bytes
//! stamp      inode u64 | size u64 | mtime ns i64 | ctime ns i64        one for each entry of the manifest, in its
//!                                                                     order; all zero for what is no file
//! ```
//! Integers are little-endian.
//!
//! A hard link moves the ctime of its inode, made or removed, so staging and removing a release would make the stamps
//! of its neighbours stale. Two rules keep that harmless. A stale stamp is never damage: the file is hashed, and when
//! its bytes are right it gets a new stamp. And after our own linking and unlinking the neighbours' stamps are brought
//! up to date, where the file looked exactly as stamped just before; a crash in between costs hashing, never trust.

use ship_model::digest::ReleaseId;
use ship_model::manifest::MAX_ENTRIES;

use crate::stamp::FileStamp;

const MAGIC: &[u8; 9] = b"SHIPSTMP\x01";
const HEAD: usize = 9 + 32 + 8;
const STAMP: usize = 32;
const CHECKSUM: usize = 32;

/// Largest stamps file, in bytes.
pub(crate) const MAX_STAMPS: u64 = (HEAD + CHECKSUM) as u64 + MAX_ENTRIES * STAMP as u64;

/// The stamps of one release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamps {
    pub release: ReleaseId,
    pub entries: Vec<FileStamp>,
}

/// The bytes are not stamps, or are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a stamps file of version 1, or damaged")]
pub struct StampsError;

impl Stamps {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.entries.len() * STAMP + CHECKSUM);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(self.release.as_bytes());
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        for stamp in &self.entries {
            out.extend_from_slice(&stamp.inode.to_le_bytes());
            out.extend_from_slice(&stamp.size.to_le_bytes());
            out.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
            out.extend_from_slice(&stamp.ctime_ns.to_le_bytes());
        }
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, StampsError> {
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(StampsError)?;
        if blake3::hash(body) != *checksum {
            return Err(StampsError);
        }
        let rest = body.strip_prefix(MAGIC).ok_or(StampsError)?;
        let (release, rest) = rest.split_first_chunk().ok_or(StampsError)?;
        let (count, rest) = rest.split_first_chunk().ok_or(StampsError)?;
        if rest.len() as u64 != u64::from_le_bytes(*count).saturating_mul(STAMP as u64) {
            return Err(StampsError);
        }
        let entries = rest.as_chunks::<STAMP>().0.iter().map(stamp).collect();
        Ok(Self {
            release: ReleaseId::from_bytes(*release),
            entries,
        })
    }
}

fn stamp(bytes: &[u8; STAMP]) -> FileStamp {
    let [inode, size, mtime, ctime] = [0, 1, 2, 3].map(|at| bytes.as_chunks::<8>().0[at]);
    FileStamp {
        inode: u64::from_le_bytes(inode),
        size: u64::from_le_bytes(size),
        mtime_ns: i64::from_le_bytes(mtime),
        ctime_ns: i64::from_le_bytes(ctime),
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        clippy::unwrap_used,
        reason = "tests stop at the first surprise"
    )]
    use super::*;

    fn sample() -> Stamps {
        Stamps {
            release: ReleaseId::of(b"tree"),
            entries: vec![
                FileStamp {
                    inode: 12,
                    size: 3,
                    mtime_ns: -5,
                    ctime_ns: 1_700_000_000_123_456_789,
                },
                FileStamp::NONE,
            ],
        }
    }

    #[test]
    fn stamps_read_back_and_damage_is_seen() {
        let good = sample().encode();
        assert_eq!(Stamps::decode(&good).unwrap(), sample());
        for at in 0..good.len() {
            assert!(Stamps::decode(&good[..at]).is_err());
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(Stamps::decode(&bad).is_err());
            }
        }
    }

    #[test]
    fn the_bytes_of_version_1_are_frozen() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/frozen/stamps-1");
        if std::env::var_os("SHIP_BLESS").is_some() {
            std::fs::write(path, sample().encode()).unwrap();
        }
        let frozen = std::fs::read(path).unwrap();
        assert_eq!(sample().encode(), frozen);
        assert_eq!(Stamps::decode(&frozen).unwrap(), sample());
    }
}
