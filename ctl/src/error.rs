//! Every failure in words: what failed, why, what to type next, and the exit code.

use std::error::Error;
use std::process::ExitCode;

use jiff::tz::TimeZone;
use ship_proto::v1::{Failure, FailureKind};
use tonic::{Code, Status};

use crate::words::{clean, local};

/// How a command ended, as a shell sees it. Stable: scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Error = 1,
    Usage = 2,
    /// Only of `plan --exit-code`.
    Changes = 3,
    /// A gate, a policy or a role said no; nothing was changed.
    Refused = 4,
    /// It failed, and every host runs what it ran before.
    Reverted = 5,
    /// It failed, and some hosts are not back.
    Partial = 6,
    /// It was not seen to end; whoever owns it goes on.
    Unknown = 7,
    /// Another rollout, or another holder of a lock.
    Busy = 8,
    /// Ctrl-C; what was started goes on.
    Interrupted = 130,
}

impl Exit {
    /// The word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Error => "error",
            Self::Usage => "usage",
            Self::Changes => "changes",
            Self::Refused => "refused",
            Self::Reverted => "reverted",
            Self::Partial => "partial",
            Self::Unknown => "unknown",
            Self::Busy => "busy",
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure, ready to be shown. Every text in it is safe for a terminal.
#[derive(Debug)]
pub struct CommandError {
    exit: Exit,
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
    /// Lines that an app or a child wrote last.
    last_lines: Vec<String>,
}

impl CommandError {
    pub fn new(exit: Exit, message: impl AsRef<str>) -> Self {
        Self {
            exit,
            message: clean_lines(message.as_ref()),
            causes: Vec::new(),
            hints: Vec::new(),
            last_lines: Vec::new(),
        }
    }

    /// A failure with its whole chain of causes.
    pub fn of(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        let mut fault = Self::new(exit, error.to_string());
        let mut next = error.source();
        while let Some(cause) = next {
            fault = fault.because(cause.to_string());
            next = cause.source();
        }
        fault
    }

