//! What is said on a keeper's control socket: one JSON object per line, each with `"v":1`.
//!
//! A connection carries one request and its reply; [`Request::Watch`] is answered by a status line at once and by another
//! after every change, until the client hangs up. Fields that a reader does not know are ignored and new ones have
//! defaults, so that keeper and agent may be one minor version apart. Times are milliseconds unless a name says otherwise.

mod intent;
mod status;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use intent::{Intent, Limits, ListenSpec, ProbeKind, ProbeSpec, ProcessSpec};
pub use status::{
    Announced, CanaryStatus, Counters, Crash, GenerationStatus, Held, ListenerStatus, Outcome, Phase,
    ProcessState, ProcessStatus, ReleaseRef, RevertReadiness, Role, Rung, StandbyStatus, Status, Steering,
    SwitchResult, UpgradeStage, Upgrading, Waits,
};

/// The `v` of every line.
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes in the longest line either side accepts.
pub const MAX_LINE: usize = 512 * 1024;
/// The control socket's name inside the run folder.
pub const SOCKET_NAME: &str = "keeper.sock";
/// The longest notice of a gap that a keeper gives, in milliseconds; a longer one that is asked for counts as this.
pub const MAX_NOTICE_MS: u64 = 3_600_000;
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
        /// Whoever asks leads users elsewhere before nobody serves for a moment: where that must be, it is told
        /// ([`Status::announced`]), and nothing is stopped before [`Request::MayClear`], or for so long at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice_ms: Option<u64>,
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
        /// As of [`Request::Switch`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice_ms: Option<u64>,
    },
    /// Users of what runs were led elsewhere: the gap that was announced on the way to this release may begin.
    MayClear {
        /// The release on its way.
        release: u64,
    },
    /// Tell the state once.
    Status,
    /// Tell the state now and after every change.
    Watch,
    /// Become another program in place: the process, its children and its sockets stay. Answered when the program is being
    /// asked whether it can; the status tells what comes of it. During a switch it waits for its end.
    Upgrade {
        /// The new keeper's program, an absolute path.
        program: PathBuf,
    },
    /// Look after a process that was never started by a keeper, until the first switch replaces it. Answered when it is
    /// journalled. See [`Intent::adopted`].
    Adopt {
        /// The main process.
        pid: u32,
        /// Its name and manners. Without listeners in it, all its TCP listeners are taken; with some, exactly these are
        /// looked for.
        process: Box<ProcessSpec>,
    },
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
    /// No gap is announced on the way to that release, or not any more.
    NothingAnnounced,
    /// The journal cannot be written (a full disk?); nothing was begun.
    Journal,
    /// The keeper is stopping.
    Stopping,
}
