//! An operator vouches for a store that was put back from a backup: it may lead hosts again that have seen newer
//! epochs than it knows of.

use std::path::Path;

use ship_model::rollout::{EnvState, Event, step};

use crate::folder::{OpenFolderError, StoreFolder};
use crate::ledger::{Act, EnvChange, Ledger, LedgerError, Stored, Versioned};
use crate::publish::Limits;
use crate::rollout::telling::acts;

/// Numbers that each app leaves out: more than anybody publishes between a backup and its loss.
pub const NUMBERS_SKIPPED: u64 = 1_000;

/// Why the store leads no further than before.
#[derive(Debug, thiserror::Error)]
pub enum AcceptRestoreError {
    #[error(
        "the store was not put back from a backup, or that was accepted already: there is nothing to accept"
    )]
    NotRestored,
    #[error("say why: the reason stays in the audit chain")]
    NoReason,
    #[error("cannot open the store")]
    Open(#[from] OpenFolderError),
    #[error("cannot change the store's ledger")]
    Ledger(#[from] LedgerError),
}

/// What was accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Environments' apps that are led again.
    pub environments: usize,
    pub apps: usize,
}

/// Takes the mark of the store in `dir` away, and steps over every epoch, deploy and release number that may have
/// been given after the backup. A rollout that was under way in it is paused: whether it still makes sense is for an
/// operator to say.
///
/// The mark goes last: after a crash this is done again, and steps further, which harms nobody.
pub fn accept_restore(
    dir: &Path,
    who: &str,
    because: &str,
    at_ms: u64,
) -> Result<Accepted, AcceptRestoreError> {
    if because.trim().is_empty() {
        return Err(AcceptRestoreError::NoReason);
    }
    let (store, report) = StoreFolder::open(dir, Limits::default())?;
    let mark = report.restored.ok_or(AcceptRestoreError::NotRestored)?;
    let ledger = &store.ledger;
    let mut accepted = Accepted::default();
    for state in ledger.env_states(None)? {
        lead_again(ledger, state, who, at_ms)?;
        accepted.environments += 1;
    }
    for app in ledger.apps()? {
        ledger.skip_numbers(&app, NUMBERS_SKIPPED)?;
        // Any of them may have been brought back since: what nothing keeps is found again by the next sweep.
        ledger.unexpire_all(&app)?;
        accepted.apps += 1;
    }
    let act = Act {
        at_ms,
        who: who.to_owned(),
        what: "accept-restore".to_owned(),
        subject: "store".to_owned(),
        detail: format!("{because} (from {})", mark.from),
    };
    // A conflict would be another writer, and the folder's lock keeps those away.
    let _stored = ledger.accept_restored(&act)?;
    Ok(accepted)
}

fn lead_again(ledger: &Ledger, found: Versioned<EnvState>, who: &str, at_ms: u64) -> Result<(), LedgerError> {
    let mut found = Some(found);
    while let Some(Versioned { record, version }) = found.take() {
        let (mut state, effects) = match record.running() {
            Some(_) => step(&record, Event::Pause { who: who.to_owned() }, at_ms),
            None => (record, Vec::new()),
        };
        state.skip_ahead();
        let change = EnvChange {
            state: &state,
            expected: Some(version),
            acts: &acts(&state, &effects, at_ms),
            request: None,
        };
        if let Stored::Conflict(current) = ledger.put_env_state(change)? {
            found = current;
        }
    }
    Ok(())
}
