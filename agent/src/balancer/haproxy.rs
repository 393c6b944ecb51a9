//! HAProxy's runtime API: one command per connection, in text.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use thiserror::Error;

use super::Socket;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Statistics of one backend's servers; some hundred bytes for each.
const MAX_ANSWER: u64 = 4 << 20;

#[derive(Debug, Error)]
pub enum HaproxyError {
    #[error("HAProxy cannot be reached at {socket}")]
    Reach { socket: Socket, source: io::Error },
    #[error("HAProxy at {socket} does not know server {server} of backend {backend}")]
    Unknown {
        socket: Socket,
        backend: String,
        server: String,
    },
    #[error("HAProxy at {socket} refused \"{command}\": {answer}")]
    Refused {
        socket: Socket,
        command: String,
        answer: String,
    },
}

/// One server of one backend.
#[derive(Debug, Clone, Copy)]
pub struct Haproxy<'a> {
    pub socket: &'a Socket,
    pub backend: &'a str,
    pub server: &'a str,
}

/// What HAProxy does with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    /// No new users, but those that stick to it, and whoever asks for it by name.
    Drain,
    /// Nobody.
    Maint,
}

/// How HAProxy sees a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Requests under way, and waiting for a place.
    pub current: u64,
    /// `UP`, `DRAIN`, `MAINT`, `DOWN 1/2`, `no check`, …
    pub status: String,
}

impl Stat {
    pub fn is_up(&self) -> bool {
        self.status.starts_with("UP") || self.status == "no check"
    }

    /// Whether somebody set it aside, not a failed check.
    pub fn is_set_aside(&self) -> bool {
        self.status.starts_with("MAINT") || self.status.starts_with("DRAIN")
    }
}

impl Haproxy<'_> {
    /// # Errors
    /// [`HaproxyError`].
    pub fn stat(&self) -> Result<Stat, HaproxyError> {
        let table = self.ask(&format!("show stat {} 4 -1", self.backend))?;
        find(&table, self.backend, self.server).ok_or_else(|| HaproxyError::Unknown {
            socket: self.socket.clone(),
            backend: self.backend.to_owned(),
            server: self.server.to_owned(),
        })
    }

    /// Whether another server of the backend takes users.
    ///
    /// # Errors
    /// [`HaproxyError`].
    pub fn others_up(&self) -> Result<bool, HaproxyError> {
        let table = self.ask(&format!("show stat {} 4 -1", self.backend))?;
        let mut others = rows(&table, self.backend).filter(|(name, _)| *name != self.server);
        Ok(others.any(|(_, stat)| stat.is_up()))
    }

    /// # Errors
    /// [`HaproxyError`].
    pub fn set(&self, state: State) -> Result<(), HaproxyError> {
        let state = match state {
            State::Ready => "ready",
            State::Drain => "drain",
            State::Maint => "maint",
        };
        let command = format!("set server {}/{} state {state}", self.backend, self.server);
        let answer = self.ask(&command)?;
        if answer.trim().is_empty() {
            return Ok(());
        }
        Err(HaproxyError::Refused {
            socket: self.socket.clone(),
            command,
            answer: ship_model::path::escape(answer.trim().as_bytes()),
        })
    }

    fn ask(&self, command: &str) -> Result<String, HaproxyError> {
        let answer = match self.socket {
            Socket::Unix(path) => UnixStream::connect(path).and_then(|stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                talk(stream, command)
            }),
            Socket::Tcp(address) => TcpStream::connect_timeout(address, PATIENCE).and_then(|stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                talk(stream, command)
            }),
        };
        answer.map_err(|source| HaproxyError::Reach {
            socket: self.socket.clone(),
            source,
        })
    }
}

fn talk(mut stream: impl Read + Write, command: &str) -> io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn find(table: &str, backend: &str, server: &str) -> Option<Stat> {
    let mut rows = rows(table, backend);
    rows.find(|(name, _)| *name == server).map(|(_, stat)| stat)
}

/// The servers of a backend. Columns go by their names in the first line: versions differ in their number.
fn rows<'a>(table: &'a str, backend: &str) -> impl Iterator<Item = (&'a str, Stat)> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let head: Vec<&str> = head.trim_start_matches("# ").split(',').collect();
    let columns = ["pxname", "svname", "scur", "qcur", "status"]
        .map(|name| head.iter().position(|column| *column == name));
    lines.filter_map(move |line| {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |nth: usize| cells.get(columns[nth]?).copied();
        let number = |nth: usize| cell(nth)?.parse::<u64>().ok();
        let stat = Stat {
            current: number(2)? + number(3).unwrap_or(0),
            status: cell(4)?.to_owned(),
        };
        (cell(0)? == backend).then_some((cell(1)?, stat))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_by_the_names_of_its_columns() {
        let table =
            "# pxname,svname,qcur,qmax,scur,smax,status,\nweb,h1,1,0,3,4,UP,\nweb,h2,0,0,0,4,DRAIN,\n\n";
        let found = |server| find(table, "web", server);
        let stat = |current, status: &str| {
            Some(Stat {
                current,
                status: status.to_owned(),
            })
        };
        assert_eq!(found("h1"), stat(4, "UP"));
        assert_eq!(found("h2"), stat(0, "DRAIN"));
        assert_eq!(found("h3"), None);
        assert_eq!(find("No such proxy.\n", "web", "h1"), None);
        assert_eq!(find("", "web", "h1"), None);
    }
}
