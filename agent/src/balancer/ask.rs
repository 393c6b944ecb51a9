//! One request, as a user would send it: to the host itself, or through the balancer.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// For connecting, and for each read.
const PATIENCE: Duration = Duration::from_secs(5);
/// The head of an answer.
const MAX_HEAD: usize = 16 << 10;
/// Sixteen bytes in base64; what matters is that the server takes it.
const KEY: &str = "c2hpcCBhc2tzIHNoaXAgIQ==";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    pub path: &'a str,
    pub host: &'a str,
    /// A header and its value.
    pub pin: Option<(&'a str, &'a str)>,
    /// Asks to be a WebSocket.
    pub upgrade: bool,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// 101, and it is a WebSocket.
    Upgraded,
    /// No answer: refused, cut, too late.
    None(String),
}

impl Answer {
    pub fn is_good(&self, upgrade: bool) -> bool {
        match self {
            Self::Status(status) => !upgrade && (200..400).contains(status),
            Self::Upgraded => upgrade,
            Self::None(_) => false,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Upgraded => f.write_str("101"),
            Self::None(reason) => write!(f, "nothing ({reason})"),
        }
    }
}

/// Asks at `address`.
pub fn ask(address: SocketAddr, question: &Question<'_>) -> Answer {
    head(address, question).map_or_else(|error| Answer::None(error.to_string()), |head| read(&head))
}

/// Whether somebody accepts there.
pub fn accepts(address: SocketAddr) -> Answer {
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(_) => Answer::Status(200),
        Err(error) => Answer::None(error.to_string()),
    }
}

fn head(address: SocketAddr, question: &Question<'_>) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(question.text().as_bytes())?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut piece)?;
        if count == 0 || head.len() + count > MAX_HEAD {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..count]);
    }
    Ok(head)
}

impl Question<'_> {
    fn text(&self) -> String {
        let mut text = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: ship-agent\r\n",
            self.path, self.host
        );
        if let Some((name, value)) = self.pin {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&match self.upgrade {
            true => format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
            ),
            false => "Connection: close\r\n\r\n".to_owned(),
        });
        text
    }
}

fn read(head: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(head);
    let status = text
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
    match status {
        Some(101) if text.to_ascii_lowercase().contains("\r\nsec-websocket-accept:") => Answer::Upgraded,
        Some(status) => Answer::Status(status),
        None => Answer::None("no HTTP/1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let ok = read(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(ok, Answer::Status(204));
        assert!(ok.is_good(false) && !ok.is_good(true));
        let socket = read(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n");
        assert!(socket.is_good(true) && !socket.is_good(false));
        // Something in between that only repeats the number is no WebSocket.
        assert_eq!(read(b"HTTP/1.1 101 x\r\n\r\n"), Answer::Status(101));
        assert!(matches!(read(b"SSH-2.0\r\n\r\n"), Answer::None(_)));
        assert!(!read(b"HTTP/1.0 503 x\r\n\r\n").is_good(false));
    }
}
