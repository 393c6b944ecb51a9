//! One connection to the store: TCP, then TLS in both directions, with the certificate that lies on disk
//! at this moment, so that a long-running command survives its rotation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::context::Context;
use crate::error::{CommandError, Exit};

/// The name every store's certificate carries, whatever its address.
pub const STORE_NAME: &str = "store.ship.internal";

/// For connecting, and once more for the handshake.
const DEADLINE: Duration = Duration::from_secs(5);

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// gRPC.
    Http2,
    /// Ranged reads of bundles.
    Http1,
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("read the {what} {path}")]
    Pem {
        what: &'static str,
        path: PathBuf,
        source: pem::Error,
    },
    #[error("use the certificate {path} with its key")]
    Identity { path: PathBuf, source: rustls::Error },
    #[error("no store answers at {store}")]
    Connect { store: String, source: io::Error },
    #[error("no store answers at {store} within {} s", DEADLINE.as_secs())]
    Silent { store: String },
    #[error("shake hands with the store at {store}")]
    Handshake { store: String, source: io::Error },
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Connects. The store must prove to be the one of the context's fleet.
pub async fn dial(context: &Context, speech: Speech) -> Result<TlsStream<TcpStream>, DialError> {
    let config = Arc::new(config(context, speech)?);
    let store = || context.store.clone();
    let connecting = timeout(DEADLINE, TcpStream::connect(&context.store)).await;
    let tcp = connecting
        .map_err(|_| DialError::Silent { store: store() })?
        .map_err(|source| DialError::Connect {
            store: store(),
            source,
        })?;
    // Small calls would wait for each other's acknowledgements otherwise; failing to ask for it only costs time.
    let _ = tcp.set_nodelay(true);
    let name = ServerName::try_from(STORE_NAME)
        .map_err(|_| DialError::Setup(rustls::Error::General(STORE_NAME.to_owned())))?;
    timeout(DEADLINE, TlsConnector::from(config).connect(name, tcp))
        .await
        .map_err(|_| DialError::Silent { store: store() })?
        .map_err(|source| DialError::Handshake {
            store: store(),
            source,
        })
}

fn config(context: &Context, speech: Speech) -> Result<ClientConfig, DialError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(DialError::Setup)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates("fleet's CA", &context.ca)? {
        roots.add(certificate).map_err(DialError::Setup)?;
    }
    let key = PrivateKeyDer::from_pem_file(&context.key).map_err(|source| DialError::Pem {
        what: "key",
        path: context.key.clone(),
        source,
    })?;
    let mut config = builder
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("certificate", &context.cert)?, key)
        .map_err(|source| DialError::Identity {
            path: context.cert.clone(),
            source,
        })?;
    config.alpn_protocols = match speech {
        Speech::Http2 => vec![b"h2".to_vec()],
        Speech::Http1 => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

/// All certificates of a PEM file; at least one.
pub fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, DialError> {
    let failed = |source| DialError::Pem {
        what,
        path: path.to_owned(),
        source,
    };
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let all: Vec<_> = read.collect::<Result<_, _>>().map_err(failed)?;
    if all.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(all)
}

impl From<DialError> for CommandError {
    fn from(error: DialError) -> Self {
        let fault = Self::of(Exit::Error, &error);
        match &error {
            DialError::Connect { .. } | DialError::Silent { .. } => fault.hint(
                "is it running? On one machine: shipctl up. Elsewhere: shipstore serve --dir DIR; then shipctl doctor",
            ),
            DialError::Handshake { source, .. } => fault.hint(handshake_hint(source)),
            DialError::Pem { .. } | DialError::Identity { .. } => fault
                .hint("the context names it; shipstore issue --role operator --name NAME --out DIR makes a new one"),
            DialError::Setup(_) => fault,
        }
    }
}

fn handshake_hint(source: &io::Error) -> &'static str {
    let tls = source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "the store's certificate is not of the fleet whose CA the context names: is it the right context?"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "the store does not take the context's certificate: is it of this fleet, and not expired?"
        }
        _ => "something else may listen there; see: shipctl doctor",
    }
}
