//! The edge: one thread, one poll(2), that tells the machine what happens and does what it says.
//!
//! Every change of the machine's state is in the journal before any of its effects begins, and on the disk before any that
//! outlives a boot (of links: before the first that names a release), before anybody is told of it, and before the keeper waits
//! for what comes next; see [`Keeper::apply`].

mod addresses;
mod adopt;
mod adopted;
mod announce;
mod asking;
mod canary;
mod count;
mod direct;
mod effects;
mod end;
mod folders;
mod groups;
mod holder;
mod hooks;
mod in_place;
mod jobs;
mod joins;
mod limits;
mod links;
mod lives;
mod lock;
mod lost;
mod notices;
mod output;
mod probes;
mod requests;
mod room;
mod saved;
mod start;
mod status;
mod store;
mod tell;
mod upgrade;
mod wait;
mod watchdog;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::now_ms;
use crate::control::Control;
use crate::listen::Listeners;
use crate::log::{LogFile, Stream, Tail};
use crate::machine::{self, Event, Process, State};
use crate::memory::{Memory, MemoryError};
use crate::notify::NotifySocket;
use crate::probe::Probe;
use crate::processes::{Groups, GroupsAt, keeper_name};
use crate::protocol::SOCKET_NAME;
use crate::relay::Relay;
use asking::Asking;
use folders::{bind_notify, make_folders};
use holder::Holder;
use limits::Resident;
use store::Stores;
use tell::Label;
use watchdog::Watchdog;

use in_place::{Birth, Reloaded, Reloading};
use jobs::Job;
use joins::Join;
use upgrade::Upgrade;

pub use limits::{Signals, SignalsError};
pub use upgrade::{HAND_OVER_VERSION, TAKE_OVER, TakeOverError, can_adopt};

/// Notes kept for the status.
const MAX_NOTES: usize = 20;
/// So long after the last work, memory is given back.
const QUIET_MS: u64 = 1_000;

/// Whose keeper it is and where it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Where control groups are made.
    #[serde(default)]
    pub groups: GroupsAt,
    /// Where the kernel tells of memory and control groups: `/proc`.
    #[serde(default = "proc")]
    pub machine: PathBuf,
}

fn proc() -> PathBuf {
    "/proc".into()
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
    /// `STOPPING=1`.
    stopping: bool,
    /// `RELOADING=1`, until it is ready again.
    reloading: bool,
    /// `ERRNO=`.
    errno: Option<i32>,
    watchdog: Watchdog,
    /// Why its watchdog has ended it.
    missed: Option<String>,
    /// How many of its group had been killed for want of memory when it began.
    memory_kills: u64,
    /// When it was sent the signal to reload, in microseconds of the monotonic clock, until it says that it does.
    reload_asked_us: Option<u64>,
}

impl Running {
    /// One that runs already, and was not born here.
    fn found(process: Process, pidfd: OwnedFd, watchdog_ms: Option<u64>) -> Self {
        Self {
            process,
            pidfd,
            go: None,
            failure: None,
            own_child: false,
            said: String::new(),
            stopping: false,
            reloading: false,
            errno: None,
            watchdog: Watchdog::new(watchdog_ms),
            missed: None,
            memory_kills: 0,
            reload_asked_us: None,
        }
    }
}

/// A running keeper.
#[derive(Debug)]
pub struct Keeper {
    config: Config,
    memory: Memory,
    state: State,
    /// The last state could not be written.
    unsaved: bool,
    /// Generations below this number are known after a boot.
    durable_below: u64,
    /// Links were moved that are not synced.
    unsynced_links: bool,
    events: VecDeque<Event>,
    listeners: Listeners,
    groups: Groups,
    locks: lock::Locks,
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
    /// Descriptors of `BARRIER=1`, until all that was said before them is done.
    barriers: Vec<OwnedFd>,
    /// Descriptors that processes left for the next of their name.
    store: Stores,
    probes: Vec<Probe>,
    /// Where binds are told.
    joins: Vec<Join>,
    /// Probes that a child of the keeper's makes.
    askings: Vec<Asking>,
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
    /// Generations that are to be told to drain, and until when that waits for their queues.
    undrained: BTreeMap<u64, u64>,
    /// Connections by generation and slot, when they were last counted.
    counted: BTreeMap<(u64, usize), u64>,
    next_look: u64,
    /// When it is looked whether connections wait, and listeners where some did at the last look.
    next_queue_look: u64,
    waited_at: Vec<String>,
    /// When connections are counted again for a status.
    next_count: u64,
    /// When it has been quiet for long enough to give memory back.
    quiet_at: Option<u64>,
    /// Another program that the keeper is to become.
    upgrade: Option<Upgrade>,
    /// Holds those who wait while nobody accepts them.
    holder: Option<Holder>,
    exiting: bool,
}

