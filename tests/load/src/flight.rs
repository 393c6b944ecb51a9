//! One connection of the generator and the request it carries, if any; it never waits.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::response::Response;
use crate::tally::{Failure, Population};
use crate::target::Target;

const READ_STEP: usize = 64 * 1024;
/// How much of a body is kept to see which release it speaks for.
const KEPT_BODY: usize = 16 * 1024;
/// How long a finished connection waits for the server to close first, so that the waiting state of TCP, which holds
/// the port for a minute, falls to the server's side.
const LINGER: Duration = Duration::from_secs(1);

/// The request a connection carries.
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    pub population: Population,
    pub target: usize,
    pub scheduled: Instant,
    /// When the generator began it, late if it was starved itself.
    pub begun: Instant,
    /// The window it counts in.
    pub window: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Sending(usize),
    Receiving,
    Idle,
    Lingering,
}

/// What became of a connection when it was driven.
#[derive(Debug)]
pub enum Landed {
    /// Nothing to tell yet.
    Flying,
    /// A complete answer of this status and release; the connection goes on as idle or lingering.
    Answered { status: u16, release: String },
    /// The request failed, and the connection with it.
    Failed { class: Failure, detail: String },
    /// An idle or lingering connection ended; no request was on it.
    Ended,
}

#[derive(Debug)]
pub struct Flight {
    pub socket: OwnedFd,
    pub errand: Errand,
    pub deadline: Instant,
    /// Whether it had carried a request before this one.
    pub reused: bool,
    phase: Phase,
    response: Response,
    body: Vec<u8>,
    /// The release that answered first on this connection.
    release: Option<String>,
    /// The error that ended sending; what the peer had said before it may still be readable.
    send_error: Option<Errno>,
}

impl Flight {
    /// Begins to connect.
    ///
    /// # Errors
    /// The failure's class and its detail.
    pub fn launch(errand: Errand, target: &Target, deadline: Instant) -> Result<Self, (Failure, String)> {
        let connecting = connect(target);
        let socket = connecting.map_err(|errno| (connect_failure(errno), errno.to_string()))?;
        Ok(Self {
            socket,
            errand,
            deadline,
            reused: false,
            phase: Phase::Connecting,
            response: Response::new(),
            body: Vec::new(),
            release: None,
            send_error: None,
        })
    }

    /// Gives an idle connection its next request.
    pub fn reuse(&mut self, errand: Errand, deadline: Instant) {
        self.errand = errand;
        self.deadline = deadline;
        self.reused = true;
        self.phase = Phase::Sending(0);
        self.response = Response::new();
        self.body.clear();
    }

