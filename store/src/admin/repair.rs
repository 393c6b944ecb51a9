//! Bringing back what is damaged or lost from any other copy: another store's folder, a backup, a mirror.

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use super::verify::VerifyReport;
use crate::copies::{BringBackError, Copies, bring_back};
use crate::engine::{BlobsError, Object, ObjectKind};
use crate::folder::StoreFolder;
use crate::keeping;
use crate::ledger::LedgerError;
use crate::locate::ReadIndexError;
use crate::scrub::lost;

/// What was brought back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    pub healed: Vec<(Object, String)>,
    /// Lost, and nobody has a good copy; each with what was tried.
    pub lost: Vec<(Object, Vec<String>)>,
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (object, from) in &self.healed {
            writeln!(f, "healed    {object} from {from}")?;
        }
        for (object, tried) in &self.lost {
            writeln!(f, "lost      {object}: {}", tried.join("; "))?;
        }
        write!(f, "{} objects healed, {} not", self.healed.len(), self.lost.len())
    }
}

/// Why nothing could be repaired, or not all; what was healed stays.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error("cannot tell what the store lacks")]
    Ledger(#[from] LedgerError),
    #[error("cannot keep what was found")]
    Blobs(#[from] BlobsError),
    #[error("cannot use a bundle that was healed")]
    Index(#[from] ReadIndexError),
    #[error("cannot ask mirrors")]
    Client(#[source] io::Error),
}

/// Looks in `from`, one after another, for what `found` says is damaged or lost; and, while a release is not whole, for what the
/// ledger names and is not there: it may have been damaged earlier. Blocks.
pub fn repair(
    store: &StoreFolder,
    found: &VerifyReport,
    from: &[Copies],
) -> Result<RepairReport, RepairError> {
    let mut report = RepairReport::default();
    let damaged: BTreeSet<Object> = found.lost.iter().copied().collect();
    bring_all(store, &damaged, from, &mut report)?;
    if !is_whole(store)? {
        let earlier = named(store)?.difference(&damaged).copied().collect();
        bring_all(store, &earlier, from, &mut report)?;
    }
    if is_whole(store)? {
        // Nothing needs the others any more.
        report.lost.retain(|(object, _)| damaged.contains(object));
    }
    Ok(report)
}

fn is_whole(store: &StoreFolder) -> Result<bool, RepairError> {
    Ok(lost(&*store.blobs, &store.places, &store.ledger, |_, _| {})?.is_empty())
}

fn bring_all(
    store: &StoreFolder,
    wanted: &BTreeSet<Object>,
    from: &[Copies],
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    let mut kept = false;
    for object in wanted {
        if store.blobs.len(*object)?.is_some() {
            continue;
        }
        match brought(store, *object, from)? {
            Ok(copies) => {
                report.healed.push((*object, copies.to_string()));
                kept |= object.kind() == ObjectKind::Kept;
            }
            Err(tried) => report.lost.push((*object, tried)),
        }
    }
    store.places.complete(&*store.blobs);
    if kept {
        // A lost delta took its link with it: the ledger says how its release is kept.
        keeping::load(&*store.blobs, &store.places, &store.ledger)?;
    }
    Ok(())
}

/// Whose copy was taken, or what was tried.
fn brought<'a>(
    store: &StoreFolder,
    object: Object,
    from: &'a [Copies],
) -> Result<Result<&'a Copies, Vec<String>>, RepairError> {
    let mut tried = Vec::new();
    for copies in from {
        match bring_back(&*store.blobs, &store.places, object, copies) {
            Ok(true) => return Ok(Ok(copies)),
            Ok(false) => tried.push(format!("{copies} has none")),
            Err(BringBackError::Copy(reason)) => tried.push(format!("{copies}: {reason}")),
            Err(BringBackError::Blobs(error)) => return Err(error.into()),
            Err(BringBackError::Index(error)) => return Err(error.into()),
            Err(BringBackError::Client(error)) => return Err(RepairError::Client(error)),
        }
    }
    Ok(Err(tried))
}

/// Every manifest, bundle and kept delta that the ledger names.
fn named(store: &StoreFolder) -> Result<BTreeSet<Object>, RepairError> {
    let bundles = store.ledger.bundles()?.into_iter().map(Object::Bundle);
    let kept = store.ledger.kept()?.into_iter();
    let kept = kept.map(|(_, record)| Object::Kept(record.delta));
    let manifests = keeping::retained(&store.ledger)?
        .into_iter()
        .map(Object::Manifest);
    Ok(bundles.chain(kept).chain(manifests).collect())
}
