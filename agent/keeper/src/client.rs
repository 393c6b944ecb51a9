//! The asking side of a keeper's control socket: blocking, with a deadline on every wait.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::protocol::{
    Intent, MAX_LINE, MAX_NOTICE_MS, PROTOCOL_VERSION, ProcessSpec, Refusal, Reply, ReplyLine, Request,
    RequestLine, SOCKET_NAME, Status,
};

/// Why a keeper could not be asked, or said no.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens: the keeper is not running (its app may be).
    #[error("cannot reach the keeper at {}; is it running?", socket.display())]
    Connect {
        /// The control socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke or the deadline passed.
    #[error("cannot talk to the keeper at {}", socket.display())]
    Talk {
        /// The control socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The answer is not one of this protocol.
    #[error("the keeper at {} answered with something this program does not understand", socket.display())]
    Answer {
        /// The control socket.
        socket: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The keeper refused; nothing has changed.
    #[error("the keeper refused: {message}")]
    Refused {
        /// For programs.
        refusal: Refusal,
        /// For people.
        message: String,
    },
    /// A well-formed answer to another question.
    #[error("the keeper at {} answered another question", socket.display())]
    Unexpected {
        /// The control socket.
        socket: PathBuf,
    },
}

/// What became of a request that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Begun.
    Accepted,
    /// It was so already.
    Already,
}

/// Asks one keeper. Holds no connection between calls, so it may be kept over the keeper's death.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    notice: Option<Duration>,
}

impl Client {
    /// A client of the keeper whose run folder is `run`, e.g. `/run/ship/web`. `timeout` bounds each read and write.
    #[must_use]
    pub fn new(run: &Path, timeout: Duration) -> Self {
        Self {
            socket: run.join(SOCKET_NAME),
            timeout,
            notice: None,
        }
    }

    /// The same for one who leads users elsewhere before a gap: switches and reverts asked by it wait for
    /// [`Client::may_clear`] when there is one, for so long at most.
    #[must_use]
    pub fn with_notice(self, notice: Duration) -> Self {
        Self {
            notice: Some(notice),
            ..self
        }
    }

    fn notice_ms(&self) -> Option<u64> {
        let millis = self.notice?.as_millis();
        Some(u64::try_from(millis).map_or(MAX_NOTICE_MS, |millis| millis.min(MAX_NOTICE_MS)))
    }

    /// Asks for a switch; [`Client::watch`] tells how it goes.
    ///
    /// # Errors
    /// [`AskError::Refused`] with the reason, or when the keeper cannot be asked. After [`AskError::Talk`] it is unknown
    /// whether the switch has begun; asking again with the same epoch is safe.
    pub fn switch(&self, intent: Intent) -> Result<Taken, AskError> {
        self.change(Request::Switch {
            intent: Box::new(intent),
            notice_ms: self.notice_ms(),
        })
    }

    /// Asks for a revert; see [`Request::Revert`].
    ///
    /// # Errors
    /// As [`Client::switch`]; [`Refusal::NothingToRevertTo`] when no earlier good release is there.
    pub fn revert(&self, to: Option<u64>, reason: &str, epoch: Option<u64>) -> Result<Taken, AskError> {
        self.change(Request::Revert {
            to,
            reason: reason.to_owned(),
            epoch,
            notice_ms: self.notice_ms(),
        })
    }

    /// Says that users were led elsewhere: the gap announced on the way to `release` may begin.
    ///
    /// # Errors
    /// [`Refusal::NothingAnnounced`] when none is, or its time is over.
    pub fn may_clear(&self, release: u64) -> Result<Taken, AskError> {
        self.change(Request::MayClear { release })
    }

    /// Asks the keeper to look after a process that it has not started; see [`Request::Adopt`].
    ///
    /// # Errors
    /// [`AskError::Refused`] with what stands in the way; the process is as it was then.
    pub fn adopt(&self, pid: u32, process: ProcessSpec) -> Result<Taken, AskError> {
        self.change(Request::Adopt {
            pid,
            process: Box::new(process),
        })
    }

    /// Asks the keeper to become another program in place; its status tells what comes of it.
    ///
    /// # Errors
    /// [`AskError::Refused`] when it is no program, or the keeper is too old to know the word.
    pub fn upgrade(&self, program: &Path) -> Result<Taken, AskError> {
        self.change(Request::Upgrade {
            program: program.to_owned(),
        })
    }