    pub fn idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    pub fn connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Whether a request is open on it.
    pub fn busy(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Lingering)
    }

    /// The release that answers here, as far as it is known.
    pub fn release(&self) -> &str {
        self.release.as_deref().unwrap_or_default()
    }

    /// The deadline passed.
    pub fn expire(&self) -> Landed {
        match self.phase {
            Phase::Connecting => failed(Failure::ConnectTimeout, "no connection in time"),
            Phase::Sending(_) | Phase::Receiving if self.response.begun() => {
                failed(Failure::Timeout, "the answer did not end in time")
            }
            Phase::Sending(_) | Phase::Receiving => failed(Failure::Timeout, "no byte in time"),
            Phase::Idle | Phase::Lingering => Landed::Ended,
        }
    }

    /// Goes on as far as the socket allows. `request` is what it sends; `now` begins the lingering.
    pub fn drive(&mut self, request: &[u8], now: Instant) -> Landed {
        loop {
            let step = match self.phase {
                Phase::Connecting => self.connected(),
                Phase::Sending(from) => self.send(request, from),
                Phase::Receiving => return self.receive(now),
                Phase::Idle | Phase::Lingering => return self.rest(),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Landed::Flying,
                Err((class, detail)) => return Landed::Failed { class, detail },
            }
        }
    }

    fn connected(&mut self) -> Result<bool, (Failure, String)> {
        match sockopt::socket_error(&self.socket) {
            Ok(Ok(())) => {}
            Ok(Err(errno)) | Err(errno) => return Err((connect_failure(errno), errno.to_string())),
        }
        if rustix::net::getpeername(&self.socket).is_err() {
            return Ok(false);
        }
        self.phase = Phase::Sending(0);
        Ok(true)
    }

    fn send(&mut self, request: &[u8], from: usize) -> Result<bool, (Failure, String)> {
        match rustix::net::send(&self.socket, &request[from..], SendFlags::NOSIGNAL) {
            Ok(count) if from + count == request.len() => self.phase = Phase::Receiving,
            Ok(count) => self.phase = Phase::Sending(from + count),
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => {
                self.send_error = Some(errno);
                self.phase = Phase::Receiving;
            }
        }
        Ok(true)
    }

    fn receive(&mut self, now: Instant) -> Landed {
        let mut bytes = [0; READ_STEP];
        loop {
            let received = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::empty())
            });
            match received {
                Ok((_, 0)) => return self.closed(now),
                Ok((_, count)) => {
                    let body = &mut self.body;
                    let room = |kept: usize| KEPT_BODY.saturating_sub(kept);
                    let fed = self.response.feed(&bytes[..count], |piece| {
                        body.extend_from_slice(&piece[..piece.len().min(room(body.len()))]);
                    });
                    if let Err(malformed) = fed {
                        return failed(Failure::BadBody, malformed.0);
                    }
                    if self.response.done() {
                        return self.land(now);
                    }
                }
                Err(Errno::AGAIN) if self.send_error.is_none() => return Landed::Flying,
                Err(errno) => return self.reset(self.send_error.unwrap_or(errno)),
            }
        }
    }

    fn closed(&mut self, now: Instant) -> Landed {
        if self.response.end() {
            return self.land(now);
        }
        match self.send_error {
            Some(errno) => self.reset(errno),
            None if self.response.begun() => failed(Failure::EofMid, "closed within the answer"),
            None => failed(Failure::EofBeforeByte, "closed before the answer"),
        }
    }

    fn reset(&self, errno: Errno) -> Landed {
        let class = if self.response.begun() {
            Failure::ResetMid
        } else {
            Failure::ResetBeforeByte
        };
        Landed::Failed {
            class,
            detail: errno.to_string(),
        }
    }

    /// A complete answer is there: judge it, and leave the connection idle or lingering.
    fn land(&mut self, now: Instant) -> Landed {
        let head = self.response.head().cloned().unwrap_or_default();
        let keep =
            head.keep_alive && self.errand.population == Population::KeepAlive && self.send_error.is_none();
        self.phase = if keep { Phase::Idle } else { Phase::Lingering };
        self.deadline = now + LINGER;
        let before = self.release.get_or_insert_with(|| head.release.clone());
        if *before != head.release {
            return failed(
                Failure::Mixed,
                &format!("the connection spoke for {before:?}, then {:?}", head.release),
            );
        }
        match marked_release(&self.body) {
            Some(marked) if !head.release.is_empty() && marked != head.release => failed(
                Failure::Mixed,
                &format!("the header says {:?}, the page {marked:?}", head.release),
            ),
            _ => Landed::Answered {
                status: head.status,
                release: head.release,
            },
        }
    }

    fn rest(&mut self) -> Landed {
        let mut bytes = [0; 1024];
        match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
            Err(Errno::AGAIN | Errno::INTR) => Landed::Flying,
            _ => Landed::Ended,
        }
    }
}

fn failed(class: Failure, detail: &str) -> Landed {
    Landed::Failed {
        class,
        detail: detail.to_owned(),
    }
}

fn connect(target: &Target) -> Result<OwnedFd, Errno> {
    let family = if target.address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &target.address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

fn connect_failure(errno: Errno) -> Failure {
    match errno {
        Errno::CONNREFUSED => Failure::Refused,
        Errno::TIMEDOUT => Failure::ConnectTimeout,
        Errno::CONNRESET => Failure::ResetBeforeByte,
        Errno::ADDRNOTAVAIL | Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN => {
            Failure::Local
        }
        _ => Failure::Unreachable,
    }
}

/// The release named by `<meta name="release" content="…">` in a page, if there is one.
fn marked_release(body: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"name=\"release\" content=\"";
    let at = body.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let end = body[at..].iter().position(|byte| *byte == b'"')?;
    Some(String::from_utf8_lossy(&body[at..at + end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::marked_release;

    #[test]
    fn a_page_says_which_release_it_is_of() {
        assert_eq!(
            marked_release(b"<meta name=\"release\" content=\"web@7\">").as_deref(),
            Some("web@7")
        );
        assert_eq!(marked_release(b"<meta name=\"release\" content=\"web@7"), None);
        assert_eq!(marked_release(b""), None);
    }
}
