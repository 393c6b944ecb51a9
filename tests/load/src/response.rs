//! HTTP/1 responses, fed piece by piece. No sockets here.

/// Longest head that is accepted, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;
/// Longest line of a chunked body's framing.
const CHUNK_LINE_LIMIT: usize = 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub content_type: String,
    pub cache_control: String,
    /// The `x-release` header, empty when absent.
    pub release: String,
    /// Whether the server keeps the connection open.
    pub keep_alive: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed response: {0}")]
pub struct Malformed(pub &'static str);

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailer,
    UntilClose,
    Done,
}

/// One response being read.
#[derive(Debug)]
pub struct Response {
    head: Head,
    framing: Framing,
    /// Bytes of the head, or of a framing line, that are not complete yet.
    pending: Vec<u8>,
    begun: bool,
}

impl Response {
    pub fn new() -> Self {
        Self {
            head: Head::default(),
            framing: Framing::Head,
            pending: Vec::new(),
            begun: false,
        }
    }

    /// The head, once it is there.
    pub fn head(&self) -> Option<&Head> {
        (self.framing != Framing::Head).then_some(&self.head)
    }

    /// Whether any byte came.
    pub fn begun(&self) -> bool {
        self.begun
    }

    pub fn done(&self) -> bool {
        self.framing == Framing::Done
    }

