//! An append-only, checksummed log of records: what was acknowledged is read again after any crash.
//!
//! ```text
//! file   := header record*
//! header := "SHIPJNL" version:u8(=1) first_seq:u64 crc32:u32        20 bytes, little endian, crc over what precedes
//! record := length:u32 crc32:u32 seq:u64 payload                   crc over length, seq and payload
//! ```
//!
//! Sequence numbers grow by one from `first_seq` and are never used twice, also across a [`Journal::rewrite`].
//! A crash may leave a torn record at the end: nobody was told it is durable, so it is cut when the journal is opened.
//! Damage that is *followed* by a good record is no torn write; it is an error, and the file is left as it is.

mod read;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{FileError, create_new, fault, write_file};

const MAGIC: &[u8; 7] = b"SHIPJNL";
const VERSION: u8 = 1;
const HEADER_LEN: u64 = 20;
const RECORD_HEAD_LEN: usize = 16;

/// One record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number; grows by one from record to record.
    pub seq: u64,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// A torn end that was cut off when the journal was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Where the file ends now.
    pub offset: u64,
    /// How many bytes were cut.
    pub bytes: u64,
}

/// What was found in a journal when it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// All records, oldest first.
    pub records: Vec<Record>,
    /// The torn end, if there was one.
    pub cut: Option<Cut>,
}

/// Why a journal could not be opened; the file is untouched.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file could not be made, read or cut.
    #[error("cannot {action} journal {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The journal.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A new journal could not be made.
    #[error("cannot create journal {}", path.display())]
    Create {
        /// The journal.
        path: PathBuf,
        /// What failed.
        source: FileError,
    },
    /// The file does not start as a journal does.
    #[error("{} is not a journal, or its header is damaged", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error("journal {} has format {found}; this program reads up to {VERSION}", path.display())]
    Version {
        /// The journal.
        path: PathBuf,
        /// Its format.
        found: u8,
    },
    /// A record is damaged although good ones follow: not the trace of a crash.
    #[error("journal {} is damaged at byte {offset} (after record {after}); restore it or rebuild from its sources", path.display())]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Where the damaged record starts.
        offset: u64,
        /// The last good record before it; the one before `first_seq` when there is none.
        after: u64,
    },
}

/// Why a journal could not be written.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The record is longer than the journal was opened for.
    #[error("cannot append {len} bytes to journal {}: at most {max} are allowed in a record", path.display())]
    TooLong {
        /// The journal.
        path: PathBuf,
        /// The record's length.
        len: usize,
        /// The limit given to [`Journal::open`].
        max: u32,
    },
    /// The bytes could not be written; the file was cut back to its last whole record and can be used on.
    #[error("cannot append to journal {}", path.display())]
    Append {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// fsync failed: what was appended since the last good sync may be lost, and the journal takes nothing more.
    #[error("cannot sync journal {}", path.display())]
    Sync {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier failure left the file in an unknown state; open it anew to learn what it holds.
    #[error("journal {} failed earlier; open it again", path.display())]
    Poisoned {
        /// The journal.
        path: PathBuf,
    },
    /// The new file of a rewrite could not be put in place; the old one stands.
    #[error("cannot rewrite journal {}", path.display())]
    Rewrite {
        /// The journal.
        path: PathBuf,
        /// What failed.
        source: FileError,
    },
}

/// An open journal. One process, one handle: take a [`crate::LockFile`] first.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    max_record: u32,
    next_seq: u64,
    len: u64,
    unsynced: bool,
    poisoned: bool,
}

impl Journal {
    /// Opens the journal at `path`, or makes an empty one, and reads all its records into memory.
    ///
    /// `max_record` bounds a payload's length in bytes. A torn end is cut off and synced before this returns.
    ///
    /// # Errors
    /// [`OpenError`]; the file is left as it was.
    pub fn open(path: &Path, max_record: u32) -> Result<(Self, Recovered), OpenError> {
        let mut records = Vec::new();
        let (journal, cut) = Self::open_with(path, max_record, |record| records.push(record))?;
        Ok((journal, Recovered { records, cut }))
    }

    /// As [`Journal::open`], handing each record to `visit` instead of keeping them: memory stays at one record.
    ///
    /// # Errors
    /// As [`Journal::open`]; `visit` may have seen records before the damage.
    pub fn open_with(
        path: &Path,
        max_record: u32,
        visit: impl FnMut(Record),
    ) -> Result<(Self, Option<Cut>), OpenError> {
        let file = open_or_create(path)?;
        let io_error = |action, source| OpenError::Io {
            action,
            path: path.to_owned(),
            source,
        };
        let end = read::scan(path, &file, max_record, visit)?;
        let size = file.metadata().map_err(|source| io_error("read", source))?.len();
        let cut = (size > end.offset).then(|| Cut {
            offset: end.offset,
            bytes: size - end.offset,
        });
        if cut.is_some() {
            fault::point("durable.journal.cut.before")
                .and_then(|()| file.set_len(end.offset))
                .and_then(|()| file.sync_all())
                .map_err(|source| io_error("cut the torn end of", source))?;
        }
        let mut journal = Self {
            path: path.to_owned(),
            file,
            max_record,
            next_seq: end.next_seq,
            len: end.offset,
            unsynced: false,
            poisoned: false,
        };
        journal.seek_to_end().map_err(|source| io_error("read", source))?;
        Ok((journal, cut))
    }

