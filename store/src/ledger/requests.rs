//! Requests that were carried out, so that a repeated one is answered and not done again.

use std::fmt;

use serde::{Deserialize, Serialize};
use ship_model::desired::DeployNumber;
use ship_model::name::{AppName, EnvName};
use ship_model::release::ReleaseNumber;

use super::{Ledger, LedgerError};

/// 16 random bytes that a client chose for one request and every repetition of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub [u8; 16]);

impl RequestId {
    /// Takes an id that came from outside, if it has the right length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex_of(&self.0))
    }
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        use fmt::Write as _;
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// What a request made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Made {
    Release {
        app: AppName,
        number: ReleaseNumber,
    },
    Deploy {
        env: EnvName,
        app: AppName,
        deploy: DeployNumber,
    },
}

/// Kept for every request that made something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Digest of what was asked: the same id with another wish is a mistake, not a repetition.
    pub asked: String,
    pub made: Made,
}

pub(super) fn key(request: RequestId) -> String {
    format!("request/{request}")
}

impl Ledger {
    /// What this request made earlier, if it was carried out.
    pub fn request(&self, request: RequestId) -> Result<Option<RequestRecord>, LedgerError> {
        Ok(self.read(&key(request))?.map(|found| found.record))
    }
}
