//! The one thread that commits: it takes what is waiting, decides it in order, makes it durable with one
//! fsync, applies it to the index, and only then answers.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use ship_durable::{FileError, FileStep, Journal, fault};

use super::Failed;
use super::index::{Index, IndexError};
use super::open::{JOURNAL, NEXT, State};
use super::record::{Applied, GROUP_BYTES, Kind, MAX_RECORD, Record, encode_group, weight};
use crate::engine::catalog::{CatalogError, Change, Outcome, Value, Version, Write};
use crate::engine::watch::Announcer;

/// Batches that may wait; more wait at the door.
const QUEUE: usize = 256;
/// Batches that share one fsync at most.
const GROUP: usize = 64;
/// A journal smaller than this is never checkpointed by itself.
const SMALL_JOURNAL: u64 = 4 << 20;
/// A journal this many times the size of what stands is checkpointed.
const GROWTH: u64 = 4;
/// Bytes of values in one part of a checkpoint.
const PART: usize = 1 << 20;

type Answer = Result<Outcome, CatalogError>;

#[derive(Debug)]
enum Job {
    Commit {
        batch: Vec<Change>,
        answer: SyncSender<Answer>,
    },
    Checkpoint {
        answer: SyncSender<Result<(), CatalogError>>,
    },
}

/// The handle of the thread; dropped, it lets the thread finish what waits and end.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

pub(super) fn start(
    dir: &Path,
    journal: Journal,
    state: State,
    index: Arc<Index>,
    announcer: Announcer,
    failed: Arc<Failed>,
) -> io::Result<Writer> {
    let (jobs, waiting) = sync_channel(QUEUE);
    let mut desk = Desk {
        dir: dir.to_owned(),
        journal,
        seq: state.seq,
        state: state.extent.state,
        live: state.extent.bytes,
        checkpoint_at: 0,
        index,
        announcer,
        failed,
    };
    let thread = std::thread::Builder::new()
        .name("catalog".to_owned())
        .spawn(move || desk.work(&waiting))?;
    Ok(Writer {
        jobs: Some(jobs),
        thread: Some(thread),
    })
}

impl Writer {
    pub(super) fn commit(&self, batch: Vec<Change>) -> Answer {
        self.ask(|answer| Job::Commit { batch, answer })
    }

    pub(super) fn checkpoint(&self) -> Result<(), CatalogError> {
        self.ask(|answer| Job::Checkpoint { answer })
    }

