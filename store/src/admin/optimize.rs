//! A store whose older releases are kept as deltas, all at once, while nobody else has it.

use crate::clock::Clock;
use crate::folder::StoreFolder;
use crate::keeping::{AppSurvey, OptimizeError, Optimizer, Turn, remove, survey};
use std::sync::Arc;

/// What was done.
#[derive(Debug)]
pub struct OptimizeReport {
    pub before: Vec<AppSurvey>,
    pub after: Vec<AppSurvey>,
    /// Bundles that are gone, and their bytes.
    pub removed: u64,
    pub removed_bytes: u64,
    /// Steps that could not be done.
    pub failed: u64,
}

/// Takes every step that there is; `told` hears of each. The store is whole between any two of them.
///
/// # Errors
/// [`OptimizeError`], when what is to be done cannot be told.
pub fn optimize(
    store: &StoreFolder,
    clock: &Clock,
    mut told: impl FnMut(&Turn),
) -> Result<OptimizeReport, OptimizeError> {
    let look = || survey(&*store.blobs, &store.places, &store.ledger);
    let mut report = OptimizeReport {
        before: look()?,
        after: Vec::new(),
        removed: 0,
        removed_bytes: 0,
        failed: 0,
    };
    let optimizer = Optimizer::new(
        Arc::clone(&store.blobs),
        Arc::clone(&store.places),
        store.ledger.clone(),
        clock.clone(),
    );
    loop {
        let turn = optimizer.turn(&|| Ok(()))?;
        told(&turn);
        match turn {
            Turn::Idle => break,
            Turn::Left { objects, bytes } => {
                report.removed += objects.len() as u64;
                report.removed_bytes += bytes;
                for object in objects {
                    remove(&*store.blobs, &store.places, object)?;
                }
            }
            Turn::Failed { .. } => report.failed += 1,
            Turn::Key { .. } | Turn::Kept { .. } => {}
        }
    }
    report.after = look()?;
    Ok(report)
}
