//! Putting a backup back. Hosts may have seen newer epochs than the backup knows, so the restored store
//! carries a mark until an operator accepts it.

use std::io;
use std::path::{Path, PathBuf};

use super::backup::{BackupError, BackupReport, MARK, copy_tree, empty_folder, read_mark};
use crate::clock::rfc3339;
use crate::folder::RESTORED;
use crate::ledger::Restored;

/// Why nothing was restored; the target is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{} is not a whole backup", path.display())]
    NoBackup { path: PathBuf, source: io::Error },
    #[error("cannot restore into {}", path.display())]
    Target { path: PathBuf, source: BackupError },
    #[error("cannot finish the restored store in {}", path.display())]
    Finish {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Copies `backup` into the absent or empty folder `dir` and marks it as restored at `at_ms`.
///
/// The folder is built beside its place and renamed: after a crash it is empty or whole.
pub fn restore(backup: &Path, dir: &Path, at_ms: u64) -> Result<BackupReport, RestoreError> {
    let mark = read_mark(backup).map_err(|source| RestoreError::NoBackup {
        path: backup.to_owned(),
        source,
    })?;
    let target = |source| RestoreError::Target {
        path: dir.to_owned(),
        source,
    };
    empty_folder(dir).map_err(target)?;
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    let aside = dir.with_file_name(name);
    ship_durable::remove_tree(&aside).map_err(|error| finish(dir, error))?;
    let mut report = BackupReport::default();
    let copied = copy_tree(backup, &aside, false, &mut report).map_err(target);
    let placed = copied.and_then(|()| place(backup, &aside, dir, mark.at_ms, at_ms));
    if placed.is_err() {
        // What remains is removed by the next try.
        let _ = ship_durable::remove_tree(&aside);
    }
    placed.map(|()| report)
}

fn place(backup: &Path, aside: &Path, dir: &Path, made_ms: u64, at_ms: u64) -> Result<(), RestoreError> {
    let mark = Restored {
        at_ms,
        from: format!("{}, made {}", backup.display(), rfc3339(made_ms)),
    };
    let mark = serde_json::to_vec(&mark).map_err(|error| finish(dir, error))?;
    std::fs::remove_file(aside.join(MARK)).map_err(|error| finish(dir, error))?;
    ship_durable::write_file(&aside.join(RESTORED), &mark).map_err(|error| finish(dir, error))?;
    ship_durable::sync_fs(aside).map_err(|error| finish(dir, error))?;
    ship_durable::rename(aside, dir).map_err(|error| finish(dir, error))
}

fn finish(dir: &Path, source: impl std::error::Error + Send + Sync + 'static) -> RestoreError {
    RestoreError::Finish {
        path: dir.to_owned(),
        source: Box::new(source),
    }
}
