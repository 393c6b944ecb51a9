//! What an app and its keeper wrote, from the keeper's log files: the last lines, and the ones that come.
//!
//! Each line of a file is a JSON object; a line that is not one (the file was cut by a full disk) is passed over. At most
//! [`MAX_LINES`] are kept while the files are read, whatever their size.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use ship_proto::v1::LogLine;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Most lines given at once.
pub const MAX_LINES: usize = 10_000;
/// Lines when none are asked for.
const DEFAULT_LINES: usize = 100;
/// A longer line is no log line of ours.
const MAX_LINE: u64 = 1 << 20;
/// Files looked at, the newest first: `app.log`, `app.log.1`, …
const FILES: usize = 10;

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// 0: a hundred.
    pub lines: u32,
    /// 0: every release.
    pub release: u64,
}

impl Wanted {
    fn count(&self) -> usize {
        match self.lines {
            0 => DEFAULT_LINES,
            lines => (lines as usize).min(MAX_LINES),
        }
    }

    fn takes(&self, line: &LogLine) -> bool {
        self.release == 0 || line.release == self.release
    }
}

#[derive(Deserialize)]
struct Written {
    ts: String,
    #[serde(default)]
    app: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    release: u64,
    #[serde(default)]
    deploy: u64,
    #[serde(default, rename = "gen", alias = "generation")]
    generation: u64,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    line: String,
}

fn parse(bytes: &[u8]) -> Option<LogLine> {
    let written: Written = serde_json::from_slice(bytes).ok()?;
    let at = OffsetDateTime::parse(&written.ts, &Rfc3339).ok()?;
    Some(LogLine {
        at_ms: u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or_default(),
        app: written.app,
        host: written.host,
        pid: written.pid,
        release: written.release,
        deploy: written.deploy,
        generation: written.generation,
        stream: written.stream,
        line: written.line,
    })
}

/// Reads an app's log from its end on.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    wanted: Wanted,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: BufReader<File>,
    inode: u64,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl LogReader {
    pub const fn new(path: PathBuf, wanted: Wanted) -> Self {
        Self {
            path,
            wanted,
            open: None,
        }
    }

    /// The last lines, oldest first. Following goes on behind them.
    ///
    /// # Errors
    /// When a file that is there cannot be read; without any file there are no lines.
    pub fn last(&mut self) -> io::Result<Vec<LogLine>> {
        let mut kept = VecDeque::new();
        let count = self.wanted.count();
        if let Some(mut newest) = open(&self.path)? {
            let mut lines = VecDeque::new();
            newest.read(&self.wanted, |line| keep(&mut lines, line, count))?;
            kept = lines;
            self.open = Some(newest);
        }
        for nth in 1..FILES {
            if kept.len() >= count {
                break;
            }
            let Some(mut older) = open(&numbered(&self.path, nth))? else {
                break;
            };
            let mut lines = VecDeque::new();
            let room = count - kept.len();
            older.read(&self.wanted, |line| keep(&mut lines, line, room))?;
            lines.append(&mut kept);
            kept = lines;
        }
        Ok(kept.into())
    }

    /// The lines written since the last call, at most [`MAX_LINES`]; follows the log into its next file.
    ///
    /// # Errors
    /// As [`LogReader::last`].
    pub fn more(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        if let Some(known) = &mut self.open {
            known.read(&self.wanted, |line| lines.push(line))?;
        }
        let inode = match std::fs::metadata(&self.path) {
            Ok(found) => Some(found.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        // Rotated: what was written to the old file before that has just been read.
        if inode.is_some() && inode != self.open.as_ref().map(|known| known.inode) {
            self.open = open(&self.path)?;
            if let Some(next) = &mut self.open {
                next.read(&self.wanted, |line| lines.push(line))?;
            }
        }
        let surplus = lines.len().saturating_sub(MAX_LINES);
        lines.drain(..surplus);
        Ok(lines)
    }
}

fn keep(lines: &mut VecDeque<LogLine>, line: LogLine, count: usize) {
    if lines.len() >= count {
        lines.pop_front();
    }
    lines.push_back(line);
}

fn numbered(path: &Path, nth: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{nth}"));
    name.into()
}

fn open(path: &Path) -> io::Result<Option<Open>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let inode = file.metadata()?.ino();
    Ok(Some(Open {
        file: BufReader::with_capacity(64 << 10, file),
        inode,
        partial: Vec::new(),
    }))
}

impl Open {
    fn read(&mut self, wanted: &Wanted, mut give: impl FnMut(LogLine)) -> io::Result<()> {
        use io::Read;
        loop {
            let room = MAX_LINE.saturating_sub(self.partial.len() as u64).max(1);
            let read = self
                .file
                .by_ref()
                .take(room)
                .read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') {
                if let Some(line) = parse(&self.partial).filter(|line| wanted.takes(line)) {
                    give(line);
                }
                self.partial.clear();
            } else if read == 0 {
                return Ok(());
            } else if self.partial.len() as u64 >= MAX_LINE {
                self.partial.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a failed unwrap fails the test, and what a test writes need not be durable"
    )]

    use std::io::Write;

    use super::*;

    fn write(path: &Path, numbers: std::ops::Range<u64>) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        for number in numbers {
            let release = number % 2 + 1;
            writeln!(
                file,
                "{{\"ts\":\"2026-01-02T03:04:05.678Z\",\"app\":\"web\",\"release\":{release},\"gen\":1,\"pid\":7,\
                 \"stream\":\"stdout\",\"line\":\"{number}\"}}"
            )
            .unwrap();
        }
    }

    fn texts(lines: &[LogLine]) -> Vec<u64> {
        lines.iter().map(|line| line.line.parse().unwrap()).collect()
    }

    #[test]
    fn the_last_lines_reach_into_older_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.log");
        write(&numbered(&path, 2), 0..10);
        write(&numbered(&path, 1), 10..20);
        write(&path, 20..30);
        let last = |lines, release| {
            let mut reader = LogReader::new(path.clone(), Wanted { lines, release });
            texts(&reader.last().unwrap())
        };
        assert_eq!(last(3, 0), [27, 28, 29]);
        assert_eq!(last(15, 0), (15..30).collect::<Vec<_>>());
        assert_eq!(last(3, 1), [24, 26, 28]);
        assert_eq!(last(99, 0).len(), 30);
    }

    #[test]
    fn following_survives_rotation_and_half_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.log");
        let mut reader = LogReader::new(path.clone(), Wanted::default());
        assert!(reader.last().unwrap().is_empty());
        write(&path, 0..2);
        assert_eq!(texts(&reader.more().unwrap()), [0, 1]);
        write(&path, 2..3);
        std::fs::rename(&path, numbered(&path, 1)).unwrap();
        write(&path, 3..4);
        assert_eq!(texts(&reader.more().unwrap()), [2, 3]);
        let mut file = File::options().append(true).open(&path).unwrap();
        write!(file, "garbage\n{{\"ts\":\"2026-01-02T03:04:05Z\",").unwrap();
        assert!(reader.more().unwrap().is_empty());
        writeln!(file, "\"line\":\"4\"}}").unwrap();
        assert_eq!(texts(&reader.more().unwrap()), [4]);
        assert_eq!(parse(b"{\"ts\":\"1970-01-01T00:00:01.5Z\"}").unwrap().at_ms, 1500);
    }
}
