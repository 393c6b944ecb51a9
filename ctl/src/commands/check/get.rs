//! One request, as a browser would make it, within bounds.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use ship_model::digest::BlobDigest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::context::Context;
use crate::dial::{DialError, certificates};

/// Most of one answer that is read; what is larger is no asset of a page.
const MAX_BODY: u64 = 1 << 30;
/// Most of one answer that is kept in memory, to see what it names.
pub const MAX_TEXT: usize = 8 << 20;
/// Where systems keep the authorities they trust.
const TRUSTED: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// `https://www.example.com:8443`
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    tls: bool,
    /// As in a URL: IPv6 in brackets.
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of a URL; none if it is no HTTP URL.
    pub fn read(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        Some(Self {
            tls,
            host: host.to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        })
    }

    fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// For the resolver and for certificates.
    fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("its name cannot be in a certificate")]
    Name,
    #[error("TLS cannot be agreed on")]
    Tls(#[source] io::Error),
    #[error("the answer is no HTTP")]
    Http(#[from] hyper::Error),
    #[error("the address cannot be asked for")]
    Request(#[from] http::Error),
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Of the bytes as they came, all of them.
    pub digest: BlobDigest,
    pub headers: HeaderMap,
    /// The first bytes, as many as were asked for.
    pub start: Vec<u8>,
    /// It was longer than anything that is read.
    pub is_cut: bool,
}

impl Answer {
    /// Whether the bytes are the content, and not the content in an encoding that nobody asked for.
    pub fn is_plain(&self) -> bool {
        self.text(CONTENT_ENCODING)
            .is_none_or(|encoding| encoding == "identity")
    }

    pub fn content_type(&self) -> &str {
        let whole = self.text(CONTENT_TYPE).unwrap_or_default();
        whole.split(';').next().unwrap_or_default().trim()
    }

    pub fn location(&self) -> Option<&str> {
        self.text(LOCATION).filter(|_| (300..400).contains(&self.status))
    }

    fn text(&self, name: http::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Makes requests: whom it trusts, how long it waits.
#[derive(Debug, Clone)]
pub struct Getter {
    tls: Arc<ClientConfig>,
    patience: Duration,
}

impl Getter {
    /// Trusts whom this system trusts (`SSL_CERT_FILE` names another file), and the fleet's own authority.
    pub fn new(context: &Context, patience: Duration) -> Result<Self, DialError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates("fleet's CA", &context.ca)?);
        let named = std::env::var_os("SSL_CERT_FILE");
        let found = TRUSTED.iter().map(Path::new).find(|path| path.exists());
        if let Some(file) = named.as_deref().map(Path::new).or(found) {
            roots.add_parsable_certificates(certificates("trusted authorities", file)?);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(DialError::Setup)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            tls: Arc::new(tls),
            patience,
        })
    }

    /// Asks `origin` for `path` (with its query), and reads the answer to its end; keeps the first `keep` bytes.
    pub async fn get(&self, origin: &Origin, path: &str, keep: usize) -> Result<Answer, GetError> {
        let getting = self.ask(origin, path, keep);
        let late = |_| GetError::Late(self.patience);
        timeout(self.patience, getting).await.map_err(late)?
    }

    async fn ask(&self, origin: &Origin, path: &str, keep: usize) -> Result<Answer, GetError> {
        let address = (origin.name(), origin.port);
        let tcp = TcpStream::connect(address).await.map_err(GetError::Connect)?;
        if !origin.tls {
            return exchange(tcp, origin, path, keep).await;
        }
        let name = ServerName::try_from(origin.name().to_owned()).map_err(|_| GetError::Name)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, tcp).await.map_err(GetError::Tls)?;
        exchange(stream, origin, path, keep).await
    }
}

async fn exchange<S>(stream: S, origin: &Origin, path: &str, keep: usize) -> Result<Answer, GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the answer and the sender are dropped; what is wrong with it, the answer tells.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = Request::get(path)
        .header(HOST, origin.authority())
        .header(USER_AGENT, concat!("shipctl/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (head, mut body) = sender.send_request(request).await?.into_parts();
    let mut hasher = blake3::Hasher::new();
    let (mut length, mut start) = (0_u64, Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        hasher.update(&data);
        length += data.len() as u64;
        let room = keep.saturating_sub(start.len()).min(data.len());
        start.extend_from_slice(data.get(..room).unwrap_or_default());
        if length > MAX_BODY {
            break;
        }
    }
    Ok(Answer {
        status: head.status.as_u16(),
        digest: hasher.finalize().into(),
        headers: head.headers,
        start,
        is_cut: length > MAX_BODY,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_one_spelling() {
        let shown = |url: &str| Origin::read(url).map(|origin| origin.to_string());
        for (url, origin) in [
            ("https://Example.com/a?b", Some("https://example.com")),
            ("https://example.com:443", Some("https://example.com")),
            ("http://example.com:443/", Some("http://example.com:443")),
            ("http://[::1]:80/x", Some("http://[::1]")),
            ("http://127.0.0.1:8080", Some("http://127.0.0.1:8080")),
            ("ftp://example.com/", None),
            ("/index.html", None),
            ("example.com", None),
            ("https://", None),
            ("", None),
        ] {
            assert_eq!(shown(url).as_deref(), origin, "{url}");
        }
        assert_eq!(
            Origin::read("http://[::1]:80/x")
                .map(|o| o.name().to_owned())
                .as_deref(),
            Some("::1")
        );
    }
}
