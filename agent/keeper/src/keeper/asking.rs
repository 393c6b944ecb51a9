//! Probes that a child makes, for what the keeper does not speak itself: gRPC's health service by `ship-agent probe`, and
//! commands of the release.
//!
//! Both reach the new generation and nobody else. `ship-agent probe` gets a connection to it as its standard input. A command
//! gets `SHIP_PROBE_ADDR`, where the keeper accepts connections and leads each to that generation.

mod lead;

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::process::WaitStatus;

use super::jobs::Purpose;
use super::lives::{cannot_run, how_ended};
use super::{Keeper, chain};
use crate::clock::now_ms;
use crate::listen::{self, Group, Route, Transport};
use crate::machine::Event;
use crate::probe::{Answer, Progress, Tally, elsewhere, nobody_accepts, words};
use crate::processes::{self, StartFailure};
use crate::protocol::{ProbeKind, ProbeSpec, ProcessSpec};
use crate::sockets::Ends;
use lead::Lead;

/// How often a connection that nobody has accepted is looked at.
const LOOK_MS: u64 = 10;
/// Bytes of a child's output that are kept, the last ones.
const MAX_OUTPUT: usize = 4096;
/// Characters of its last line that are told.
const MAX_LAST: usize = 200;
/// `ship-agent probe` ends with it when nobody answered.
const NOBODY: i32 = 3;
/// The child is given so much longer than it gives the server, to tell what was wrong.
const GRACE_MS: u64 = 1_000;

/// A probe of one process that is asked again and again.
#[derive(Debug)]
pub(super) struct Asking {
    generation: u64,
    slot: usize,
    /// The key of the listener it is asked at; none: at none.
    key: Option<String>,
    spec: ProbeSpec,
    tally: Tally,
    next_at: u64,
    step: Step,
    lead: Option<Lead>,
}

#[derive(Debug)]
enum Step {
    Idle,
    /// Waits until it is known who has accepted.
    Connected {
        stream: TcpStream,
        deadline: u64,
    },
    Running(Child),
}

/// What is left to hear of a child.
#[derive(Debug)]
struct Child {
    output: OwnedFd,
    said: Vec<u8>,
    failure: Option<OwnedFd>,
}

impl Asking {
    pub(super) fn new(
        generation: u64,
        slot: usize,
        process: &ProcessSpec,
        spec: ProbeSpec,
        now: u64,
    ) -> Self {
        let mut listeners = process.listen.iter();
        let listener = listeners.find(|listener| listener.name == spec.listener);
        Self {
            generation,
            slot,
            key: listener.map(|listener| listen::key(process, listener)),
            tally: Tally::new(spec.times, process.notify),
            spec,
            next_at: now,
            step: Step::Idle,
            lead: None,
        }
    }

    /// It has passed, and must go on answering.
    pub(super) fn watching(self) -> Self {
        Self {
            tally: self.tally.watching(),
            ..self
        }
    }

    /// The descriptors to wait on, and what for.
    pub(super) fn waits_on(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut all = self.lead.as_ref().map(Lead::waits_on).unwrap_or_default();
        if let Step::Running(child) = &self.step {
            all.push((child.output.as_fd(), PollFlags::IN));
        }
        all
    }

    /// When it must be looked at again; a child that runs has its own time.
    pub(super) fn due(&self, now: u64) -> Option<u64> {
        let waits = self.lead.as_ref().is_some_and(Lead::waits);
        match &self.step {
            Step::Idle => Some(self.next_at),
            Step::Connected { .. } => Some(now + LOOK_MS),
            Step::Running(_) => waits.then_some(now + LOOK_MS),
        }
    }
}

impl Child {
    /// Takes what it has written; at its end, `all` of it.
    fn read(&mut self) {
        let mut chunk = [0_u8; 1024];
        while let Ok(count @ 1..) = rustix::io::read(&self.output, &mut chunk[..]) {
            self.said.extend_from_slice(&chunk[..count]);
            let extra = self.said.len().saturating_sub(MAX_OUTPUT);
            self.said.drain(..extra);
        }
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.said);
        let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let shown = last.unwrap_or_default().chars().take(MAX_LAST);
        shown.filter(|letter| !letter.is_control()).collect()
    }
}

impl Keeper {
    /// Carries all of them on as far as it goes without waiting.
    pub(super) fn advance_askings(&mut self) {
        for mut asking in std::mem::take(&mut self.askings) {
            self.lead_on(&mut asking);
            let progress = self.advance_asking(&mut asking);
            self.tell_progress(asking, progress);
        }
    }

