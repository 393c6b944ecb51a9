//! Real WebSockets under load: each is opened, sends text at a steady rate, expects it back, and when the server closes it
//! with 1001 (going away) or 1012 (restart) comes back on a new connection.
//!
//! Such a close followed by a connection that works is a *move*: nothing is lost, and what had no answer yet is sent again.
//! Every other end is a cut, and a failure: a reset, an end without a close frame, another code.

mod frame;
mod link;
mod tally;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::frame::Kind;
use self::link::{End, Link};
pub use self::tally::SocketReport;
pub(crate) use self::tally::SocketTally;
use crate::clock;
use crate::tally::Failure;
use crate::target::Target;

/// How long a socket that failed waits before it tries again: a server that refuses must not be stormed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often a waiting socket looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(50);

/// How WebSockets are used.
#[derive(Debug, Clone)]
pub struct SocketPlan {
    /// Asked in turn.
    pub targets: Vec<Target>,
    /// Sockets open at once, each with a thread of its own.
    pub sockets: usize,
    /// Between two messages of one socket.
    pub every: Duration,
    pub connect_timeout: Duration,
    /// For an upgrade, and for each message to come back.
    pub timeout: Duration,
}

/// Sockets at work.
#[derive(Debug)]
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pub tally: Arc<Mutex<SocketTally>>,
}

impl Crowd {
    pub fn start(plan: &SocketPlan) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Mutex::new(SocketTally::new()));
        let sockets = if plan.targets.is_empty() { 0 } else { plan.sockets };
        let threads = (0..sockets).map(|number| {
            let mut user = User {
                plan: plan.clone(),
                target: number % plan.targets.len(),
                number,
                sent: 0,
                unanswered: None,
                moving_since: None,
                stop: Arc::clone(&stop),
                tally: Arc::clone(&tally),
            };
            std::thread::spawn(move || user.run())
        });
        Self {
            threads: threads.collect(),
            stop,
            tally,
        }
    }

    /// Says goodbye on every socket.
    pub fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One user's socket, over all its connections.
struct User {
    plan: SocketPlan,
    target: usize,
    number: usize,
    sent: u64,
    /// Sent or due, and not come back: it is sent again after a move.
    unanswered: Option<(String, Instant)>,
    moving_since: Option<Instant>,
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<SocketTally>>,
}

impl User {
    fn run(&mut self) {
        while !self.stopped() {
            let end = match self.open() {
                Ok(link) => self.talk(link),
                Err(end) => Err(end),
            };
            match end {
                Ok(()) => {}
                Err(End::Closed(code)) => self.closed(code),
                Err(End::Failed(class, detail)) => {
                    self.fail(class, detail);
                    self.rest(clock::now() + PAUSE);
                }
            }
        }
    }

    fn open(&mut self) -> Result<Link, End> {
        let target = &self.plan.targets[self.target];
        let link = Link::open(target, self.plan.connect_timeout, self.plan.timeout)?;
        let moved = self.moving_since.take().map(|since| clock::now() - since);
        self.told(|tally| tally.opened(&link.release, moved));
        Ok(link)
    }

    /// Sends and receives until the end is asked for, or comes.
    fn talk(&mut self, mut link: Link) -> Result<(), End> {
        let mut next = clock::now();
        while !self.stopped() {
            self.echo(&mut link)?;
            next = (next + self.plan.every).max(clock::now());
            self.listen(&mut link, next)?;
        }
        link.close(clock::now() + GOODBYE);
        Ok(())
    }

    fn echo(&mut self, link: &mut Link) -> Result<(), End> {
        if self.unanswered.is_none() {
            self.sent += 1;
            let text = format!("socket {} message {}", self.number, self.sent);
            self.unanswered = Some((text, clock::now()));
            self.told(|tally| tally.due += 1);
        }
        let Some((text, since)) = self.unanswered.clone() else {
            return Ok(());
        };
        link.send(Kind::Text, text.as_bytes())?;
        match link.receive(clock::now() + self.plan.timeout)? {
            Some(back) if back == text.as_bytes() => {}
            Some(back) => {
                let detail = format!("{text:?} came back as {:?}", String::from_utf8_lossy(&back));
                return Err(End::Failed(Failure::BadBody, detail));
            }
            None => return Err(End::Failed(Failure::Timeout, "no echo in time".to_owned())),
        }
        self.unanswered = None;
        self.told(|tally| tally.echoed(clock::now() - since));
        Ok(())
    }

    /// Waits until the next message is due, and hears a close at once.
    fn listen(&self, link: &mut Link, until: Instant) -> Result<(), End> {
        while !self.stopped() && clock::now() < until {
            if let Some(strange) = link.receive(until.min(clock::now() + GLANCE))? {
                let detail = format!("nobody asked for {:?}", String::from_utf8_lossy(&strange));
                return Err(End::Failed(Failure::BadBody, detail));
            }
        }
        Ok(())
    }

    fn closed(&mut self, code: u16) {
        self.told(|tally| tally.closed(code));
        if matches!(code, 1001 | 1012) {
            self.moving_since = Some(clock::now());
        } else {
            self.fail(Failure::SocketClosed, format!("closed with {code}"));
        }
    }

    /// A failed socket gives up what it had sent: it is counted with the failure.
    fn fail(&mut self, class: Failure, detail: String) {
        let target = self.plan.targets[self.target].to_string();
        let lost = self.unanswered.take().is_some();
        self.moving_since = None;
        self.told(|tally| tally.failed(class, target, detail, lost));
    }

    fn rest(&self, until: Instant) {
        while !self.stopped() && clock::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn told(&self, tell: impl FnOnce(&mut SocketTally)) {
        tell(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
