//! gRPC's health service, asked once: `grpc.health.v1.Health/Check` over HTTP/2 with prior knowledge.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, TE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

const METHOD: &str = "http://localhost/grpc.health.v1.Health/Check";
/// Bytes of an answer; a good one has seven.
const MAX_ANSWER: usize = 4096;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Serving,
    /// It says so, in the service's own words.
    Not(&'static str),
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => f.write_str("it says SERVING"),
            Self::Not(word) => write!(f, "it says {word}"),
        }
    }
}

/// Why there is no answer, or none that can be understood.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// Nobody is there.
    #[error("cannot connect to {addr}")]
    Connect {
        /// Where.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// No word came in time.
    #[error("no answer within {} ms", timeout.as_millis())]
    Late {
        /// The time.
        timeout: Duration,
    },
    /// It speaks no HTTP/2, or ended the connection.
    #[error("it does not answer in HTTP/2")]
    Talk {
        /// What went wrong.
        source: hyper::Error,
    },
    /// HTTP, but no gRPC.
    #[error("it answers with HTTP status {status}, which is no gRPC")]
    Http {
        /// The status.
        status: http::StatusCode,
    },
    /// gRPC's status was not OK.
    #[error("its health service answers with gRPC status {code}{}{message}", if message.is_empty() { "" } else { ": " })]
    Grpc {
        /// The code: 5 is "no such service here", 12 "no health service".
        code: String,
        /// What it said.
        message: String,
    },
    /// The answer is cut off, too long, or compressed.
    #[error("its health service's answer cannot be read")]
    Answer,
}

impl ProbeError {
    /// Whether nobody has answered, as while a server starts.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Late { .. })
    }
}

/// Asks the server at `addr`, an IP and a port.
///
/// # Errors
/// [`ProbeError`].
pub async fn ask_tcp(addr: &str, service: &str) -> Result<Health, ProbeError> {
    let connected = TcpStream::connect(addr).await;
    let stream = connected.map_err(|source| ProbeError::Connect {
        addr: addr.to_owned(),
        source,
    })?;
    ask(stream, service).await
}

/// Asks the server at a Unix socket.
///
/// # Errors
/// [`ProbeError`].
pub async fn ask_unix(path: &Path, service: &str) -> Result<Health, ProbeError> {
    let connected = UnixStream::connect(path).await;
    let stream = connected.map_err(|source| ProbeError::Connect {
        addr: path.display().to_string(),
        source,
    })?;
    ask(stream, service).await
}

/// Asks over a connection that is made already, TCP or Unix.
///
/// # Errors
/// [`ProbeError`]; [`ProbeError::Connect`] also where the descriptor is no connected socket.
pub async fn ask_connection(connection: OwnedFd, service: &str) -> Result<Health, ProbeError> {
    let failed = |source| ProbeError::Connect {
        addr: "the connection that it was given".to_owned(),
        source,
    };
    let domain = rustix::net::sockopt::socket_domain(&connection);
    let unix = domain.map_err(|error| failed(error.into()))? == rustix::net::AddressFamily::UNIX;
    rustix::io::ioctl_fionbio(&connection, true).map_err(|error| failed(error.into()))?;
    if unix {
        let stream = UnixStream::from_std(connection.into()).map_err(failed)?;
        ask(stream, service).await
    } else {
        let stream = TcpStream::from_std(connection.into()).map_err(failed)?;
        stream.writable().await.map_err(failed)?;
        if let Some(error) = stream.take_error().map_err(failed)? {
            return Err(failed(error));
        }
        ask(stream, service).await
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: &str,
) -> Result<Health, ProbeError> {
    let talk = |source| ProbeError::Talk { source };
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(talk)?;
    // Ends with the runtime, as soon as there is an answer.
    tokio::spawn(connection);
    let mut request = http::Request::new(Full::new(question(service)));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(METHOD);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    headers.insert(TE, http::HeaderValue::from_static("trailers"));
    let answer = sender.send_request(request).await.map_err(talk)?;
    if answer.status() != http::StatusCode::OK {
        return Err(ProbeError::Http {
            status: answer.status(),
        });
    }
    // A refusal may come without a body, in the headers alone.
    check(answer.headers())?;
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|_| ProbeError::Answer)?;
    if let Some(trailers) = body.trailers() {
        check(trailers)?;
    }
    health(&body.to_bytes())
}

/// `HealthCheckRequest`, in a frame of gRPC's: not compressed, four bytes of length.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        // Field 1, a text.
        message.put_u8(0x0a);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn check(headers: &HeaderMap) -> Result<(), ProbeError> {
    let text = |name: &str| {
        let value = headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status") {
        Some(code) if code != "0" => Err(ProbeError::Grpc {
            code,
            message: text("grpc-message").unwrap_or_default(),
        }),
        _ => Ok(()),
    }
}

/// The status in a `HealthCheckResponse`: field 1, a number below 4; a response without it is UNKNOWN.
fn health(frame: &[u8]) -> Result<Health, ProbeError> {
    let [0, a, b, c, d, message @ ..] = frame else {
        return Err(ProbeError::Answer);
    };
    if message.len() != u32::from_be_bytes([*a, *b, *c, *d]) as usize {
        return Err(ProbeError::Answer);
    }
    match message {
        [0x08, 1] => Ok(Health::Serving),
        [] | [0x08, 0] => Ok(Health::Not("UNKNOWN")),
        [0x08, 2] => Ok(Health::Not("NOT_SERVING")),
        [0x08, 3] => Ok(Health::Not("SERVICE_UNKNOWN")),
        _ => Err(ProbeError::Answer),
    }
}

#[cfg(test)]
mod tests {
    use super::{Health, health, question};

    #[test]
    fn a_question_is_framed() {
        assert_eq!(&question("")[..], b"\0\0\0\0\0");
        assert_eq!(&question("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "x".repeat(200);
        assert_eq!(&question(&long)[..8], b"\0\0\0\0\xcb\x0a\xc8\x01");
    }

    #[test]
    fn an_answer_is_read() {
        let read = |bytes: &[u8]| health(bytes).ok();
        assert_eq!(read(b"\0\0\0\0\x02\x08\x01"), Some(Health::Serving));
        assert_eq!(read(b"\0\0\0\0\x02\x08\x02"), Some(Health::Not("NOT_SERVING")));
        assert_eq!(read(b"\0\0\0\0\0"), Some(Health::Not("UNKNOWN")));
        for bad in [
            &b""[..],
            b"\x01\0\0\0\0",
            b"\0\0\0\0\x09\x08\x01",
            b"\0\0\0\0\x02\x08\x07",
        ] {
            assert_eq!(read(bad), None);
        }
    }
}
