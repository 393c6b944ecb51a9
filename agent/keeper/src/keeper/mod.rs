//! The edge: one thread, one poll(2), that tells the machine what happens and does what it says.
//!
//! Every change of the machine's state is in the journal before any of its effects begins; see [`Keeper::apply`].

mod adopt;
mod count;
mod direct;
mod effects;
mod end;
mod in_place;
mod jobs;
mod limits;
mod links;
mod lives;
mod notices;
mod output;
mod probes;
mod requests;
mod start;
mod status;
mod wait;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ship_durable::fault;
use thiserror::Error;

use crate::clock::{now_ms, rfc3339_now};
use crate::control::Control;
use crate::listen::Listeners;
use crate::log::{Line, LogFile, Stream, Tail};
use crate::machine::{self, Event, Process, State};
use crate::memory::{Memory, MemoryError};
use crate::notify::NotifySocket;
use crate::probe::Probe;
use crate::protocol::SOCKET_NAME;
use crate::relay::Relay;
use limits::Resident;

use in_place::{Birth, Reloaded, Reloading};
use jobs::Job;

pub use limits::{Signals, SignalsError};

/// Notes kept for the status.
const MAX_NOTES: usize = 20;
/// Generations whose release and deploy are remembered for the log; more than live at once.
const MAX_LABELS: usize = 16;
/// So long after the last work, memory is given back.
const QUIET_MS: u64 = 1_000;

/// Whose keeper it is and where it lives.
#[derive(Debug, Clone)]
pub struct Config {
    /// The app.
    pub app: String,
    /// The host's name, for environment and log.
    pub host: String,
    /// The app's folder: `current`, `previous`, `releases`, `shared`, `assets`.
    pub home: PathBuf,
    /// What must survive a boot: journal and logs.
    pub state: PathBuf,
    /// Sockets, pipes and drain files.
    pub run: PathBuf,
    /// Whether listeners are steered by a program in the kernel; false takes the fallback.
    pub steering: bool,
}

/// Why a keeper could not begin.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its memory cannot be opened; another keeper may be there.
    #[error("cannot open the keeper's memory")]
    Memory(#[source] MemoryError),
    /// A folder or socket cannot be made.
    #[error("cannot set up {}", path.display())]
    SetUp {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] SignalsError),
}

/// A process the keeper looks after.
#[derive(Debug)]
struct Running {
    process: Process,
    pidfd: OwnedFd,
    /// Written to when it may run its program.
    go: Option<OwnedFd>,
    /// Tells whether the program runs.
    failure: Option<OwnedFd>,
    /// Child of this keeper, not adopted.
    own_child: bool,
    said: String,
}

/// What a generation's lines are marked with.
#[derive(Debug, Clone, Copy, Default)]
struct Label {
    release: u64,
    deploy: u64,
}

/// A running keeper.
#[derive(Debug)]
pub struct Keeper {
    config: Config,
    memory: Memory,
    state: State,
    /// The last state could not be written.
    unsaved: bool,
    events: VecDeque<Event>,
    listeners: Listeners,
    running: BTreeMap<(u64, usize), Running>,
    /// All main processes a generation had, also those that ended: their groups may live on.
    mains: BTreeMap<u64, Vec<Process>>,
    labels: BTreeMap<u64, Label>,
    streams: Vec<Stream>,
    tails: BTreeMap<u64, Tail>,
    log: LogFile,
    chunk: Vec<u8>,
    /// Standard input of every process.
    null: std::fs::File,
    /// Pipe ends of a child that was forked and not let go yet; it has its own copies.
    writers: Vec<OwnedFd>,
    notify: NotifySocket,
    probes: Vec<Probe>,
    /// Commands that run.
    jobs: Vec<Job>,
    /// Main processes asked for their successors.
    births: Vec<Birth>,
    /// Reloads that wait for their turn, and the last one of each main process.
    reloads: Vec<Reloading>,
    reloaded: Vec<Reloaded>,
    /// Since which clock tick what a reloaded process starts counts as new, by generation and slot.
    asked: BTreeMap<(u64, usize), u64>,
    relays: Vec<Relay>,
    control: Control,
    signals: Signals,
    resident: Resident,
    revision: u64,
    notes: VecDeque<String>,
    /// Connections that were open when a generation was told to stop.
    cut: BTreeMap<u64, u64>,
    /// Connections by generation and slot, when they were last counted.
    counted: BTreeMap<(u64, usize), u64>,
    next_look: u64,
    /// When connections are counted again for a status.
    next_count: u64,
    /// When it has been quiet for long enough to give memory back.
    quiet_at: Option<u64>,
    exiting: bool,
}

