//! What an asset port is told in `[asset_port]`, in a store's and an agent's file alike, and the headers made of it.

use std::fmt;
use std::path::PathBuf;

use http::header::{self, HeaderMap, HeaderValue};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::accept::Encoding;

/// Longest time that files of a running release may be kept by caches, in seconds.
const MAX_MUTABLE: u32 = 86_400;

/// `[asset_port]`: how assets are handed out. The keys are the headers' names where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortSettings {
    /// Whose pages may read assets: `"*"` (the default: assets are public), origins, or `[]` for their own alone.
    pub access_control_allow_origin: Origins,
    /// Whose pages may embed assets; none: the browser's own rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_origin_resource_policy: Option<ResourcePolicy>,
    /// `X-Content-Type-Options: nosniff`.
    pub nosniff: bool,
    /// `max-age` of what is not fingerprinted, in seconds, at most a day.
    #[serde(deserialize_with = "short")]
    pub mutable_max_age_seconds: u32,
    /// Codings that are offered; `[]` for none.
    pub encode: Vec<Encoding>,
    /// TLS with this certificate; none: plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
}

/// PEM files, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate and those that vouch for it, the port's own first.
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Default for PortSettings {
    fn default() -> Self {
        Self {
            access_control_allow_origin: Origins::Any,
            cross_origin_resource_policy: None,
            nosniff: true,
            mutable_max_age_seconds: 5,
            encode: Encoding::ALL.to_vec(),
            tls: None,
        }
    }
}

/// Who may read an answer from another origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    Any,
    /// `https://app.example.com`; none: nobody.
    Listed(Vec<String>),
}

/// `Cross-Origin-Resource-Policy` of the Fetch standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourcePolicy {
    SameSite,
    SameOrigin,
    CrossOrigin,
}

impl ResourcePolicy {
    const fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::SameSite => "same-site",
            Self::SameOrigin => "same-origin",
            Self::CrossOrigin => "cross-origin",
        })
    }
}

fn short<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    let seconds = u32::deserialize(input)?;
    if seconds > MAX_MUTABLE {
        let text = format!(
            "{seconds} seconds are too long for what changes with every release: at most {MAX_MUTABLE}"
        );
        return Err(de::Error::custom(text));
    }
    Ok(seconds)
}

impl Serialize for Origins {
    fn serialize<S: serde::Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => output.serialize_str("*"),
            Self::Listed(origins) => output.collect_seq(origins),
        }
    }
}

impl<'de> Deserialize<'de> for Origins {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(OneOrMany)
    }
}

struct OneOrMany;

