//! HTTP/1.1 requests from bytes, and the head of a response. No sockets here.

use std::fmt::Write as _;

/// Longest request line and header together, in bytes.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// Longest request line, in bytes.
pub const LINE_LIMIT: usize = 8 * 1024;
/// Longest request body, in bytes.
pub const BODY_LIMIT: u64 = 1024 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub method: String,
    /// The path as sent, still percent-encoded, without the query.
    pub path: String,
    pub query: String,
    /// What the client wants; the server may still close.
    pub keep_alive: bool,
    pub content_length: u64,
    pub expects_continue: bool,
    /// The client's key, when it asks for a WebSocket of a version we speak.
    pub socket_key: Option<String>,
    /// Bytes of the head, up to and including the empty line.
    pub length: usize,
}

/// Why a request cannot be read on; the connection closes after the answer, since its framing is lost.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub why: &'static str,
}

fn refuse(status: u16, why: &'static str) -> Refusal {
    Refusal { status, why }
}

/// Reads one request head from the front of `bytes`; `None` when more is needed.
///
/// # Errors
/// A [`Refusal`] when the bytes are not, or can no longer become, an acceptable request.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let Some(length) = head_length(bytes) else {
        return unfinished(bytes);
    };
    if length > HEAD_LIMIT {
        return Err(refuse(431, "header too large"));
    }
    let text = std::str::from_utf8(&bytes[..length]).map_err(|_| refuse(400, "header is not text"))?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    if line.len() > LINE_LIMIT {
        return Err(refuse(414, "request line too long"));
    }
    let mut head = request_line(line)?;
    head.length = length;
    headers(&mut head, lines)?;
    Ok(Some(head))
}

fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 4)
}

fn unfinished(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let line = bytes
        .windows(2)
        .position(|window| window == b"\r\n")
        .unwrap_or(bytes.len());
    if line > LINE_LIMIT {
        return Err(refuse(414, "request line too long"));
    }
    if bytes.len() > HEAD_LIMIT {
        return Err(refuse(431, "header too large"));
    }
    // A client that speaks TLS or something else entirely is told at once, not after a timeout.
    if bytes.first().is_some_and(|first| !first.is_ascii_alphabetic()) {
        return Err(refuse(400, "not an HTTP request"));
    }
    Ok(None)
}

fn request_line(line: &str) -> Result<Head, Refusal> {
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(refuse(400, "malformed request line"));
    };
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(refuse(400, "malformed method"));
    }
    let keep_alive = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return Err(refuse(505, "only HTTP/1.0 and HTTP/1.1")),
    };
    let target = origin_form(target)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Head {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        keep_alive,
        content_length: 0,
        expects_continue: false,
        socket_key: None,
        length: 0,
    })
}

/// `/path` from `/path` or from `http://host/path`, which a proxy may send.
fn origin_form(target: &str) -> Result<&str, Refusal> {
    if target.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(refuse(400, "malformed target"));
    }
    if target.starts_with('/') {
        return Ok(target);
    }
    let rest = target
        .strip_prefix("http://")
        .ok_or(refuse(400, "malformed target"))?;
    Ok(rest.find('/').map_or("/", |at| &rest[at..]))
}

fn headers<'a>(head: &mut Head, lines: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    let needs_host = head.keep_alive;
    let mut hosts = 0;
    let mut length: Option<u64> = None;
    let (mut upgrade, mut version, mut key) = (false, false, None);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(refuse(400, "malformed header"))?;
        if name.is_empty()
            || name
                .bytes()
                .any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
        {
            return Err(refuse(400, "malformed header name"));
        }
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "connection" => connection(head, value),
            "content-length" => {
                let stated = content_length(value)?;
                if length.is_some_and(|before| before != stated) {
                    return Err(refuse(400, "two lengths"));
                }
                length = Some(stated);
            }
            "transfer-encoding" => return Err(refuse(411, "send a Content-Length")),
            "upgrade" => upgrade = value.eq_ignore_ascii_case("websocket"),
            "sec-websocket-version" => version = value == "13",
            "sec-websocket-key" => key = Some(value.to_owned()),
            "expect" if value.eq_ignore_ascii_case("100-continue") => head.expects_continue = true,
            "expect" => return Err(refuse(417, "unknown expectation")),
            _ => {}
        }
    }
    if hosts > 1 || (needs_host && hosts == 0) {
        return Err(refuse(400, "exactly one Host header is needed"));
    }
    head.content_length = length.unwrap_or(0);
    head.socket_key = key.filter(|_| upgrade && version);
    Ok(())
}