    pub fn usage(message: impl AsRef<str>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something of this machine, not of the fleet, did not work.
    pub fn internal(what: &str, source: impl Error + 'static) -> Self {
        Self::new(Exit::Error, what).because(source.to_string())
    }

    #[must_use]
    pub fn because(mut self, cause: impl AsRef<str>) -> Self {
        let cause = clean_lines(cause.as_ref());
        // Libraries often repeat their cause in their own words.
        let repeated = self.message.contains(&cause) || self.causes.iter().any(|c| c.contains(&cause));
        if !cause.is_empty() && !repeated {
            self.causes.push(cause);
        }
        self
    }

    /// The same failure as the reason why something bigger was given up.
    #[must_use]
    pub fn after_waiting(mut self, what: &str) -> Self {
        let message = std::mem::replace(&mut self.message, clean_lines(what));
        self.causes.insert(0, message);
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl AsRef<str>) -> Self {
        let hint = clean_lines(hint.as_ref());
        if !hint.is_empty() {
            self.hints.push(hint);
        }
        self
    }

    #[must_use]
    pub fn with_last_lines(mut self, lines: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.last_lines
            .extend(lines.into_iter().map(|line| clean(line.as_ref())));
        self
    }

    #[must_use]
    pub fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    pub fn exit(&self) -> Exit {
        self.exit
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    pub fn last_lines(&self) -> &[String] {
        &self.last_lines
    }
}

/// Line breaks of our own reports stay; every other control character is escaped.
fn clean_lines(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().split('\n').map(clean).collect();
    lines.join("\n")
}

impl From<Status> for CommandError {
    fn from(status: Status) -> Self {
        match ship_proto::failure_of(&status) {
            Some(failure) => told(failure.kind(), status.message(), &failure.hint).because(since(&failure)),
            None => untold(&status),
        }
    }
}

/// In the zone of who reads it.
fn since(failure: &Failure) -> String {
    match failure.since_ms {
        0 => String::new(),
        ms => format!("since {}", local(ms, &TimeZone::system())),
    }
}

/// The store said why.
fn told(kind: FailureKind, message: &str, hint: &str) -> CommandError {
    let exit = match kind {
        FailureKind::Refused | FailureKind::Denied | FailureKind::Clash | FailureKind::Fenced => {
            Exit::Refused
        }
        FailureKind::Busy => Exit::Busy,
        _ => Exit::Error,
    };
    CommandError::new(exit, message).hint(hint)
}

/// The call broke on its way, or the store is of another version.
fn untold(status: &Status) -> CommandError {
    let mut fault = CommandError::new(
        Exit::Error,
        format!("the store did not answer: {}", status.message()),
    );
    let mut next = status.source();
    while let Some(cause) = next {
        fault = fault.because(cause.to_string());
        next = cause.source();
    }
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => {
            fault.hint("see whether it runs, and with what: shipctl doctor")
        }
        Code::Unimplemented => fault
            .hint("shipctl and the store may be one minor version apart, no more: compare shipctl --version"),
        Code::Unauthenticated => {
            fault.hint("the certificate that the context names is not one of this fleet")
        }
        Code::DeadlineExceeded => {
            fault.hint("it took too long; what it does may still be done: shipctl status")
        }
        _ => fault,
    }
}

/// Whether trying the same call again may help: the store was away and said nothing itself, or is about to end. A full
/// disk or a ledger that fails does not pass by waiting.
pub fn is_passing(status: &Status) -> bool {
    let silent = ship_proto::failure_of(status)
        .is_none_or(|f| f.kind() == FailureKind::Unavailable && matches!(f.subject.as_str(), "" | "store"));
    let code = status.code();
    silent
        && matches!(
            code,
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
        )
}

/// An error with its causes, on one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let fault = CommandError::of(Exit::Error, error);
    let causes = fault.causes.iter().map(|cause| format!(": {cause}"));
    std::iter::once(fault.message.clone()).chain(causes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ship_proto::refuse;

    #[test]
    fn reasons_of_the_store_become_exit_codes() {
        for (kind, exit) in [
            (FailureKind::Refused, Exit::Refused),
            (FailureKind::Denied, Exit::Refused),
            (FailureKind::Clash, Exit::Refused),
            (FailureKind::Fenced, Exit::Refused),
            (FailureKind::Busy, Exit::Busy),
            (FailureKind::NotFound, Exit::Error),
            (FailureKind::Invalid, Exit::Error),
            (FailureKind::Damaged, Exit::Error),
        ] {
            let fault = CommandError::from(refuse(kind, "no", "web@4", "do that"));
            assert_eq!(fault.exit(), exit, "{kind:?}");
            assert_eq!(fault.message(), "no");
            assert_eq!(fault.hints(), ["do that"]);
        }
    }

    #[test]
    fn words_from_outside_are_escaped_and_causes_told_once() {
        let fault = CommandError::new(Exit::Error, "read \x1b[31mx")
            .because("denied")
            .because("denied")
            .with_last_lines(["\x07beep"]);
        assert_eq!(fault.message(), "read \\u{1b}[31mx");
        assert_eq!(fault.causes(), ["denied"]);
        assert_eq!(fault.last_lines(), ["\\u{7}beep"]);
    }

    #[test]
    fn only_a_silent_store_is_asked_again() {
        assert!(is_passing(&Status::unavailable("gone")));
        assert!(is_passing(&refuse(FailureKind::Unavailable, "restarts", "", "")));
        assert!(is_passing(&refuse(
            FailureKind::Unavailable,
            "ending",
            "store",
            ""
        )));
        assert!(!is_passing(&refuse(FailureKind::Unavailable, "full", "disk", "")));
        assert!(!is_passing(&refuse(FailureKind::Busy, "other", "", "")));
        assert!(!is_passing(&Status::invalid_argument("x")));
    }
}
