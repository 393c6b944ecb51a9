//! One page or asset, fetched whole over its own connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::clock;
use crate::response::{Head, Malformed, Response};
use crate::target::Target;

/// Text kept to be searched for links; an asset is hashed whole whatever its length.
const KEPT: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub struct Fetched {
    pub head: Head,
    pub length: u64,
    pub digest: blake3::Hash,
    /// The body's beginning, all of it below 16 MiB.
    pub text: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("connect")]
    Connect(#[source] io::Error),
    #[error("ask")]
    Send(#[source] io::Error),
    #[error("read the answer")]
    Receive(#[source] io::Error),
    #[error("understand the answer")]
    Malformed(#[source] Malformed),
    #[error("the connection closed within the answer")]
    Cut,
    #[error("the answer took too long")]
    TimedOut,
}

/// # Errors
/// When no complete answer came within `timeout`. Any status is an answer.
pub fn fetch(target: &Target, timeout: Duration) -> Result<Fetched, FetchError> {
    let deadline = clock::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&target.address, timeout).map_err(FetchError::Connect)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: ship-load\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        target.path, target.authority
    );
    stream
        .set_write_timeout(Some(timeout))
        .map_err(FetchError::Send)?;
    stream.write_all(request.as_bytes()).map_err(FetchError::Send)?;
    let (mut response, mut length, mut text) = (Response::new(), 0, Vec::new());
    let mut hasher = blake3::Hasher::new();
    let mut bytes = vec![0; 64 * 1024];
    while !response.done() {
        let left = deadline.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(FetchError::TimedOut);
        }
        stream.set_read_timeout(Some(left)).map_err(FetchError::Receive)?;
        let count = match stream.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(FetchError::TimedOut),
            Err(error) => return Err(FetchError::Receive(error)),
        };
        if count == 0 && !response.end() {
            return Err(FetchError::Cut);
        }
        let take = |piece: &[u8]| {
            length += piece.len() as u64;
            hasher.update(piece);
            text.extend_from_slice(&piece[..piece.len().min(KEPT.saturating_sub(text.len()))]);
        };
        response
            .feed(&bytes[..count], take)
            .map_err(FetchError::Malformed)?;
    }
    let head = response.head().cloned().unwrap_or_default();
    Ok(Fetched {
        head,
        length,
        digest: hasher.finalize(),
        text,
    })
}