    fn ask<T>(
        &self,
        job: impl FnOnce(SyncSender<Result<T, CatalogError>>) -> Job,
    ) -> Result<T, CatalogError> {
        let gone = || CatalogError::Failed {
            reason: "its writer ended".to_owned(),
        };
        let (answer, told) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job(answer)).map_err(|_| gone())?;
        told.recv().map_err(|_| gone())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// What a key has after the batches decided so far in this group; none: it is absent.
type Overlay = HashMap<String, Option<Value>>;

struct Desk {
    dir: PathBuf,
    journal: Journal,
    seq: u64,
    state: u128,
    /// Bytes of keys and values that stand.
    live: u64,
    /// No checkpoint by itself before the journal has this length: set after one that failed.
    checkpoint_at: u64,
    index: Arc<Index>,
    announcer: Announcer,
    failed: Arc<Failed>,
}

impl Desk {
    fn work(&mut self, waiting: &Receiver<Job>) {
        while let Ok(job) = waiting.recv() {
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    Job::Commit { batch, answer } => {
                        bytes += batch.iter().map(value_len).sum::<usize>();
                        group.push((batch, answer));
                    }
                    Job::Checkpoint { answer } => {
                        self.commit_group(std::mem::take(&mut group));
                        let _asker_gone = answer.send(self.checkpoint());
                    }
                }
                let room = group.len() < GROUP && bytes < GROUP_BYTES;
                next = room.then(|| waiting.try_recv().ok()).flatten();
            }
            self.commit_group(group);
            self.checkpoint_if_grown();
        }
        // Only saves replaying; the journal has everything.
        let _ = self.index.flush();
    }

    fn commit_group(&mut self, group: Vec<(Vec<Change>, SyncSender<Answer>)>) {
        let before = (self.seq, self.state, self.live);
        let mut overlay = Overlay::new();
        let mut records = Vec::new();
        let mut answers = Vec::new();
        for (batch, answer) in group {
            let decided = match self.failed.refuse() {
                Ok(()) => self.decide(batch, &mut overlay, &mut records),
                Err(error) => Err(error),
            };
            answers.push((answer, decided));
        }
        let stood = self.make_durable(&records);
        if stood.is_err() {
            (self.seq, self.state, self.live) = before;
        }
        for (answer, decided) in answers {
            let told = match &stood {
                Ok(()) => decided,
                Err(reason) => Err(reason.to_error()),
            };
            // Who asked may be gone; the batch stands all the same.
            let _asker_gone = answer.send(told);
        }
    }

    /// Decides one batch against what stands and what this group decided before it.
    fn decide(&mut self, batch: Vec<Change>, overlay: &mut Overlay, records: &mut Vec<Record>) -> Answer {
        let mut found = Vec::with_capacity(batch.len());
        for change in &batch {
            let current = match overlay.get(&change.key) {
                Some(current) => current.clone(),
                None => self
                    .index
                    .get(&change.key)
                    .map_err(|error| self.index_failed(error))?,
            };
            if current.as_ref().map(|value| value.version) != change.expected {
                return Ok(Outcome::Conflict {
                    key: change.key.clone(),
                    current,
                });
            }
            found.push(current);
        }
        if batch.iter().all(|change| change.write == Write::Keep) {
            return Ok(Outcome::Committed(Version(self.seq)));
        }
        self.seq += 1;
        let version = Version(self.seq);
        let mut changes = Vec::new();
        for (change, old) in batch.into_iter().zip(found) {
            let value = match change.write {
                Write::Keep => continue,
                Write::Put(bytes) => Some(bytes),
                Write::Delete => None,
            };
            self.account(&change.key, old.as_ref(), value.as_deref());
            let new = value.clone().map(|bytes| Value { bytes, version });
            overlay.insert(change.key.clone(), new);
            changes.push(Applied {
                key: change.key,
                version: version.0,
                value,
            });
        }
        records.push(Record {
            kind: Kind::Batch,
            seq: version.0,
            state: self.state,
            changes,
        });
        Ok(Outcome::Committed(version))
    }

    fn account(&mut self, key: &str, old: Option<&Value>, new: Option<&[u8]>) {
        if let Some(old) = old {
            let weight = weight(key, old.version.0, &old.bytes);
            self.state = self.state.wrapping_sub(weight);
            self.live = self.live.saturating_sub((key.len() + old.bytes.len()) as u64);
        }
        if let Some(new) = new {
            self.state = self.state.wrapping_add(weight(key, self.seq, new));
            self.live += (key.len() + new.len()) as u64;
        }
    }

    /// Journal, fsync, index, announcement: in this order. After a crash between the first two the group
    /// stands whole or not at all; after the second it stands, and is replayed.
    fn make_durable(&mut self, records: &[Record]) -> Result<(), Unfinished> {
        if records.is_empty() {
            return Ok(());
        }
        fault::point("store.catalog.append.before").map_err(Unfinished::append)?;
        self.journal
            .append(&encode_group(records))
            .map_err(Unfinished::append)?;
        self.durable()?;
        for record in records {
            let applied = fault::point("store.catalog.apply.before")
                .map_err(|error| IndexError::Panic {
                    message: error.to_string(),
                })
                .and_then(|()| self.index.apply(record.seq, &record.changes));
            if let Err(error) = applied {
                // The batch is durable and the index lacks it: nobody may read the index any more.
                self.failed.set(&error);
                return Err(Unfinished::Failed(self.failed.clone()));
            }
        }
        for record in records {
            let keys = record.changes.iter().map(|change| change.key.clone());
            self.announcer.announce(keys.collect());
        }
        Ok(())
    }

    /// The one way to make anything durable, and so to acknowledge it.
    fn durable(&mut self) -> Result<(), Unfinished> {
        self.journal.sync().map_err(|error| {
            // What a failed fsync left behind is unknown; only opening anew tells.
            self.failed.set(&error);
            Unfinished::Failed(self.failed.clone())
        })
    }

    fn index_failed(&self, error: IndexError) -> CatalogError {
        self.failed.set(&error);
        CatalogError::Storage {
            action: "read",
            source: Box::new(error),
        }
    }

    fn checkpoint_if_grown(&mut self) {
        let len = self.journal.len();
        if len < SMALL_JOURNAL.max(self.live * GROWTH).max(self.checkpoint_at) {
            return;
        }
        if let Err(error) = self.checkpoint() {
            // The old journal goes on; tried again when it has doubled.
            self.checkpoint_at = len * 2;
            tracing::warn!(%error, "the catalog's journal was not checkpointed");
        }
    }

    /// Writes what stands into a new journal and puts it in the place of the old one.
    ///
    /// A crash leaves the old journal or the new one, which mean the same.
    fn checkpoint(&mut self) -> Result<(), CatalogError> {
        self.failed.refuse()?;
        // So that a power cut after this does not find an index older than the checkpoint.
        self.index.flush().map_err(|error| self.index_failed(error))?;
        let (next, place) = (self.dir.join(NEXT), self.dir.join(JOURNAL));
        self.write_checkpoint(&next).map_err(failed_to)?;
        fault::point("store.catalog.checkpoint.before").map_err(|error| failed_to(error.into()))?;
        if let Err(error) = ship_durable::rename(&next, &place) {
            if matches!(
                &error,
                FileError::Step {
                    step: FileStep::SyncDir,
                    ..
                }
            ) {
                self.failed.set(&error);
            }
            return Err(failed_to(error.into()));
        }
        match Journal::open_with(&place, MAX_RECORD, drop) {
            Ok((journal, _)) => {
                self.journal = journal;
                Ok(())
            }
            Err(error) => {
                // The handle at hand is the old file's, which has no name any more.
                self.failed.set(&error);
                Err(failed_to(error.into()))
            }
        }
    }

    fn write_checkpoint(&self, next: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        ship_durable::remove_tree(next)?;
        let (mut journal, _) = Journal::open_with(next, MAX_RECORD, drop)?;
        let mut part = Record {
            kind: Kind::Part,
            seq: self.seq,
            state: 0,
            changes: Vec::new(),
        };
        let mut bytes = 0;
        let mut failure = None;
        self.index.visit("", None, |entry| {
            bytes += entry.value.bytes.len();
            part.changes.push(Applied {
                key: entry.key,
                version: entry.value.version.0,
                value: Some(entry.value.bytes),
            });
            if bytes >= PART || part.changes.len() >= 4096 {
                failure = journal.append(&encode_group(std::slice::from_ref(&part))).err();
                part.changes.clear();
                bytes = 0;
            }
            Ok(failure.is_none())
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        part.kind = Kind::End;
        part.state = self.state;
        journal.append(&encode_group(std::slice::from_ref(&part)))?;
        journal.sync()?;
        Ok(())
    }
}

/// Bytes of a change's value.
fn value_len(change: &Change) -> usize {
    match &change.write {
        Write::Put(bytes) => bytes.len(),
        Write::Delete | Write::Keep => 0,
    }
}

fn failed_to(source: Box<dyn std::error::Error + Send + Sync>) -> CatalogError {
    CatalogError::Storage {
        action: "checkpoint",
        source,
    }
}

/// Why a group did not come to stand.
enum Unfinished {
    /// Nothing of it stands, and the next may.
    Append(Arc<dyn std::error::Error + Send + Sync>),
    Failed(Arc<Failed>),
}

impl Unfinished {
    fn append(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Append(Arc::new(error))
    }

    fn to_error(&self) -> CatalogError {
        match self {
            Self::Append(error) => CatalogError::Storage {
                action: "write to",
                source: Box::new(Shared(error.clone())),
            },
            Self::Failed(failed) => match failed.refuse() {
                Err(error) => error,
                Ok(()) => CatalogError::Failed {
                    reason: "it is unknown why".to_owned(),
                },
            },
        }
    }
}

/// One failure told to everyone in the group.
#[derive(Debug, Clone)]
struct Shared(Arc<dyn std::error::Error + Send + Sync>);

impl std::fmt::Display for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
