//! The event loop: accepts, drives connections, drains and ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::clock;
use crate::conn::{Conn, Context, Fate};
use crate::drain::{Drain, Signals};
use crate::notify;
use crate::pages::App;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const FIRST_CONN: u64 = 2;
/// How often time is looked at while connections are open or a drain is on.
const TICK: Duration = Duration::from_millis(20);
/// How often the drain file is looked for when nothing else happens.
const FILE_TICK: Duration = Duration::from_millis(50);
/// Connections accepted in a row before the open ones get their turn.
const ACCEPT_TURN: usize = 128;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; more wait in the accept queue.
    pub connections: usize,
    /// How long a request may take to arrive and an answer may stand still.
    pub patience: Duration,
    /// How long a connection may be idle between requests.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // Twice the connections, for the asset files being sent, and a few for ourselves.
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(4096);
        let connections = usize::try_from(files / 2).unwrap_or(4096).clamp(16, 2048) - 8;
        Self {
            connections,
            patience: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("watch for stop signals")]
    Signals(#[source] io::Error),
    #[error("set up the event loop")]
    SetUp(#[source] Errno),
    #[error("wait for events")]
    Wait(#[source] Errno),
}

#[derive(Debug)]
pub struct Server {
    epoll: OwnedFd,
    listener: OwnedFd,
    signals: Signals,
    app: App,
    drain: Drain,
    limits: Limits,
    conns: HashMap<u64, Conn>,
    next: u64,
    /// Connections that could go on without a new report.
    runnable: Vec<u64>,
    listening: bool,
    /// The accept queue was emptied for the last time.
    closed: bool,
    ticked: Instant,
}

impl Server {
    pub fn new(listener: OwnedFd, app: App, drain: Drain, limits: Limits) -> Result<Self, ServeError> {
        let signals = Signals::register().map_err(ServeError::Signals)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(ServeError::SetUp)?;
        let watch = |fd: &dyn std::os::fd::AsFd, token| {
            epoll::add(&epoll, fd, EventData::new_u64(token), EventFlags::IN).map_err(ServeError::SetUp)
        };
        watch(&listener, LISTENER)?;
        watch(&signals.0, SIGNALS)?;
        Ok(Self {
            epoll,
            listener,
            signals,
            app,
            drain,
            limits,
            conns: HashMap::new(),
            next: FIRST_CONN,
            runnable: Vec::new(),
            listening: true,
            closed: false,
            ticked: clock::now(),
        })
    }

    /// Serves until a drain ends with nothing left to answer.
    ///
    /// # Errors
    /// Only when the event loop itself fails; a client never ends it.
    pub fn run(mut self) -> Result<(), ServeError> {
        let mut events = Vec::with_capacity(256);
        while !(self.closed && self.conns.is_empty()) {
            self.wait(&mut events)?;
            for event in events.drain(..) {
                self.react(event.data.u64());
            }
            for token in std::mem::take(&mut self.runnable) {
                self.drive(token);
            }
            if clock::now() >= self.ticked + TICK {
                self.tick();
            }
        }
        Ok(())
    }

    fn wait(&self, events: &mut Vec<epoll::Event>) -> Result<(), ServeError> {
        let timeout = self.timeout().map(|time| Timespec {
            tv_sec: 0,
            tv_nsec: time.subsec_nanos().into(),
        });
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(ServeError::Wait(errno)),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.runnable.is_empty() {
            Some(Duration::ZERO)
        } else if !self.conns.is_empty() || self.drain.draining() || !self.listening {
            Some(TICK)
        } else {
            self.drain.watches_file().then_some(FILE_TICK)
        }
    }

    fn react(&mut self, token: u64) {
        match token {
            LISTENER => {
                self.accept();
            }
            SIGNALS => {
                if self.signals.came() {
                    notify::stopping();
                    self.drain.stop(clock::now());
                }
            }
            _ => self.drive(token),
        }
    }

    /// Takes connections from the queue; true when it is known to be empty.
    fn accept(&mut self) -> bool {
        for _ in 0..ACCEPT_TURN {
            if self.conns.len() >= self.limits.connections {
                self.listen(false);
                return false;
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => self.admit(socket),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    // Out of descriptors or memory: the queue holds the clients until the next tick.
                    self.listen(false);
                    return false;
                }
            }
        }
        false
    }

    fn admit(&mut self, socket: OwnedFd) {
        // A Unix socket has no such option, and an answer without it is merely later.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
        let token = self.next;
        self.next += 1;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        // Unregistered, it is still driven by every tick until its time is over.
        let _ = epoll::add(&self.epoll, &socket, EventData::new_u64(token), flags);
        self.conns.insert(token, Conn::new(socket, self.limits.patience));
        self.runnable.push(token);
    }

    fn listen(&mut self, on: bool) {
        if self.listening == on {
            return;
        }
        let flags = if on { EventFlags::IN } else { EventFlags::empty() };
        if epoll::modify(&self.epoll, &self.listener, EventData::new_u64(LISTENER), flags).is_ok() {
            self.listening = on;
        }
    }

    fn drive(&mut self, token: u64) {
        let context = context(&self.app, &self.drain, &self.limits);
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        match conn.drive(context) {
            Fate::Wait => {}
            Fate::Again => self.runnable.push(token),
            Fate::Drop => drop(self.conns.remove(&token)),
        }
    }

    fn tick(&mut self) {
        let now = clock::now();
        self.ticked = now;
        self.drain.look(now);
        self.tick_conns(now);
        if self.closed {
            return;
        }
        if self.drain.over(now) {
            self.close_queue();
        } else if self.conns.len() < self.limits.connections {
            self.listen(true);
        }
    }

    fn tick_conns(&mut self, now: Instant) {
        let context = context(&self.app, &self.drain, &self.limits);
        let (drain, runnable) = (&self.drain, &mut self.runnable);
        self.conns.retain(|token, conn| {
            let fate = conn.tick(context, now, drain.patience_with(conn.active()));
            if fate == Fate::Again {
                runnable.push(*token);
            }
            fate != Fate::Drop
        });
    }

    /// Takes in everything that is queued, then accepts no more. A drain that is only a file may still be called off
    /// while anyone is served, so the queue is closed for good once nobody is.
    fn close_queue(&mut self) {
        if self.drain.watches_file() && !self.conns.is_empty() {
            return;
        }
        if self.accept() && (self.conns.is_empty() || !self.drain.watches_file()) {
            self.listen(false);
            self.closed = true;
        }
    }
}

fn context<'a>(app: &'a App, drain: &Drain, limits: &Limits) -> Context<'a> {
    Context {
        app,
        draining: drain.draining(),
        patience: limits.patience,
        keep_alive: limits.keep_alive,
    }
}
