//! Reading everything again: does each object have its digest, is each release whole, is the chain of
//! acts unbroken?

use std::fmt;

use ship_model::digest::{DeltaDigest, ReleaseId};
use ship_model::manifest::{MAX_ENCODED, Manifest};

use crate::engine::blobs::{check_whole, read_whole};
use crate::engine::{BlobsError, Object, ObjectKind};
use crate::folder::StoreFolder;
use crate::keeping;
use crate::ledger::{AuditReport, LedgerError};
use crate::locate::read_index;
use crate::log::whole;

/// What a whole reading found.
#[derive(Debug)]
pub struct VerifyReport {
    pub objects: u64,
    pub bytes: u64,
    /// Those whose content is kept.
    pub releases: u64,
    /// Those whose content was given up: nothing of them is looked at but their records.
    pub collected: u64,
    /// One line each: a damaged object, which is in quarantine now, or one that could not be read.
    pub damaged: Vec<String>,
    /// The same objects by name.
    pub lost: Vec<Object>,
    /// One line each: a release that cannot be given out whole.
    pub incomplete: Vec<String>,
    pub audit: AuditReport,
}

impl VerifyReport {
    pub fn is_good(&self) -> bool {
        self.damaged.is_empty() && self.incomplete.is_empty() && self.audit.defect.is_none()
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "objects   {} read again, {} bytes", self.objects, self.bytes)?;
        for line in &self.damaged {
            writeln!(f, "  damaged     {line}")?;
        }
        match self.collected {
            0 => writeln!(f, "releases  {}", self.releases)?,
            collected => writeln!(f, "releases  {}, and {collected} collected", self.releases)?,
        }
        for line in &self.incomplete {
            writeln!(f, "  incomplete  {line}")?;
        }
        writeln!(f, "audit     {} acts, head {}", self.audit.links, self.audit.head)?;
        if let Some(defect) = &self.audit.defect {
            writeln!(f, "  broken      {defect}")?;
        }
        match self.is_good() {
            true => write!(f, "everything is as it was published"),
            false => write!(f, "the store is damaged"),
        }
    }
}

/// Why the reading could not be done; what is damaged is no error, but a finding.
#[derive(Debug, thiserror::Error)]
pub enum VerifyStoreError {
    #[error("cannot list the store's objects")]
    List(#[source] BlobsError),
    #[error("cannot read the store's ledger")]
    Ledger(#[from] LedgerError),
}

/// Reads every object and every release. Damaged objects are put into quarantine.
pub fn verify(store: &StoreFolder) -> Result<VerifyReport, VerifyStoreError> {
    let mut report = VerifyReport {
        objects: 0,
        bytes: 0,
        releases: 0,
        collected: 0,
        damaged: Vec::new(),
        lost: Vec::new(),
        incomplete: Vec::new(),
        audit: store.ledger.verify_audit()?,
    };
    for kind in ObjectKind::ALL {
        for (object, _) in store.blobs.list(kind).map_err(VerifyStoreError::List)? {
            report.objects += 1;
            match check_object(store, object) {
                Ok(len) => report.bytes += len,
                Err(line) => {
                    report.damaged.push(line);
                    report.lost.push(object);
                }
            }
        }
    }
    for app in store.ledger.apps()? {
        let collected = store.ledger.all_collected(&app)?;
        for record in store.ledger.releases(&app, usize::MAX)? {
            if collected.contains_key(&record.number) {
                report.collected += 1;
                continue;
            }
            report.releases += 1;
            if let Err(line) = check_release(store, record.id) {
                report.incomplete.push(format!("{app}@{}: {line}", record.number));
            }
        }
    }
    Ok(report)
}

fn check_object(store: &StoreFolder, object: Object) -> Result<u64, String> {
    let len = check_whole(&*store.blobs, object).map_err(|error| whole(&error));
    let bundle = match object {
        Object::Bundle(bundle) => bundle,
        Object::Kept(delta) => return len.map_err(|line| lost(store, delta, line)),
        Object::Manifest(_) | Object::Delta(_) => return len,
    };
    let checked = match len {
        Ok(len) => read_index(&*store.blobs, bundle)
            .map(|_| len)
            .map_err(|error| whole(&error)),
        Err(line) => Err(line),
    };
    if checked.is_err() {
        // Whoever asks for its blobs must not be sent there any more.
        let _ = store.places.forget(&*store.blobs, bundle);
    }
    checked
}

/// Names the releases that a damaged kept delta takes with it.
fn lost(store: &StoreFolder, delta: DeltaDigest, line: String) -> String {
    let taken = match keeping::put_aside(&*store.blobs, &store.places, delta) {
        Ok(taken) => taken,
        Err(error) => return format!("{line}; {}", whole(&error)),
    };
    let mut names = Vec::new();
    for id in taken {
        let known = store.ledger.releases_of_id(&id).unwrap_or_default();
        names.extend(known.into_iter().map(|(app, number)| format!("{app}@{number}")));
    }
    match names.is_empty() {
        true => line,
        false => format!("{line}: it takes {} with it", names.join(", ")),
    }
}

fn check_release(store: &StoreFolder, id: ReleaseId) -> Result<(), String> {
    let object = Object::Manifest(id);
    let encoded = read_whole(&*store.blobs, object, MAX_ENCODED as u64).map_err(|error| whole(&error))?;
    let manifest = Manifest::read(encoded).map_err(|error| whole(&error))?;
    let files = manifest.files().map(|(_, _, _, digest)| digest);
    let missing = store.places.missing(files);
    match missing.first() {
        None => Ok(()),
        Some(first) => {
            let path = manifest.files().find(|(_, _, _, digest)| digest == first);
            let path = path.map(|(path, ..)| path.to_string()).unwrap_or_default();
            Err(format!(
                "{} blobs are lost, among them that of {path}",
                missing.len()
            ))
        }
    }
}
