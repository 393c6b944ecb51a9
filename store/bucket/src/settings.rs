//! What is said of a bucket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Longest time that one request may be given, in seconds.
const LONGEST: u64 = 3600;

/// A bucket of an S3-compatible store. Keys are never here: a file of their own has them, or the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSettings {
    pub bucket: String,
    /// `https://s3.example.com`; none: Amazon's, of the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default = "default_region")]
    pub region: String,
    /// Before each URL path, without slashes at its ends.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// A TOML file with `access_key_id` and `secret_access_key` that not everybody may read; relative to the folder of whoever
    /// reads this. None: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// A PEM file with the certificates that the endpoint's must come from, instead of those that the system trusts; relative as
    /// `credentials` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// For the answer to one request, with the bytes of one part on a slow line, in seconds.
    #[serde(default = "default_answer", skip_serializing_if = "is_default_answer")]
    pub answer_seconds: u64,
    /// Whether an `http://` endpoint may be used: the secret key is never sent, but all else can be read on the way.
    #[serde(default, skip_serializing_if = "is_false")]
    pub plain_http: bool,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

const fn default_answer() -> u64 {
    60
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_default_answer(value: &u64) -> bool {
    *value == default_answer()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// What is wrong with what is said of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketDefect {
    #[error("endpoint must be https://HOST, or http://HOST where plain HTTP is allowed, not {endpoint:?}")]
    Endpoint { endpoint: String },
    #[error("bucket is empty")]
    NoBucket,
    #[error("prefix must not begin or end with a slash: {prefix:?}")]
    Prefix { prefix: String },
    #[error("answer_seconds must be from 1 to {LONGEST}, not {seconds}")]
    Answer { seconds: u64 },
}

impl BucketSettings {
    /// One of this name, with all else as it is when nobody says otherwise.
    pub fn of(bucket: &str) -> Self {
        Self {
            bucket: bucket.to_owned(),
            endpoint: None,
            region: default_region(),
            prefix: String::new(),
            credentials: None,
            ca: None,
            answer_seconds: default_answer(),
            plain_http: false,
        }
    }

    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), BucketDefect> {
        if self.bucket.is_empty() {
            return Err(BucketDefect::NoBucket);
        }
        if self.prefix.starts_with('/') || self.prefix.ends_with('/') {
            let prefix = self.prefix.clone();
            return Err(BucketDefect::Prefix { prefix });
        }
        if !(1..=LONGEST).contains(&self.answer_seconds) {
            let seconds = self.answer_seconds;
            return Err(BucketDefect::Answer { seconds });
        }
        let endpoint = self.endpoint.iter();
        match endpoint.into_iter().find(|endpoint| !self.is_address(endpoint)) {
            None => Ok(()),
            Some(endpoint) => Err(BucketDefect::Endpoint {
                endpoint: endpoint.clone(),
            }),
        }
    }

    fn is_address(&self, endpoint: &str) -> bool {
        endpoint.starts_with("https://") || (self.plain_http && endpoint.starts_with("http://"))
    }
}
