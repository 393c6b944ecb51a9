//! The way to the store, to other hosts and to mirrors: mutual TLS with the fleet's certificates, which are read again when
//! their files change.
//!
//! Whatever address the store has, its certificate must be for [`STORE_NAME`] and signed by the fleet's CA. Another host is
//! known by its agent's certificate. A mirror is whoever the machine's own authorities, or the fleet's, say that it is: what
//! it sends is checked anyway.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use ship_model::mirror::MirrorUrl;
use ship_model::name::HostName;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::{Config, StoreAddress, TlsFiles};
use crate::trust::{self, Kin};

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
    #[error("clients' certificates cannot be checked with {}", path.display())]
    Verifier {
        path: PathBuf,
        source: rustls::server::VerifierBuilderError,
    },
    #[error("certificate {} names no host of a fleet", cert.display())]
    Nameless { cert: PathBuf },
}

/// A connection to any of them.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// What the files hold.
#[derive(Debug)]
struct Credentials {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Opens connections to the store.
#[derive(Debug)]
pub struct Dial {
    store: StoreAddress,
    files: TlsFiles,
    cached: std::sync::Mutex<Option<Cached>>,
    /// This machine's own authorities, once a mirror was dialled.
    machine: std::sync::OnceLock<Vec<CertificateDer<'static>>>,
}

#[derive(Debug, Clone)]
struct Cached {
    stamp: [Option<SystemTime>; 3],
    /// Grows when the certificates were read anew.
    edition: u64,
    config: Arc<ClientConfig>,
    credentials: Arc<Credentials>,
}

impl Dial {
    pub fn new(config: &Config) -> Self {
        Self {
            store: config.store.clone(),
            files: config.tls.clone(),
            cached: std::sync::Mutex::new(None),
            machine: std::sync::OnceLock::new(),
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
        self.cached().map(|cached| (cached.config, cached.edition))
    }

    fn cached(&self) -> Result<Cached, TlsError> {
        let files = [&self.files.ca, &self.files.cert, &self.files.key];
        let stamp = files.map(|path| path.metadata().and_then(|found| found.modified()).ok());
        let mut cached = match self.cached.lock() {
            Ok(cached) => cached,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some(known) = cached.as_ref().filter(|known| known.stamp == stamp) {
            return Ok(known.clone());
        }
        match read(&self.files) {
            Ok((config, credentials)) => {
                let new = Cached {
                    stamp,
                    edition: cached.as_ref().map_or(1, |known| known.edition + 1),
                    config: Arc::new(config),
                    credentials: Arc::new(credentials),
                };
                *cached = Some(new.clone());
                Ok(new)
            }
            // Files that are replaced one by one do not fit for a moment; what worked goes on working.
            Err(error) => cached.clone().ok_or(error),
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

    /// A connection whose other end is known to be the agent of `host`, of this fleet and environment.
    ///
    /// # Errors
    /// Also after 5 s without an answer.
    pub async fn connect_peer(
        &self,
        host: &HostName,
        address: SocketAddr,
    ) -> io::Result<TokioIo<Box<dyn Wire>>> {
        let credentials = self.cached().map_err(io::Error::other)?.credentials;
        let kin = self.kin(&credentials, Some(host.clone()));
        let kin = Arc::new(kin.map_err(io::Error::other)?);
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(kin);
        let config = self.client(config, &credentials).map_err(io::Error::other)?;
        let tcp = in_time(TcpStream::connect(address)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(address.ip().into());
        let tls = in_time(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await?;
        Ok(TokioIo::new(Box::new(tls)))
    }

    /// A connection to a mirror, with TLS where its URL says so.
    ///
    /// # Errors
    /// Also after 5 s without an answer.
    pub async fn connect_mirror(&self, mirror: &MirrorUrl) -> io::Result<TokioIo<Box<dyn Wire>>> {
        let tcp = in_time(TcpStream::connect((mirror.host.as_str(), mirror.port))).await?;
        tcp.set_nodelay(true)?;
        if !mirror.https {
            return Ok(TokioIo::new(Box::new(tcp)));
        }
        let credentials = self.cached().map_err(io::Error::other)?.credentials;
        let mut roots = RootCertStore::clone(&credentials.roots);
        roots.add_parsable_certificates(self.machine.get_or_init(of_this_machine).clone());
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        let config = self.client(config, &credentials).map_err(io::Error::other)?;
        let name = ServerName::try_from(mirror.host.clone()).map_err(io::Error::other)?;
        let tls = in_time(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await?;
        Ok(TokioIo::new(Box::new(tls)))
    }

    fn client(
        &self,
        config: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
        credentials: &Credentials,
    ) -> Result<ClientConfig, TlsError> {
        let config = config.with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key());
        let mut config = config.map_err(|source| self.files.unpaired(source))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// What this host shows to others that come to it, and whom it lets in; and its edition.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn server(&self) -> Result<(ServerConfig, u64), TlsError> {
        let cached = self.cached()?;
        let credentials = &cached.credentials;
        let kin = Arc::new(self.kin(credentials, None)?);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Provider)?
            .with_client_cert_verifier(kin)
            .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())
            .map_err(|source| self.files.unpaired(source))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((config, cached.edition))
    }

    fn kin(&self, credentials: &Credentials, only: Option<HostName>) -> Result<Kin, TlsError> {
        let own = credentials.chain.first().and_then(trust::name_in);
        let prefix = own.as_deref().and_then(trust::kin_of);
        let prefix = prefix.ok_or_else(|| TlsError::Nameless {
            cert: self.files.cert.clone(),
        })?;
        let roots = Arc::clone(&credentials.roots);
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
        let chain = chain.map_err(|source| TlsError::Verifier {
            path: self.files.ca.clone(),
            source,
        })?;
        Ok(Kin::new(chain, prefix, only))
    }
}

impl TlsFiles {
    fn unpaired(&self, source: rustls::Error) -> TlsError {
        TlsError::Pair {
            cert: self.cert.clone(),
            key: self.key.clone(),
            source,
        }
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities that this machine believes; some may be unreadable.
fn of_this_machine() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(DIAL_TIMEOUT, step).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s")),
    }
}

fn read(files: &TlsFiles) -> Result<(ClientConfig, Credentials), TlsError> {
    let mut roots = RootCertStore::empty();
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
    let roots = Arc::new(roots);
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)?
        .with_root_certificates(Arc::clone(&roots))
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .map_err(|source| files.unpaired(source))?;
    Ok((config, Credentials { roots, chain, key }))
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
