//! The way to the store: mutual TLS with the fleet's certificates, which are read again when their files change.
//!
//! Whatever address the store has, its certificate must be for [`STORE_NAME`] and signed by the fleet's CA.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{Config, StoreAddress, TlsFiles};

/// The name every store's certificate carries.
pub const STORE_NAME: &str = "store.ship.internal";
/// For the TCP connection and the handshake, each.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the host's certificates cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no usable PEM", path.display())]
    Pem {
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("{} holds no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("certificate {} and key {} cannot be used together", cert.display(), key.display())]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
    #[error("{} is no certificate authority", path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("TLS cannot be set up")]
    Provider(#[source] rustls::Error),
}

/// Opens connections to the store.
#[derive(Debug)]
pub struct Dial {
    store: StoreAddress,
    files: TlsFiles,
    cached: std::sync::Mutex<Option<Cached>>,
}

#[derive(Debug, Clone)]
struct Cached {
    stamp: [Option<SystemTime>; 3],
    /// Grows when the certificates were read anew.
    edition: u64,
    config: Arc<ClientConfig>,
}

impl Dial {
    pub fn new(config: &Config) -> Self {
        Self {
            store: config.store.clone(),
            files: config.tls.clone(),
            cached: std::sync::Mutex::new(None),
        }
    }

    pub fn store(&self) -> &StoreAddress {
        &self.store
    }

    /// The TLS configuration and its edition, which changes when the files did.
    ///
    /// # Errors
    /// [`TlsError`] when they cannot be used and no earlier ones are known.
    pub fn tls(&self) -> Result<(Arc<ClientConfig>, u64), TlsError> {
        let files = [&self.files.ca, &self.files.cert, &self.files.key];
        let stamp = files.map(|path| path.metadata().and_then(|found| found.modified()).ok());
        let mut cached = match self.cached.lock() {
            Ok(cached) => cached,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some(known) = cached.as_ref().filter(|known| known.stamp == stamp) {
            return Ok((Arc::clone(&known.config), known.edition));
        }
        match read(&self.files) {
            Ok(config) => {
                let edition = cached.as_ref().map_or(1, |known| known.edition + 1);
                let config = Arc::new(config);
                *cached = Some(Cached {
                    stamp,
                    edition,
                    config: Arc::clone(&config),
                });
                Ok((config, edition))
            }
            // Files that are replaced one by one do not fit for a moment; what worked goes on working.
            Err(error) => match cached.as_ref() {
                Some(known) => Ok((Arc::clone(&known.config), known.edition)),
                None => Err(error),
            },
        }
    }

    /// A connection whose peer is known to be the store, speaking one of `protocols` (ALPN).
    ///
    /// # Errors
    /// Also after 5 s without an answer.
    pub async fn connect(&self, protocol: &[u8]) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let (config, _) = self.tls().map_err(io::Error::other)?;
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = vec![protocol.to_vec()];
        let address = (self.store.host.as_str(), self.store.port);
        let tcp = in_time(TcpStream::connect(address)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(STORE_NAME).map_err(io::Error::other)?;
        let tls = in_time(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await?;
        Ok(TokioIo::new(tls))
    }
}

async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(DIAL_TIMEOUT, step).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s")),
    }
}

fn read(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in certificates(&files.ca)? {
        roots.add(authority).map_err(|source| TlsError::Authority {
            path: files.ca.clone(),
            source,
        })?;
    }
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes(&files.key)?).map_err(|source| TlsError::Pem {
        path: files.key.clone(),
        source,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|source| TlsError::Pair {
            cert: files.cert.clone(),
            key: files.key.clone(),
            source,
        })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = bytes(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem {
            path: path.to_owned(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}
