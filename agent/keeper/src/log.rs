//! The app's output: read from pipes that outlive the keeper, written as JSON lines, bounded on disk.
//!
//! A process writes into a FIFO that it holds open for reading too, so it never gets SIGPIPE; a megabyte waits there while
//! no keeper reads. What cannot be written to the disk is counted and dropped: the app is never blocked for it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use serde::Serialize;

/// Bytes in a line; a longer one is written in parts.
const MAX_LINE: usize = 16 * 1024;
/// Bytes in a file before the next is begun.
const MAX_FILE: u64 = 10 * 1024 * 1024;
/// Older files kept beside the current one.
const OLDER_FILES: usize = 2;
/// Bytes asked of the kernel for a pipe.
const PIPE_SIZE: usize = 1024 * 1024;
/// Bytes read from one pipe before the others get their turn.
const TURN: usize = 256 * 1024;
/// Characters of a line kept for an outcome.
const TAIL_LINE: usize = 500;

/// One line as it is written.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// When, RFC 3339 in UTC.
    pub ts: &'a str,
    /// The app.
    pub app: &'a str,
    /// The host.
    pub host: &'a str,
    /// The release that wrote it; 0 for the keeper before the first.
    pub release: u64,
    /// Its deploy.
    pub deploy: u64,
    /// Its generation.
    pub r#gen: u64,
    /// The process's name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub process: &'a str,
    /// The main process's id.
    pub pid: u32,
    /// `stdout`, `stderr` or `keeper`.
    pub stream: &'a str,
    /// What it wrote.
    pub line: &'a str,
    /// The line goes on in the next one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// The file the lines go to, and the older ones beside it: `app.log`, `app.log.1`, `app.log.2`.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    dropped: u64,
}