    fn advance_asking(&mut self, asking: &mut Asking) -> Progress {
        let now = now_ms();
        match &mut asking.step {
            Step::Idle if now >= asking.next_at => {}
            Step::Idle => return Progress::Asking,
            Step::Running(child) => {
                child.read();
                return Progress::Asking;
            }
            Step::Connected { stream, deadline } => {
                let generation = asking.generation;
                let owned = Ends::of(&*stream).and_then(|ends| self.owns(generation, ends));
                let late = now >= *deadline;
                return match (owned, self.group_of(asking)) {
                    (Some(true), _) => self.begin_child(asking),
                    (Some(false), Some(group)) => conclude(asking, elsewhere(group)),
                    (None, Some(group)) if late => conclude(asking, nobody_accepts(group)),
                    (None, Some(_)) => Progress::Asking,
                    (_, None) => conclude(asking, Answer::None("its listener is gone".to_owned())),
                };
            }
        }
        match &asking.spec.kind {
            ProbeKind::Grpc { .. } => self.connect_for(asking),
            _ => self.begin_child(asking),
        }
    }

    fn group_of(&mut self, asking: &Asking) -> Option<&mut Group> {
        self.listeners.get_mut(asking.key.as_deref()?)
    }

    fn transport_of(&mut self, asking: &Asking) -> Transport {
        let group = self.group_of(asking);
        group.map_or(Transport::Tcp, |group| group.transport())
    }

    fn connect_for(&mut self, asking: &mut Asking) -> Progress {
        let generation = asking.generation;
        let Some(group) = self.group_of(asking) else {
            return Progress::Failed("its probe has no listener to ask".to_owned());
        };
        match group.probe(generation) {
            Err(error) => {
                let answer = Answer::None(words(&error, &group.bound()));
                conclude(asking, answer)
            }
            Ok(Route { socket, exclusive }) => {
                let deadline = now_ms() + asking.spec.timeout_ms.max(1);
                let stream = TcpStream::from(socket);
                asking.step = Step::Connected { stream, deadline };
                if exclusive {
                    self.begin_child(asking)
                } else {
                    Progress::Asking
                }
            }
        }
    }

    /// Accepts what a command connects to, and leads it on.
    fn lead_on(&mut self, asking: &mut Asking) {
        let (generation, key) = (asking.generation, asking.key.clone());
        let (Some(lead), Some(key)) = (&mut asking.lead, key) else {
            return;
        };
        let mut listeners = std::mem::take(&mut self.listeners);
        if let Some(group) = listeners.get_mut(&key) {
            let owned = |ends| self.owns(generation, ends);
            lead.advance(group, generation, owned);
        }
        self.listeners = listeners;
    }

    fn begin_child(&mut self, asking: &mut Asking) -> Progress {
        let connection = match std::mem::replace(&mut asking.step, Step::Idle) {
            Step::Connected { stream, .. } => Some(stream),
            Step::Idle | Step::Running(_) => None,
        };
        match self.fork_child(asking, connection) {
            Ok(child) => {
                asking.step = Step::Running(child);
                Progress::Asking
            }
            // What cannot be asked now cannot be asked later.
            Err(reason) => Progress::Failed(format!("its probe cannot be made: {reason}")),
        }
    }

    fn fork_child(&mut self, asking: &mut Asking, connection: Option<TcpStream>) -> Result<Child, String> {
        let (words, timeout_ms) = child_words(&asking.spec)?;
        let mut extra = Vec::new();
        if asking.key.is_some() && connection.is_none() {
            let lead = match asking.lead.take() {
                Some(lead) => lead,
                None => Lead::new(self.transport_of(asking))
                    .map_err(|error| format!("no place to accept connections: {error}"))?,
            };
            extra.push(("SHIP_PROBE_ADDR", lead.addr().to_string()));
            asking.lead = Some(lead);
        }
        let found = self.state.generation(asking.generation);
        let found = found.ok_or("its generation is gone")?.clone();
        let own = connection.is_some();
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        let (output, writer) = rustix::pipe::pipe_with(flags).map_err(|error| error.to_string())?;
        rustix::io::ioctl_fionbio(&output, true).map_err(|error| error.to_string())?;
        let input = connection
            .as_ref()
            .map_or(self.null.as_raw_fd(), AsRawFd::as_raw_fd);
        let descriptors = vec![input, writer.as_raw_fd(), writer.as_raw_fd()];
        let launch = self
            .launch_probe(&found, asking.slot, &words, &extra, own, descriptors)
            .map_err(|error| error.to_string())?;
        let mut child = processes::fork(&launch).map_err(|error| chain(&error))?;
        let (generation, slot) = (asking.generation, asking.slot);
        let purpose = Purpose::Probe { generation, slot };
        self.begin_job(&child, &words, timeout_ms, purpose)?;
        let failure = std::mem::replace(&mut child.failure, child.go);
        Ok(Child {
            output,
            said: Vec::new(),
            failure: Some(failure),
        })
    }

