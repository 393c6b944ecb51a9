//! The store's side of TLS: its certificate, and whose certificates it accepts.
//!
//! The whole configuration is one value that is swapped: a handshake takes the newest, so a new certificate or a new
//! CA counts for the next connection, and connections made before keep going. A folder that cannot be read whole
//! changes nothing: the last good configuration stays.
//!
//! A client without a certificate gets through the handshake, so that `/healthz` needs none; everything else asks
//! for the certificate afterwards. A certificate of another CA, an expired one, or one that is not for clients fails
//! the handshake.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadTlsError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no {what} in PEM form", path.display())]
    Empty { path: PathBuf, what: &'static str },
    #[error("{} holds a CA certificate that cannot be used", path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("client certificates cannot be verified with this CA")]
    Verifier(#[from] VerifierBuilderError),
    #[error("the store's certificate and key in {} do not go together", path.display())]
    Pair { path: PathBuf, source: rustls::Error },
}

/// The newest good configuration of a folder with `ca.pem`, `cert.pem` and `key.pem`.
#[derive(Debug)]
pub struct Tls {
    folder: PathBuf,
    config: ArcSwap<ServerConfig>,
    seen: Mutex<Seen>,
}

const FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];
type Seen = [Option<(SystemTime, u64)>; 3];

impl Tls {
    pub fn load(folder: &Path) -> Result<Self, LoadTlsError> {
        let seen = stamps(folder);
        Ok(Self {
            folder: folder.to_owned(),
            config: ArcSwap::from_pointee(read_config(folder)?),
            seen: Mutex::new(seen),
        })
    }

    /// What the next handshake uses.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Reads the folder again. On an error the last good configuration stays.
    pub fn reload(&self) -> Result<(), LoadTlsError> {
        // Stamps before the content: a change in between is seen as one more change.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&self.folder);
        let config = read_config(&self.folder)?;
        self.config.store(Arc::new(config));
        Ok(())
    }

    /// Reads the folder again if a file in it has changed; tells whether it did.
    pub fn reload_if_changed(&self) -> Result<bool, LoadTlsError> {
        let changed = *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != stamps(&self.folder);
        if changed {
            self.reload()?;
        }
        Ok(changed)
    }
}

fn stamps(folder: &Path) -> Seen {
    FILES.map(|name| {
        let stat = fs::metadata(folder.join(name)).ok()?;
        Some((stat.modified().ok()?, stat.len()))
    })
}

/// The one provider of cryptography, named wherever one is needed: no process-wide default decides.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read_config(folder: &Path) -> Result<ServerConfig, LoadTlsError> {
    let authority = folder.join("ca.pem");
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&authority)? {
        let added = roots.add(certificate);
        added.map_err(|source| LoadTlsError::Authority {
            path: authority.clone(),
            source,
        })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()?;
    let pair = |source| LoadTlsError::Pair {
        path: folder.to_owned(),
        source,
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates(&folder.join("cert.pem"))?,
            key(&folder.join("key.pem"))?,
        )
        .map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, LoadTlsError> {
    fs::read(path).map_err(|source| LoadTlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadTlsError> {
    let empty = || LoadTlsError::Empty {
        path: path.to_owned(),
        what: "certificate",
    };
    let pem = read(path)?;
    let all: Result<Vec<_>, _> = rustls_pemfile::certs(&mut &pem[..]).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) | Err(_) => Err(empty()),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, LoadTlsError> {
    let pem = read(path)?;
    let key = rustls_pemfile::private_key(&mut &pem[..]).ok().flatten();
    key.ok_or_else(|| LoadTlsError::Empty {
        path: path.to_owned(),
        what: "private key",
    })
}
