//! One client's connection: reads requests, writes answers, never waits.
//!
//! The socket is registered edge-triggered, so [`Conn::drive`] goes on until the socket would block or its turn is used
//! up; whatever is left over is driven again without a new report from the kernel.

mod long;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::clock;
use crate::http::{self, Framing, Head, Refusal};
use crate::pages::{Answer, App, Body};

const READ_STEP: usize = 16 * 1024;
const WRITE_STEP: usize = 64 * 1024;
/// How many steps one connection may take before the others get their turn.
const TURN: u32 = 64;
/// How long a closed conversation is kept to take in what the client still sends; closing earlier would reset it and
/// could take the answer away with it.
const LINGER: Duration = Duration::from_secs(2);

/// What the event loop does with a connection after driving it.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// Wait for the socket or the deadline.
    Wait,
    /// Its turn is over, but it could go on at once.
    Again,
    Drop,
}

#[derive(Debug)]
enum Phase {
    Reading,
    /// The answer is due later.
    Waiting {
        answer: Answer,
        head: Head,
    },
    Writing {
        rest: Option<(File, u64)>,
        close: bool,
    },
    /// A stream: the next piece is due at `next`.
    Streaming {
        left: u64,
        next: Instant,
        close: bool,
    },
    /// A WebSocket; once it is to end because the server drains, `leave` says when.
    Talking {
        leave: Option<Instant>,
    },
    /// The last thing is said, and it is written; the client's close frame is waited for.
    Parting,
    Lingering,
}

/// What a connection needs to know of the server.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub app: &'a App,
    pub draining: bool,
    pub patience: Duration,
    pub keep_alive: Duration,
}

#[derive(Debug)]
pub struct Conn {
    socket: OwnedFd,
    phase: Phase,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    deadline: Instant,
    /// When it was accepted or last answered.
    active: Instant,
    /// Whether `100 Continue` was said for the request being read.
    continued: bool,
}

enum Moved {
    Some,
    Blocked,
    Gone,
}

impl Conn {
    pub fn new(socket: OwnedFd, patience: Duration) -> Self {
        let now = clock::now();
        Self {
            socket,
            phase: Phase::Reading,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            deadline: now + patience,
            active: now,
            continued: false,
        }
    }

    /// Whether nothing of a request has been seen since the last answer.
    pub fn idle(&self) -> bool {
        matches!(self.phase, Phase::Reading) && self.input.is_empty()
    }

    pub fn active(&self) -> Instant {
        self.active
    }

    pub fn drive(&mut self, context: Context<'_>) -> Fate {
        for _ in 0..TURN {
            let moved = match self.phase {
                Phase::Reading => self.read_request(context),
                Phase::Waiting { .. } => Moved::Blocked,
                Phase::Writing { .. } => self.write_answer(context),
                Phase::Streaming { .. } => self.stream(context),
                Phase::Talking { .. } => self.talk(context),
                Phase::Parting => self.part(),
                Phase::Lingering => self.discard(),
            };
            match moved {
                Moved::Some => {}
                Moved::Blocked => return Fate::Wait,
                Moved::Gone => return Fate::Drop,
            }
        }
        Fate::Again
    }

    /// Called when time passes; `idle_until` is when an idle connection ends because the server drains.
    pub fn tick(&mut self, context: Context<'_>, now: Instant, idle_until: Option<Instant>) -> Fate {
        if let Phase::Waiting { .. } = self.phase {
            if now < self.deadline {
                return Fate::Wait;
            }
            self.send_waiting(context);
            return self.drive(context);
        }
        if self.due(context, now) {
            return self.drive(context);
        }
        let deadline = match idle_until {
            Some(until) if self.idle() => until.min(self.deadline),
            _ => self.deadline,
        };
        if now < deadline {
            Fate::Wait
        } else {
            self.expire(context)
        }
    }

    fn expire(&mut self, context: Context<'_>) -> Fate {
        match self.phase {
            Phase::Reading => {}
            // Nothing was said for a long time.
            Phase::Talking { .. } if self.output.is_empty() => {
                self.leave();
                return self.drive(context);
            }
            _ => return Fate::Drop,
        }
        // A request may have arrived since the last report: look before closing on it.
        let was_idle = self.idle();
        match self.drive(context) {
            Fate::Wait if was_idle && self.idle() => Fate::Drop,
            Fate::Wait if matches!(self.phase, Phase::Reading) && !was_idle => {
                self.refuse(
                    &Refusal {
                        status: 408,
                        why: "the request took too long",
                    },
                    context,
                );
                self.drive(context)
            }
            fate => fate,
        }
    }

    fn read_request(&mut self, context: Context<'_>) -> Moved {
        match http::parse(&self.input) {
            Err(refusal) => self.refuse(&refusal, context),
            Ok(Some(head)) if self.has_body(&head) => self.begin(head, context),
            Ok(Some(head)) => {
                self.ask_for_body(&head);
                return self.fill(context);
            }
            Ok(None) => return self.fill(context),
        }
        Moved::Some
    }

    fn has_body(&self, head: &Head) -> bool {
        (self.input.len() - head.length) as u64 >= head.content_length
    }

    fn ask_for_body(&mut self, head: &Head) {
        if head.expects_continue && !self.continued {
            self.continued = true;
            // Twenty-five bytes fit into an idle socket's buffer; if they do not, the client's own timeout helps.
            let _ = rustix::net::send(
                &self.socket,
                b"HTTP/1.1 100 Continue\r\n\r\n",
                SendFlags::NOSIGNAL,
            );
        }
    }

