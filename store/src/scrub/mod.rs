//! Reading again, slowly, everything that lies in the store: a disk that rots tells nobody. What rotted is healed.
//!
//! ```text
//! round    every object in the order of its name, from the disk, within half of the time that `scrub` in store.toml gives;
//!          how far it came is in scrub.json, so that a store that is restarted each day gets round too
//! rotten   read twice → a whole copy from a mirror takes its name → else what of it can still be read, and what hosts give,
//!          goes into new bundles, and the object into quarantine
//! lost     what nobody gave is told with its release and path: log, metrics, `shipctl status`, `shipctl doctor`;
//!          it is looked for again as long as it is lost
//! ```
//! A good object is never replaced by anything but the same bytes, and one is put aside only after it was read as damaged by
//! somebody who kept all others from bringing it. A crash anywhere leaves the damaged object where it was, or what was rescued
//! of it beside it: it is found again, because the place in the round is written down after an object was dealt with.

mod lost;
mod marks;
mod mend;
mod pace;
mod rescue;
mod wants;

pub use lost::{Findings, Lost, lost};
pub use wants::{Asked, GiveError, Taking, Wanted, Wants};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ship_assets::serve::pause;
use tokio_util::sync::CancellationToken;

use self::marks::Marks;
use self::pace::Pace;
use crate::clock::Clock;
use crate::copies::Copies;
use crate::deltas::{Deltas, Maker};
use crate::engine::{Blobs, BlobsError, Object, ObjectKind};
use crate::ledger::Ledger;
use crate::locate::Places;
use crate::log::whole;
use crate::rollout::fleet::Fleet;

/// Between two looks at whether a round is due.
const LOOK: Duration = Duration::from_secs(60);
/// What is lost is looked for again after this.
const AGAIN: Duration = Duration::from_secs(600);
/// How often the place is written down while it moves.
const SAVE: Duration = Duration::from_secs(30);
/// The slowest that is read, in bytes a second: a small store is read within minutes.
const SLOWEST: u64 = 4 << 20;
/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// Where the place in the round is written down, in the store's folder.
pub const MARKS: &str = "scrub.json";

/// Reads all objects of the store again and again.
#[derive(Debug)]
pub struct Scrubber {
    pub blobs: Arc<dyn Blobs>,
    pub places: Arc<Places>,
    pub ledger: Ledger,
    pub deltas: Arc<Deltas>,
    /// Makes deltas anew that rotted.
    pub maker: Arc<Maker>,
    /// Who may have what.
    pub fleet: Arc<Fleet>,
    pub wants: Arc<Wants>,
    /// Asked in this order.
    pub copies: Vec<Copies>,
    /// Within which everything is read, in milliseconds.
    pub within_ms: u64,
    /// Bytes a second at most.
    pub limit: Option<u64>,
    pub marks: PathBuf,
    pub findings: Arc<Findings>,
    pub clock: Clock,
    pub stop: CancellationToken,
}

/// How an object was found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Whole,
    /// It went meanwhile, or is about to go.
    Gone,
    Damaged(String),
}

/// The store ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stopped;

impl Scrubber {
    /// Runs until it is stopped. Blocks; its thread gives way to all others.
    pub fn run(self) {
        // Of this thread alone. Reading follows: who is nice to others is served last by the disk, too.
        let _ = rustix::process::setpriority_process(None, 19);
        let look = LOOK.min(Duration::from_millis(self.within_ms) / 4);
        let ended = || self.stop.is_cancelled();
        let mut looked: Option<Instant> = None;
        while pause(look, &ended) {
            let again = AGAIN.min(Duration::from_millis(self.within_ms));
            let due = looked.is_none_or(|at| at.elapsed() >= again && self.findings.any_lost());
            if due {
                self.mend();
                looked = Some(Instant::now());
            }
            self.round();
        }
    }