impl Keeper {
    /// Takes the app over: opens the memory, finds what lives, and binds the control socket. From then on it answers.
    ///
    /// # Errors
    /// [`StartError`]; the app is untouched then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let resident = Resident::new();
        // What starting the program itself has mapped.
        resident.keep_small();
        let (memory, mut state, notes) = Memory::open(&config.state).map_err(StartError::Memory)?;
        resident.keep_small();
        let signals = Signals::catch().map_err(StartError::Signals)?;
        make_folders(&config)?;
        let notify = bind_notify(&config, &mut state)?;
        let socket = config.run.join(SOCKET_NAME);
        let control = Control::bind(&socket).map_err(|source| StartError::SetUp {
            path: socket.clone(),
            source,
        })?;
        let null = std::fs::File::open("/dev/null").map_err(|source| StartError::SetUp {
            path: "/dev/null".into(),
            source,
        })?;
        let log = LogFile::new(config.state.join("logs").join("app.log"));
        let mut keeper = Self {
            config,
            memory,
            state,
            unsaved: false,
            events: VecDeque::new(),
            listeners: Listeners::default(),
            running: BTreeMap::new(),
            mains: BTreeMap::new(),
            labels: BTreeMap::new(),
            streams: Vec::new(),
            tails: BTreeMap::new(),
            log,
            chunk: vec![0; 16 * 1024],
            null,
            writers: Vec::new(),
            notify,
            probes: Vec::new(),
            jobs: Vec::new(),
            births: Vec::new(),
            reloads: Vec::new(),
            reloaded: Vec::new(),
            asked: BTreeMap::new(),
            relays: Vec::new(),
            control,
            signals,
            resident,
            revision: 1,
            notes: VecDeque::new(),
            cut: BTreeMap::new(),
            counted: BTreeMap::new(),
            next_look: 0,
            next_count: 0,
            quiet_at: None,
            exiting: false,
        };
        keeper.resident.keep_small();
        keeper.remember_labels();
        for note in notes {
            keeper.note(note);
        }
        keeper.tell(
            None,
            &format!(
                "keeper {} begins as process {}",
                env!("CARGO_PKG_VERSION"),
                std::process::id()
            ),
        );
        keeper.resident.keep_small();
        keeper.recover();
        Ok(keeper)
    }

    /// Runs until the app is stopped for good or the keeper is asked to leave by SIGTERM or SIGINT; then the app runs on
    /// and the next keeper takes it over.
    ///
    /// # Errors
    /// When waiting itself fails.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.exiting {
            self.work_off();
            self.tell_watchers();
            if self.exiting {
                break;
            }
            if self.quiet_at.is_some_and(|at| at <= now_ms()) {
                self.quiet_at = None;
                self.resident.give_back();
            }
            if self.wait()? {
                self.tell(None, "the keeper leaves; the app runs on");
                break;
            }
            self.events.push_back(Event::Tick);
        }
        self.control.flush();
        Ok(())
    }

    /// Takes all events that wait, and those they cause.
    fn work_off(&mut self) {
        while let Some(event) = self.events.pop_front() {
            self.apply(&event);
        }
    }

    /// One step of the machine: the new state is durable before its effects begin.
    ///
    /// A state that cannot be written does not stop a switch that has begun, nor a revert: users come first, and the note
    /// in the status says what the next keeper would not know. New switches are refused meanwhile.
    fn apply(&mut self, event: &Event) {
        let (mut next, effects) = machine::step(&self.state, event, now_ms());
        if next == self.state && effects.is_empty() {
            return;
        }
        self.complete_outcome(&mut next);
        self.adopt_state(next);
        for effect in effects {
            self.carry_out(&effect);
            self.resident.keep_small();
        }
    }

    fn adopt_state(&mut self, next: State) {
        let before = self.state.phase();
        if next == self.state && !self.unsaved {
            return;
        }
        self.state = next;
        self.remember_labels();
        self.revision += 1;
        self.quiet_at = Some(now_ms() + QUIET_MS);
        let phase = self.state.phase();
        let word = format!("{phase:?}").to_lowercase();
        if phase != before {
            self.tell(None, &format!("phase {word}"));
        }
        let saved = fault::point(&format!("keeper.{word}.before"))
            .map_err(|error| error.to_string())
            .and_then(|()| self.memory.save(&self.state).map_err(|error| chain(&error)));
        match saved {
            Ok(()) => self.unsaved = false,
            Err(reason) => {
                if !self.unsaved {
                    self.note(reason);
                }
                self.unsaved = true;
            }
        }
        self.resident.keep_small();
        let _ = fault::point(&format!("keeper.{word}.after"));
    }

    /// Fills in what a pure machine cannot know: the time of day and the last lines.
    fn complete_outcome(&mut self, next: &mut State) {
        if next.outcome == self.state.outcome {
            return;
        }
        let of = next.outcome_of.take();
        if let Some(generation) = of {
            self.read_streams_of(generation);
        }
        let lines = of
            .and_then(|generation| self.tails.get(&generation))
            .map(Tail::lines);
        if let Some(outcome) = &mut next.outcome {
            outcome.at = rfc3339_now();
            outcome.last_lines = lines.unwrap_or_default();
            let reason = outcome
                .reason
                .as_deref()
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default();
            let words = format!("release {} {:?}", outcome.release, outcome.result).to_lowercase();
            let words = format!("{words}{reason}");
            self.tell(of, &words);
        }
    }

    /// Writes a line of the keeper's own into the app's log. Without a generation, it is about the one that is on its way, or
    /// else the one that users get.
    fn tell(&mut self, generation: Option<u64>, words: &str) {
        let (number, label) = match generation {
            Some(number) => (number, self.labels.get(&number).copied().unwrap_or_default()),
            None => self.subject(),
        };
        let line = Line {
            ts: &rfc3339_now(),
            app: &self.config.app,
            host: &self.config.host,
            release: label.release,
            deploy: label.deploy,
            r#gen: number,
            process: "",
            pid: std::process::id(),
            stream: "keeper",
            line: words,
            more: false,
        };
        self.log.write(&line);
    }

    fn subject(&self) -> (u64, Label) {
        let rising = self.state.rising.as_ref().map(|rising| &rising.generation);
        let number = rising.or(self.state.active.as_ref()).map(|found| found.number);
        let known = number.and_then(|number| self.labels.get_key_value(&number));
        // With nothing there, the latest that was.
        let known = known.or_else(|| self.labels.last_key_value());
        known.map_or((0, Label::default()), |(number, label)| (*number, *label))
    }

    /// Lines about a generation name its release, also when the machine has forgotten it.
    fn remember_labels(&mut self) {
        for (generation, _) in self.state.generations() {
            let label = Label {
                release: generation.intent.release,
                deploy: generation.intent.deploy,
            };
            self.labels.insert(generation.number, label);
        }
        while self.labels.len() > MAX_LABELS {
            self.labels.pop_first();
        }
    }

    /// Tells operators something they should know, in status and log.
    fn note(&mut self, words: String) {
        self.tell(None, &words);
        if self.notes.back() != Some(&words) {
            if self.notes.len() >= MAX_NOTES {
                self.notes.pop_front();
            }
            self.notes.push_back(words);
            self.revision += 1;
        }
    }

    fn log_folder(&self) -> PathBuf {
        self.config.run.join("log")
    }

    /// Where the slot's process was born.
    fn home(&self, generation: u64, slot: usize) -> (u64, usize) {
        let found = self.state.generation(generation);
        found.map_or((generation, slot), |found| found.home(slot))
    }

    fn drain_file(&self, generation: u64) -> PathBuf {
        self.config.run.join("drain").join(generation.to_string())
    }

    /// Entries in the environment that only this generation's processes have; with a process's name, only that one's.
    fn marks(&self, generation: u64, process: Option<&str>) -> Vec<String> {
        let mut marks = vec![format!(
            "SHIP_DRAIN_FILE={}",
            self.drain_file(generation).display()
        )];
        marks.extend(process.map(|name| format!("SHIP_PROCESS={name}")));
        marks
    }
}

