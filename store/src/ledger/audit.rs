//! The chain of acts: who did what to which, and why. Each link holds the hash of the one before, so none
//! can be changed, removed or put in later without every following link telling.
//!
//! ```text
//! hash = BLAKE3( "SHIPAUDIT" 1:u8  seq:u64  at_ms:u64  previous:32  who what subject detail )
//!        integers little-endian, texts as u32 length and bytes
//! ```

use serde::{Deserialize, Serialize};

use super::{Ledger, LedgerError, put};
use crate::engine::Change;

pub(super) const PREFIX: &str = "audit/";
pub(super) const HEAD: &str = "audit-head";

/// Longest text of an act in bytes; longer ones are cut, so that no act is lost for its length.
const MOST_TEXT: usize = 4096;

/// Something that was decided, to be written down with the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Milliseconds since 1970, by the store's clock.
    pub at_ms: u64,
    /// Role and name, `operator/alice`; `store` for what it did by itself.
    pub who: String,
    /// A verb: `publish`, `promote`, `revert`.
    pub what: String,
    /// `web@455`, `production/web`.
    pub subject: String,
    /// Why, or how; may be empty.
    pub detail: String,
}

/// A link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLink {
    /// From 1, without gaps.
    pub seq: u64,
    pub at_ms: u64,
    pub who: String,
    pub what: String,
    pub subject: String,
    pub detail: String,
    /// Hash of the link before, 64 digits; zeros for the first.
    pub previous: String,
    /// 64 digits.
    pub hash: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    seq: u64,
    hash: String,
}

impl Head {
    fn none() -> Self {
        Self {
            seq: 0,
            hash: "0".repeat(64),
        }
    }
}

/// What a look along the whole chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    pub links: u64,
    /// The newest link's hash: written down elsewhere, it proves the chain up to here.
    pub head: String,
    /// The first thing that is wrong.
    pub defect: Option<AuditDefect>,
}

/// How a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditDefect {
    #[error("link {seq} is missing")]
    Missing { seq: u64 },
    #[error("link {seq} was changed: its content has another hash")]
    Changed { seq: u64 },
    #[error("link {seq} does not follow the one before it")]
    Unlinked { seq: u64 },
    #[error("the chain ends at {last}, and its head is {head}")]
    Head { last: u64, head: u64 },
}

fn key(seq: u64) -> String {
    format!("{PREFIX}{seq:020}")
}

fn text(text: &str) -> String {
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl AuditLink {
    fn after(head: &Head, act: &Act) -> Self {
        let mut link = Self {
            seq: head.seq + 1,
            at_ms: act.at_ms,
            who: text(&act.who),
            what: text(&act.what),
            subject: text(&act.subject),
            detail: text(&act.detail),
            previous: head.hash.clone(),
            hash: String::new(),
        };
        link.hash = link.compute();
        link
    }

    fn compute(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"SHIPAUDIT\x01");
        hasher.update(&self.seq.to_le_bytes());
        hasher.update(&self.at_ms.to_le_bytes());
        // A previous hash that is none makes another input, hence another hash: it shows.
        let previous = blake3::Hash::from_hex(&self.previous);
        hasher.update(previous.as_ref().map_or(b"?".as_slice(), |hash| hash.as_bytes()));
        for text in [&self.who, &self.what, &self.subject, &self.detail] {
            hasher.update(&(text.len() as u32).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

impl Ledger {
    /// Adds the links of `acts`, and the head after them, to a batch.
    pub(super) fn chain(&self, batch: &mut Vec<Change>, acts: &[Act]) -> Result<(), LedgerError> {
        if acts.is_empty() {
            return Ok(());
        }
        let found = self.read::<Head>(HEAD)?;
        let version = found.as_ref().map(|head| head.version);
        let mut head = found.map_or_else(Head::none, |head| head.record);
        for act in acts {
            let link = AuditLink::after(&head, act);
            head = Head {
                seq: link.seq,
                hash: link.hash.clone(),
            };
            batch.push(put(key(link.seq), None, &link)?);
        }
        batch.push(put(HEAD, version, &head)?);
        Ok(())
    }

    /// Writes down acts that change no other record.
    pub fn audit(&self, acts: &[Act]) -> Result<(), LedgerError> {
        // Nothing else is in the batch, so nothing else can conflict.
        let _outcome = self.decide(Vec::new(), acts)?;
        Ok(())
    }

    /// The newest `limit` links, oldest of them first.
    pub fn audit_tail(&self, limit: usize) -> Result<Vec<AuditLink>, LedgerError> {
        let head = self
            .read::<Head>(HEAD)?
            .map_or_else(Head::none, |head| head.record);
        let first = head.seq.saturating_sub(limit as u64);
        self.audit_after(first, limit)
    }

    /// At most `limit` links after number `seq`, oldest first.
    pub fn audit_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditLink>, LedgerError> {
        let mut links = Vec::new();
        for seq in seq.saturating_add(1)..=seq.saturating_add(limit as u64) {
            match self.read(&key(seq))? {
                Some(link) => links.push(link.record),
                None => break,
            }
        }
        Ok(links)
    }

    /// Follows the whole chain and checks every link.
    pub fn verify_audit(&self) -> Result<AuditReport, LedgerError> {
        let mut last = Head::none();
        let mut defect = None;
        self.walk::<AuditLink>(PREFIX, |_, link| {
            let link = link.record;
            defect = defect_of(&last, &link);
            last = Head {
                seq: link.seq,
                hash: link.hash,
            };
            defect.is_none()
        })?;
        let head = self
            .read::<Head>(HEAD)?
            .map_or_else(Head::none, |head| head.record);
        // Read last, the head may be ahead of what was walked; a chain that is ahead of its head is broken.
        if defect.is_none() && (head.seq < last.seq || (head.seq == last.seq && head.hash != last.hash)) {
            defect = Some(AuditDefect::Head {
                last: last.seq,
                head: head.seq,
            });
        }
        if defect.is_none() && self.audit_after(last.seq, 1)?.is_empty() && head.seq > last.seq {
            defect = Some(AuditDefect::Missing { seq: last.seq + 1 });
        }
        Ok(AuditReport {
            links: last.seq,
            head: last.hash,
            defect,
        })
    }
}

fn defect_of(last: &Head, link: &AuditLink) -> Option<AuditDefect> {
    let seq = last.seq + 1;
    if link.seq != seq {
        Some(AuditDefect::Missing { seq })
    } else if link.hash != link.compute() {
        Some(AuditDefect::Changed { seq })
    } else if link.previous != last.hash {
        Some(AuditDefect::Unlinked { seq })
    } else {
        None
    }
}
