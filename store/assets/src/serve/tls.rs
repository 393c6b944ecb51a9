//! TLS on an asset port: a certificate that browsers trust, with its key, and no question who calls.
//!
//! The configuration is one value that is swapped: a handshake takes the newest, connections made before keep going.
//! Files that cannot be used change nothing: the last good ones stay.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::rules::TlsFiles;

/// Why an asset port's certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PortTlsError {
    #[error("cannot use {}: write there a {what} in PEM form", path.display())]
    Pem {
        path: PathBuf,
        what: &'static str,
        source: pem::Error,
    },
    #[error("{} holds no certificate in PEM form", path.display())]
    Empty { path: PathBuf },
    #[error("certificate {} and key {} do not go together", cert.display(), key.display())]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
}

/// The newest good configuration of two files.
#[derive(Debug)]
pub struct PortTls {
    /// None: whoever made it puts new configurations in.
    files: Option<TlsFiles>,
    config: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Seen>,
}

type Seen = [Option<(SystemTime, u64)>; 2];

impl PortTls {
    /// Reads both files.
    ///
    /// # Errors
    /// [`PortTlsError`].
    pub fn load(files: &TlsFiles) -> Result<Self, PortTlsError> {
        let seen = stamps(files);
        Ok(Self {
            files: Some(files.clone()),
            config: RwLock::new(Arc::new(read(files)?)),
            seen: Mutex::new(seen),
        })
    }

    /// One that somebody else reads and renews.
    pub fn of(config: ServerConfig) -> Self {
        Self {
            files: None,
            config: RwLock::new(Arc::new(config)),
            seen: Mutex::default(),
        }
    }

    /// What counts from the next handshake on.
    pub fn put(&self, config: ServerConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// What the next handshake uses.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again; on an error the last good ones stay.
    ///
    /// # Errors
    /// [`PortTlsError`].
    pub fn reload(&self) -> Result<(), PortTlsError> {
        if let Some(files) = &self.files {
            // Stamps before the content: a change in between is seen as one more change.
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps(files);
            self.put(read(files)?);
        }
        Ok(())
    }

    /// As [`Self::reload`], if one of the files has changed; tells whether it has.
    ///
    /// # Errors
    /// [`PortTlsError`].
    pub fn reload_if_changed(&self) -> Result<bool, PortTlsError> {
        let Some(files) = &self.files else {
            return Ok(false);
        };
        let changed = *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != stamps(files);
        if changed {
            self.reload()?;
        }
        Ok(changed)
    }
}

fn stamps(files: &TlsFiles) -> Seen {
    [&files.cert, &files.key].map(|path| {
        let stat = fs::metadata(path).ok()?;
        Some((stat.modified().ok()?, stat.len()))
    })
}

fn read(files: &TlsFiles) -> Result<ServerConfig, PortTlsError> {
    let bad = |what: &'static str| {
        let path = if what == "private key" {
            &files.key
        } else {
            &files.cert
        };
        let path = path.clone();
        move |source| PortTlsError::Pem { path, what, source }
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&files.cert).and_then(|certificates| certificates.collect());
    let chain = chain.map_err(bad("certificate"))?;
    if chain.is_empty() {
        return Err(PortTlsError::Empty {
            path: files.cert.clone(),
        });
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(bad("private key"))?;
    let pair = |source| PortTlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
