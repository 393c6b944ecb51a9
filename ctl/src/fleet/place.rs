//! Where things lie in a fleet's folder.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct Place {
    root: PathBuf,
}

impl Place {
    /// `root` is absolute.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Held while the fleet runs.
    pub fn lock(&self) -> PathBuf {
        self.root.join("up.lock")
    }

    pub fn record(&self) -> PathBuf {
        self.root.join("up.json")
    }

    pub fn context(&self) -> PathBuf {
        self.root.join("context.toml")
    }

    /// The operator's certificate.
    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Written by the store when it serves.
    pub fn addresses(&self) -> PathBuf {
        self.store().join("run/addresses.json")
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    pub fn host(&self, name: &str) -> PathBuf {
        self.root.join("hosts").join(name)
    }
}

/// `h1`, `h2`, …
pub fn host_name(number: u8) -> String {
    format!("h{number}")
}
