//! A message posted to a web server.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};

use super::settings::SinkSettings;
use crate::log::whole;

/// Longest part of an answer that is told on, in characters.
const WORDS: usize = 200;
/// Longest token file.
const TOKEN: u64 = 4096;

#[derive(Debug)]
pub struct Webhook {
    url: String,
    token: Option<PathBuf>,
    ca: Option<PathBuf>,
}

/// Why a web server did not take a message.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} can be read by everybody: chmod o-rwx it", path.display())]
    Open { path: PathBuf },
    #[error("{} is no token: one line of printable characters, at most {TOKEN} bytes", path.display())]
    Token { path: PathBuf },
    #[error("{} has no certificate", path.display())]
    Ca { path: PathBuf },
    #[error("{words}")]
    Unsent { words: String },
    #[error("it answered with status {status}: {words}")]
    Refused { status: u16, words: String },
}

impl Webhook {
    pub fn new(url: String, settings: &SinkSettings, dir: &Path) -> Self {
        Self {
            url,
            token: settings.token.as_ref().map(|file| dir.join(file)),
            ca: settings.ca.as_ref().map(|file| dir.join(file)),
        }
    }

    /// Scheme, host and port: many services put a secret into the path.
    pub fn place(&self) -> String {
        let url = reqwest::Url::parse(&self.url).ok();
        url.map_or_else(String::new, |url| url.origin().ascii_serialization())
    }

    /// Posts it; any status of 200 to 299 is a word that it was taken. Redirects are not followed: the token is for this server.
    ///
    /// Token and certificates are read anew each time, since they are changed.
    pub async fn post(&self, message: &[u8]) -> Result<(), WebhookError> {
        let unsent = |error: reqwest::Error| WebhookError::Unsent {
            // The address may hold a secret.
            words: whole(&error.without_url()),
        };
        let request = self.client()?.post(&self.url);
        let mut request = request
            .header(CONTENT_TYPE, "application/json")
            .body(message.to_vec());
        if let Some(path) = &self.token {
            request = request.header(AUTHORIZATION, bearer(path)?);
        }
        let mut answer = request.send().await.map_err(unsent)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let mut words = Vec::new();
        while words.len() < WORDS * 4
            && let Some(piece) = answer.chunk().await.map_err(unsent)?
        {
            words.extend_from_slice(&piece);
        }
        let words: String = String::from_utf8_lossy(&words).chars().take(WORDS).collect();
        Err(WebhookError::Refused {
            status: status.as_u16(),
            words: ship_model::path::escape(words.trim().as_bytes()),
        })
    }

    fn client(&self) -> Result<reqwest::Client, WebhookError> {
        // reqwest asks for the process's. That there is one already is as good: it is the only one in this program.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(path) = &self.ca {
            let pem = fs::read(path).map_err(|source| WebhookError::Read {
                path: path.clone(),
                source,
            })?;
            let known = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if known.is_empty() {
                return Err(WebhookError::Ca { path: path.clone() });
            }
            builder = builder.tls_certs_only(known);
        }
        builder.build().map_err(|error| WebhookError::Unsent {
            words: whole(&error.without_url()),
        })
    }
}

fn bearer(path: &Path) -> Result<HeaderValue, WebhookError> {
    let unread = |source| WebhookError::Read {
        path: path.to_owned(),
        source,
    };
    let facts = fs::metadata(path).map_err(unread)?;
    if facts.permissions().mode() & 0o007 != 0 {
        return Err(WebhookError::Open {
            path: path.to_owned(),
        });
    }
    let no_token = || WebhookError::Token {
        path: path.to_owned(),
    };
    if facts.len() > TOKEN {
        return Err(no_token());
    }
    let text = fs::read_to_string(path).map_err(unread)?;
    let text = text.trim();
    let printable = !text.is_empty() && text.chars().all(|letter| letter.is_ascii_graphic());
    let mut value = printable
        .then(|| HeaderValue::from_str(&format!("Bearer {text}")).ok())
        .flatten()
        .ok_or_else(no_token)?;
    value.set_sensitive(true);
    Ok(value)
}
