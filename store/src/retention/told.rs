//! What hosts and pushes are told to have expired: what the ledger says, put up on the board.

use ship_model::name::AppName;

use crate::desired::Board;
use crate::ledger::{Ledger, LedgerError};

/// Puts up which assets of `app` have expired now. To be done after every change of marks, and before anybody is told of
/// a release whose marks were taken away. A store that was put back from a backup, and is not accepted, puts up nothing: it
/// does not know what was brought back since. Blocks.
pub fn tell_expired(ledger: &Ledger, board: &Board, app: &AppName) -> Result<(), LedgerError> {
    if ledger.restored()?.is_some() {
        return Ok(());
    }
    board.expire(app, || ledger.expired_list(app))
}

/// The same of every app, at a store's start.
pub fn tell_all_expired(ledger: &Ledger, board: &Board) -> Result<(), LedgerError> {
    for app in ledger.apps()? {
        tell_expired(ledger, board, &app)?;
    }
    Ok(())
}
