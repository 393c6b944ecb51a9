//! What a keeper tells: where its switch stands, what lives, and how the last switch ended.

use serde::{Deserialize, Serialize};
use ship_model::spec::Strategy;

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
    /// What the switch waits for before it takes anything from what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
    /// Nobody will serve for a moment on the way to that release; nothing is stopped yet. See [`Request::MayClear`].
    ///
    /// [`Request::MayClear`]: super::Request::MayClear
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Announced>,
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
    /// The share of the users that comes to the release on its way, while only a share does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryStatus>,
    /// How the last switch or revert ended.
    pub outcome: Option<Outcome>,
    /// The last crash of a process that users got, until it has run for a while again, or another release has taken over by
    /// a switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<Crash>,
    /// Counted since the app's first start on this host.
    pub counters: Counters,
    /// Where in the kernel's control groups its processes are; none where there are no groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<String>,
    /// What this host cannot do for its processes, and what is done instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub falls_back: Vec<String>,
    /// The program that the keeper runs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// An upgrade of the keeper itself that is under way, or that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrading>,
    /// Things an operator should know: fallbacks taken, adoption that failed, a journal that cannot be written.
    pub notes: Vec<String>,
}

/// An upgrade of the keeper itself to another program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrading {
    /// The program.
    pub program: String,
    /// How far it is.
    pub stage: UpgradeStage,
}

/// How far an upgrade of the keeper is. One that went well leaves nothing but [`Counters::upgrades`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradeStage {
    /// The program is asked whether it can take this keeper's state over.
    Checking,
    /// It can; it waits for this to end.
    Waiting(String),
    /// It cannot, or did not; the keeper goes on as it is.
    Failed(String),
}

/// A lock that the app holds while it must not be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// Processes that hold it.
    pub processes: Vec<String>,
    /// Milliseconds until the wait is over.
    pub left_ms: u64,
    /// When that is, in seconds of Unix time.
    pub until: u64,
    /// The switch goes on then all the same; if not, it fails.
    pub overrules: bool,
}

/// A gap that has not begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// The release that is started when what runs has been stopped.
    pub release: u64,
    /// Why both may not run at once.
    pub reason: String,
    /// When it begins without a word, in seconds of Unix time.
    pub until: u64,
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let then = if self.overrules {
            "then it is replaced all the same"
        } else {
            "then the switch fails"
        };
        let (names, left) = (self.processes.join(", "), self.left_ms.div_ceil(1000));
        write!(
            f,
            "waiting for the app's own lock (held by {names}), {left} s left; {then}"
        )
    }
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
    /// They answered; a share of the users comes to them, see [`Status::canary`].
    Canary,
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
    /// The generation that stands by for it after a cut-over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<StandbyStatus>,
    /// Why none stands by any more, though its hold is not over: a revert starts processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_lost: Option<String>,
}

/// A generation that stands by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyStatus {
    /// Its number.
    pub generation: u64,
    /// What it runs.
    pub release: u64,
    /// When it drains, RFC 3339 in UTC; none: when the next switch needs its slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
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
    /// Started and not yet proven, or proven and with a share of the users at most.
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
    /// It has said `RELOADING=1`, and not that it is ready again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reloading: bool,
    /// It has said `STOPPING=1`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stopping: bool,
    /// Its established connections, its descendants' included.
    pub connections: u32,
    /// How it takes over; under `auto` what it turned out to be, once it has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strategy: Strategy,
    /// What decided that, or has stood in its way so far; empty where nothing had to be decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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

/// A release that a share of the users is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// The release.
    pub release: u64,
    /// Of a hundred clients, so many come to it; where its processes have several shares, the smallest.
    pub percent: u8,
    /// When the share grows, in seconds since 1970.
    pub until: u64,
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
    /// Why in no better way; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// How new connections are led to one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Steering {
    /// One socket per generation; a BPF program in the kernel names the one that gets new connections.
    Bpf,
    /// One socket per generation; the path names the one that gets new connections.
    Path,
    /// None: the app listens by itself.
    Outside,
    /// One socket for all generations, as no more was allowed, see [`ListenerStatus::reason`]: who answers during a switch
    /// is left to them, and the probe looks up which process answered.
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
    /// Strategies that were left for another on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rungs: Vec<Rung>,
    /// The last lines the failed generation wrote, at most [`super::LAST_LINES`].
    pub last_lines: Vec<String>,
    /// From the request to the moment new connections were steered (for a failure: to its detection).
    pub switch_ms: u64,
    /// From the start of the processes to the last good answer that was wanted, or to their being up where nothing is asked
    /// (for a failure: to its detection).
    pub boot_ms: u64,
    /// From the request to the first good answer of the new generation; none without a probe.
    pub first_answer_ms: Option<u64>,
    /// From when the old generation was told to go, where it had to go first, to the moment the new one got connections; none:
    /// they ran side by side. Connections wait that long where the keeper has the listeners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_ms: Option<u64>,
    /// When it ended, RFC 3339 in UTC.
    pub at: String,
}

/// A process that users got and that ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// The release it was of.
    pub release: u64,
    /// The fence that release came with.
    pub epoch: u64,
    /// How it ended.
    pub reason: String,
    /// How often it has ended in a row, this time included.
    pub failures: u32,
    /// The last lines its generation wrote, at most [`super::LAST_LINES`].
    pub last_lines: Vec<String>,
    /// When, RFC 3339 in UTC.
    pub at: String,
}

/// A strategy that was taken where the wanted one was not possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// The process.
    pub process: String,
    /// What was done.
    pub strategy: ship_model::spec::Strategy,
    /// Why.
    pub reason: String,
}

/// How a switch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchResult {
    /// The wanted release gets all new connections.
    Switched,
    /// It failed before users saw it; what ran before runs on.
    Failed,
    /// Back on the earlier release: that was asked for, or the new one failed with users on it, all or a share of them.
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
    /// Times the keeper itself became another program.
    #[serde(default, skip_serializing_if = "is_default")]
    pub upgrades: u64,
}
