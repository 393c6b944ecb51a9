//! A copy of the store that can be made while it serves.
//!
//! The journal is copied first and the objects after it. A record is only written when all it names is
//! durable, objects never change, and what is let go stays on the disk for an hour: so all that the copied journal
//! names is copied too. A batch that was half-written at that moment is a torn end, which nobody was told
//! of and which opening cuts off.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ship_durable::FileError;

use crate::folder::{CATALOG, LOCK, OBJECTS};

/// Written last: a folder without it is no whole backup.
pub(super) const MARK: &str = "backup.json";
const VERSION: u8 = 1;
/// Entries of a store's folder that are made anew, or belong to the running process.
const LEFT_OUT: [&str; 5] = [LOCK, "run", "assets", "assets.records", "logs"];

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    pub version: u8,
    pub at_ms: u64,
    pub from: String,
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupReport {
    pub files: u64,
    pub bytes: u64,
}

/// Why there is no backup; what was copied so far is left without its mark.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{} is not a store's folder: it has no {CATALOG}/journal", path.display())]
    NoStore { path: PathBuf },
    #[error("{} is not empty; name a new folder", path.display())]
    NotEmpty { path: PathBuf },
    #[error("cannot copy {}", path.display())]
    Copy { path: PathBuf, source: io::Error },
    #[error("cannot make the backup durable")]
    Durable(#[from] FileError),
}

/// Copies the store in `dir` into the new folder `out`, certificates and settings too.
///
/// On the same file system objects are hard links, which cost nothing; a backup that shall survive the
/// disk goes to another one. `at_ms` is noted in it.
pub fn backup(dir: &Path, out: &Path, at_ms: u64) -> Result<BackupReport, BackupError> {
    let journal = dir.join(CATALOG).join("journal");
    if !journal.is_file() {
        return Err(BackupError::NoStore { path: dir.to_owned() });
    }
    empty_folder(out)?;
    let mut report = BackupReport::default();
    let catalog = out.join(CATALOG);
    make_folder(&catalog)?;
    copy(&journal, &catalog.join("journal"), &mut report)?;
    for entry in list(dir)? {
        let name = entry.file_name();
        let known = name.to_str();
        if known.is_some_and(|name| name == CATALOG || LEFT_OUT.contains(&name)) {
            continue;
        }
        let links = known == Some(OBJECTS);
        copy_tree(&entry.path(), &out.join(&name), links, &mut report)?;
    }
    ship_durable::sync_fs(out)?;
    let mark = Mark {
        version: VERSION,
        at_ms,
        from: dir.display().to_string(),
    };
    let mark = serde_json::to_vec(&mark).map_err(|error| BackupError::Copy {
        path: out.join(MARK),
        source: error.into(),
    })?;
    ship_durable::create_new(&out.join(MARK), &mark)?;
    Ok(report)
}

pub(super) fn read_mark(dir: &Path) -> io::Result<Mark> {
    let mut text = String::new();
    File::open(dir.join(MARK))?
        .take(64 << 10)
        .read_to_string(&mut text)?;
    let mark: Mark = serde_json::from_str(&text)?;
    match mark.version {
        VERSION => Ok(mark),
        found => Err(io::Error::other(format!(
            "its format is {found}, and this program knows {VERSION}"
        ))),
    }
}

/// Makes `path` unless it is there and empty.
pub(super) fn empty_folder(path: &Path) -> Result<(), BackupError> {
    if path.exists() {
        return match list(path)?.is_empty() {
            true => Ok(()),
            false => Err(BackupError::NotEmpty {
                path: path.to_owned(),
            }),
        };
    }
    make_folder(path)
}

/// For the owner only: a backup holds the fleet's keys.
fn make_folder(path: &Path) -> Result<(), BackupError> {
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| failed(path, source))
}

fn list(dir: &Path) -> Result<Vec<std::fs::DirEntry>, BackupError> {
    std::fs::read_dir(dir)
        .and_then(Iterator::collect)
        .map_err(|source| failed(dir, source))
}

/// Copies files and folders; links, sockets and the like are no part of a store.
pub(super) fn copy_tree(
    from: &Path,
    to: &Path,
    links: bool,
    report: &mut BackupReport,
) -> Result<(), BackupError> {
    let found = match std::fs::symlink_metadata(from) {
        Err(error) if links && error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|source| failed(from, source))?,
    };
    if found.is_dir() {
        make_folder(to)?;
        // What is staged or quarantined is nothing to keep, and deltas are made again; kept ones are not.
        let skipped = ["incoming", "quarantine", "delta"];
        for entry in list(from)? {
            let name = entry.file_name();
            if links && name.to_str().is_some_and(|name| skipped.contains(&name)) {
                continue;
            }
            copy_tree(&entry.path(), &to.join(name), links, report)?;
        }
        Ok(())
    } else if found.is_file() {
        if links && std::fs::hard_link(from, to).is_ok() {
            report.files += 1;
            report.bytes += found.len();
            return Ok(());
        }
        match copy(from, to, report) {
            // It was let go an hour ago: nothing that the copied journal names needs it.
            Err(_) if links && !from.exists() => Ok(()),
            copied => copied,
        }
    } else {
        Ok(())
    }
}

/// Copies one file through one handle, so that a rename in between cannot mix two files.
fn copy(from: &Path, to: &Path, report: &mut BackupReport) -> Result<(), BackupError> {
    let copied = File::open(from).and_then(|mut source| {
        let mode = source.metadata()?.permissions().mode();
        let mut target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode & 0o777)
            .open(to)?;
        io::copy(&mut source, &mut target)
    });
    report.bytes += copied.map_err(|source| failed(from, source))?;
    report.files += 1;
    Ok(())
}

fn failed(path: &Path, source: io::Error) -> BackupError {
    BackupError::Copy {
        path: path.to_owned(),
        source,
    }
}
