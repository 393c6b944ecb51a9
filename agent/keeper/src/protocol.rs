//! What is said on a keeper's control socket: one JSON object per line, each with `"v":1`.
//!
//! A connection carries one request and its reply; [`Request::Watch`] is answered by a status line at once and by another
//! after every change, until the client hangs up. Fields that a reader does not know are ignored and new ones have
//! defaults, so that keeper and agent may be one minor version apart. Times are milliseconds unless a name says otherwise.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The `v` of every line.
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes in the longest line either side accepts.
pub const MAX_LINE: usize = 512 * 1024;
/// The control socket's name inside the run folder.
pub const SOCKET_NAME: &str = "keeper.sock";
/// Lines of the app's output kept in an [`Outcome`].
pub const LAST_LINES: usize = 50;

/// A request with the version of the protocol it is written in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestLine {
    /// [`PROTOCOL_VERSION`] of the writer.
    pub v: u32,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// A reply with the version of the protocol it is written in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplyLine {
    /// [`PROTOCOL_VERSION`] of the writer.
    pub v: u32,
    /// The answer.
    #[serde(flatten)]
    pub reply: Reply,
}

/// What a keeper can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Switch to a release. Answered as soon as the switch is journalled (or refused); watch for its outcome.
    Switch {
        /// The release and how to run it.
        intent: Box<Intent>,
    },
    /// Go back to an earlier release; within the soak no process is started for it.
    Revert {
        /// The release to go back to; without it, the last good one older than the running.
        #[serde(default)]
        to: Option<u64>,
        /// Why, for status and log.
        reason: String,
        /// The fence; without it the revert is a local one, always taken, and holds until a newer epoch arrives.
        #[serde(default)]
        epoch: Option<u64>,
    },
    /// Tell the state once.
    Status,
    /// Tell the state now and after every change.
    Watch,
    /// Drain and stop the app, close its listeners, exit. Answered when it has begun.
    Stop,
}

/// What a keeper answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Journalled and begun.
    Accepted,
    /// This release of this epoch runs, or is on its way, already.
    Already,
    /// Refused; nothing has changed.
    Refused {
        /// For programs.
        refusal: Refusal,
        /// For people: what is wrong and what to do next.
        message: String,
    },
    /// The answer to [`Request::Status`] and [`Request::Watch`].
    Status {
        /// The state.
        status: Box<Status>,
    },
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Refusal {
    /// The line is no request this keeper understands.
    BadRequest,
    /// The intent contradicts itself or this host (a folder that is not there, an unknown user, ...).
    BadIntent,
    /// The epoch is older than the newest taken, or equal with another release.
    StaleEpoch {
        /// The newest taken.
        newest: u64,
    },
    /// This release failed or was reverted under this epoch; a newer epoch is needed.
    Held {
        /// The epoch that is held.
        epoch: u64,
        /// The release that is not tried again.
        release: u64,
    },
    /// Somebody else listens on an address.
    AddressTaken {
        /// The address as the intent names it.
        address: String,
    },
    /// No earlier good release is known and present.
    NothingToRevertTo,
    /// The journal cannot be written (a full disk?); nothing was begun.
    Journal,
    /// The keeper is stopping.
    Stopping,
}

/// A release and how to run it on this host: all a keeper needs to run it again later, with nobody to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The release's number within the app.
    pub release: u64,
    /// The release's content id, in hex.
    pub id: String,
    /// The unpacked release: an absolute path without links, inside `<home>/releases`.
    pub dir: PathBuf,
    /// The deploy that wants it.
    #[serde(default)]
    pub deploy: u64,
    /// The fence that wants it.
    pub epoch: u64,
    /// The environment's name, e.g. `production`.
    #[serde(default)]
    pub environment: String,
    /// The processes of one generation; at least one.
    pub processes: Vec<ProcessSpec>,
    /// Whether two generations may run at once. If not, the old one is stopped before the new one starts, and the
    /// listeners queue meanwhile.
    #[serde(default = "yes")]
    pub coexist: bool,
    /// How long the old generation stays warm after the switch, for an instant way back.
    #[serde(default = "default_soak")]
    pub soak_ms: u64,
}