impl LogFile {
    /// Lines go to `path` from now on, behind what is there.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            size: 0,
            dropped: 0,
        }
    }

    /// Lines that could not be written since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Writes one line, or counts it as dropped.
    pub fn write(&mut self, line: &Line<'_>) {
        let written = serde_json::to_vec(line)
            .map_err(io::Error::other)
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                self.write_bytes(&bytes)
            });
        if written.is_err() {
            self.dropped += 1;
            // Opened anew at the next line: the disk may have room by then, or somebody moved the file away.
            self.file = None;
        }
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size + bytes.len() as u64 > MAX_FILE {
            self.rotate()?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .mode(0o640)
                    .open(&self.path)?;
                self.size = file.metadata()?.len();
                self.file.insert(file)
            }
        };
        let before = self.size;
        if let Err(error) = file.write_all(bytes) {
            // No half line stays in the file.
            let _ = file.set_len(before);
            return Err(error);
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        for number in (0..OLDER_FILES).rev() {
            let from = self.numbered(number);
            // A log may lose its last lines with the power; syncing would make the app wait.
            #[expect(clippy::disallowed_methods, reason = "durability is not wanted here")]
            let moved = std::fs::rename(&from, self.numbered(number + 1));
            match moved {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.size = 0;
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        if number == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// The pipe of one stream of one process.
#[derive(Debug)]
pub struct Stream {
    /// The generation that writes.
    pub generation: u64,
    /// Its slot.
    pub slot: usize,
    /// `stdout` or `stderr`.
    pub name: &'static str,
    path: PathBuf,
    pipe: File,
    partial: Vec<u8>,
}

impl Stream {
    /// Opens the pipe for reading, making it when it is not there.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn open(folder: &Path, generation: u64, slot: usize, name: &'static str) -> io::Result<Self> {
        let path = folder.join(format!("{generation}.{slot}.{name}"));
        match rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        // For reading and writing: with no writer left it would be at its end for ever and wake us without pause.
        let pipe = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nonblocking)
            .open(&path)?;
        // An unprivileged user may be out of pipe room; the default of 64 KiB then has to do.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_SIZE);
        Ok(Self {
            generation,
            slot,
            name,
            path,
            pipe,
            partial: Vec::new(),
        })
    }

    /// A handle for the process: blocking, and open for reading too, so that it outlives every reader.
    ///
    /// # Errors
    /// When the pipe was removed.
    pub fn for_process(&self, owner: Option<(u32, u32)>) -> io::Result<OwnedFd> {
        let pipe = OpenOptions::new().read(true).write(true).open(&self.path)?;
        if let Some((uid, gid)) = owner {
            // Apps that open /dev/stdout anew need to be allowed to.
            std::os::unix::fs::fchown(&pipe, Some(uid), Some(gid))?;
        }
        Ok(pipe.into())
    }

    /// The descriptor to wait on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// The pipe as the program before has left it open, and the line it had begun.
    #[must_use]
    pub fn resume(
        folder: &Path,
        (generation, slot, name): (u64, usize, &'static str),
        pipe: OwnedFd,
        partial: Vec<u8>,
    ) -> Self {
        Self {
            generation,
            slot,
            name,
            path: folder.join(format!("{generation}.{slot}.{name}")),
            pipe: pipe.into(),
            partial,
        }
    }

    /// The line that has begun.
    #[must_use]
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Reads what is there, a bounded turn of it, and hands over its lines. `more` tells of a line that goes on.
    pub fn read(&mut self, chunk: &mut [u8], mut line: impl FnMut(&str, bool)) {
        let mut turn = 0;
        while turn < TURN {
            match self.pipe.read(chunk) {
                Ok(0) => return,
                Ok(count) => {
                    turn += count;
                    self.split(&chunk[..count], &mut line);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn split(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&str, bool)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.take(&bytes[..end], line);
            line(&text(&self.partial), false);
            self.partial.clear();
            bytes = &bytes[end + 1..];
        }
        self.take(bytes, line);
    }

    fn take(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&str, bool)) {
        while self.partial.len() + bytes.len() > MAX_LINE {
            let room = MAX_LINE - self.partial.len();
            self.partial.extend_from_slice(&bytes[..room]);
            line(&text(&self.partial), true);
            self.partial.clear();
            bytes = &bytes[room..];
        }
        self.partial.extend_from_slice(bytes);
    }

    /// Hands over a last line without an end, and removes the pipe: its processes are gone.
    pub fn close(mut self, chunk: &mut [u8], mut line: impl FnMut(&str, bool)) {
        self.read(chunk, &mut line);
        if !self.partial.is_empty() {
            line(&text(&self.partial), false);
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes))
}

/// The last lines of a generation.
#[derive(Debug, Default)]
pub struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    /// Remembers a line, shortened, and forgets the oldest one too many.
    pub fn push(&mut self, line: &str) {
        if self.lines.len() >= crate::protocol::LAST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.chars().take(TAIL_LINE).collect());
    }

    /// The lines, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::{Line, LogFile, MAX_LINE, Stream, Tail};
    use std::io::Write;

    fn line(text: &str) -> Line<'_> {
        Line {
            ts: "t",
            app: "a",
            host: "h",
            release: 1,
            deploy: 2,
            r#gen: 3,
            process: "web",
            pid: 4,
            stream: "stdout",
            line: text,
            more: false,
        }
    }

    #[test]
    fn a_stream_is_cut_into_lines_and_long_ones_into_parts() {
        let dir = tempfile::tempdir().unwrap();
        let mut stream = Stream::open(dir.path(), 1, 0, "stdout").unwrap();
        let mut app = std::fs::File::from(stream.for_process(None).unwrap());
        let long = vec![b'x'; MAX_LINE + 5];
        app.write_all(b"one\r\ntwo\n\n").unwrap();
        app.write_all(&long).unwrap();
        app.write_all(b"\n\xff\nlast").unwrap();
        let mut seen = Vec::new();
        let mut chunk = vec![0; 1000];
        stream.read(&mut chunk, |line, more| seen.push((line.to_owned(), more)));
        let path = dir.path().join("1.0.stdout");
        stream.close(&mut chunk, |line, more| seen.push((line.to_owned(), more)));
        let expected = [
            ("one".to_owned(), false),
            ("two".to_owned(), false),
            (String::new(), false),
            ("x".repeat(MAX_LINE), true),
            ("xxxxx".to_owned(), false),
            ("\u{fffd}".to_owned(), false),
            ("last".to_owned(), false),
        ];
        assert_eq!(seen, expected);
        assert!(!path.exists());
    }

    #[test]
    fn files_are_bounded_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().join("app.log"));
        let text = "y".repeat(15_000);
        for _ in 0..2600 {
            log.write(&line(&text));
        }
        let mut sizes: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|size| *size <= super::MAX_FILE));
        assert_eq!(log.take_dropped(), 0);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let mut log = LogFile::new("/dev/full".into());
        log.write(&line("x"));
        log.write(&line("x"));
        assert_eq!(log.take_dropped(), 2);
        assert_eq!(log.take_dropped(), 0);
    }

    #[test]
    fn a_tail_keeps_the_last_lines() {
        let mut tail = Tail::default();
        for number in 0..120 {
            tail.push(&number.to_string());
        }
        assert_eq!(tail.lines().len(), 50);
        assert_eq!(tail.lines().first().unwrap(), "70");
    }
}