    fn fill(&mut self, context: Context<'_>) -> Moved {
        let mut bytes = [0; READ_STEP];
        let was_idle = self.input.is_empty();
        match receive(&self.socket, &mut bytes) {
            Ok(0) => Moved::Gone,
            Ok(count) => {
                self.input.extend_from_slice(&bytes[..count]);
                if was_idle {
                    // From its first byte on, a request has its own time; trickling does not prolong it.
                    self.deadline = clock::now() + context.patience;
                }
                Moved::Some
            }
            Err(Errno::AGAIN) => Moved::Blocked,
            Err(_) => Moved::Gone,
        }
    }

    fn begin(&mut self, head: Head, context: Context<'_>) {
        let end = head.length + usize::try_from(head.content_length).unwrap_or(0);
        let answer = context.app.answer(&head, &self.input[head.length..end]);
        self.input.drain(..end);
        self.continued = false;
        if answer.delay.is_zero() {
            self.send(answer, &head.method, head.keep_alive, context);
        } else {
            self.deadline = clock::now() + answer.delay;
            self.phase = Phase::Waiting { answer, head };
        }
    }

    fn send_waiting(&mut self, context: Context<'_>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Reading);
        if let Phase::Waiting { answer, head } = phase {
            self.send(answer, &head.method, head.keep_alive, context);
        }
    }

    fn refuse(&mut self, refusal: &Refusal, context: Context<'_>) {
        self.input.clear();
        self.send(Answer::plain(refusal.status, refusal.why), "", false, context);
    }

    fn send(&mut self, answer: Answer, method: &str, keep_alive: bool, context: Context<'_>) {
        // Whether to close is decided as late as possible: a drain that began while the answer waited counts.
        let close = !keep_alive || context.draining;
        let (mut body, rest, framing, next) = match answer.body {
            Body::File { file, length } => (Vec::new(), Some((file, length)), Framing::Length(length), None),
            Body::Bytes(bytes) => {
                let length = bytes.len() as u64;
                (bytes, None, Framing::Length(length), None)
            }
            Body::Stream { pieces } => {
                let streaming = Phase::Streaming {
                    left: pieces,
                    next: clock::now(),
                    close,
                };
                (Vec::new(), None, Framing::Chunked, Some(streaming))
            }
            Body::Socket { accept } => return self.open(&accept, context),
        };
        let date = clock::http_date();
        let mut headers = vec![
            ("Date", date.as_str()),
            ("Content-Type", answer.content_type),
            ("Cache-Control", answer.cache),
            ("X-Release", context.app.release()),
            ("X-Generation", context.app.generation()),
        ];
        headers.extend(answer.allow.map(|methods| ("Allow", methods)));
        self.output = http::response_head(answer.status, &headers, framing, close);
        let bodiless = method == "HEAD";
        if !bodiless {
            self.output.append(&mut body);
        }
        self.written = 0;
        self.deadline = clock::now() + context.patience;
        self.phase = next.filter(|_| !bodiless).unwrap_or(Phase::Writing {
            rest: if bodiless { None } else { rest },
            close,
        });
    }

    fn write_answer(&mut self, context: Context<'_>) -> Moved {
        if self.written < self.output.len() {
            return self.flush(context.patience);
        }
        let Phase::Writing { rest, close } = &mut self.phase else {
            return Moved::Gone;
        };
        let close = *close;
        match rest {
            Some((file, left)) if *left > 0 => {
                self.written = 0;
                next_piece(file, left, &mut self.output)
            }
            _ => self.finish(close, context),
        }
    }

    /// Writes on.
    fn flush(&mut self, patience: Duration) -> Moved {
        match rustix::net::send(&self.socket, &self.output[self.written..], SendFlags::NOSIGNAL) {
            Ok(count) => {
                self.written += count;
                // A client that takes its answer slowly but steadily is not cut off.
                self.deadline = clock::now() + patience;
                if self.written == self.output.len() {
                    self.output.clear();
                    self.written = 0;
                }
                Moved::Some
            }
            Err(Errno::AGAIN) => Moved::Blocked,
            Err(Errno::INTR) => Moved::Some,
            Err(_) => Moved::Gone,
        }
    }

    fn finish(&mut self, close: bool, context: Context<'_>) -> Moved {
        let now = clock::now();
        self.output = Vec::new();
        self.written = 0;
        self.active = now;
        if !close {
            self.phase = Phase::Reading;
            let time = if self.input.is_empty() {
                context.keep_alive
            } else {
                context.patience
            };
            self.deadline = now + time;
            return Moved::Some;
        }
        self.input = Vec::new();
        self.phase = Phase::Lingering;
        self.deadline = now + LINGER;
        match rustix::net::shutdown(&self.socket, Shutdown::Write) {
            Ok(()) => Moved::Some,
            Err(_) => Moved::Gone,
        }
    }

    fn discard(&mut self) -> Moved {
        let mut bytes = [0; READ_STEP];
        match receive(&self.socket, &mut bytes) {
            Ok(1..) => Moved::Some,
            Err(Errno::AGAIN) => Moved::Blocked,
            _ => Moved::Gone,
        }
    }
}

/// Puts the file's next piece into `output`. A file that became shorter ends the connection: its length was promised.
fn next_piece(file: &mut File, left: &mut u64, output: &mut Vec<u8>) -> Moved {
    output.clear();
    let step = (*left).min(WRITE_STEP as u64);
    match file.take(step).read_to_end(output) {
        Ok(count) if count as u64 == step => {
            *left -= step;
            Moved::Some
        }
        _ => Moved::Gone,
    }
}

fn receive(socket: &OwnedFd, bytes: &mut [u8]) -> Result<usize, Errno> {
    rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *bytes, RecvFlags::empty()))
        .map(|(_, count)| count)
}