    /// Takes in `bytes` and hands what is body to `body`.
    ///
    /// # Errors
    /// When the bytes are no HTTP/1 response, or go on after its end.
    pub fn feed(&mut self, bytes: &[u8], mut body: impl FnMut(&[u8])) -> Result<(), Malformed> {
        self.begun |= !bytes.is_empty();
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = match self.framing {
                Framing::Head => self.feed_head(rest)?,
                Framing::Length(left) => self.feed_counted(rest, left, &mut body),
                Framing::ChunkData(left) => self.feed_counted(rest, left, &mut body),
                Framing::ChunkSize | Framing::ChunkEnd | Framing::Trailer => self.feed_line(rest)?,
                Framing::UntilClose => {
                    body(rest);
                    &[]
                }
                Framing::Done => return Err(Malformed("bytes after the end")),
            };
        }
        Ok(())
    }

    /// The server closed; true when that is how this response ends.
    pub fn end(&mut self) -> bool {
        if self.framing == Framing::UntilClose {
            self.framing = Framing::Done;
        }
        self.done()
    }

    fn feed_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let before = self.pending.len();
        let room = (HEAD_LIMIT + 4).saturating_sub(before).min(bytes.len());
        self.pending.extend_from_slice(&bytes[..room]);
        let from = before.saturating_sub(3);
        let Some(at) = self.pending[from..]
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        else {
            return self.unfinished_head();
        };
        let length = from + at + 4;
        let text = String::from_utf8_lossy(&self.pending[..length]).into_owned();
        self.pending = Vec::new();
        self.framing = self.read_head(&text)?;
        Ok(&bytes[length - before..])
    }

    fn unfinished_head<'a>(&self) -> Result<&'a [u8], Malformed> {
        let start = b"HTTP/1.";
        let compared = self.pending.len().min(start.len());
        if self.pending[..compared] != start[..compared] {
            return Err(Malformed("no HTTP/1 status line"));
        }
        if self.pending.len() > HEAD_LIMIT {
            return Err(Malformed("head too large"));
        }
        Ok(&[])
    }

    fn read_head(&mut self, text: &str) -> Result<Framing, Malformed> {
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let (version, rest) = line.split_once(' ').ok_or(Malformed("no status line"))?;
        if !version.starts_with("HTTP/1.") {
            return Err(Malformed("no HTTP/1 status line"));
        }
        let status = rest
            .get(..3)
            .and_then(|digits| digits.parse().ok())
            .ok_or(Malformed("no status"))?;
        self.head = Head {
            status,
            keep_alive: version == "HTTP/1.1",
            ..Head::default()
        };
        let mut length = None;
        let mut chunked = false;
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line
                .split_once(':')
                .ok_or(Malformed("a header without a colon"))?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = Some(value.parse().map_err(|_| Malformed("Content-Length"))?),
                "transfer-encoding" => chunked = value.to_ascii_lowercase().ends_with("chunked"),
                "connection" => self.connection(value),
                "content-type" => value.clone_into(&mut self.head.content_type),
                "cache-control" => value.clone_into(&mut self.head.cache_control),
                "x-release" => value.clone_into(&mut self.head.release),
                _ => {}
            }
        }
        Ok(self.framing_of(status, length, chunked))
    }

    fn connection(&mut self, value: &str) {
        if value.eq_ignore_ascii_case("close") {
            self.head.keep_alive = false;
        } else if value.eq_ignore_ascii_case("keep-alive") {
            self.head.keep_alive = true;
        }
    }

    fn framing_of(&mut self, status: u16, length: Option<u64>, chunked: bool) -> Framing {
        match (status, length) {
            // An interim response; the real one follows.
            (100..=199, _) => Framing::Head,
            (204 | 304, _) => Framing::Done,
            _ if chunked => Framing::ChunkSize,
            (_, Some(0)) => Framing::Done,
            (_, Some(length)) => Framing::Length(length),
            (_, None) => {
                self.head.keep_alive = false;
                Framing::UntilClose
            }
        }
    }

    fn feed_counted<'a>(&mut self, bytes: &'a [u8], left: u64, body: &mut impl FnMut(&[u8])) -> &'a [u8] {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        body(&bytes[..count]);
        let left = left - count as u64;
        self.framing = match self.framing {
            Framing::Length(_) if left == 0 => Framing::Done,
            Framing::Length(_) => Framing::Length(left),
            _ if left == 0 => Framing::ChunkEnd,
            _ => Framing::ChunkData(left),
        };
        &bytes[count..]
    }

    fn feed_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(bytes.len(), |at| at + 1);
        self.pending.extend_from_slice(&bytes[..end]);
        if self.pending.len() > CHUNK_LINE_LIMIT {
            return Err(Malformed("chunk line too long"));
        }
        if self.pending.ends_with(b"\n") {
            let line = std::mem::take(&mut self.pending);
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.framing = self.after_line(&line)?;
        }
        Ok(&bytes[end..])
    }

    fn after_line(&self, line: &str) -> Result<Framing, Malformed> {
        match self.framing {
            Framing::ChunkSize => {
                let digits = line.split(';').next().unwrap_or_default().trim();
                match u64::from_str_radix(digits, 16) {
                    Ok(0) => Ok(Framing::Trailer),
                    Ok(size) => Ok(Framing::ChunkData(size)),
                    Err(_) => Err(Malformed("chunk size")),
                }
            }
            Framing::ChunkEnd if line.is_empty() => Ok(Framing::ChunkSize),
            Framing::Trailer if line.is_empty() => Ok(Framing::Done),
            Framing::Trailer => Ok(Framing::Trailer),
            _ => Err(Malformed("chunk end")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    /// Feeds `text` in pieces of `step` bytes and closes.
    fn read(text: &str, step: usize) -> Result<(Response, String), Malformed> {
        let mut response = Response::new();
        let mut body = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            response.feed(piece, |bytes| body.extend_from_slice(bytes))?;
        }
        response.end();
        Ok((response, String::from_utf8(body).unwrap()))
    }

    #[test]
    fn every_framing_is_read_however_it_is_cut() {
        let cases = [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Release: 7\r\n\r\nhello",
                "hello",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: 1\r\n\r\n",
                "hello",
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\nhello", "hello", false),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                "",
                false,
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                "",
                true,
            ),
        ];
        for (text, wanted, keep_alive) in cases {
            for step in [1, 2, 7, 1000] {
                let (response, body) = read(text, step).unwrap();
                assert!(response.done(), "{text:?} in steps of {step}");
                assert_eq!(body, wanted, "{text:?} in steps of {step}");
                assert_eq!(response.head().unwrap().keep_alive, keep_alive, "{text:?}");
            }
        }
    }

    #[test]
    fn a_cut_response_is_not_done() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for length in 0..text.len() {
            let (response, _) = read(&text[..length], 1000).unwrap();
            assert!(!response.done(), "{length} bytes");
        }
    }

    #[test]
    fn what_is_no_response_is_said_so() {
        for text in [
            "SSH-2.0-x",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        ] {
            assert!(read(text, 1000).is_err(), "{text:?}");
            assert!(read(text, 1).is_err(), "{text:?} byte by byte");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(2 * HEAD_LIMIT));
        assert!(read(&endless, 4096).is_err());
        assert!(read(&endless, usize::MAX).is_err());
    }
}