/// An error with its sources, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    words
}

fn make_folders(config: &Config) -> Result<(), StartError> {
    let folders = [
        config.run.clone(),
        config.run.join("log"),
        config.run.join("drain"),
        config.state.join("logs"),
    ];
    for path in folders {
        std::fs::create_dir_all(&path).map_err(|source| StartError::SetUp { path, source })?;
    }
    Ok(())
}

/// The socket in the run folder, or in a short private one where an app could not name that.
fn bind_notify(config: &Config, state: &mut State) -> Result<NotifySocket, StartError> {
    let usual = config.run.join("notify.sock");
    let path = if usual.as_os_str().len() <= crate::unix::MAX_SOCKET_PATH {
        usual
    } else {
        short_folder(state)
            .map_err(|source| StartError::SetUp { path: usual, source })?
            .join("notify.sock")
    };
    NotifySocket::bind(&path).map_err(|source| StartError::SetUp { path, source })
}

/// A folder with a short name that stays the same over this keeper's death: apps keep the path they were given.
fn short_folder(state: &mut State) -> io::Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let own = rustix::process::geteuid().as_raw();
    let is_ours = |folder: &Path| {
        std::fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == own)
    };
    if let Some(folder) = state.notify_folder.clone().filter(|folder| is_ours(folder)) {
        return Ok(folder);
    }
    // Only root's apps run as others, who must be able to pass through it.
    let mode = if own == 0 { 0o711 } else { 0o700 };
    for base in [Path::new("/run/ship"), &std::env::temp_dir(), Path::new("/tmp")] {
        let mut random = [0_u8; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let folder = base.join(format!("ship-n-{:016x}", u64::from_le_bytes(random)));
        let fits = folder.as_os_str().len() + "/notify.sock".len() <= crate::unix::MAX_SOCKET_PATH;
        if fits && std::fs::DirBuilder::new().mode(mode).create(&folder).is_ok() {
            state.notify_folder = Some(folder.clone());
            return Ok(folder);
        }
    }
    Err(io::Error::other(
        "no folder with a short name can be made for the notify socket",
    ))
}
