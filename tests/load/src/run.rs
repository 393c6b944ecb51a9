//! The open loop: begins each request at its time, whatever became of those before.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use crate::clock;
use crate::flight::{Errand, Flight, Landed};
pub use crate::plan::Plan;
use crate::plan::Schedule;
use crate::stop::Stop;
use crate::tally::{Failure, Kind, Population, Report, Tally, ToldFailure};
use crate::target::Target;
use crate::websocket::Crowd;

const STOP: u64 = 0;
const TIMER: u64 = 1;
const FIRST_FLIGHT: u64 = 2;
/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_millis(20);
/// A request begun later than this after its time is counted as a late start.
const LATE: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("nothing to ask: the plan has no target, or its rates are zero")]
    Empty,
    #[error("set up the event loop")]
    SetUp(#[source] Errno),
    #[error("wait for events")]
    Wait(#[source] Errno),
}

/// Sends until the plan's duration is over or `stop` is told, waits for the answers still open, and reports.
///
/// # Errors
/// When there is nothing to ask or the event loop fails. Failed requests are no error: they are in the report.
pub fn run(plan: &Plan, stop: &mut Stop, on_progress: &mut dyn FnMut(&Report)) -> Result<Report, RunError> {
    if plan.is_empty() {
        return Err(RunError::Empty);
    }
    raise_descriptor_limit();
    let mut generator = Generator::new(plan, stop)?;
    let ran = generator.run(stop, on_progress);
    generator.crowd.finish();
    ran?;
    Ok(generator.report(Kind::Summary))
}

/// Takes what the hard limit allows; with less, requests fail as `local` and are told.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}

struct Generator<'a> {
    plan: &'a Plan,
    /// What is asked for at once, then the streams.
    targets: Vec<Target>,
    epoll: OwnedFd,
    /// Wakes the loop to the microsecond; the wait's own timeout counts in milliseconds.
    timer: OwnedFd,
    /// The bytes of a request to each target, for each population.
    requests: Vec<[Vec<u8>; 2]>,
    schedules: [Schedule; 3],
    flights: HashMap<u64, Flight>,
    /// Idle connections to each target, longest idle first.
    idle: Vec<VecDeque<u64>>,
    /// Open keep-alive connections to each target.
    pool: Vec<usize>,
    open: usize,
    next: u64,
    tally: Tally,
    crowd: Crowd,
    start: Instant,
    swept: Instant,
    stopped: bool,
}