    fn seek_to_end(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.len)).map(drop)
    }

    /// The number the next record will get.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The file's length in bytes: when it is many times what a rewrite would need, it is time for one.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == HEADER_LEN
    }

    /// Appends one record and returns its number. It is durable only after the next [`Journal::sync`].
    ///
    /// # Errors
    /// [`JournalError::Append`] leaves the journal as it was, ready for more (a full disk may have room later).
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, JournalError> {
        self.append_batch([payload])
    }

    /// Appends several records with one write and returns the number of the last (of the one before, when the batch is empty).
    ///
    /// After a crash before [`Journal::sync`] any number of them, from the first on, may be there.
    ///
    /// # Errors
    /// As [`Journal::append`]; either all or none are in the file.
    pub fn append_batch<'a>(
        &mut self,
        payloads: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<u64, JournalError> {
        self.refuse_poisoned()?;
        let mut bytes = Vec::new();
        let mut seq = self.next_seq;
        for payload in payloads {
            self.encode_into(&mut bytes, seq, payload)?;
            seq += 1;
        }
        let written = fault::point("durable.journal.append.before")
            .and_then(|()| self.file.write_all(&bytes))
            .and_then(|()| fault::point("durable.journal.append.after"));
        if let Err(source) = written {
            // A torn record must not stay in the middle: later ones would be cut with it.
            self.poisoned = self
                .file
                .set_len(self.len)
                .and_then(|()| self.seek_to_end())
                .is_err();
            return Err(JournalError::Append {
                path: self.path.clone(),
                source,
            });
        }
        self.len += bytes.len() as u64;
        self.next_seq = seq;
        self.unsynced = true;
        Ok(seq - 1)
    }

    fn encode_into(&self, bytes: &mut Vec<u8>, seq: u64, payload: &[u8]) -> Result<(), JournalError> {
        match u32::try_from(payload.len()) {
            Ok(len) if len <= self.max_record => {
                encode_record(bytes, len, seq, payload);
                Ok(())
            }
            _ => Err(JournalError::TooLong {
                path: self.path.clone(),
                len: payload.len(),
                max: self.max_record,
            }),
        }
    }

    /// Makes all appended records durable (`fdatasync`); nothing is done when nothing was appended.
    ///
    /// # Errors
    /// [`JournalError::Sync`], once: the kernel marks pages clean that it failed to write, so a second fsync would lie.
    /// The journal is poisoned then.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.refuse_poisoned()?;
        if !self.unsynced {
            return Ok(());
        }
        let synced = fault::point("durable.journal.sync.before")
            .and_then(|()| self.file.sync_data())
            .and_then(|()| fault::point("durable.journal.sync.after"));
        if let Err(source) = synced {
            self.poisoned = true;
            return Err(JournalError::Sync {
                path: self.path.clone(),
                source,
            });
        }
        self.unsynced = false;
        Ok(())
    }

    /// Replaces all records by these (a checkpoint); numbers go on from the last one given out.
    ///
    /// Durable when it returns. After a crash the journal is the old one or the new one, whole.
    ///
    /// # Errors
    /// [`JournalError::Rewrite`] leaves the old file in place; when only its folder's sync failed, the journal is
    /// poisoned, as nobody knows which of the two a power cut would leave.
    pub fn rewrite<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>) -> Result<(), JournalError> {
        self.refuse_poisoned()?;
        let mut bytes = header(self.next_seq).to_vec();
        let mut seq = self.next_seq;
        for payload in payloads {
            self.encode_into(&mut bytes, seq, payload)?;
            seq += 1;
        }
        let poisoned_error = |source| JournalError::Rewrite {
            path: self.path.clone(),
            source,
        };
        if let Err(source) = write_file(&self.path, &bytes) {
            self.poisoned = matches!(
                &source,
                FileError::Step {
                    step: crate::file::FileStep::SyncDir,
                    ..
                }
            );
            return Err(JournalError::Rewrite {
                path: self.path.clone(),
                source,
            });
        }
        let reopened = OpenOptions::new().read(true).write(true).open(&self.path);
        match reopened
            .map_err(crate::file::FileStep::Create.at(&self.path))
            .map_err(poisoned_error)
        {
            Ok(file) => self.file = file,
            Err(error) => {
                self.poisoned = true;
                return Err(error);
            }
        }
        self.len = bytes.len() as u64;
        self.next_seq = seq;
        self.unsynced = false;
        if self.seek_to_end().is_err() {
            self.poisoned = true;
        }
        self.refuse_poisoned()
    }

    fn refuse_poisoned(&self) -> Result<(), JournalError> {
        if self.poisoned {
            Err(JournalError::Poisoned {
                path: self.path.clone(),
            })
        } else {
            Ok(())
        }
    }
}

fn open_or_create(path: &Path) -> Result<File, OpenError> {
    let open = || OpenOptions::new().read(true).write(true).open(path);
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Whole or absent after a crash, so a short header is always damage.
            match create_new(path, &header(1)) {
                Ok(()) | Err(FileError::Exists { .. }) => open(),
                Err(source) => {
                    return Err(OpenError::Create {
                        path: path.to_owned(),
                        source,
                    });
                }
            }
        }
        other => other,
    };
    opened.map_err(|source| OpenError::Io {
        action: "open",
        path: path.to_owned(),
        source,
    })
}

fn header(first_seq: u64) -> [u8; HEADER_LEN as usize] {
    let mut bytes = [0_u8; HEADER_LEN as usize];
    bytes[..7].copy_from_slice(MAGIC);
    bytes[7] = VERSION;
    bytes[8..16].copy_from_slice(&first_seq.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..16]);
    bytes[16..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn encode_record(bytes: &mut Vec<u8>, len: u32, seq: u64, payload: &[u8]) {
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&checksum(len, seq, payload).to_le_bytes());
    bytes.extend_from_slice(&seq.to_le_bytes());
    bytes.extend_from_slice(payload);
}

fn checksum(len: u32, seq: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len.to_le_bytes());
    hasher.update(&seq.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}
