//! Asking a new generation, and nobody else, whether it answers. Never blocks.

mod tally;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::PollFlags;

use crate::listen::{Group, Route};
use crate::protocol::{ProbeKind, ProbeSpec};
use crate::sockets::Ends;

pub use tally::{Answer, Progress, Tally};

/// Bytes of an answer looked at.
const MAX_ANSWER: usize = 64 * 1024;
/// How often an attempt that waits for nothing but an accept is looked at.
const LOOK_MS: u64 = 10;
/// The same where it must be seen who accepts, before the request is sent.
const OWNER_LOOK_MS: u64 = 2;

/// A running probe of one process.
#[derive(Debug)]
pub struct Probe {
    /// The generation that is asked.
    pub generation: u64,
    /// Its slot.
    pub slot: usize,
    /// The listener's key.
    pub key: String,
    spec: ProbeSpec,
    host: String,
    tally: Tally,
    attempt: Option<Attempt>,
    next_at: u64,
}

#[derive(Debug)]
struct Attempt {
    stream: TcpStream,
    sent: bool,
    answer: Vec<u8>,
    deadline: u64,
    connected_at: Option<u64>,
    /// It is sure that the generation has this connection.
    proven: bool,
}

impl Probe {
    /// A probe of `generation`, first asked at `now`. With `told_ready` the process has said that it is ready, and so may
    /// not give wrong answers for long.
    #[must_use]
    pub fn new(
        generation: u64,
        slot: usize,
        key: String,
        spec: ProbeSpec,
        told_ready: bool,
        now: u64,
    ) -> Self {
        Self {
            generation,
            slot,
            key,
            tally: Tally::new(spec.times, told_ready),
            spec,
            host: "localhost".to_owned(),
            attempt: None,
            next_at: now,
        }
    }

    /// It has passed, and must go on answering.
    #[must_use]
    pub fn watching(self) -> Self {
        Self {
            tally: self.tally.watching(),
            ..self
        }
    }

    /// What was wrong with the last attempt, when that is news: for a failure by time-out.
    pub fn last_problem(&mut self) -> Option<String> {
        self.tally.last_problem()
    }

    /// The descriptor to wait on, and what for.
    #[must_use]
    pub fn waits_on(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        // Until it is known who accepts, there is nothing to be done that the kernel would wake us for.
        let attempt = self.attempt.as_ref().filter(|attempt| attempt.proven)?;
        let flags = if attempt.sent || attempt.connected_at.is_some() {
            PollFlags::IN
        } else {
            PollFlags::OUT
        };
        Some((attempt.stream.as_fd(), flags))
    }

    /// When it must be looked at again.
    #[must_use]
    pub fn due(&self, now: u64) -> u64 {
        match &self.attempt {
            None => self.next_at,
            Some(attempt) if !attempt.proven => now + OWNER_LOOK_MS,
            Some(_) if self.spec.kind == ProbeKind::Tcp => now + LOOK_MS,
            Some(attempt) => attempt.deadline,
        }
    }

    /// Goes on as far as it can without waiting. Where the route does not prove who answers, `owned` tells whether the
    /// generation's processes have accepted a connection; none when nobody has yet.
    pub fn advance(&mut self, group: &mut Group, now: u64, owned: impl Fn(Ends) -> Option<bool>) -> Progress {
        if self.attempt.is_none() && now >= self.next_at {
            match group.probe(self.generation) {
                Ok(route) => self.attempt = Some(Attempt::new(route, now + self.spec.timeout_ms.max(1))),
                Err(error) => return self.conclude(Answer::None(words(&error, &group.bound())), now),
            }
        }
        let Some(attempt) = &mut self.attempt else {
            return Progress::Asking;
        };
        if !attempt.proven {
            // Asked before the request is sent: afterwards the answer may be over too soon to see whose it was.
            match Ends::of(&attempt.stream).and_then(owned) {
                Some(true) => attempt.proven = true,
                Some(false) => return self.conclude(elsewhere(group), now),
                // Whoever boots refuses at first: that is an answer, not a silence to be waited out.
                None if let Some(error) = attempt.broken() => {
                    return self.conclude(Answer::None(words(&error, &group.bound())), now);
                }
                None if now >= attempt.deadline => return self.conclude(nobody_accepts(group), now),
                None => return Progress::Asking,
            }
        }
        let queued = group.has_queue(self.generation);
        match attempt.advance(&self.spec.kind, &self.host, &group.bound(), now, queued) {
            None => Progress::Asking,
            Some(Answer::None(_)) if queued => self.conclude(nobody_accepts(group), now),
            Some(answer) => self.conclude(answer, now),
        }
    }

    fn conclude(&mut self, answer: Answer, now: u64) -> Progress {
        self.attempt = None;
        self.next_at = now + self.spec.interval_ms;
        let answer = match (answer, &self.spec.kind) {
            (Answer::Wrong(problem), ProbeKind::Http { path }) => {
                Answer::Wrong(format!("GET {path}: {problem}"))
            }
            (Answer::None(problem), ProbeKind::Http { path }) => {
                Answer::None(format!("GET {path}: {problem}"))
            }
            (answer, _) => answer,
        };
        self.tally.take(answer, now)
    }
}