impl<'a> Generator<'a> {
    fn new(plan: &'a Plan, stop: &Stop) -> Result<Self, RunError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(RunError::SetUp)?;
        epoll::add(&epoll, &stop.reader, EventData::new_u64(STOP), EventFlags::IN)
            .map_err(RunError::SetUp)?;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)
            .map_err(RunError::SetUp)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN).map_err(RunError::SetUp)?;
        let start = clock::now();
        let targets: Vec<Target> = plan.targets.iter().chain(&plan.streams).cloned().collect();
        let (asked, streams) = (0..plan.targets.len(), plan.targets.len()..targets.len());
        let schedule = |population, targets: &Range<usize>, rate, start| Schedule {
            population,
            targets: targets.clone(),
            rate,
            begun: 0,
            start,
        };
        // Half a beat apart, so that the two populations do not meet at the same instant.
        let half = Duration::from_nanos(500_000_000 / u64::from(plan.keep_alive_rate.max(1)));
        Ok(Self {
            plan,
            epoll,
            timer,
            requests: targets
                .iter()
                .enumerate()
                .map(|(nth, target)| {
                    let post = plan.post && asked.contains(&nth);
                    [true, false].map(|close| request(target, close, post))
                })
                .collect(),
            schedules: [
                schedule(Population::Connection, &asked, plan.rate, start),
                schedule(Population::KeepAlive, &asked, plan.keep_alive_rate, start + half),
                schedule(Population::Stream, &streams, plan.stream_rate, start),
            ],
            flights: HashMap::new(),
            idle: vec![VecDeque::new(); targets.len()],
            pool: vec![0; targets.len()],
            open: 0,
            next: FIRST_FLIGHT,
            tally: Tally::new(targets.iter().map(ToString::to_string), clock::unix_micros()),
            crowd: Crowd::start(&plan.of_sockets()),
            targets,
            start,
            swept: start,
            stopped: false,
        })
    }

    fn run(&mut self, stop: &mut Stop, on_progress: &mut dyn FnMut(&Report)) -> Result<(), RunError> {
        let mut events = Vec::with_capacity(256);
        let mut progress_at = self.plan.progress.map(|every| self.start + every);
        while !self.stopped || self.open > 0 {
            self.wait(&mut events, progress_at)?;
            for event in events.drain(..) {
                match event.data.u64() {
                    STOP => self.take_stop(stop),
                    TIMER => {}
                    token => self.drive(token),
                }
            }
            let now = clock::now();
            self.begin_due(now);
            if now >= self.swept + SWEEP {
                self.sweep(now);
            }
            if let (Some(at), Some(every)) = (progress_at, self.plan.progress)
                && now >= at
            {
                on_progress(&self.report(Kind::Progress));
                progress_at = Some((at + every).max(now));
            }
        }
        Ok(())
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, progress_at: Option<Instant>) -> Result<(), RunError> {
        let now = clock::now();
        let due = self
            .schedules
            .iter()
            .filter(|_| !self.stopped)
            .filter_map(Schedule::due)
            .min();
        let sweep = (!self.flights.is_empty()).then_some(self.swept + SWEEP);
        let end = self
            .plan
            .duration
            .filter(|_| !self.stopped)
            .map(|duration| self.start + duration);
        let next = [due, sweep, end, progress_at]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(now + SWEEP);
        let left = next.saturating_duration_since(now);
        self.arm(left).map_err(RunError::Wait)?;
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let timeout = left.is_zero().then_some(&none);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(RunError::Wait(errno)),
        }
    }

    /// Sets the timer, which also takes back its last report; after no time at all, it is off.
    fn arm(&self, left: Duration) -> Result<(), Errno> {
        let it_value = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let spec = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value,
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec).map(drop)
    }

    fn report(&self, kind: Kind) -> Report {
        let sockets = self.crowd.tally.lock().unwrap_or_else(PoisonError::into_inner);
        self.tally.report(kind, clock::unix_micros(), &sockets)
    }

    fn take_stop(&mut self, stop: &mut Stop) {
        let (end, window) = stop.heard();
        self.stopped |= end;
        if let Some(name) = window {
            self.tally.windows.enter(&name);
        }
    }

    /// Begins every request whose time has come, also those that a stall of the generator itself held up.
    fn begin_due(&mut self, now: Instant) {
        let end = self.plan.duration.map(|duration| self.start + duration);
        for place in 0..self.schedules.len() {
            while !self.stopped {
                let schedule = &mut self.schedules[place];
                let ended = |due: Instant| end.is_some_and(|end| due >= end);
                let Some(due) = schedule.due().filter(|due| *due <= now && !ended(*due)) else {
                    break;
                };
                let population = schedule.population;
                let turn = (schedule.begun % schedule.targets.len() as u64) as usize;
                let target = schedule.targets.start + turn;
                schedule.begun += 1;
                self.begin(
                    Errand {
                        population,
                        target,
                        scheduled: due,
                        begun: now,
                        window: self.tally.windows.current(),
                    },
                    now,
                );
            }
        }
        self.stopped |= end.is_some_and(|end| now >= end);
    }

    fn begin(&mut self, errand: Errand, now: Instant) {
        self.tally.due(errand.population);
        let late = now.saturating_duration_since(errand.scheduled);
        self.tally.late_starts += u64::from(late > LATE);
        self.tally.late_max_us = self.tally.late_max_us.max(micros(late));
        if self.open >= self.plan.max_open {
            let detail = format!("{} requests were open", self.open);
            return self.fail(errand, false, "", Failure::NotSent, detail);
        }
        match self.rested(errand) {
            Some(token) => self.reuse(token, errand, now),
            None => self.launch(errand, now),
        }
    }

    /// The connection a keep-alive request goes over: the longest idle one, once the pool is full.
    fn rested(&mut self, errand: Errand) -> Option<u64> {
        let target = errand.target;
        if errand.population != Population::KeepAlive || self.pool[target] < self.plan.connections {
            return None;
        }
        let flights = &self.flights;
        let idle = &mut self.idle[target];
        std::iter::from_fn(|| idle.pop_front()).find(|token| flights.get(token).is_some_and(Flight::idle))
    }

    fn reuse(&mut self, token: u64, errand: Errand, now: Instant) {
        if let Some(flight) = self.flights.get_mut(&token) {
            flight.reuse(errand, now + self.plan.timeout);
            self.open += 1;
            self.drive(token);
        }
    }

    fn launch(&mut self, errand: Errand, now: Instant) {
        let deadline = now + self.plan.connect_timeout.min(self.plan.timeout);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let token = self.next;
        let launched = Flight::launch(errand, &self.targets[errand.target], deadline).and_then(|flight| {
            epoll::add(&self.epoll, &flight.socket, EventData::new_u64(token), flags)
                .map_err(|errno| (Failure::Local, errno.to_string()))?;
            Ok(flight)
        });
        match launched {
            Ok(flight) => {
                self.next += 1;
                self.open += 1;
                self.tally.connections_opened += 1;
                self.pool[errand.target] += usize::from(errand.population == Population::KeepAlive);
                self.flights.insert(token, flight);
            }
            Err((class, detail)) => self.fail(errand, false, "", class, detail),
        }
    }

    fn drive(&mut self, token: u64) {
        let Some(flight) = self.flights.get_mut(&token) else {
            return;
        };
        let now = clock::now();
        let request = &self.requests[flight.errand.target][place(flight.errand.population)];
        let patience = match flight.errand.population {
            Population::Stream => self.plan.stream_timeout,
            _ => self.plan.timeout,
        };
        let connecting = flight.connecting();
        let landed = flight.drive(request, now);
        if connecting && !flight.connecting() && flight.busy() {
            flight.deadline = now + patience;
        }
        let answered = matches!(landed, Landed::Answered { .. });
        self.settle(token, landed, now);
        if answered {
            // The close may have come together with the answer; the kernel reports that only once.
            self.drive(token);
        }
    }

    fn settle(&mut self, token: u64, landed: Landed, now: Instant) {
        let Some(flight) = self.flights.get(&token) else {
            return;
        };
        let errand = flight.errand;
        match landed {
            Landed::Flying => {}
            Landed::Answered { status, release } => {
                self.open -= 1;
                if flight.idle() {
                    self.idle[errand.target].push_back(token);
                } else {
                    self.leave_pool(errand);
                }
                self.answered(token, errand, status, &release, now);
            }
            Landed::Failed { class, detail } => {
                self.open -= 1;
                let (reused, release) = (flight.reused, flight.release().to_owned());
                self.leave_pool(errand);
                self.flights.remove(&token);
                self.fail(errand, reused, &release, class, detail);
            }
            Landed::Ended => {
                if flight.idle() {
                    self.tally.idle_closed += 1;
                    self.idle[errand.target].retain(|other| *other != token);
                    self.leave_pool(errand);
                }
                self.flights.remove(&token);
            }
        }
    }

    fn answered(&mut self, token: u64, errand: Errand, status: u16, release: &str, now: Instant) {
        self.tally.answered(errand.target, release, clock::unix_micros());
        let class = match status {
            200..=299 | 304 => {
                let latency = micros(now.saturating_duration_since(errand.scheduled));
                let service = micros(now.saturating_duration_since(errand.begun));
                return self.tally.succeeded(&errand, latency, service);
            }
            500..=599 => Failure::Status5xx,
            _ => Failure::StatusOther,
        };
        let reused = self.flights.get(&token).is_some_and(|flight| flight.reused);
        self.fail(errand, reused, release, class, format!("status {status}"));
    }

    fn leave_pool(&mut self, errand: Errand) {
        if errand.population == Population::KeepAlive {
            self.pool[errand.target] = self.pool[errand.target].saturating_sub(1);
        }
    }

    fn fail(&mut self, errand: Errand, reused: bool, release: &str, class: Failure, detail: String) {
        let told = ToldFailure {
            at_us: clock::unix_micros(),
            class,
            target: self.targets[errand.target].to_string(),
            population: errand.population,
            reused,
            release: release.to_owned(),
            detail,
        };
        self.tally.failed(&errand, told);
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        let late: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, flight)| !flight.idle() && now >= flight.deadline)
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            // The answer may lie in the socket already if the generator itself was late.
            self.drive(token);
            if let Some(flight) = self.flights.get(&token).filter(|flight| now >= flight.deadline) {
                let landed = flight.expire();
                self.settle(token, landed, now);
            }
        }
    }
}

fn place(population: Population) -> usize {
    match population {
        Population::KeepAlive => 1,
        Population::Connection | Population::Stream | Population::WebSocket => 0,
    }
}

fn request(target: &Target, close: bool, post: bool) -> Vec<u8> {
    let close = if close { "Connection: close\r\n" } else { "" };
    let (method, length, body) = match post {
        true => ("POST", "Content-Length: 2\r\n", "ok"),
        false => ("GET", "", ""),
    };
    format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: ship-load\r\nAccept: */*\r\n{length}{close}\r\n{body}",
        target.path, target.authority
    )
    .into_bytes()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
