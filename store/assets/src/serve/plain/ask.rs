//! Which requests are answered here: those with nothing in them that two servers could see differently.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use httparse::{Header, Request, Status};
use ship_model::path::TreePath;
use std::mem::MaybeUninit;

use super::{How, Plain};
use crate::shelf::Served;

/// Headers of a request; one with more is odd.
const HEADERS: usize = 64;

/// What bytes from the start of a head on are.
pub(super) enum Heard {
    /// The head has no end yet.
    Part,
    /// Nothing that is answered here.
    Odd,
    Ask(Box<Ask>),
}

/// A request for a file on the shelf.
pub(super) struct Ask {
    /// Bytes of its head; what follows is the next request.
    pub len: usize,
    pub how: How,
    pub name: TreePath,
    pub served: Served,
    /// Those that the answer goes by.
    pub headers: HeaderMap,
}

pub(super) fn hear(plain: &Plain, bytes: &[u8]) -> Heard {
    let mut room = [const { MaybeUninit::uninit() }; HEADERS];
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut room) {
        Ok(Status::Complete(len)) => {
            asked(plain, &request, len).map_or(Heard::Odd, |ask| Heard::Ask(Box::new(ask)))
        }
        Ok(Status::Partial) => Heard::Part,
        Err(_) => Heard::Odd,
    }
}

fn asked(plain: &Plain, request: &Request<'_, '_>, len: usize) -> Option<Ask> {
    let head = match request.method? {
        "GET" => false,
        "HEAD" => true,
        _ => return None,
    };
    if request.version != Some(1) {
        return None;
    }
    let path = path(request.path?)?;
    let (headers, close) = headers(request.headers)?;
    if plain.besides.contains(&path) {
        return None;
    }
    // Last, because it counts.
    let (name, served) = plain.assets.shelf.find(path)?;
    Some(Ask {
        len,
        how: How { head, close },
        name,
        served,
        headers,
    })
}

/// The path of a target in origin form (RFC 9112, section 3.2.1), without its query, as it came.
fn path(target: &str) -> Option<&str> {
    // pchar of RFC 3986, slash and question mark. Others are let pass by some servers, changed or cut off by others.
    let usual = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%?".contains(byte);
    if !target.starts_with('/') || !target.as_bytes().iter().all(usual) {
        return None;
    }
    Some(target.split_once('?').map_or(target, |(path, _)| path))
}

/// The headers that the answer goes by, and whether the connection ends with it. None: they speak of a body or of
/// another protocol, or do not name one host.
fn headers(given: &[Header<'_>]) -> Option<(HeaderMap, bool)> {
    let (mut kept, mut hosts, mut close) = (HeaderMap::new(), 0, false);
    for Header { name, value } in given {
        match meaning(name) {
            Meaning::None => {}
            Meaning::Kept(name) => {
                kept.append(name, HeaderValue::from_bytes(value).ok()?);
            }
            Meaning::Host => hosts += 1,
            Meaning::Connection if value.eq_ignore_ascii_case(b"keep-alive") => {}
            Meaning::Connection if value.eq_ignore_ascii_case(b"close") => close = true,
            Meaning::Connection | Meaning::Odd => return None,
        }
    }
    (hosts == 1).then_some((kept, close))
}

enum Meaning {
    /// The answer does not depend on it.
    None,
    Host,
    Connection,
    Kept(HeaderName),
    Odd,
}

fn meaning(name: &str) -> Meaning {
    let is = |other: &HeaderName| name.eq_ignore_ascii_case(other.as_str());
    let of = |name: HeaderName, meaning: fn(HeaderName) -> Meaning| {
        if is(&name) { meaning(name) } else { Meaning::None }
    };
    // By length first: most headers of a browser are none of these.
    match name.len() {
        4 => of(header::HOST, |_| Meaning::Host),
        5 => of(header::RANGE, Meaning::Kept),
        6 if is(&header::EXPECT) => Meaning::Odd,
        6 => of(header::ORIGIN, Meaning::Kept),
        7 => of(header::UPGRADE, |_| Meaning::Odd),
        8 if is(&header::IF_MATCH) => Meaning::Kept(header::IF_MATCH),
        8 => of(header::IF_RANGE, Meaning::Kept),
        10 => of(header::CONNECTION, |_| Meaning::Connection),
        13 => of(header::IF_NONE_MATCH, Meaning::Kept),
        14 => of(header::CONTENT_LENGTH, |_| Meaning::Odd),
        15 => of(header::ACCEPT_ENCODING, Meaning::Kept),
        17 => of(header::TRANSFER_ENCODING, |_| Meaning::Odd),
        _ => Meaning::None,
    }
}
