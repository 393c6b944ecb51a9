//! The control socket: requests in, replies out, never waiting for a slow client.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::PollFlags;
use rustix::fs::{CWD, Mode};
use rustix::net::SocketType;
use serde::{Deserialize, Serialize};

use crate::handed::{ClaimError, Claims, Given};
use crate::protocol::{MAX_LINE, PROTOCOL_VERSION, Reply, ReplyLine, Request, RequestLine};

/// Clients at once; more wait in the kernel's queue.
const MAX_CLIENTS: usize = 32;

/// The listening side with its clients.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    clients: Vec<ControlClient>,
}

/// One connected client.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// The newest status revision it was sent, if it watches.
    watching: Option<u64>,
    answered: bool,
    closed: bool,
}

/// The control socket as one program leaves it to the next.
#[derive(Debug, Serialize, Deserialize)]
pub struct ControlRecord {
    listener: RawFd,
    path: PathBuf,
    clients: Vec<ClientRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ClientRecord {
    stream: RawFd,
    outgoing: String,
    watching: Option<u64>,
    answered: bool,
}

/// Where in the list of clients a request came from.
#[derive(Debug)]
pub struct Asked {
    /// The client.
    pub client: usize,
    /// What it asks, or why that cannot be read.
    pub request: Result<Request, String>,
}

impl Control {
    /// Binds the socket at `path` for the own user only, in place of one an earlier keeper left. The keeper's lock keeps a
    /// second one out.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = crate::unix::bind(path, SocketType::STREAM)?;
        rustix::fs::chmodat(
            CWD,
            path,
            Mode::from_raw_mode(0o600),
            rustix::fs::AtFlags::empty(),
        )?;
        rustix::net::listen(&socket, 64)?;
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            clients: Vec::new(),
        })
    }

    /// The socket and its clients, to be taken by [`Control::take_over`]. None while a request is half received.
    pub fn hand_over(&self, given: &mut Given) -> Option<ControlRecord> {
        if self.clients.iter().any(|client| !client.incoming.is_empty()) {
            return None;
        }
        let clients = self.clients.iter().map(|client| ClientRecord {
            stream: given.give(&client.stream),
            outgoing: String::from_utf8_lossy(&client.outgoing).into_owned(),
            watching: client.watching,
            answered: client.answered,
        });
        Some(ControlRecord {
            clients: clients.collect(),
            listener: given.give(&self.listener),
            path: self.path.clone(),
        })
    }

    /// The socket and the clients of the program before, who notice nothing.
    ///
    /// # Errors
    /// When one is not there.
    pub fn take_over(record: ControlRecord, claims: &mut Claims) -> Result<Self, ClaimError> {
        let mut clients = Vec::new();
        for client in record.clients {
            clients.push(ControlClient {
                outgoing: client.outgoing.into_bytes(),
                watching: client.watching,
                answered: client.answered,
                ..ControlClient::new(claims.take(client.stream)?.into())
            });
        }
        Ok(Self {
            listener: claims.take(record.listener)?.into(),
            path: record.path,
            clients,
        })
    }

    /// Removes the socket's name, so that a client is refused at once.
    pub fn unbind(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// The descriptors to wait on, and what for.
    pub fn waits_on(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let room = self.clients.len() < MAX_CLIENTS;
        let listener = room.then(|| (self.listener.as_fd(), PollFlags::IN));
        let clients = self.clients.iter().map(|client| {
            let out = if client.outgoing.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            (client.stream.as_fd(), PollFlags::IN | out)
        });
        listener.into_iter().chain(clients)
    }

    /// Takes new clients and reads what came; answers whole requests.
    pub fn receive(&mut self) -> Vec<Asked> {
        while self.clients.len() < MAX_CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else {
                break;
            };
            if is_allowed(&stream) && stream.set_nonblocking(true).is_ok() {
                self.clients.push(ControlClient::new(stream));
            }
        }
        let mut asked = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            if let Some(request) = client.receive() {
                asked.push(Asked {
                    client: index,
                    request,
                });
            }
        }
        asked
    }

    /// Sends a reply; the connection is closed when it is through, unless the client watches.
    pub fn reply(&mut self, client: usize, reply: Reply) {
        if let Some(client) = self.clients.get_mut(client) {
            client.queue(reply);
        }
    }

    /// Makes a client one that is told every change.
    pub fn watch(&mut self, client: usize) {
        if let Some(client) = self.clients.get_mut(client) {
            client.watching = Some(0);
        }
    }

    /// Whether a watcher has not seen `revision` and could be told now.
    #[must_use]
    pub fn has_eager_watcher(&self, revision: u64) -> bool {
        self.clients.iter().any(|client| client.is_eager(revision))
    }

    /// Tells every watcher that is not still reading an earlier status: a slow one misses some, never the last.
    pub fn tell_watchers(&mut self, revision: u64, reply: &Reply) {
        for client in self.clients.iter_mut().filter(|client| client.is_eager(revision)) {
            client.queue(reply.clone());
            client.watching = Some(revision);
        }
    }

    /// Writes what can be written and drops clients that are through.
    pub fn flush(&mut self) {
        for client in &mut self.clients {
            client.flush();
        }
        self.clients.retain(|client| {
            let through = client.answered && client.watching.is_none() && client.outgoing.is_empty();
            !client.closed && !through
        });
    }
}

impl ControlClient {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            watching: None,
            answered: false,
            closed: false,
        }
    }

    fn is_eager(&self, revision: u64) -> bool {
        self.outgoing.is_empty() && self.watching.is_some_and(|seen| seen != revision)
    }

    fn receive(&mut self) -> Option<Result<Request, String>> {
        let mut chunk = [0_u8; 8192];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(_) if self.answered => {}
                Ok(count) => self.incoming.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
            if self.incoming.len() > MAX_LINE {
                self.incoming = Vec::new();
                self.answered = true;
                return Some(Err(format!("a request is longer than {MAX_LINE} bytes")));
            }
        }
        let end = self.incoming.iter().position(|byte| *byte == b'\n')?;
        let line = std::mem::take(&mut self.incoming);
        self.answered = true;
        // A client that hangs up after its request still gets it done.
        self.closed = false;
        Some(parse(&line[..end]))
    }

    fn queue(&mut self, reply: Reply) {
        match serde_json::to_vec(&ReplyLine {
            v: PROTOCOL_VERSION,
            reply,
        }) {
            Ok(mut line) => {
                line.push(b'\n');
                self.outgoing.extend_from_slice(&line);
            }
            Err(_) => self.closed = true,
        }
        self.flush();
    }

    fn flush(&mut self) {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(0) => self.closed = true,
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.closed = true,
            }
            if self.closed {
                return;
            }
        }
        // The buffers of a big status are not kept.
        self.outgoing = Vec::new();
    }
}

fn parse(line: &[u8]) -> Result<Request, String> {
    match serde_json::from_slice::<RequestLine>(line) {
        Ok(line) if line.v == PROTOCOL_VERSION => Ok(line.request),
        Ok(line) => Err(format!(
            "protocol version {} is not spoken here, only {PROTOCOL_VERSION}; update the keeper",
            line.v
        )),
        Err(error) => Err(format!("this is no request: {error}")),
    }
}

/// The own user and root may ask; the socket's mode says so too, but only where it was made.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    let peer: io::Result<OwnedFd> = stream.as_fd().try_clone_to_owned();
    peer.ok()
        .and_then(|peer| rustix::net::sockopt::socket_peercred(&peer).ok())
        .is_some_and(|peer| peer.uid == own || peer.uid.is_root())
}
