//! `Accept-Encoding` of RFC 9110, section 12.5.3: which codings a client takes, and in which order we would send them.

use http::header::{ACCEPT_ENCODING, HeaderMap};
use serde::{Deserialize, Serialize};

/// A content coding that representations are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Encoding {
    /// RFC 7932. The smallest of what every browser takes over TLS.
    #[serde(rename = "br")]
    Brotli,
    /// RFC 8878, with a window that RFC 9659 lets every client refuse to exceed.
    #[serde(rename = "zstd")]
    Zstd,
    /// RFC 1952; whatever cannot do better can do this.
    #[serde(rename = "gzip")]
    Gzip,
}

impl Encoding {
    /// All there are, the smallest first: this decides between codings that a client likes equally.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// As it is written in `Content-Encoding`.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// What build tools append to the name of a file in this coding.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    pub(super) fn named(token: &str) -> Option<Self> {
        // RFC 9110, 8.4.1.3: x-gzip is gzip.
        let token = if token.eq_ignore_ascii_case("x-gzip") {
            "gzip"
        } else {
            token
        };
        Self::ALL
            .into_iter()
            .find(|encoding| token.eq_ignore_ascii_case(encoding.token()))
    }
}

/// Weights in thousandths; 0 refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    /// In the order of [`Encoding::ALL`].
    codings: [u16; 3],
    /// None: not spoken of, so it will do when nothing better is there.
    identity: Option<u16>,
}

impl Accepted {
    /// A client that says nothing gets the file as it is.
    pub fn of(headers: &HeaderMap) -> Self {
        let (mut named, mut identity, mut any) = ([None; 3], None, None);
        let values = headers.get_all(ACCEPT_ENCODING).iter();
        for item in values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(','))
        {
            let (token, parameters) = item.split_once(';').unwrap_or((item, ""));
            let (token, weight) = (token.trim(), weight(parameters));
            if token == "*" {
                any = Some(weight);
            } else if token.eq_ignore_ascii_case("identity") {
                identity = Some(weight);
            } else if let Some(encoding) = Encoding::named(token) {
                named[encoding as usize] = Some(weight);
            }
        }
        Self {
            codings: named.map(|weight| weight.or(any).unwrap_or(0)),
            identity: identity.or(any.filter(|weight| *weight == 0)),
        }
    }

    /// Whether the file as it is may be sent.
    pub fn takes_identity(&self) -> bool {
        self.identity != Some(0)
    }

    /// The codings to try, the best first: what weighs less than the file as it is is not among them.
    pub fn order(&self) -> impl Iterator<Item = Encoding> + use<> {
        let (codings, least) = (self.codings, self.identity.unwrap_or(1).max(1));
        let mut order = Encoding::ALL;
        // Stable: between equals the order of ALL stays.
        order.sort_by_key(|encoding| std::cmp::Reverse(codings[*encoding as usize]));
        order
            .into_iter()
            .filter(move |encoding| codings[*encoding as usize] >= least)
    }
}

/// `q=0.5` in thousandths; 1000 without one, 0 where it cannot be read.
fn weight(parameters: &str) -> u16 {
    let mut weight = 1000;
    for parameter in parameters.split(';') {
        let Some((key, value)) = parameter.split_once('=') else {
            continue;
        };
        if key.trim().eq_ignore_ascii_case("q") {
            weight = thousandths(value.trim()).unwrap_or(0);
        }
    }
    weight
}

/// RFC 9110, section 12.4.2: `0`, `0.` and up to three digits, `1`, `1.` and up to three zeros.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{part:0<3}").parse().ok()?;
    match (whole, part) {
        ("0", part) => Some(part),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn accepted(values: &[&'static str]) -> Accepted {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
        }
        Accepted::of(&headers)
    }

    #[test]
    fn weights_decide_and_size_breaks_ties() {
        use Encoding::{Brotli, Gzip, Zstd};
        for (values, order, identity) in [
            (&[][..], &[][..], true),
            (&[""], &[], true),
            (&["gzip, deflate, br, zstd"], &[Brotli, Zstd, Gzip], true),
            (&["gzip"], &[Gzip], true),
            (&["X-GZIP"], &[Gzip], true),
            (&["gzip", "br"], &[Brotli, Gzip], true),
            (&["gzip;q=1.0, br;q=0.5"], &[Gzip, Brotli], true),
            (&["zstd;q=0.001,gzip; Q=0.002"], &[Gzip, Zstd], true),
            (&["*"], &[Brotli, Zstd, Gzip], true),
            (&["*;q=0"], &[], false),
            (&["*;q=0, identity"], &[], true),
            (&["br, *;q=0"], &[Brotli], false),
            (&["identity;q=0"], &[], false),
            (&["identity;q=0, gzip"], &[Gzip], false),
            (&["identity, gzip;q=0.5"], &[], true),
            (&["identity;q=0.5, gzip;q=0.5"], &[Gzip], true),
            (&["br;q=0, *"], &[Zstd, Gzip], true),
            (&["br;q=2, zstd;q=-1, gzip;q=0.1234"], &[], true),
            (&["br;q=, zstd;q=1.001, gzip;q=x"], &[], true),
            (&["compress, deflate, , ;;, ;q=1"], &[], true),
        ] {
            let accepted = accepted(values);
            assert_eq!(accepted.order().collect::<Vec<_>>(), order, "{values:?}");
            assert_eq!(accepted.takes_identity(), identity, "{values:?}");
        }
    }
}
