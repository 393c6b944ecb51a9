//! Leaves of one object from several who may have them: one is asked, a second one when the first does not answer in time,
//! the next when one fails. Every leaf is checked before anybody sees it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use ship_model::leaves::Leaves;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::Fetcher;
use super::lines::{Object, STALL, answers};
use super::origin::Origin;
use super::ranges::RangeError;
use crate::clock;

/// Leaves on their way from who gives them to who waits.
const AHEAD: usize = 4;
/// For the end of an answer whose bytes have all come.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What is wanted: leaves of an object, in order.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub object: Object,
    pub leaves: Arc<Leaves>,
    pub run: Range<usize>,
}

/// How long a leaf takes, and how many second questions may be asked: one for about ten answers, so that a fleet that is
/// slow is not made slower.
#[derive(Debug)]
pub struct Pace(Mutex<PaceSoFar>);

#[derive(Debug, Clone, Copy)]
struct PaceSoFar {
    /// From one leaf to the next, on the average of the last ones.
    leaf: Duration,
    /// Tenths of second questions.
    tenths: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new(PaceSoFar {
            leaf: Duration::from_millis(500),
            tenths: 40,
        }))
    }
}

impl Pace {
    /// For the next leaf to come before somebody else is asked too.
    fn patience(&self) -> Duration {
        let so_far = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (so_far.leaf * 8).clamp(Duration::from_secs(2), Duration::from_secs(20))
    }

    fn leaf_took(&self, took: Duration) {
        let mut so_far = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        so_far.leaf = (so_far.leaf * 7 + took) / 8;
    }

    fn answered(&self) {
        let mut so_far = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        so_far.tenths = (so_far.tenths + 1).min(80);
    }

    fn may_ask_twice(&self) -> bool {
        let mut so_far = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = so_far.tenths.checked_sub(10);
        so_far.tenths = left.unwrap_or(so_far.tenths);
        left.is_some()
    }
}

/// Who is being asked.
struct Runner {
    number: usize,
    origin: Origin,
    _task: AbortOnDropHandle<()>,
}

type Event = (usize, Result<(usize, Bytes), RangeError>);

impl Fetcher {
    /// Fetches what `wanted` wants from one of `order`, behind what is in `got` already; what came before a failure stays
    /// there.
    ///
    /// # Errors
    /// The failure of one of them, when all have failed.
    pub(super) async fn gather(
        self: &Arc<Self>,
        order: Vec<Origin>,
        wanted: &Wanted,
        got: &mut Vec<Bytes>,
    ) -> Result<(), RangeError> {
        let (out, mut events) = mpsc::channel::<Event>(AHEAD);
        let mut next = order.into_iter().enumerate();
        let mut running: Vec<Runner> = Vec::new();
        let mut failure = None;
        let mut since = Instant::now();
        while got.len() < wanted.run.len() {
            if running.is_empty() {
                let Some((number, origin)) = next.next() else {
                    return Err(failure.unwrap_or(RangeError::Nobody));
                };
                running.push(self.start(number, origin, wanted, got.len(), &out));
            }
            match timeout(self.pace.patience(), events.recv()).await {
                Ok(Some((number, Ok((leaf, bytes))))) => {
                    let leader = running.iter().any(|runner| runner.number == number);
                    if leader && leaf == wanted.run.start + got.len() {
                        got.push(bytes);
                        self.pace.leaf_took(since.elapsed());
                        since = Instant::now();
                        self.leads(number, &mut running);
                    }
                }
                Ok(Some((number, Err(error)))) => {
                    if let Some(at) = running.iter().position(|runner| runner.number == number) {
                        let error = self.gave_up(&running.remove(at).origin, wanted, error);
                        // One that may have it later counts more than one that never will.
                        let hopeful = failure.as_ref().is_some_and(RangeError::is_transient);
                        if !hopeful || error.is_transient() {
                            failure = Some(error);
                        }
                    }
                }
                Ok(None) => return Err(failure.unwrap_or(RangeError::Nobody)),
                Err(_) if running.len() == 1 && next.len() > 0 && self.pace.may_ask_twice() => {
                    if let Some((number, origin)) = next.next() {
                        tracing::debug!(%origin, "asked too: the first is slow");
                        running.push(self.start(number, origin, wanted, got.len(), &out));
                    }
                }
                Err(_) => {}
            }
        }
        self.pace.answered();
        Ok(())
    }

