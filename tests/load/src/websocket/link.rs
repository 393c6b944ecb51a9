//! One WebSocket: opened, spoken over, and its end put into a class.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::frame::{self, Frame, Kind, Malformed};
use crate::clock;
use crate::response::Response;
use crate::tally::Failure;
use crate::target::Target;

/// The key of RFC 6455's example and what must come back for it. A key that is always the same would not do for a
/// browser, whose caches it protects; there are none here.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// How a connection ended, or never began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A close frame with this code; it was answered.
    Closed(u16),
    Failed(Failure, String),
}

fn failed(class: Failure, detail: impl ToString) -> End {
    End::Failed(class, detail.to_string())
}

#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    unread: Vec<u8>,
    /// Feeds the masks; any numbers do where no proxy is to be confused.
    mask: u32,
    /// What the answer to the upgrade said under `x-release`.
    pub release: String,
}

impl Link {
    /// Connects and upgrades.
    ///
    /// # Errors
    /// The class of the failure: as for requests, and [`Failure::BadBody`] for an upgrade with a wrong key.
    pub fn open(target: &Target, connecting: Duration, patience: Duration) -> Result<Self, End> {
        let stream = TcpStream::connect_timeout(&target.address, connecting)
            .map_err(|error| connect_failure(&error))?;
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_write_timeout(Some(patience)));
        prepared.map_err(|error| failed(Failure::Local, error))?;
        let mut link = Self {
            stream,
            unread: Vec::new(),
            mask: 0x9e37_79b9,
            release: String::new(),
        };
        link.upgrade(target, clock::now() + patience)?;
        Ok(link)
    }

    fn upgrade(&mut self, target: &Target, deadline: Instant) -> Result<(), End> {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: ship-load\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
            target.path, target.authority
        );
        self.write(request.as_bytes())?;
        let head = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break self.unread.drain(..at + 4).collect::<Vec<u8>>();
            }
            if !self.fill(deadline)? {
                return Err(failed(Failure::Timeout, "no answer to the upgrade in time"));
            }
        };
        let text = String::from_utf8_lossy(&head).into_owned();
        if !text.starts_with("HTTP/1.1 101") {
            return Err(refused(&head));
        }
        self.release = header(&text, "x-release").unwrap_or_default().to_owned();
        match header(&text, "sec-websocket-accept") {
            Some(ACCEPT) => Ok(()),
            other => Err(failed(
                Failure::BadBody,
                format!("Sec-WebSocket-Accept is {other:?}"),
            )),
        }
    }

    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), End> {
        self.mask = self.mask.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let frame = frame::encode(kind, payload, self.mask.to_be_bytes());
        self.write(&frame)
    }

    /// The next message, or nothing by the deadline. Pings are answered, a close is answered and returned as the end.
    ///
    /// # Errors
    /// How the connection ended.
    pub fn receive(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>, End> {
        loop {
            let decoded =
                frame::decode(&self.unread).map_err(|Malformed(what)| failed(Failure::BadBody, what))?;
            let Some((Frame { kind, payload }, length)) = decoded else {
                if self.fill(deadline)? {
                    continue;
                }
                return Ok(None);
            };
            self.unread.drain(..length);
            match kind {
                Kind::Text | Kind::Binary => return Ok(Some(payload)),
                Kind::Ping => self.send(Kind::Pong, &payload)?,
                Kind::Pong => {}
                Kind::Close => {
                    // Said back as it came; the other side may be gone already.
                    let _ = self.send(Kind::Close, &payload[..payload.len().min(2)]);
                    return Err(End::Closed(frame::close_code(&payload)));
                }
            }
        }
    }

    /// Says goodbye and waits for the answer, not longer than until the deadline.
    pub fn close(mut self, deadline: Instant) {
        if self.send(Kind::Close, &1000_u16.to_be_bytes()).is_ok() {
            while let Ok(Some(_)) = self.receive(deadline) {}
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        match self.stream.write_all(bytes) {
            Ok(()) => Ok(()),
            // A close frame may have come before the reset: it tells more than the failed write.
            Err(error) => Err(self.last_words().unwrap_or_else(|| lost(&error))),
        }
    }

    fn last_words(&mut self) -> Option<End> {
        let mut bytes = [0; 4096];
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(1)));
        while let Ok(count @ 1..) = self.stream.read(&mut bytes) {
            self.unread.extend_from_slice(&bytes[..count]);
        }
        loop {
            let (frame, length) = frame::decode(&self.unread).ok()??;
            self.unread.drain(..length);
            if frame.kind == Kind::Close {
                return Some(End::Closed(frame::close_code(&frame.payload)));
            }
        }
    }

    /// Reads more; false when the deadline came first.
    fn fill(&mut self, deadline: Instant) -> Result<bool, End> {
        let left = deadline.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Ok(false);
        }
        let _ = self.stream.set_read_timeout(Some(left));
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(failed(Failure::SocketEof, "ended without a close frame")),
            Ok(count) => {
                self.unread.extend_from_slice(&bytes[..count]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(lost(&error)),
        }
    }
}

fn lost(error: &io::Error) -> End {
    failed(Failure::SocketReset, error)
}

fn connect_failure(error: &io::Error) -> End {
    let class = match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        io::ErrorKind::TimedOut => Failure::ConnectTimeout,
        io::ErrorKind::ConnectionReset => Failure::ResetBeforeByte,
        io::ErrorKind::AddrNotAvailable => Failure::Local,
        _ => Failure::Unreachable,
    };
    failed(class, error)
}

/// Another answer than 101.
fn refused(head: &[u8]) -> End {
    let mut response = Response::new();
    if let Err(malformed) = response.feed(head, |_| {}) {
        return failed(Failure::BadBody, malformed);
    }
    let status = response.head().map_or(0, |head| head.status);
    let class = match status {
        500..=599 => Failure::Status5xx,
        _ => Failure::StatusOther,
    };
    failed(class, format!("the upgrade was answered with status {status}"))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}
