//! The mark of a store that was put back from a backup.

use serde::{Deserialize, Serialize};

use super::{Act, Ledger, LedgerError, Stored, conflict, put};
use crate::engine::{Change, Outcome, Write};

pub(crate) const KEY: &str = "store/restored";

/// While it stands, hosts may have seen epochs and releases may have had numbers that this store knows nothing of: it
/// gives none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When the backup was put back; milliseconds since 1970.
    pub at_ms: u64,
    /// Where it came from, for people.
    pub from: String,
}

/// Why a store that was put back gives no number, be it a release's, a deploy's or an epoch's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this store was put back from a backup ({from}), and nobody has accepted that yet: a number it gives may have been given before"
)]
pub struct NotAcceptedError {
    from: String,
}

/// What to do about [`NotAcceptedError`].
pub const ACCEPT_HINT: &str = "start the newer store again; if it is lost for good, stop this one, run `shipstore accept-restore --dir DIR --because TEXT` and start it again";

impl Restored {
    pub fn not_accepted(self) -> NotAcceptedError {
        NotAcceptedError { from: self.from }
    }
}

impl Ledger {
    /// The mark, if this store was put back from a backup and nobody has accepted that yet.
    pub fn restored(&self) -> Result<Option<Restored>, LedgerError> {
        Ok(self.read(KEY)?.map(|found| found.record))
    }

    /// Sets the mark.
    pub fn mark_restored(&self, mark: &Restored, act: &Act) -> Result<Stored<Restored>, LedgerError> {
        let current = self.read::<Restored>(KEY)?.map(|found| found.version);
        self.settle_restored(put(KEY, current, mark)?, act)
    }

    /// Takes the mark away: an operator vouches for what the store knows.
    pub fn accept_restored(&self, act: &Act) -> Result<Stored<Restored>, LedgerError> {
        let current = self.read::<Restored>(KEY)?.map(|found| found.version);
        let removal = Change {
            key: KEY.to_owned(),
            expected: current,
            write: Write::Delete,
        };
        self.settle_restored(removal, act)
    }

    fn settle_restored(&self, change: Change, act: &Act) -> Result<Stored<Restored>, LedgerError> {
        match self.decide(vec![change], std::slice::from_ref(act))? {
            Outcome::Committed(version) => Ok(Stored::Done(version)),
            Outcome::Conflict { current, .. } => conflict(KEY, current),
        }
    }
}