    /// Reads on in the round that is under way, or begins the next when it is due. Returns when it is ended, or stopped.
    pub fn round(&self) {
        let now_ms = self.clock.now_ms();
        let mut marks = Marks::read(&self.marks);
        if marks.is_over() {
            if !marks.is_due(self.within_ms / 2, now_ms) {
                self.findings.read_to_its_end(marks.ended_ms);
                return;
            }
            marks = Marks::begin(now_ms, marks.ended_ms);
            self.save(&marks);
        }
        match self.read_on(&mut marks) {
            Ok(Ok(())) => {
                marks.end(self.clock.now_ms());
                self.findings.read_to_its_end(marks.ended_ms);
                tracing::info!(
                    objects = marks.objects,
                    bytes = marks.bytes,
                    "everything was read again"
                );
            }
            Ok(Err(Stopped)) => {}
            Err(error) => tracing::warn!(error = whole(&error), "the store is not read again"),
        }
        self.save(&marks);
    }

    fn read_on(&self, marks: &mut Marks) -> Result<Result<(), Stopped>, BlobsError> {
        let mut left = Vec::new();
        for kind in ObjectKind::ALL {
            left.extend(self.blobs.list(kind)?);
        }
        left.retain(|(object, _)| marks.is_ahead(object));
        left.sort_unstable();
        let bytes = left.iter().map(|(_, bytes)| bytes).sum();
        let ended = || self.stop.is_cancelled();
        let mut pace = Pace::new(self.rate(marks, bytes), &ended);
        let mut saved = Instant::now();
        for (object, bytes) in left {
            let Ok(found) = self.read(object, &mut pace) else {
                return Ok(Err(Stopped));
            };
            if let Found::Damaged(reason) = found {
                self.damaged(object, &reason);
                if self.stop.is_cancelled() {
                    return Ok(Err(Stopped));
                }
            }
            marks.passed(object, bytes);
            if saved.elapsed() >= SAVE {
                self.save(marks);
                saved = Instant::now();
            }
        }
        Ok(Ok(()))
    }

    /// Bytes a second, so that what is left of a round is read in what is left of its time.
    fn rate(&self, marks: &Marks, bytes: u64) -> u64 {
        let ends_ms = marks.began_ms.saturating_add(self.within_ms / 2);
        let left_s = ends_ms.saturating_sub(self.clock.now_ms()) / 1000;
        // Not faster than a fortieth of the time that there is needs, however late it is.
        let least_s = (self.within_ms / 40_000).max(1);
        let needed = (bytes / left_s.max(least_s)).max(SLOWEST);
        match self.limit {
            Some(limit) if limit < needed => {
                if bytes / limit > left_s.max(least_s) {
                    tracing::warn!(limit, needed, "scrub_limit is too low to read everything in time");
                }
                limit
            }
            _ => needed,
        }
    }

    /// Reads an object, and once more when it was not as it should be.
    fn read(&self, object: Object, pace: &mut Pace<'_>) -> Result<Found, Stopped> {
        if let Object::Bundle(bundle) = object
            && !self.places.has_bundle(bundle)
        {
            // It was let go; nobody is sent there any more.
            return Ok(Found::Gone);
        }
        match self.read_once(object, pace)? {
            Found::Damaged(first) => {
                let again = self.read_once(object, pace)?;
                if again == Found::Whole {
                    tracing::warn!(%object, reason = first, "read wrong once, and right the second time");
                }
                Ok(again)
            }
            found => Ok(found),
        }
    }

    fn read_once(&self, object: Object, pace: &mut Pace<'_>) -> Result<Found, Stopped> {
        let reader = match self.blobs.open(object) {
            Ok(reader) => reader,
            Err(BlobsError::Absent { .. }) => return Ok(Found::Gone),
            Err(error) => return Ok(Found::Damaged(whole(&error))),
        };
        reader.drop_cached();
        let mut hasher = blake3::Hasher::new();
        let (mut buffer, mut offset) = (vec![0; PIECE], 0);
        loop {
            match reader.read_at(&mut buffer, offset) {
                Ok(0) => break,
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                    offset += read as u64;
                    self.findings.read(read as u64);
                    pace.pass(read as u64)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Found::Damaged(format!("it cannot be read: {error}"))),
            }
        }
        Ok(match hasher.finalize().as_bytes() == object.digest() {
            true => Found::Whole,
            false => Found::Damaged("its bytes have another digest".to_owned()),
        })
    }

    fn save(&self, marks: &Marks) {
        if let Err(error) = marks.write(&self.marks) {
            tracing::warn!(
                error = whole(&error),
                "how far the store was read is not written down"
            );
        }
    }
}
