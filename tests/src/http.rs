//! A small HTTP/1.1 client: one connection per request, the whole answer in memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.to_ascii_lowercase() == name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// GET of `path` at `address`.
pub fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    exchange(address, head.as_bytes()).with_context(|| format!("GET http://{address}{path}"))
}

/// GET of `http://ADDRESS/path`.
pub fn get_url(url: &str) -> Result<Answer> {
    let rest = url
        .strip_prefix("http://")
        .context("only http:// is asked here")?;
    let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    get(address.parse()?, if path.is_empty() { "/" } else { path })
}

/// Sends a whole request, which asks for the end of its connection.
pub(crate) fn exchange(address: SocketAddr, request: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let at = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .context("no whole head")?;
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status")?;
    let answer = Answer {
        status,
        head,
        body: bytes[at + 4..].to_vec(),
    };
    dechunked(answer)
}

fn dechunked(mut answer: Answer) -> Result<Answer> {
    if answer.header("transfer-encoding") == Some("chunked") {
        let mut body = Vec::new();
        let mut rest = &answer.body[..];
        loop {
            let at = rest
                .windows(2)
                .position(|two| two == b"\r\n")
                .context("no chunk size")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..at])?.trim(), 16)?;
            rest = &rest[at + 2..];
            if size == 0 {
                break;
            }
            body.extend_from_slice(rest.get(..size).context("a chunk is cut")?);
            rest = rest.get(size + 2..).context("a chunk is cut")?;
        }
        answer.body = body;
    } else if let Some(len) = answer.header("content-length") {
        let len: usize = len.parse()?;
        if answer.body.len() != len {
            bail!("{} of {len} bytes arrived", answer.body.len());
        }
    }
    Ok(answer)
}