fn connection(head: &mut Head, value: &str) {
    for word in value.split(',').map(str::trim) {
        if word.eq_ignore_ascii_case("close") {
            head.keep_alive = false;
        } else if word.eq_ignore_ascii_case("keep-alive") {
            head.keep_alive = true;
        }
    }
}

fn content_length(value: &str) -> Result<u64, Refusal> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse(400, "malformed length"));
    }
    match value.parse() {
        Ok(length) if length <= BODY_LIMIT => Ok(length),
        _ => Err(refuse(413, "body too large")),
    }
}

/// The value of `name` in a query of `a=1&b=2`.
pub fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

pub fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

/// How it is told where a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// It does not: another protocol follows.
    Upgraded,
}

/// The head of a response, with the empty line.
pub fn response_head(status: u16, headers: &[(&str, &str)], framing: Framing, close: bool) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    let _ = match framing {
        Framing::Length(length) => write!(text, "Content-Length: {length}\r\n"),
        Framing::Chunked => write!(text, "Transfer-Encoding: chunked\r\n"),
        Framing::Upgraded => write!(text, "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    };
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    if close {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    fn status_of(request: &str) -> u16 {
        parse(request.as_bytes()).unwrap_err().status
    }

    #[test]
    fn a_request_is_read_whole_or_waited_for() {
        let request = b"POST /echo?a=1&ms=20 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
        let head = parse(request).unwrap().unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str()), ("POST", "/echo"));
        assert_eq!(query_value(&head.query, "ms"), Some("20"));
        assert_eq!((head.content_length, head.keep_alive), (5, true));
        assert_eq!(&request[head.length..], b"hello");
        for cut in 0..head.length {
            assert_eq!(parse(&request[..cut]).unwrap(), None, "cut at {cut}");
        }
    }

    #[test]
    fn keep_alive_follows_version_and_header() {
        let keep = |text: &str| parse(text.as_bytes()).unwrap().unwrap().keep_alive;
        assert!(keep("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(!keep("GET / HTTP/1.1\r\nHost: x\r\nconnection: Close\r\n\r\n"));
        assert!(!keep("GET / HTTP/1.0\r\n\r\n"));
        assert!(keep("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn bad_requests_are_named() {
        assert_eq!(status_of("GET / HTTP/1.1\r\n\r\n"), 400, "no host");
        assert_eq!(status_of("GET  / HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
        assert_eq!(status_of("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
        assert_eq!(status_of("\x16\x03\x01"), 400, "a TLS hello");
        assert_eq!(status_of("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"), 400);
        assert_eq!(
            status_of("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
            411
        );
        assert_eq!(
            status_of("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"),
            413
        );
        assert_eq!(
            status_of("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n"),
            400
        );
        assert_eq!(
            status_of("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            400
        );
        assert_eq!(status_of("GET / HTTP/1.1\r\nHost : x\r\n\r\n"), 400);
    }

    #[test]
    fn sizes_are_bounded_before_the_end_is_seen() {
        assert_eq!(status_of(&format!("GET /{}", "a".repeat(LINE_LIMIT))), 414);
        assert_eq!(
            status_of(&format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(HEAD_LIMIT))),
            431
        );
        assert_eq!(
            status_of(&format!(
                "GET / HTTP/1.1\r\nA: {}\r\n\r\n",
                "a".repeat(HEAD_LIMIT)
            )),
            431
        );
    }
}
