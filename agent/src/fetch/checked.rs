//! A bundle or a delta from whoever has it, for threads that block: every byte is checked before it is handed on.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ship_model::leaves::{LEAF, Leaves};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::lines::Object;
use super::origin::{Origin, listed};
use super::race::Wanted;
use super::ranges::{RangeError, RangeReader, Span, TRIES};
use super::share::{cut, piece_of};
use super::{Backoff, Fetcher};
use crate::clock;

/// Pieces that are fetched while one is read; each reader holds one more.
const AHEAD: usize = 2;
/// Leaves of short reads that are kept in memory, and how many of one read.
const RECENT: usize = 32;
const RECENT_RUN: usize = 4;

/// Leaves of short reads, such as a bundle's index, kept in memory for what is read beside them: nothing is fetched twice
/// because a leaf is longer than what was wanted of it.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<(Object, usize, Bytes)>>);

impl Recent {
    fn find(&self, object: Object, run: &Range<usize>, leaf: usize) -> Option<Bytes> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = recent.iter().find(|(of, at, _)| *of == object && *at == leaf);
        found
            .filter(|_| run.contains(&leaf))
            .map(|(.., bytes)| bytes.clone())
    }

    fn put(&self, object: Object, first: usize, got: &[Bytes]) {
        let short = got.len() <= RECENT_RUN && got.iter().all(|leaf| leaf.len() as u64 <= LEAF);
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (leaf, bytes) in (first..).zip(got).filter(|_| short) {
            if recent.len() >= RECENT {
                recent.pop_front();
            }
            recent.push_back((object, leaf, bytes.clone()));
        }
    }
}

/// For whom a piece is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    ThisHost,
    /// Who asked this host is not sent on to a third: nobody ever waits in a circle.
    AnotherHost,
}

impl Fetcher {
    /// Whether anybody but the store may be asked, or asks this host.
    fn has_others(&self) -> bool {
        self.share.is_some() || self.origins() != [Origin::Store]
    }

    fn origins(&self) -> Vec<Origin> {
        listed(&self.mirrors, &self.told.borrow().mirrors)
    }

    /// Whom besides the store this host may ask about `object` when the store is away.
    pub(super) fn others(&self, object: Object) -> Vec<Origin> {
        let owners = self
            .share
            .as_ref()
            .map(|share| share.owners(&self.told.borrow(), &(object, 0)));
        let mut origins = self.origins();
        origins.extend(owners.unwrap_or_default());
        origins.retain(|origin| *origin != Origin::Store);
        self.health().order(origins, &object, clock::now())
    }

    /// The leaves that `wanted` wants, which lie in one piece: out of what was fetched lately, from another host that owns
    /// the piece, from a mirror or the store.
    ///
    /// # Errors
    /// When nobody gave them, after a few tries where trying helps.
    pub async fn piece(self: &Arc<Self>, whose: For, wanted: &Wanted) -> Result<Vec<Bytes>, RangeError> {
        let (mut got, mut middle) = (Vec::new(), wanted.clone());
        while let Some(leaf) = self.recent.find(wanted.object, &middle.run, middle.run.start) {
            got.push(leaf);
            middle.run.start += 1;
        }
        let mut end = Vec::new();
        while let Some(leaf) = self
            .recent
            .find(wanted.object, &middle.run, middle.run.end.wrapping_sub(1))
        {
            end.push(leaf);
            middle.run.end -= 1;
        }
        if !middle.run.is_empty() {
            let fetched = self.fresh(whose, &middle).await?;
            self.recent.put(wanted.object, middle.run.start, &fetched);
            got.extend(fetched);
        }
        got.extend(end.into_iter().rev());
        Ok(got)
    }

    async fn fresh(self: &Arc<Self>, whose: For, wanted: &Wanted) -> Result<Vec<Bytes>, RangeError> {
        let (object, leaves, run) = (wanted.object, &wanted.leaves, &wanted.run);
        let mut got = Vec::new();
        let Some(share) = &self.share else {
            self.from_origins(wanted, &mut got).await?;
            return Ok(got);
        };
        if let Some(found) = share.find(object, leaves, run).await {
            return Ok(found);
        }
        let piece = (object, piece_of(leaves, run).unwrap_or(0));
        if whose == For::ThisHost {
            let owners = share.owners(&self.told.borrow(), &piece);
            let owners = self.health().order(owners, &object, clock::now());
            if !owners.is_empty() && self.gather(owners, wanted, &mut got).await.is_ok() {
                share.keep(object, leaves, run.start, &got).await;
                return Ok(got);
            }
        }
        let _alone = share.alone(piece).await;
        if let Some(found) = share.find(object, leaves, run).await {
            return Ok(found);
        }
        self.from_origins(wanted, &mut got).await?;
        share.keep(object, leaves, run.start, &got).await;
        Ok(got)
    }

    async fn from_origins(self: &Arc<Self>, wanted: &Wanted, got: &mut Vec<Bytes>) -> Result<(), RangeError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let order = self.health().order(self.origins(), &wanted.object, clock::now());
            let before = got.len();
            match self.gather(order, wanted, got).await {
                Err(error) if error.is_transient() && backoff.failures() + 1 < TRIES => {
                    if got.len() > before {
                        backoff.succeeded();
                    }
                    tokio::time::sleep(backoff.failed()).await;
                }
                other => return other,
            }
        }
    }
}

