//! What a keeper remembers over its own death: the machine's state, one record per change.
//!
//! Each record holds the whole state as JSON, so the last good one is the truth, and a newer keeper reads an older one's
//! fields with defaults for its own. When the file has grown, it is replaced by its last record.
//!
//! A record outlives the keeper once it is written, and the machine once it is synced, which takes milliseconds that users may
//! wait for. A boot leaves no process and no socket, so only what outlives a boot as well waits for that: see
//! [`Keeper`](crate::keeper::Keeper). When the machine goes down in between, the newest of several records may be whole and one
//! before it torn; the last whole one before that is then gone on from.

use std::io;
use std::path::{Path, PathBuf};

use ship_durable::{Journal, JournalError, LockError, LockFile, OpenError};
use thiserror::Error;

use crate::machine::State;
use crate::processes;

const MAX_RECORD: u32 = 4 * 1024 * 1024;
const CHECKPOINT_AT: u64 = 512 * 1024;
/// How long a lock is waited for.
const LOCK_MS: u64 = 3_000;
/// Bytes kept aside so that a revert can be journalled on a full disk.
const RESERVE: usize = 256 * 1024;

/// Why the memory cannot be opened.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// Another keeper is there.
    #[error("another keeper has this state")]
    Lock(#[source] LockError),
    /// The folder cannot be made.
    #[error("cannot make folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The journal cannot be read, for another reason than damage.
    #[error("cannot open the keeper's journal")]
    Journal(#[source] OpenError),
}

/// Why a state could not be remembered.
#[derive(Debug, Error)]
pub enum SaveError {
    /// It could not be written.
    #[error("cannot remember the keeper's state")]
    Journal(#[source] JournalError),
    /// It could not be put into words.
    #[error("cannot put the keeper's state into words")]
    Words(#[source] serde_json::Error),
}

/// The open journal.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    reserve: PathBuf,
    journal: Journal,
    lock: LockFile,
}

impl Memory {
    /// Takes the folder's lock and reads the last state. A damaged journal is put aside, and told in the notes: what it held
    /// before the damage counts only when the machine went down since, and otherwise the app's links still say what ran.
    ///
    /// # Errors
    /// [`MemoryError::Lock`] when another keeper is at work there.
    pub fn open(folder: &Path) -> Result<(Self, State, Vec<String>), MemoryError> {
        make_folder(folder)?;
        let lock = lock(&folder.join("lock"))?;
        Self::open_with(folder, lock)
    }

    /// As [`Self::open`], with the lock that the program before has left open.
    ///
    /// # Errors
    /// [`MemoryError::Journal`].
    pub fn open_with(folder: &Path, lock: LockFile) -> Result<(Self, State, Vec<String>), MemoryError> {
        let path = folder.join("journal");
        let mut notes = Vec::new();
        let _ = ship_durable::sweep_leftovers(folder);
        let mut last = None;
        let (journal, state) = match read(&path, &mut last) {
            Ok(journal) => (journal, state_of(last.as_deref())),
            Err(error @ (OpenError::Damaged { .. } | OpenError::NotAJournal { .. })) => {
                let aside = folder.join(format!("journal.damaged-{}", crate::clock::now_ms()));
                notes.push(format!("{error}; put aside as {}", aside.display()));
                let before = state_of(last.as_deref()).ok().filter(of_another_boot);
                let _ = ship_durable::rename(&path, &aside);
                let journal = read(&path, &mut None).map_err(MemoryError::Journal)?;
                (journal, before.ok_or(None))
            }
            Err(error) => return Err(MemoryError::Journal(error)),
        };
        let state = state.unwrap_or_else(|reason| {
            notes.extend(reason);
            State::default()
        });
        let memory = Self {
            path,
            reserve: folder.join("reserve"),
            journal,
            lock,
        };
        memory.make_reserve();
        Ok((memory, state, notes))
    }

    /// The lock, to be handed on to the program that this process runs next.
    #[must_use]
    pub fn lock(&self) -> &LockFile {
        &self.lock
    }

    /// Names this process as the lock's holder, after a fork.
    pub fn sign(&mut self) {
        // Only people read it.
        let _ = self.lock.refresh_pid();
    }

    fn make_reserve(&self) {
        if !self.reserve.exists() {
            let _ = ship_durable::write_file(&self.reserve, &vec![0x5a; RESERVE]);
        }
    }

    /// Whether there is room for what a switch may still have to write. Makes the reserve anew when it was used up.
    #[must_use]
    pub fn has_reserve(&self) -> bool {
        self.make_reserve();
        self.reserve.exists()
    }

    /// Makes `state` the one that the next keeper finds. It is durable after [`Self::sync`].
    ///
    /// On a full disk the reserve is given up first.
    ///
    /// # Errors
    /// [`SaveError`]; the next keeper then finds the state before.
    pub fn save(&mut self, state: &State) -> Result<(), SaveError> {
        let bytes = serde_json::to_vec(state).map_err(SaveError::Words)?;
        match self.write(&bytes) {
            Err(JournalError::Append { .. } | JournalError::Rewrite { .. }) => {
                let _ = std::fs::remove_file(&self.reserve);
                self.write(&bytes)
            }
            Err(JournalError::Sync { .. } | JournalError::Poisoned { .. }) => self.start_over(&bytes),
            other => other,
        }
        .map_err(SaveError::Journal)
    }

    /// Makes what was saved last, which is `state`, outlive the machine; nothing is done when it does already.
    ///
    /// # Errors
    /// [`SaveError`]; after a boot the next keeper may find a state before it.
    pub fn sync(&mut self, state: &State) -> Result<(), SaveError> {
        match self.journal.sync() {
            Err(JournalError::Sync { .. } | JournalError::Poisoned { .. }) => {
                let bytes = serde_json::to_vec(state).map_err(SaveError::Words)?;
                self.start_over(&bytes)
            }
            other => other,
        }
        .map_err(SaveError::Journal)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if self.journal.len() + bytes.len() as u64 > CHECKPOINT_AT.max(8 * bytes.len() as u64) {
            return self.journal.rewrite([bytes]);
        }
        self.journal.append(bytes).map(drop)
    }

    /// After a failed fsync the file is not trusted; a new one is written whole.
    fn start_over(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        match Journal::open_with(&self.path, MAX_RECORD, drop) {
            Ok((journal, _)) => self.journal = journal,
            Err(_) => {
                return Err(JournalError::Poisoned {
                    path: self.path.clone(),
                });
            }
        }
        self.journal.rewrite([bytes])
    }
}

/// A keeper that was killed may have forked a child in its last moment, which holds the lock until it notices.
fn lock(path: &Path) -> Result<LockFile, MemoryError> {
    let until = crate::clock::now_ms() + LOCK_MS;
    loop {
        match LockFile::acquire(path) {
            Err(LockError::Held { .. }) if crate::clock::now_ms() < until => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            other => return other.map_err(MemoryError::Lock),
        }
    }
}

/// Opens the journal; its last record is left in `last`, also where it ends in damage.
fn read(path: &Path, last: &mut Option<Vec<u8>>) -> Result<Journal, OpenError> {
    let (journal, _) = Journal::open_with(path, MAX_RECORD, |record| *last = Some(record.payload))?;
    Ok(journal)
}

/// What a record says; without one, or where it cannot be read, why there is none.
fn state_of(record: Option<&[u8]>) -> Result<State, Option<String>> {
    serde_json::from_slice(record.ok_or(None)?).map_err(|error| {
        Some(format!(
            "the journal's last state cannot be read ({error}); begun anew"
        ))
    })
}

/// Nothing of it lives, so that it may be older than what ran last.
fn of_another_boot(state: &State) -> bool {
    !state.boot_id.is_empty() && state.boot_id != processes::boot_id()
}

pub(crate) fn make_folder(path: &Path) -> Result<(), MemoryError> {
    std::fs::create_dir_all(path).map_err(|source| MemoryError::Folder {
        path: path.to_owned(),
        source,
    })
}