/// A connection went to somebody who is not of the generation.
pub(crate) fn elsewhere(group: &Group) -> Answer {
    Answer::Elsewhere(format!(
        "another process than the new one's answers at {}",
        group.bound()
    ))
}

/// A connection waits, and the process does not take it.
pub(crate) fn nobody_accepts(group: &Group) -> Answer {
    Answer::None(format!("nobody accepts at {}", group.bound()))
}

impl Attempt {
    fn new(route: Route, deadline: u64) -> Self {
        // Only reads and writes are done with it, which are the same for Unix streams.
        let stream = TcpStream::from(route.socket);
        Self {
            stream,
            proven: route.exclusive,
            sent: false,
            answer: Vec::new(),
            deadline,
            connected_at: None,
        }
    }

    /// What has ended the connection, or kept it from coming about.
    fn broken(&self) -> Option<io::Error> {
        self.stream.take_error().unwrap_or_else(Some)
    }

    fn advance(
        &mut self,
        kind: &ProbeKind,
        host: &str,
        bound: &str,
        now: u64,
        queued: bool,
    ) -> Option<Answer> {
        let step = match kind {
            ProbeKind::Http { path } => self.advance_http(path, host),
            ProbeKind::Tcp => self.advance_tcp(now, queued),
            // Asked through a child of the keeper's.
            ProbeKind::Grpc { .. } | ProbeKind::Command { .. } => Ok(None),
        };
        match step {
            Ok(Some(answer)) => Some(answer),
            Ok(None) if now >= self.deadline => Some(self.too_late()),
            Ok(None) => None,
            Err(error) => Some(Answer::None(words(&error, bound))),
        }
    }

    fn too_late(&self) -> Answer {
        match status(&self.answer) {
            Some(code) => judge(code),
            None => Answer::None("no answer in time".to_owned()),
        }
    }

    fn advance_http(&mut self, path: &str, host: &str) -> io::Result<Option<Answer>> {
        if !self.sent {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ship-keeper\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            );
            match self.stream.write(request.as_bytes()) {
                Ok(count) if count == request.len() => self.sent = true,
                Ok(_) => return Err(io::Error::other("the request was not taken whole")),
                Err(error) if not_yet(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let mut chunk = [0_u8; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Some(self.finished())),
                Ok(count) => self.answer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.answer.is_empty() => return Err(error),
                Err(_) => return Ok(Some(self.finished())),
            }
            if self.answer.len() > MAX_ANSWER || is_whole(&self.answer) {
                return Ok(Some(self.finished()));
            }
        }
    }

    fn finished(&self) -> Answer {
        match status(&self.answer) {
            Some(code) => judge(code),
            None if self.answer.is_empty() => {
                Answer::Wrong("it closed the connection without an answer".to_owned())
            }
            None => Answer::Wrong("its answer is not HTTP".to_owned()),
        }
    }

    /// Good when it was accepted and is still open a moment later.
    fn advance_tcp(&mut self, now: u64, queued: bool) -> io::Result<Option<Answer>> {
        if self.connected_at.is_none() {
            match self.stream.peer_addr() {
                Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
                    return match self.stream.take_error()? {
                        Some(error) => Err(error),
                        None => Ok(None),
                    };
                }
                _ => self.connected_at = Some(now),
            }
        }
        match self.stream.read(&mut [0_u8; 64]) {
            Ok(0) => return Ok(Some(Answer::Wrong("it closed the connection at once".to_owned()))),
            Ok(_) => return Ok(Some(Answer::Good)),
            Err(error) if not_yet(&error) => {}
            Err(error) => return Ok(Some(Answer::Wrong(error.to_string()))),
        }
        let settled = self.connected_at.is_some_and(|at| now >= at + 2 * LOOK_MS);
        Ok((settled && !queued).then_some(Answer::Good))
    }
}

/// What the system said about a connection to `place`, in few words.
pub(crate) fn words(error: &io::Error, place: &str) -> String {
    let at = if place.is_empty() {
        String::new()
    } else {
        format!(" at {place}")
    };
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("connection refused{at}"),
        io::ErrorKind::ConnectionReset => format!("connection reset{at}"),
        io::ErrorKind::NotFound => format!("nobody listens{at}"),
        _ => format!("cannot connect{at}: {error}"),
    }
}

fn not_yet(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOTCONN)
}

fn judge(code: u16) -> Answer {
    if (200..400).contains(&code) {
        Answer::Good
    } else {
        Answer::Wrong(format!("it answered with status {code}"))
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    words.next()?.starts_with("HTTP/1.").then_some(())?;
    words.next()?.trim().parse().ok()
}

/// Whether all that was announced has come; a server that ignores `Connection: close` is not waited for.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return false;
    };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= head + 4 + length)
}

#[cfg(test)]
mod tests {
    use super::{is_whole, status};

    #[test]
    fn reads_the_status_and_the_length() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500"), Some(500));
        assert_eq!(status(b"SSH-2.0"), None);
        assert_eq!(status(b""), None);
        assert!(is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\nok"));
    }
}