/// Reads bytes of an object, wherever they come from.
pub(super) enum Reader {
    /// There is nobody but the store: it is asked for exactly these bytes.
    Plain(RangeReader),
    Checked(CheckedReader),
}

impl Reader {
    pub fn new(fetcher: Arc<Fetcher>, runtime: Handle, cancel: CancellationToken, span: Span) -> Self {
        if fetcher.has_others() {
            Self::Checked(CheckedReader {
                fetcher,
                runtime,
                cancel,
                span,
                leaves: None,
                runs: VecDeque::new(),
                coming: VecDeque::new(),
                here: VecDeque::new(),
            })
        } else {
            Self::Plain(RangeReader::new(fetcher, runtime, cancel, span))
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Checked(reader) = self {
            match reader.fill() {
                Ok(()) => return Ok(reader.take(buffer)),
                // What cannot be checked on its way is asked of the store alone; whoever unpacks it checks it.
                Err(Stopped::Unknown) => *self = Self::Plain(reader.plain()),
                Err(Stopped::Failed(error)) => return Err(error.into()),
            }
        }
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Checked(_) => Ok(0),
        }
    }
}

enum Stopped {
    Unknown,
    Failed(RangeError),
}

impl From<RangeError> for Stopped {
    fn from(error: RangeError) -> Self {
        Self::Failed(error)
    }
}

type Coming = AbortOnDropHandle<Result<Vec<Bytes>, RangeError>>;

/// Reads a span piece by piece. For threads outside the runtime.
pub(super) struct CheckedReader {
    fetcher: Arc<Fetcher>,
    runtime: Handle,
    cancel: CancellationToken,
    /// What is still to be handed on.
    span: Span,
    leaves: Option<Arc<Leaves>>,
    /// Not yet asked for.
    runs: VecDeque<Range<usize>>,
    coming: VecDeque<(Range<usize>, Coming)>,
    here: VecDeque<Bytes>,
}

impl CheckedReader {
    fn plain(&self) -> RangeReader {
        RangeReader::new(
            Arc::clone(&self.fetcher),
            self.runtime.clone(),
            self.cancel.clone(),
            self.span,
        )
    }

    /// Makes sure that there is a byte to hand on, unless all were.
    fn fill(&mut self) -> Result<(), Stopped> {
        while self.here.is_empty() && self.span.from < self.span.to {
            let leaves = self.leaves()?;
            while self.coming.len() <= AHEAD
                && let Some(run) = self.runs.pop_front()
            {
                let coming = self.ask(&leaves, run.clone());
                self.coming.push_back((run, coming));
            }
            let Some((run, coming)) = self.coming.pop_front() else {
                return Err(RangeError::Length.into());
            };
            let got = self.wait(coming)?;
            self.trim(leaves.bytes_of(&run), got);
        }
        Ok(())
    }

    fn leaves(&mut self) -> Result<Arc<Leaves>, Stopped> {
        if let Some(leaves) = &self.leaves {
            return Ok(Arc::clone(leaves));
        }
        let (fetcher, object) = (Arc::clone(&self.fetcher), self.span.object);
        let asked = async { fetcher.leaves(object).await };
        let leaves = match self.called_off(asked)? {
            Some(leaves) => leaves,
            None => return Err(Stopped::Unknown),
        };
        if self.span.to > leaves.len() {
            return Err(RangeError::Length.into());
        }
        self.runs = cut(&leaves, leaves.holding(&(self.span.from..self.span.to))).collect();
        self.leaves = Some(Arc::clone(&leaves));
        Ok(leaves)
    }

    fn ask(&self, leaves: &Arc<Leaves>, run: Range<usize>) -> Coming {
        let fetcher = Arc::clone(&self.fetcher);
        let wanted = Wanted {
            object: self.span.object,
            leaves: Arc::clone(leaves),
            run,
        };
        let task = async move { fetcher.piece(For::ThisHost, &wanted).await };
        AbortOnDropHandle::new(self.runtime.spawn(task))
    }

    fn wait(&self, coming: Coming) -> Result<Vec<Bytes>, RangeError> {
        self.called_off(coming)?.unwrap_or(Err(RangeError::Cancelled))
    }

    fn called_off<T>(&self, work: impl Future<Output = T>) -> Result<T, RangeError> {
        self.runtime.block_on(async {
            tokio::select! {
                done = work => Ok(done),
                () = self.cancel.cancelled() => Err(RangeError::Cancelled),
            }
        })
    }

    /// Takes what came, from byte `at.start` on, without what lies outside of the span.
    fn trim(&mut self, at: Range<u64>, got: Vec<Bytes>) {
        let mut start = at.start;
        for mut leaf in got {
            let end = start + leaf.len() as u64;
            let from = self.span.from.clamp(start, end) - start;
            let to = self.span.to.clamp(start, end) - start;
            start = end;
            if from < to {
                leaf = leaf.slice(from as usize..to as usize);
                self.here.push_back(leaf);
            }
        }
    }

    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let Some(first) = self.here.front_mut() else {
            return 0;
        };
        let len = buffer.len().min(first.len());
        buffer[..len].copy_from_slice(&first.split_to(len));
        if first.is_empty() {
            self.here.pop_front();
        }
        self.span.from += len as u64;
        len
    }
}
