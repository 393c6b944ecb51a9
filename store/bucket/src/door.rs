//! The way into a bucket: where it is, with which keys, and what it means when it does not open.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::client::Certificate;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientOptions, Error, RetryConfig};
use serde::Deserialize;

use crate::bucket::{Bucket, BucketError};
use crate::settings::BucketSettings;

/// For a connection to be there, with TLS.
const CONNECT: Duration = Duration::from_secs(15);
/// How long one request is tried again before all of it fails.
const RETRY: Duration = Duration::from_secs(15);
const RETRIES: usize = 5;
/// Longest part of a server's words that is told on, in characters.
const WORDS: usize = 300;

/// The way into one bucket. Shows no keys.
#[derive(Debug)]
pub struct Door {
    settings: BucketSettings,
    /// None: from the environment.
    credentials: Option<PathBuf>,
    ca: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

/// Why a bucket does not take what is brought. Says nothing that the server said of keys.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{place} refused {keys}: they must be valid and allow to read and to write objects")]
    Keys { place: String, keys: String },
    #[error("there is no {place}: make it, or correct its name")]
    NoBucket { place: String },
    #[error("{place} did not answer as it should: {words}")]
    Failed { place: String, words: String },
}

impl Door {
    /// `dir` is the folder that the files of `settings` are relative to.
    pub fn new(settings: BucketSettings, dir: &Path) -> Self {
        // reqwest asks for the process's. That there is one already is as good: it is the only one in this program.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            credentials: settings.credentials.as_ref().map(|file| dir.join(file)),
            ca: settings.ca.as_ref().map(|file| dir.join(file)),
            settings,
        }
    }

    /// Reads keys and certificates anew, since they are changed. Blocks on the disk, not on the bucket.
    pub fn open(&self) -> Result<Bucket<'_>, BucketError> {
        let (keys, settings) = (self.keys()?, &self.settings);
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(keys.access_key_id)
            .with_secret_access_key(keys.secret_access_key)
            .with_client_options(self.speech()?)
            .with_retry(RetryConfig {
                retry_timeout: RETRY,
                max_retries: RETRIES,
                backoff: BackoffConfig::default(),
            });
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(token) = keys.session_token {
            builder = builder.with_token(token);
        }
        let store = builder.build().map_err(|error| self.refusal(error))?;
        Ok(Bucket::new(store, self))
    }

    /// How long is waited, and whom is believed.
    fn speech(&self) -> Result<ClientOptions, BucketError> {
        let mut speech = ClientOptions::new()
            .with_connect_timeout(CONNECT)
            .with_timeout(Duration::from_secs(self.settings.answer_seconds))
            .with_allow_http(self.settings.plain_http);
        let Some(path) = &self.ca else { return Ok(speech) };
        let pem = fs::read(path).map_err(|source| BucketError::Read {
            path: path.clone(),
            source,
        })?;
        let known = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if known.is_empty() {
            return Err(BucketError::Ca { path: path.clone() });
        }
        speech = speech.with_no_system_certificates(true);
        Ok(known
            .into_iter()
            .fold(speech, ClientOptions::with_root_certificate))
    }

    fn keys(&self) -> Result<Keys, BucketError> {
        let Some(path) = &self.credentials else {
            return from_environment().ok_or(BucketError::NoKeys);
        };
        let unread = |source| BucketError::Read {
            path: path.clone(),
            source,
        };
        let open = fs::metadata(path).map_err(unread)?.permissions().mode() & 0o007 != 0;
        if open {
            return Err(BucketError::OpenKeys { path: path.clone() });
        }
        let text = fs::read_to_string(path).map_err(unread)?;
        // What toml says of an error quotes the line, which may be the secret.
        toml::from_str(&text).map_err(|_| BucketError::Credentials { path: path.clone() })
    }

    /// Where the asset of a URL path lies.
    pub(crate) fn key(&self, url_path: &str) -> Result<Key, BucketError> {
        let path = format!("{}{url_path}", self.settings.prefix);
        Key::from_url_path(&path).map_err(|_| BucketError::Key {
            place: self.to_string(),
            url: url_path.to_owned(),
        })
    }

    pub(crate) fn refusal(&self, error: Error) -> Refusal {
        let place = self.to_string();
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Refusal::Keys {
                place,
                keys: match &self.credentials {
                    Some(path) => format!("the keys in {}", path.display()),
                    None => "the keys in the environment".to_owned(),
                },
            },
            Error::NotFound { .. } => Refusal::NoBucket { place },
            error => Refusal::Failed {
                place,
                words: words(&error.to_string()),
            },
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BucketSettings {
            bucket,
            endpoint,
            region,
            ..
        } = &self.settings;
        match endpoint {
            Some(endpoint) => write!(f, "bucket {bucket} at {endpoint}"),
            None => write!(f, "bucket {bucket} in {region}"),
        }
    }
}

fn from_environment() -> Option<Keys> {
    let told = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    Some(Keys {
        access_key_id: told("AWS_ACCESS_KEY_ID")?,
        secret_access_key: told("AWS_SECRET_ACCESS_KEY")?,
        session_token: told("AWS_SESSION_TOKEN"),
    })
}

/// Up to the document that the server sent along, which may name keys.
fn words(said: &str) -> String {
    let said = said.split(['<', '\n']).next().unwrap_or_default();
    said.trim_end_matches([':', ' ']).chars().take(WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn what_a_server_says_of_keys_is_not_told_on() {
        let said =
            "Server returned non-2xx status code: 400 Bad Request: <?xml version=\"1.0\"?><AWSAccessKeyId>AK";
        assert_eq!(
            words(said),
            "Server returned non-2xx status code: 400 Bad Request"
        );
    }
}
