//! A real S3 server behind TLS, whose certificate comes from an authority of its own. What stands before it counts what is
//! written, and can stand in the way.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::http::Answer;
use crate::wait;

/// The keys that are used; this server takes any.
pub const KEYS: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", "a"),
    ("AWS_SECRET_ACCESS_KEY", "the-secret"),
];

/// What becomes of requests that write.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    Open,
    /// They are answered with this status.
    Refuse(&'static str),
    /// So many more go through, and the rest is never answered.
    Hang {
        after: usize,
    },
}

/// The server, ended when it is dropped.
#[derive(Debug)]
pub struct S3 {
    child: Child,
    server: SocketAddr,
    front: SocketAddr,
    gate: Arc<Gate>,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Gate {
    way: Mutex<Way>,
    /// First lines of requests that write and were let through, and how many of them were answered.
    written: Mutex<(Vec<String>, usize)>,
    /// Connections that were taken and have not ended.
    open: AtomicUsize,
}

impl S3 {
    /// None when it is not installed, which is said.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(test: &str) -> Option<Self> {
        let cache = std::env::var_os("SHIP_TESTS_CACHE").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache"));
        let program = cache.join("moto/bin/moto_server");
        if !program.exists() {
            crate::skipped(test, "moto is not installed: run tests/setup");
            return None;
        }
        let server = crate::haproxy::free_front();
        let child = Command::new(program)
            .args(["-H", &server.ip().to_string(), "-p", &server.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("the S3 server: {error}"));
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
        let gate = Arc::new(Gate {
            way: Mutex::new(Way::Open),
            written: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let front = certify(&folder.path().join("ca.pem"))
            .and_then(|tls| stand_before(server, tls, &gate))
            .unwrap_or_else(|error| panic!("before the S3 server: {error:#}"));
        let s3 = Self {
            child,
            server,
            front,
            gate,
            folder,
        };
        wait::until_within(wait::PATIENCE * 3, "the S3 server", || {
            TcpStream::connect(server).ok()
        });
        Some(s3)
    }

    /// Where it is spoken to.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.front)
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Puts an object, or makes a bucket, as somebody else would.
    ///
    /// # Panics
    /// When it does not take it.
    pub fn put(&self, path: &str, body: &str) {
        let head = format!("PUT {path} HTTP/1.1\r\nHost: s3\r\nConnection: close\r\n");
        let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let answer = crate::http::exchange(self.server, text.as_bytes());
        assert!(
            matches!(&answer, Ok(answer) if answer.status == 200),
            "{path}: {answer:?}"
        );
    }

    /// What is there.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn object(&self, path: &str) -> Answer {
        // Objects are private; this server takes any signature.
        let text = format!(
            "GET {path} HTTP/1.1\r\nHost: s3\r\nConnection: close\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00\r\n\r\n"
        );
        let answer = crate::http::exchange(self.server, text.as_bytes());
        answer.unwrap_or_else(|error| panic!("{path}: {error:#}"))
    }

    /// From now on.
    pub fn goes(&self, way: Way) {
        *lock(&self.gate.way) = way;
    }

    /// Waits until nothing is left of whoever asked and has ended: what it had sent before is met by the way that was told then.
    ///
    /// # Panics
    /// When somebody goes on asking.
    pub fn quiet(&self) {
        // Taken after all that were there before, and ended because it says nothing.
        let last = TcpStream::connect(self.front).and_then(|mut last| {
            last.shutdown(Shutdown::Write)?;
            last.read_to_end(&mut Vec::new())
        });
        if let Err(error) = last {
            panic!("before the S3 server: {error}");
        }
        wait::until("all connections to the S3 server to end", || {
            (self.gate.open.load(Ordering::SeqCst) == 0).then_some(())
        });
    }

    /// First lines of the requests that wrote.
    #[must_use]
    pub fn written(&self) -> Vec<String> {
        lock(&self.gate.written).0.clone()
    }

    /// How many of those were answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        lock(&self.gate.written).1
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an authority, whose certificate goes to `ca`, and has it sign one for this machine's own address.
fn certify(ca: &Path) -> Result<Arc<ServerConfig>> {
    let (own, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut authority = CertificateParams::new(Vec::new())?;
    authority
        .distinguished_name
        .push(DnType::CommonName, "an authority of its own");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&own)?.pem();
    std::fs::write(ca, &pem)?;
    let issuer = Issuer::from_ca_cert_pem(&pem, own)?;
    let leaf = CertificateParams::new(vec![Ipv4Addr::LOCALHOST.to_string()])?.signed_by(&key, &issuer)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = key.serialize_der().try_into().map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)?;
    Ok(Arc::new(config))
}

fn stand_before(server: SocketAddr, tls: Arc<ServerConfig>, gate: &Arc<Gate>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let front = listener.local_addr()?;
    let gate = Arc::clone(gate);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (gate, tls) = (Arc::clone(&gate), Arc::clone(&tls));
            gate.open.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                // Whoever does not believe the certificate goes away in the middle.
                let _ = serve(stream, server, tls, &gate);
                gate.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Ok(front)
}

/// One request for each connection.
fn serve(stream: TcpStream, server: SocketAddr, tls: Arc<ServerConfig>, gate: &Gate) -> Result<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(tls)?, stream);
    let (first, request) = read(&mut stream)?;
    let writes = first.starts_with("PUT") || first.starts_with("POST") || first.starts_with("DELETE");
    let answer = match writes.then(|| gate.enter(first)).transpose() {
        Ok(entered) => {
            let answer = forward(server, &request)?;
            lock(&gate.written).1 += usize::from(entered.is_some());
            answer
        }
        Err(Some(status)) => {
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").into_bytes()
        }
        // Until whoever asked has gone.
        Err(None) => {
            let _ = stream.read(&mut [0]);
            return Ok(());
        }
    };
    stream.write_all(&answer)?;
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

impl Gate {
    /// The status to answer with, or none for no answer, where it may not pass.
    fn enter(&self, first: String) -> Result<(), Option<&'static str>> {
        let (mut way, mut written) = (lock(&self.way), lock(&self.written));
        match &mut *way {
            Way::Open => {}
            Way::Refuse(status) => return Err(Some(status)),
            Way::Hang { after: 0 } => return Err(None),
            Way::Hang { after } => *after -= 1,
        }
        written.0.push(first);
        Ok(())
    }
}

/// A whole request with its first line, changed so that its connection ends with it.
fn read(stream: &mut impl Read) -> Result<(String, Vec<u8>)> {
    let (mut bytes, end) = (Vec::new(), b"\r\n\r\n");
    let mut more = |bytes: &mut Vec<u8>| -> Result<()> {
        let mut piece = [0; 16 << 10];
        let got = stream.read(&mut piece)?;
        anyhow::ensure!(got > 0, "cut off");
        bytes.extend_from_slice(&piece[..got]);
        Ok(())
    };
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == end) {
            break at;
        }
        more(&mut bytes)?;
    };
    let text = String::from_utf8(bytes[..head].to_vec())?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let length: usize = length.map_or(Ok(0), |length| length.trim().parse())?;
    while bytes.len() < head + end.len() + length {
        more(&mut bytes)?;
    }
    let first = text.lines().next().context("no first line")?.to_owned();
    let mut request = format!("{text}\r\nconnection: close\r\n\r\n").into_bytes();
    request.extend_from_slice(&bytes[head + end.len()..]);
    Ok((first, request))
}

fn forward(server: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(60))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}
