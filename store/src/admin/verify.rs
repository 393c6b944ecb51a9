//! Reading everything again: does each object have its digest, is each release whole, is the chain of
//! acts unbroken?

use std::fmt;

use ship_model::digest::ReleaseId;
use ship_model::manifest::{MAX_ENCODED, Manifest};

use crate::engine::blobs::{check_whole, read_whole};
use crate::engine::{BlobsError, Object, ObjectKind};
use crate::folder::StoreFolder;
use crate::ledger::{AuditReport, LedgerError};
use crate::locate::read_index;

/// What a whole reading found.
#[derive(Debug)]
pub struct VerifyReport {
    pub objects: u64,
    pub bytes: u64,
    pub releases: u64,
    /// One line each: a damaged object, which is in quarantine now, or one that could not be read.
    pub damaged: Vec<String>,
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
        writeln!(f, "releases  {}", self.releases)?;
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
        damaged: Vec::new(),
        incomplete: Vec::new(),
        audit: store.ledger.verify_audit()?,
    };
    for kind in ObjectKind::ALL {
        for (object, _) in store.blobs.list(kind).map_err(VerifyStoreError::List)? {
            report.objects += 1;
            match check_object(store, object) {
                Ok(len) => report.bytes += len,
                Err(line) => report.damaged.push(line),
            }
        }
    }
    for app in store.ledger.apps()? {
        for record in store.ledger.releases(&app, usize::MAX)? {
            report.releases += 1;
            if let Err(line) = check_release(store, record.id) {
                report.incomplete.push(format!("{app}@{}: {line}", record.number));
            }
        }
    }
    Ok(report)
}

fn check_object(store: &StoreFolder, object: Object) -> Result<u64, String> {
    let len = check_whole(&*store.blobs, object).map_err(|error| text(&error));
    let Object::Bundle(bundle) = object else {
        return len;
    };
    let checked = match len {
        Ok(len) => read_index(&*store.blobs, bundle)
            .map(|_| len)
            .map_err(|error| text(&error)),
        Err(line) => Err(line),
    };
    if checked.is_err() {
        // Whoever asks for its blobs must not be sent there any more.
        let _ = store.places.forget(&*store.blobs, bundle);
    }
    checked
}

fn check_release(store: &StoreFolder, id: ReleaseId) -> Result<(), String> {
    let object = Object::Manifest(id);
    let encoded = read_whole(&*store.blobs, object, MAX_ENCODED as u64).map_err(|error| text(&error))?;
    let manifest = Manifest::read(encoded).map_err(|error| text(&error))?;
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

/// An error with all its causes in one line.
fn text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", text(source)),
        None => error.to_string(),
    }
}