/// One process of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Its name, e.g. `web`.
    pub name: String,
    /// Program and arguments; the program is relative to the release's folder when it contains a slash, absolute, or a
    /// name looked up in PATH.
    pub command: Vec<String>,
    /// Variables set for it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A file of `KEY=VALUE` lines read at every start; `env` wins over it. Absolute.
    #[serde(default)]
    pub env_file: Option<PathBuf>,
    /// Listeners handed to it from descriptor 3 on, in this order.
    #[serde(default)]
    pub listen: Vec<ListenSpec>,
    /// What must be answered before users are sent to it.
    #[serde(default)]
    pub probe: Option<ProbeSpec>,
    /// Whether it must say `READY=1` on its notify socket.
    #[serde(default)]
    pub notify: bool,
    /// From start to ready and probed, at most.
    #[serde(default = "default_ready_timeout")]
    pub ready_timeout_ms: u64,
    /// From the drain file to the stop signal, at most.
    #[serde(default = "default_drain")]
    pub drain_ms: u64,
    /// The signal that asks it to end: `TERM`, `QUIT`, `INT`, `USR1`, ...
    #[serde(default = "default_stop_signal")]
    pub stop_signal: String,
    /// From the stop signal to SIGKILL.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout_ms: u64,
    /// The user it runs as; only a keeper of root can choose another than its own.
    #[serde(default)]
    pub user: Option<String>,
    /// Limits of the process.
    #[serde(default)]
    pub limits: Limits,
}

/// A listener and its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenSpec {
    /// Its name, for LISTEN_FDNAMES and the probe.
    pub name: String,
    /// `tcp:IP:PORT`, `tcp:PORT` (all IPv4 addresses), `tcp:[IP6]:PORT` or `unix:/absolute/path`. Port 0 takes a free one and keeps it.
    pub addr: String,
}

/// A check that the new generation answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// What is asked.
    pub kind: ProbeKind,
    /// The listener it is asked at.
    pub listener: String,
    /// How many good answers in a row are needed; 0 counts as 1.
    #[serde(default = "default_times")]
    pub times: u32,
    /// Between two attempts.
    #[serde(default = "default_interval")]
    pub interval_ms: u64,
    /// For one attempt.
    #[serde(default = "default_probe_timeout")]
    pub timeout_ms: u64,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeKind {
    /// `GET path` must be answered with a status of 200 to 399.
    Http {
        /// The path, starting with a slash.
        path: String,
    },
    /// The generation must accept the connection and neither reset nor close it at once.
    Tcp,
}

/// Limits set in the child before it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Open files.
    #[serde(default)]
    pub nofile: Option<u64>,
    /// Bytes of address space (RLIMIT_AS: it counts mappings, not resident memory).
    #[serde(default)]
    pub memory: Option<u64>,
}

/// What a keeper knows and does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The keeper's own version.
    pub version: String,
    /// The keeper's process id.
    pub pid: u32,
    /// The app.
    pub app: String,
    /// The host's name as given to the keeper.
    pub host: String,
    /// Grows with every change, so that two statuses can be ordered. Starts anew with each keeper.
    pub revision: u64,
    /// Where the switch machine stands.
    pub phase: Phase,
    /// The newest epoch taken.
    pub epoch: u64,
    /// The release that gets new connections.
    pub running: Option<ReleaseRef>,
    /// The release on its way.
    pub switching_to: Option<ReleaseRef>,
    /// Accepted, and begun when the machine is free.
    pub queued: Option<ReleaseRef>,
    /// What a revert would go to now.
    pub revert: RevertReadiness,
    /// Set after a failed or reverted switch: this release is not tried again before a newer epoch.
    pub held: Option<Held>,
    /// All living generations, oldest first.
    pub generations: Vec<GenerationStatus>,
    /// The listeners and where they are bound.
    pub listeners: Vec<ListenerStatus>,
    /// How the last switch or revert ended.
    pub outcome: Option<Outcome>,
    /// Counted since the app's first start on this host.
    pub counters: Counters,
    /// Things an operator should know: fallbacks taken, adoption that failed, a journal that cannot be written.
    pub notes: Vec<String>,
}

/// A release by number, with the deploy that brought it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRef {
    /// The number within the app.
    pub release: u64,
    /// The content id.
    pub id: String,
    /// The deploy.
    pub deploy: u64,
    /// The fence it came with.
    pub epoch: u64,
}

/// Where the switch machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing runs and nothing is to run.
    Empty,
    /// One generation runs.
    Idle,
    /// The new generation's listeners are bound.
    Prepared,
    /// The old generation, which may not run beside the new one, is ending.
    Clearing,
    /// The new generation's processes are started.
    Spawned,
    /// They are ready and are being probed.
    Ready,
    /// They answered; the links are being moved.
    Probed,
    /// The links are moved; new connections are about to be steered.
    Linked,
    /// The new generation gets all new connections; the old one is warm.
    Soak,
    /// The old generation was told to drain.
    Draining,
    /// The old generation was told to stop.
    Stopping,
    /// The new generation failed before users saw it and is being ended.
    Aborting,
    /// The app is being stopped for good.
    ShuttingDown,
}

/// Whether and how a revert would go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevertReadiness {
    /// The release it would go to; none: there is nothing to revert to.
    pub to: Option<ReleaseRef>,
    /// Its generation is still warm: no process would be started.
    pub warm: bool,
}