/// What a keeper cannot be without.
struct Parts {
    config: Config,
    memory: Memory,
    state: State,
    notify: NotifySocket,
    control: Control,
    signals: Signals,
    null: std::fs::File,
}

impl Keeper {
    /// Takes the app over: opens the memory, finds what lives, and binds the control socket. From then on it answers.
    ///
    /// # Errors
    /// [`StartError`]; the app is untouched then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let (memory, mut state, notes) = Memory::open(&config.state).map_err(StartError::Memory)?;
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
        let mut keeper = Self::assemble(Parts {
            config,
            memory,
            state,
            notify,
            control,
            signals,
            null,
        });
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
        keeper.recover();
        Ok(keeper)
    }

    fn assemble(parts: Parts) -> Self {
        let log = LogFile::new(parts.config.state.join("logs").join("app.log"));
        let resident = Resident::new();
        let name = keeper_name(&parts.config.app, &parts.config.state);
        let groups = Groups::find(&parts.config.machine, &parts.config.groups, &name);
        Self {
            config: parts.config,
            memory: parts.memory,
            state: parts.state,
            unsaved: false,
            durable_below: 0,
            unsynced_links: false,
            events: VecDeque::new(),
            listeners: Listeners::default(),
            groups,
            locks: lock::Locks::default(),
            running: BTreeMap::new(),
            mains: BTreeMap::new(),
            labels: BTreeMap::new(),
            streams: Vec::new(),
            tails: BTreeMap::new(),
            log,
            chunk: vec![0; 16 * 1024],
            null: parts.null,
            writers: Vec::new(),
            notify: parts.notify,
            barriers: Vec::new(),
            store: Stores::default(),
            probes: Vec::new(),
            joins: Vec::new(),
            askings: Vec::new(),
            jobs: Vec::new(),
            births: Vec::new(),
            reloads: Vec::new(),
            reloaded: Vec::new(),
            asked: BTreeMap::new(),
            relays: Vec::new(),
            control: parts.control,
            signals: parts.signals,
            resident,
            revision: 1,
            notes: VecDeque::new(),
            cut: BTreeMap::new(),
            undrained: BTreeMap::new(),
            counted: BTreeMap::new(),
            next_look: 0,
            next_queue_look: 0,
            waited_at: Vec::new(),
            next_count: 0,
            quiet_at: None,
            upgrade: None,
            holder: None,
            exiting: false,
        }
    }

    /// Runs until the app is stopped for good or the keeper is asked to leave by SIGTERM or SIGINT; then the app runs on
    /// and the next keeper takes it over.
    ///
    /// # Errors
    /// When waiting itself fails.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.exiting {
            self.work_off();
            self.make_durable();
            self.barriers.clear();
            self.mind_holder();
            self.advance_upgrade();
            self.tell_watchers();
            if self.exiting {
                break;
            }
            if self.quiet_at.is_some_and(|at| at <= now_ms()) {
                self.quiet_at = None;
                self.resident.give_back();
            }
            self.resident.keep_small(now_ms());
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

    /// One step of the machine: the new state is written before its effects begin, so that the next keeper knows of them.
    ///
    /// It is synced before those that outlive a boot and could not be understood after it. The others leave nothing that a
    /// boot does not end, and users or the start of a process would wait for the disk; it is synced while these go on.
    ///
    /// A state that cannot be written does not stop a switch that has begun, nor a revert: users come first, and the note
    /// in the status says what the next keeper would not know. New switches are refused meanwhile.
    fn apply(&mut self, event: &Event) {
        let (mut next, effects) = machine::step(&self.state, event, now_ms());
        if next == self.state && effects.is_empty() {
            return;
        }
        self.complete_outcome(&mut next);
        self.complete_crash(&mut next);
        self.adopt_state(next);
        for effect in effects {
            if self.waits_for_the_disk(&effect) {
                self.make_durable();
            }
            self.carry_out(&effect);
        }
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
