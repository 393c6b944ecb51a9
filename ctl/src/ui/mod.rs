//! The only place that prints. Results go to stdout, everything else to stderr; on a pipe there is neither
//! colour nor a bar, but every line.

mod course;
mod echo;
mod expected;
mod gates;
mod progress;
mod rollout;
mod table;
mod ways;

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use serde::Serialize;

pub use course::Progress;
pub use expected::expected_lines;
pub use progress::Bar;
pub use rollout::{outcome_name, outcome_words, plan_lines};
pub use table::{Table, state as state_cell};
pub use ways::way_lines;

use crate::args::{Global, Output};
use crate::error::CommandError;
use crate::words;

pub const GOOD: Style = AnsiColor::Green.on_default();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const DOUBT: Style = AnsiColor::Yellow.on_default();
pub const DIM: Style = Style::new().dimmed();
pub const BOLD: Style = Style::new().bold();

/// Text in a style; the colour is stripped later where it cannot be shown.
pub fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// How this run speaks.
#[derive(Debug)]
pub struct Ui {
    output: Output,
    quiet: bool,
    verbose: bool,
    yes: bool,
    zone: TimeZone,
    /// Nobody reads stdout any more.
    deaf: Cell<bool>,
}

impl Ui {
    pub fn new(global: &Global) -> Self {
        if global.no_color {
            anstream::ColorChoice::Never.write_global();
        }
        Self {
            output: global.output,
            quiet: global.quiet,
            verbose: global.verbose,
            yes: global.yes,
            zone: TimeZone::system(),
            deaf: Cell::new(false),
        }
    }

    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Whether bars may move on stderr.
    pub fn is_lively(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether the reader of stdout has gone: whoever follows something may stop.
    pub fn is_deaf(&self) -> bool {
        self.deaf.get()
    }

    /// A moment as people read it: in the zone of this machine, or of TZ.
    pub fn time(&self, ms: u64) -> String {
        words::local(ms, &self.zone)
    }

    /// A line of the result.
    pub fn line(&self, text: impl AsRef<str>) {
        let mut out = anstream::stdout().lock();
        let written = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
        if written.is_err() {
            self.deaf.set(true);
        }
    }

    /// The result as one JSON object, for programs.
    pub fn json(&self, result: &impl Serialize) {
        match serde_json::to_string_pretty(result) {
            Ok(text) => self.line(text),
            Err(error) => self.warn(format!("the result cannot be written as JSON: {error}")),
        }
    }

    /// One JSON object on one line, where there is no end to wait for.
    pub fn json_line(&self, result: &impl Serialize) {
        if let Ok(text) = serde_json::to_string(result) {
            self.line(text);
        }
    }

    /// Lines that take the place of those before, where stdout is a terminal: written at once, so that nothing flickers.
    pub fn screen(&self, lines: &[String]) {
        if !io::stdout().is_terminal() || self.is_json() {
            return lines.iter().for_each(|line| self.line(line));
        }
        let mut text = String::from("\x1b[H");
        for line in lines {
            let _ = write!(text, "{line}\x1b[K\r\n");
        }
        text.push_str("\x1b[J");
        let mut out = anstream::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            self.deaf.set(true);
        }
    }

    /// What is going on.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            stderr(text.as_ref());
        }
    }

    pub fn warn(&self, text: impl AsRef<str>) {
        stderr(&format!("{} {}", paint(DOUBT, "warning:"), text.as_ref()));
    }

    pub fn hint(&self, text: impl AsRef<str>) {
        self.say(format!("{} {}", paint(DIM, "hint:"), text.as_ref()));
    }

    pub fn error(&self, error: &CommandError) {
        if self.is_json() {
            stderr(&json_of(error));
            return;
        }
        let mut text = format!("{} {}", paint(BAD, "error:"), error.message());
        let shown = if self.verbose { usize::MAX } else { 3 };
        for cause in error.causes().iter().take(shown) {
            let _ = write!(text, "\n  because: {}", cause.replace('\n', "\n    "));
        }
        for line in error.last_lines() {
            let _ = write!(text, "\n  {} {line}", paint(DIM, "|"));
        }
        for hint in error.hints() {
            let _ = write!(text, "\n{} {hint}", paint(DIM, "hint:"));
        }
        stderr(&text);
    }

    /// Asks on a terminal; `--yes` answers it beforehand, and so does a pipe, with no.
    pub fn confirm(&self, question: &str) -> bool {
        if self.yes {
            return true;
        }
        if !io::stdin().is_terminal() {
            return false;
        }
        let mut err = anstream::stderr().lock();
        let _ = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}

fn stderr(text: &str) {
    // Nobody left to tell; the exit code still does.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

fn json_of(error: &CommandError) -> String {
    serde_json::json!({
        "error": {
            "kind": error.exit().as_str(),
            "exit": error.exit() as u8,
            "message": error.message(),
            "causes": error.causes(),
            "hints": error.hints(),
            "last_lines": error.last_lines(),
        }
    })
    .to_string()
}

/// What clap says of words it does not understand, and `--help`.
pub fn usage(stop: &clap::Error) -> ExitCode {
    // A closed pipe is no reason to fail: `shipctl --help | head`.
    let _ = stop.print();
    if stop.use_stderr() {
        crate::error::Exit::Usage.into()
    } else {
        ExitCode::SUCCESS
    }
}