/// A release that is not tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Newer epochs are taken, this one and older are not.
    pub epoch: u64,
    /// The release that failed or was reverted.
    pub release: u64,
    /// Why.
    pub reason: String,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Its number; grows for the app's life on this host.
    pub generation: u64,
    /// The release it runs.
    pub release: u64,
    /// The deploy that brought it.
    pub deploy: u64,
    /// Its part in the switch.
    pub role: Role,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
}

/// A generation's part in the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Started, not yet proven.
    Rising,
    /// Gets new connections.
    Active,
    /// Gets no new connections, can be steered back to.
    Warm,
    /// Was told to drain or to stop.
    Retiring,
    /// Is being killed.
    Failed,
}

/// One process of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its name in the release.
    pub name: String,
    /// Its process id while it lives.
    pub pid: Option<u32>,
    /// Its start, in clock ticks since boot (field 22 of `/proc/PID/stat`): with the pid, one process for sure.
    pub start_ticks: u64,
    /// What it is doing.
    pub state: ProcessState,
    /// The last `STATUS=` it sent.
    pub said: String,
    /// Its established connections, its descendants' included.
    pub connections: u32,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// Not started yet.
    Waiting,
    /// Started, not ready.
    Starting,
    /// Ready, or running where readiness is not told.
    Up,
    /// Ended; started again after a pause.
    BackingOff,
    /// Ended.
    Ended,
}

/// Where a listener is bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// The process it belongs to.
    pub process: String,
    /// Its name.
    pub name: String,
    /// As the intent asks for it.
    pub addr: String,
    /// Where it is: `tcp:127.0.0.1:40123`, `unix:/run/web.sock`.
    pub bound: String,
    /// How new connections are led to a generation.
    pub steering: Steering,
}

/// How new connections are led to one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Steering {
    /// One socket per generation; a BPF program in the kernel names the one that gets new connections.
    Bpf,
    /// One socket per generation; the path names the one that gets new connections.
    Path,
    /// One socket for all generations, as this kernel lets us do no better: who answers during a switch is left to them,
    /// and the probe looks up which process answered.
    Shared,
}

/// How a switch or revert ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The fence it came with.
    pub epoch: u64,
    /// The release that was wanted.
    pub release: u64,
    /// The release that runs now.
    pub running: Option<u64>,
    /// How it ended.
    pub result: SwitchResult,
    /// The phase in which it failed.
    pub failed_step: Option<Phase>,
    /// Why it failed or was reverted.
    pub reason: Option<String>,
    /// The last lines the failed generation wrote, at most [`LAST_LINES`].
    pub last_lines: Vec<String>,
    /// From the request to the moment new connections were steered (for a failure: to its detection).
    pub switch_ms: u64,
    /// From the start of the processes to the last good answer that was wanted, or to their being up where nothing is asked
    /// (for a failure: to its detection).
    pub boot_ms: u64,
    /// From the request to the first good answer of the new generation; none without a probe.
    pub first_answer_ms: Option<u64>,
    /// When it ended, RFC 3339 in UTC.
    pub at: String,
}

/// How a switch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchResult {
    /// The wanted release gets all new connections.
    Switched,
    /// It failed before users saw it; what ran before runs on.
    Failed,
    /// Back on the earlier release, asked for or because the new one crashed.
    Reverted,
}

/// Counted since the app's first start on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Switches that ended well.
    pub switches: u64,
    /// Switches that failed before users saw them.
    pub failures: u64,
    /// Reverts, asked for or after a crash.
    pub reverts: u64,
    /// Processes started again after they ended by themselves.
    pub restarts: u64,
    /// Connections that were still open when a generation was stopped.
    pub connections_cut: u64,
    /// Connections that reached a socket nobody accepts from and were led on by the keeper.
    pub relayed: u64,
    /// Log lines dropped because the disk was full.
    pub log_lines_dropped: u64,
    /// Datagrams on the notify socket from processes that belong to no generation.
    pub strange_notifications: u64,
}

fn yes() -> bool {
    true
}

fn default_soak() -> u64 {
    10_000
}

fn default_ready_timeout() -> u64 {
    30_000
}

fn default_drain() -> u64 {
    30_000
}

fn default_stop_signal() -> String {
    "TERM".to_owned()
}

fn default_stop_timeout() -> u64 {
    10_000
}

fn default_times() -> u32 {
    3
}

fn default_interval() -> u64 {
    100
}

fn default_probe_timeout() -> u64 {
    2_000
}

impl Intent {
    /// The release by number.
    #[must_use]
    pub fn reference(&self) -> ReleaseRef {
        ReleaseRef {
            release: self.release,
            id: self.id.clone(),
            deploy: self.deploy,
            epoch: self.epoch,
        }
    }
}
