//! What a run is to send, and when each request is due.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::tally::Population;
use crate::target::Target;
use crate::websocket::SocketPlan;

/// What to send, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Asked in turn.
    pub targets: Vec<Target>,
    /// Whether they are asked with POST and a small body, which nobody on the way may send twice. Streams are not.
    pub post: bool,
    /// Requests per second that each open their own connection.
    pub rate: u32,
    /// Requests per second over connections that stay open.
    pub keep_alive_rate: u32,
    /// Open connections per target that the keep-alive requests take turns on; more are opened when all are busy.
    pub connections: usize,
    /// Answers that take long, asked for in turn at `stream_rate`, each within `stream_timeout`.
    pub streams: Vec<Target>,
    pub stream_rate: u32,
    pub stream_timeout: Duration,
    /// Asked for in turn by `sockets` WebSockets, each with a message at every `message_every`.
    pub websockets: Vec<Target>,
    pub sockets: usize,
    pub message_every: Duration,
    /// `None`: until stopped.
    pub duration: Option<Duration>,
    pub connect_timeout: Duration,
    /// From the request's beginning to the last byte of its answer.
    pub timeout: Duration,
    /// Requests open at once, in bounds of memory and descriptors; what is due beyond it counts as not sent.
    pub max_open: usize,
    /// How often progress is told.
    pub progress: Option<Duration>,
}

impl Plan {
    /// A hundred requests per second of each kind, until stopped.
    pub fn new(targets: Vec<Target>) -> Self {
        Self {
            targets,
            post: false,
            rate: 100,
            keep_alive_rate: 100,
            connections: 8,
            streams: Vec::new(),
            stream_rate: 1,
            stream_timeout: Duration::from_secs(120),
            websockets: Vec::new(),
            sockets: 8,
            message_every: Duration::from_millis(200),
            duration: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            max_open: 4000,
            progress: None,
        }
    }

    /// Whether it asks for nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        let asks = !self.targets.is_empty() && (self.rate > 0 || self.keep_alive_rate > 0);
        let streams = !self.streams.is_empty() && self.stream_rate > 0;
        let sockets = !self.websockets.is_empty() && self.sockets > 0;
        !(asks || streams || sockets)
    }

    pub(crate) fn of_sockets(&self) -> SocketPlan {
        SocketPlan {
            targets: self.websockets.clone(),
            sockets: self.sockets,
            every: self.message_every,
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
        }
    }
}

/// When the requests of one population are due.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub population: Population,
    /// Its part of all targets.
    pub targets: Range<usize>,
    pub rate: u32,
    pub begun: u64,
    pub start: Instant,
}

impl Schedule {
    pub fn due(&self) -> Option<Instant> {
        let nanos = u128::from(self.begun) * 1_000_000_000 / u128::from(self.rate.max(1));
        let offset = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        (self.rate > 0 && !self.targets.is_empty()).then(|| self.start + offset)
    }
}