    fn start(
        self: &Arc<Self>,
        number: usize,
        origin: Origin,
        wanted: &Wanted,
        got: usize,
        out: &mpsc::Sender<Event>,
    ) -> Runner {
        let mut rest = wanted.clone();
        rest.run.start += got;
        let (fetcher, from, out) = (Arc::clone(self), origin.clone(), out.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = fetcher.run(&from, rest, number, &out).await {
                out.send((number, Err(error))).await.ok();
            }
        });
        Runner {
            number,
            origin,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The one that was quicker goes on alone.
    fn leads(&self, number: usize, running: &mut Vec<Runner>) {
        let now = clock::now();
        let mut health = self.health();
        for runner in running.iter() {
            if runner.number == number {
                health.good(&runner.origin);
            } else {
                health.failed(&runner.origin, now);
            }
        }
        running.retain(|runner| runner.number == number);
    }

    fn gave_up(&self, origin: &Origin, wanted: &Wanted, error: RangeError) -> RangeError {
        let now = clock::now();
        let mut health = self.health();
        match &error {
            RangeError::Wrong => {
                tracing::error!(%origin, "other bytes came than were published; it is not asked again for an hour");
                health.lied(origin, error.to_string(), now, clock::wall_ms());
            }
            RangeError::Status {
                status: StatusCode::NOT_FOUND,
            } => health.absent(origin, wanted.object, now),
            _ => {
                tracing::debug!(%origin, error = crate::session::chain(&error), "failed");
                health.failed(origin, now);
            }
        }
        RangeError::From {
            origin: origin.to_string(),
            source: Box::new(error),
        }
    }

    /// Fetches leaves from one origin and hands them on as they are found to be right.
    async fn run(
        &self,
        origin: &Origin,
        wanted: Wanted,
        number: usize,
        out: &mpsc::Sender<Event>,
    ) -> Result<(), RangeError> {
        let bytes = wanted.leaves.bytes_of(&wanted.run);
        let path = wanted.object.path();
        let answer = self.ask(origin, &path, Some((bytes.start, bytes.end))).await?;
        answers(&answer.response, bytes.start, bytes.end)?;
        let (mut body, kept) = answer.into_body();
        let mut kept = Some(kept);
        let mut held = BytesMut::new();
        for leaf in wanted.run.clone() {
            let at = wanted.leaves.bytes_of(&(leaf..leaf + 1));
            let len = (at.end - at.start) as usize;
            // For the whole leaf: a source that sends a byte now and then is a source that hangs.
            let deadline = Instant::now() + STALL;
            while held.len() < len {
                let piece = self.piece_of(origin, &mut body, deadline).await?;
                held.extend_from_slice(&piece);
            }
            let whole = held.split_to(len).freeze();
            if !wanted.leaves.is(leaf, &whole) {
                return Err(RangeError::Wrong);
            }
            // Before the last leaf is handed on, for whoever gets it needs this no longer. What comes beyond is never read.
            let last = leaf + 1 == wanted.run.end && held.is_empty();
            if last
                && matches!(timeout(LAST_WORD, body.frame()).await, Ok(None))
                && let Some(kept) = kept.take()
            {
                self.keep(kept);
            }
            if out.send((number, Ok((leaf, whole)))).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn piece_of(
        &self,
        origin: &Origin,
        body: &mut Incoming,
        deadline: Instant,
    ) -> Result<Bytes, RangeError> {
        let frame = timeout_at(deadline, body.frame()).await;
        let frame = frame.map_err(|_| RangeError::Stalled)?;
        let frame = frame.ok_or(RangeError::Length)?.map_err(RangeError::Broke)?;
        let piece = frame.into_data().unwrap_or_default();
        self.took(origin, piece.len()).await;
        Ok(piece)
    }
}
