//! A gate's question over HTTP: one GET to a server that `store.toml` names, no redirects followed, no proxy asked.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use ship_model::rollout::Expect;

use super::{Offers, Word};
use crate::log::whole;
use crate::settings::GateSite;

/// Largest answer that is looked at, in bytes.
const MAX_ANSWER: usize = 256 << 10;
/// Largest file of headers, in bytes, and most of them.
const MAX_HEADERS_FILE: u64 = 64 << 10;
const MAX_HEADERS: usize = 32;

/// Asks once. An error is why there is no answer.
pub(super) async fn check(
    url: &str,
    expect: &Expect,
    patience: Duration,
    offers: &Offers,
) -> Result<Word, String> {
    let url = Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
    let site = offers
        .settings
        .site
        .iter()
        .find(|site| is_of(site, &url))
        .ok_or_else(|| {
            format!(
                "the store offers no site for {}: [[gates.site]] in store.toml",
                origin(&url)
            )
        })?;
    let headers = match site.headers.clone() {
        None => HeaderMap::new(),
        Some(path) => {
            let read = offers.bridge.run(move || read_headers(&path)).await;
            read.map_err(|error| error.to_string())??
        }
    };
    // reqwest asks for the process's. That there is one already is as good: it is the only one in this program.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let failed = |error: reqwest::Error| whole(&error.without_url());
    let client = Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .timeout(patience)
        .build()
        .map_err(failed)?;
    let mut answer = client.get(url).headers(headers).send().await.map_err(failed)?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > MAX_ANSWER {
            return Err(format!("the answer is longer than {} KiB", MAX_ANSWER >> 10));
        }
        body.extend_from_slice(&piece);
    }
    Ok(expect.judge(status, &body))
}

/// The same server, and a path below the site's; `..` is resolved in both.
fn is_of(site: &GateSite, url: &Url) -> bool {
    Url::parse(&site.url).is_ok_and(|site| {
        site.origin() == url.origin()
            && url.path().starts_with(site.path())
            && url.username().is_empty()
            && url.password().is_none()
    })
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Read for each check: secrets are changed while a store runs.
fn read_headers(path: &Path) -> Result<HeaderMap, String> {
    let of_file = |error: std::io::Error| format!("{}: {error}", path.display());
    let found = fs::metadata(path).map_err(of_file)?;
    if found.mode() & 0o077 != 0 {
        return Err(format!("{} may be read by others: chmod 600", path.display()));
    }
    if found.len() > MAX_HEADERS_FILE {
        return Err(format!(
            "{} is longer than {} KiB",
            path.display(),
            MAX_HEADERS_FILE >> 10
        ));
    }
    let text = fs::read_to_string(path).map_err(of_file)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let mut headers = HeaderMap::new();
    for (nth, line) in (1..).zip(lines) {
        // What stands there is a secret: only its place is told.
        let bad = || format!("{}: line {nth} is no header", PathBuf::from(path).display());
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.append(name, value);
        if nth > MAX_HEADERS {
            return Err(format!("{} has more than {MAX_HEADERS} headers", path.display()));
        }
    }
    Ok(headers)
}
