//! Bringing back what is damaged or lost from any other copy: another store's folder, a backup, a mirror.
//!
//! An object is what its digest says, whoever gives it: each is staged, hashed and kept under its digest or not at all, so that a
//! copy can be as damaged as it likes, and be anybody's.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ship_model::mirror::{MirrorUrl, MirrorUrlError};

use super::verify::VerifyReport;
use crate::engine::{BlobsError, Object, ObjectKind};
use crate::folder::{OBJECTS, StoreFolder};
use crate::ledger::LedgerError;
use crate::locate::{ReadIndexError, read_index};
use crate::log::whole;

/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// How long a mirror may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where copies may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copies {
    /// A store's folder, a backup of one, or a mirror's folder.
    Folder(PathBuf),
    /// A mirror: it has no manifests.
    Mirror(MirrorUrl),
}

impl FromStr for Copies {
    type Err = MirrorUrlError;
    fn from_str(text: &str) -> Result<Self, MirrorUrlError> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Mirror(text.parse()?));
        }
        Ok(Self::Folder(PathBuf::from(text)))
    }
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Mirror(url) => url.fmt(f),
        }
    }
}

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

/// Looks in `from`, one after another, for what `found` says is damaged or lost. Blocks.
pub fn repair(
    store: &StoreFolder,
    found: &VerifyReport,
    from: &[Copies],
) -> Result<RepairReport, RepairError> {
    let mut report = RepairReport::default();
    for object in wanted(store, found)? {
        let mut tried = Vec::new();
        let healed = from.iter().find_map(|copies| match bring(store, object, copies) {
            Ok(true) => Some(Ok(copies)),
            Ok(false) => {
                tried.push(format!("{copies} has none"));
                None
            }
            Err(BringError::Copy(reason)) => {
                tried.push(format!("{copies}: {reason}"));
                None
            }
            Err(BringError::Store(error)) => Some(Err(error)),
        });
        match healed.transpose()? {
            Some(copies) => report.healed.push((object, copies.to_string())),
            None => report.lost.push((object, tried)),
        }
    }
    store.places.complete(&*store.blobs);
    if report
        .healed
        .iter()
        .any(|(object, _)| object.kind() == ObjectKind::Kept)
    {
        store.places.reckon(&*store.blobs);
    }
    Ok(report)
}

/// What was damaged, and, where a release is not whole, every manifest and bundle that the ledger names and that is not there:
/// it may have been damaged earlier.
fn wanted(store: &StoreFolder, found: &VerifyReport) -> Result<BTreeSet<Object>, RepairError> {
    let mut wanted: BTreeSet<Object> = found.lost.iter().copied().collect();
    if !found.incomplete.is_empty() {
        for bundle in store.ledger.bundles()? {
            wanted.insert(Object::Bundle(bundle));
        }
        for app in store.ledger.apps()? {
            let collected = store.ledger.all_collected(&app)?;
            let releases = store.ledger.releases(&app, usize::MAX)?.into_iter();
            let kept = releases.filter(|release| !collected.contains_key(&release.number));
            wanted.extend(kept.map(|release| Object::Manifest(release.id)));
        }
    }
    let mut lacking = BTreeSet::new();
    for object in wanted {
        if store.blobs.len(object)?.is_none() {
            lacking.insert(object);
        }
    }
    Ok(lacking)
}

enum BringError {
    /// This copy does not do; another may.
    Copy(String),
    Store(RepairError),
}

fn bring(store: &StoreFolder, object: Object, copies: &Copies) -> Result<bool, BringError> {
    match copies {
        Copies::Folder(folder) => {
            for path in places_in(folder, object) {
                match File::open(&path) {
                    Ok(file) => return take(store, object, file).map(|()| true),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(BringError::Copy(error.to_string())),
                }
            }
            Ok(false)
        }
        Copies::Mirror(url) => match body_of(url, object)? {
            None => Ok(false),
            Some(body) => take(store, object, body).map(|()| true),
        },
    }
}

/// Where a store's folder, its objects alone, or a mirror has an object.
fn places_in(folder: &Path, object: Object) -> [PathBuf; 3] {
    let (kind, hex) = (object.kind().as_str(), object.hex());
    let spread = |top: PathBuf| top.join(kind).join(&hex[..2]).join(&hex);
    [
        spread(folder.join(OBJECTS)),
        spread(folder.to_owned()),
        folder.join(format!("{kind}s")).join(&hex),
    ]
}

/// Stages what `from` gives, and keeps it if it is what its name says.
fn take(store: &StoreFolder, object: Object, mut from: impl Read) -> Result<(), BringError> {
    let failed = |error: BlobsError| match error {
        BlobsError::Mismatch { .. } => BringError::Copy("its copy is damaged as well".to_owned()),
        error => BringError::Store(error.into()),
    };
    let mut staged = store.blobs.stage().map_err(failed)?;
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => staged.write_all(&piece[..len]).map_err(|source| {
                let action = format!("stage {object}");
                BringError::Store(BlobsError::Io { action, source }.into())
            })?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BringError::Copy(whole(&error))),
        }
    }
    store.blobs.keep(staged, object).map_err(failed)?;
    if let Object::Bundle(bundle) = object {
        let index = read_index(&*store.blobs, bundle).map_err(|error| BringError::Store(error.into()))?;
        let len = store.blobs.len(object).map_err(failed)?.unwrap_or(0);
        store.places.add(bundle, len, &index);
    }
    Ok(())
}

/// A mirror's copy as a stream; none where it has none.
fn body_of(url: &MirrorUrl, object: Object) -> Result<Option<impl Read>, BringError> {
    if object.kind() == ObjectKind::Manifest {
        return Ok(None);
    }
    let address = format!("{url}/{}s/{}", object.kind().as_str(), object.hex());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| BringError::Store(RepairError::Client(error)))?;
    // reqwest asks for the process's. That there is one already is as good: it is the only one in this program.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let copy = |error: reqwest::Error| BringError::Copy(whole(&error));
    let asked = async {
        let client = reqwest::Client::builder()
            .read_timeout(PATIENCE)
            .connect_timeout(PATIENCE)
            .build()?;
        client.get(address).send().await
    };
    let response = runtime.block_on(asked).map_err(copy)?;
    if response.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let response = response.error_for_status().map_err(copy)?;
    Ok(Some(Body {
        runtime,
        response,
        rest: bytes::Bytes::new(),
    }))
}

/// What a server sends, read by somebody who blocks.
struct Body {
    runtime: tokio::runtime::Runtime,
    response: reqwest::Response,
    rest: bytes::Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let next = self.runtime.block_on(self.response.chunk());
            match next.map_err(io::Error::other)? {
                Some(piece) => self.rest = piece,
                None => return Ok(0),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}