    /// Asks the keeper to stop the app and to exit.
    ///
    /// # Errors
    /// When the keeper cannot be asked.
    pub fn stop(&self) -> Result<Taken, AskError> {
        self.change(Request::Stop)
    }

    /// The state now.
    ///
    /// # Errors
    /// When the keeper cannot be asked.
    pub fn status(&self) -> Result<Status, AskError> {
        let mut stream = self.ask(Request::Status)?;
        match self.read_reply(&mut stream)? {
            Reply::Status { status } => Ok(*status),
            other => Err(self.refused(other)),
        }
    }

    /// The state now and after every change. The iterator blocks in between, `timeout` at most, and then yields
    /// [`AskError::Talk`] with `WouldBlock` or `TimedOut`; it may be asked again after that. It ends when the keeper does.
    ///
    /// # Errors
    /// When the keeper cannot be asked.
    pub fn watch(&self) -> Result<Watch, AskError> {
        let stream = self.ask(Request::Watch)?;
        Ok(Watch {
            client: self.clone(),
            stream,
            partial: Vec::new(),
        })
    }

    fn change(&self, request: Request) -> Result<Taken, AskError> {
        let mut stream = self.ask(request)?;
        match self.read_reply(&mut stream)? {
            Reply::Accepted => Ok(Taken::Accepted),
            Reply::Already => Ok(Taken::Already),
            other => Err(self.refused(other)),
        }
    }

    fn refused(&self, reply: Reply) -> AskError {
        match reply {
            Reply::Refused { refusal, message } => AskError::Refused { refusal, message },
            _ => AskError::Unexpected {
                socket: self.socket.clone(),
            },
        }
    }

    fn ask(&self, request: Request) -> Result<BufReader<UnixStream>, AskError> {
        let stream = crate::unix::connect(&self.socket).map_err(|source| AskError::Connect {
            socket: self.socket.clone(),
            source,
        })?;
        let mut stream = UnixStream::from(stream);
        let mut line = serde_json::to_vec(&RequestLine {
            v: PROTOCOL_VERSION,
            request,
        })
        .map_err(|source| AskError::Answer {
            socket: self.socket.clone(),
            source,
        })?;
        line.push(b'\n');
        stream
            .set_read_timeout(Some(self.timeout))
            .and_then(|()| stream.set_write_timeout(Some(self.timeout)))
            .and_then(|()| stream.write_all(&line))
            .map_err(|source| self.talk(source))?;
        Ok(BufReader::new(stream))
    }

    fn talk(&self, source: io::Error) -> AskError {
        AskError::Talk {
            socket: self.socket.clone(),
            source,
        }
    }

    fn read_reply(&self, stream: &mut BufReader<UnixStream>) -> Result<Reply, AskError> {
        let mut line = Vec::new();
        match read_line(stream, &mut line) {
            Ok(true) => self.parse(&line),
            Ok(false) => Err(self.talk(io::ErrorKind::UnexpectedEof.into())),
            Err(source) => Err(self.talk(source)),
        }
    }

    fn parse(&self, line: &[u8]) -> Result<Reply, AskError> {
        let parsed: ReplyLine = serde_json::from_slice(line).map_err(|source| AskError::Answer {
            socket: self.socket.clone(),
            source,
        })?;
        Ok(parsed.reply)
    }
}

/// Statuses as they come; see [`Client::watch`].
#[derive(Debug)]
pub struct Watch {
    client: Client,
    stream: BufReader<UnixStream>,
    partial: Vec<u8>,
}

impl Iterator for Watch {
    type Item = Result<Status, AskError>;

    fn next(&mut self) -> Option<Self::Item> {
        match read_line(&mut self.stream, &mut self.partial) {
            Ok(true) => {
                let line = std::mem::take(&mut self.partial);
                Some(self.client.parse(&line).and_then(|reply| match reply {
                    Reply::Status { status } => Ok(*status),
                    other => Err(self.client.refused(other)),
                }))
            }
            Ok(false) => None,
            Err(source) => Some(Err(self.client.talk(source))),
        }
    }
}

/// Reads on to the end of the line; what was read before a time-out stays in `line` for the next call.
fn read_line(stream: &mut BufReader<UnixStream>, line: &mut Vec<u8>) -> io::Result<bool> {
    let room = (MAX_LINE - line.len().min(MAX_LINE)) as u64;
    stream.by_ref().take(room).read_until(b'\n', line)?;
    match line.last() {
        Some(b'\n') => Ok(true),
        _ if line.len() >= MAX_LINE => Err(io::Error::other("a line is too long")),
        _ => Ok(false),
    }
}