    /// A child ended; none: it took too long and was killed.
    pub(super) fn asked_by_child(&mut self, generation: u64, slot: usize, status: Option<WaitStatus>) {
        let is_it = |asking: &Asking| (asking.generation, asking.slot) == (generation, slot);
        let Some(index) = self.askings.iter().position(is_it) else {
            return;
        };
        let mut asking = self.askings.swap_remove(index);
        let progress = match std::mem::replace(&mut asking.step, Step::Idle) {
            Step::Running(child) => self.judge(&mut asking, child, status),
            Step::Idle | Step::Connected { .. } => Progress::Asking,
        };
        self.tell_progress(asking, progress);
    }

    fn judge(&self, asking: &mut Asking, mut child: Child, status: Option<WaitStatus>) -> Progress {
        child.read();
        if let Some(StartFailure { step, error }) = child.failure.take().and_then(processes::read_failure) {
            return Progress::Failed(format!(
                "its probe cannot be made: {}",
                self.failed_child(asking, step, &error)
            ));
        }
        let last = child.last_line();
        let answer = match (&asking.spec.kind, status) {
            (_, Some(status)) if status.exit_status() == Some(0) => Answer::Good,
            (_, None) => Answer::None(format!("no answer within {} ms", asking.spec.timeout_ms)),
            (ProbeKind::Grpc { .. }, Some(status)) if status.exit_status() == Some(NOBODY) => {
                Answer::None(last.clone())
            }
            (ProbeKind::Grpc { .. }, Some(_)) => Answer::Wrong(last.clone()),
            (_, Some(status)) => Answer::Wrong(how_ended(status) + &colon(&last)),
        };
        let answer = match (answer, &asking.spec.kind) {
            (Answer::Wrong(what), ProbeKind::Command { words }) => {
                Answer::Wrong(format!("`{}` {what}", words.join(" ")))
            }
            (Answer::None(what), ProbeKind::Command { words }) => {
                Answer::None(format!("`{}`: {what}{}", words.join(" "), colon(&last)))
            }
            (answer, _) => answer,
        };
        conclude(asking, answer)
    }

    fn failed_child(&self, asking: &Asking, step: &str, error: &std::io::Error) -> String {
        let found = self.state.generation(asking.generation);
        match (&asking.spec.kind, found) {
            (ProbeKind::Command { words }, Some(found)) if step == processes::RUN => {
                cannot_run(&found.intent.dir, words, error)
            }
            _ => format!("cannot {step}: {error}"),
        }
    }

    fn tell_progress(&mut self, mut asking: Asking, progress: Progress) {
        let (generation, slot) = (asking.generation, asking.slot);
        if let Some(problem) = asking.tally.last_problem() {
            self.events.push_back(Event::ProbeProblem {
                generation,
                slot,
                problem,
            });
        }
        match progress {
            Progress::Asking => self.askings.push(asking),
            Progress::Passed(first_answer_at) => self.events.push_back(Event::Probed {
                generation,
                slot,
                first_answer_at,
            }),
            Progress::Failed(reason) => self.events.push_back(Event::ProbeFailed {
                generation,
                slot,
                reason,
            }),
        }
    }

    /// Asks no more about a generation; children that still ask are ended.
    pub(super) fn end_askings(&mut self, number: u64) {
        self.askings.retain(|asking| asking.generation != number);
        self.end_jobs(
            |purpose| matches!(purpose, Purpose::Probe { generation, .. } if *generation == number),
        );
    }
}

fn conclude(asking: &mut Asking, answer: Answer) -> Progress {
    let now = now_ms();
    asking.step = Step::Idle;
    asking.next_at = now + asking.spec.interval_ms;
    asking.tally.take(answer, now)
}

fn colon(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// The command of a child, and how long it may take.
fn child_words(spec: &ProbeSpec) -> Result<(Vec<String>, u64), String> {
    let service = match &spec.kind {
        ProbeKind::Command { words } => return Ok((words.clone(), spec.timeout_ms)),
        ProbeKind::Grpc { service } => service,
        ProbeKind::Http { .. } | ProbeKind::Tcp => return Err("the keeper asks this itself".to_owned()),
    };
    let agent = crate::find::program("ship-agent").ok_or(
        "gRPC is asked by ship-agent, which is neither beside the keeper nor in SHIP_BIN_DIR or PATH",
    )?;
    let timeout = spec.timeout_ms.to_string();
    let agent = agent.to_string_lossy().into_owned();
    let words = [
        agent.as_str(),
        "probe",
        "--grpc",
        "-",
        "--service",
        service,
        "--timeout-ms",
        &timeout,
    ];
    Ok((words.map(str::to_owned).to_vec(), spec.timeout_ms + GRACE_MS))
}