impl<'de> Visitor<'de> for OneOrMany {
    type Value = Origins;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"*\", an origin like \"https://app.example.com\", or a list of origins")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Origins, E> {
        if text == "*" {
            return Ok(Origins::Any);
        }
        Ok(Origins::Listed(vec![origin(text).map_err(E::custom)?]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Origins, A::Error> {
        let (mut origins, mut any) = (Vec::new(), false);
        while let Some(text) = list.next_element::<String>()? {
            if text == "*" {
                any = true;
            } else {
                origins.push(origin(&text).map_err(de::Error::custom)?);
            }
        }
        match (any, origins.is_empty()) {
            (true, true) => Ok(Origins::Any),
            (true, false) => Err(de::Error::custom("\"*\" allows every origin: list it alone")),
            (false, _) => Ok(Origins::Listed(origins)),
        }
    }
}

/// RFC 6454, section 6.2, as browsers send it: scheme, host, and a port that is not the scheme's own.
fn origin(text: &str) -> Result<String, String> {
    let refused = || {
        format!(
            "{text:?} is not an origin: write https://HOST or https://HOST:PORT, in lower case, without a path"
        )
    };
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or_else(refused)?;
    let authority: http::uri::Authority = rest.parse().map_err(|_| refused())?;
    let plain = !rest.contains(['@', '*']) && !text.bytes().any(|b| b.is_ascii_uppercase());
    let own = (text.starts_with("https:") && authority.port_u16() == Some(443))
        || (text.starts_with("http:") && authority.port_u16() == Some(80));
    if authority.host().is_empty() || rest.ends_with(':') || !plain || own {
        return Err(refused());
    }
    Ok(text.to_owned())
}

/// The settings as headers, made once.
#[derive(Debug)]
pub(super) struct Rules {
    origins: Allowed,
    policy: Option<HeaderValue>,
    nosniff: bool,
    mutable: HeaderValue,
    encode: [bool; 3],
}

#[derive(Debug)]
enum Allowed {
    Any,
    Nobody,
    Listed(Vec<String>),
}

impl Rules {
    pub fn new(settings: &PortSettings) -> Self {
        let seconds = settings.mutable_max_age_seconds;
        let mutable = HeaderValue::try_from(format!("public, max-age={seconds}, must-revalidate"));
        Self {
            origins: match &settings.access_control_allow_origin {
                Origins::Any => Allowed::Any,
                Origins::Listed(origins) if origins.is_empty() => Allowed::Nobody,
                Origins::Listed(origins) => Allowed::Listed(origins.clone()),
            },
            policy: settings.cross_origin_resource_policy.map(ResourcePolicy::header),
            nosniff: settings.nosniff,
            mutable: mutable.unwrap_or(HeaderValue::from_static("no-cache")),
            encode: Encoding::ALL.map(|encoding| settings.encode.contains(&encoding)),
        }
    }

    pub fn mutable(&self) -> HeaderValue {
        self.mutable.clone()
    }

    pub fn offers(&self, encoding: Encoding) -> bool {
        self.encode[encoding as usize]
    }

    pub fn encodes(&self) -> bool {
        self.encode.contains(&true)
    }

    /// Puts on what every answer carries. `negotiates`: other requests for this path may be given another coding.
    pub fn dress(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>, negotiates: bool) {
        if self.nosniff {
            headers.insert(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
        }
        if let Some(policy) = &self.policy {
            headers.insert("cross-origin-resource-policy", policy.clone());
        }
        let by_origin = self.allow(headers, origin);
        let vary = match (negotiates, by_origin) {
            (true, true) => "accept-encoding, origin",
            (true, false) => "accept-encoding",
            (false, true) => "origin",
            (false, false) => return,
        };
        headers.insert(header::VARY, HeaderValue::from_static(vary));
    }

    /// Whether another origin would have got another answer.
    fn allow(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) -> bool {
        let (allowed, by_origin) = match &self.origins {
            Allowed::Any => (Some(HeaderValue::from_static("*")), false),
            Allowed::Nobody => (None, false),
            Allowed::Listed(listed) => {
                let is_listed = |origin: &&HeaderValue| {
                    listed.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
                };
                (origin.filter(is_listed).cloned(), true)
            }
        };
        if let Some(allowed) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            // What a page reads beside the body when it fetches in parts.
            headers.insert(
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static("etag, content-length, content-range, accept-ranges"),
            );
        }
        by_origin
    }

    /// What an OPTIONS that comes before another origin's request is told beside [`Self::dress`].
    pub fn preflight(&self, headers: &mut HeaderMap) {
        if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
                (
                    header::ACCESS_CONTROL_ALLOW_HEADERS,
                    "range, if-match, if-none-match, if-range",
                ),
                (header::ACCESS_CONTROL_MAX_AGE, "86400"),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
            headers.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_send_them() {
        for good in [
            "https://a.example.com",
            "http://localhost:3000",
            "https://[::1]:8443",
        ] {
            assert_eq!(origin(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "a.example.com",
            "null",
            "https://",
            "https://a/",
            "https://a/b",
            "https://A.example.com",
            "https://*.example.com",
            "https://user@a",
            "https://a:443",
            "http://a:80",
            "https://a b",
            "https://a\r\nx: y",
            "ftp://a",
        ] {
            assert!(origin(bad).is_err(), "{bad:?}");
        }
    }
}
