//! An answer's head, as bytes.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::header;
use http::{Response, StatusCode};
use hyper::body::Body;

/// Bytes of a usual head.
const USUAL: usize = 512;
/// Bytes of a date in a header.
const DATE: usize = 29;

thread_local! {
    static DATED: RefCell<(u64, [u8; DATE])> = const { RefCell::new((0, [0; DATE])) };
}

/// The head of `response`; `close`: the connection ends with it.
pub(super) fn head<B: Body>(response: &Response<B>, close: bool) -> Vec<u8> {
    let (status, headers) = (response.status(), response.headers());
    let mut out = Vec::with_capacity(USUAL);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        line(&mut out, name.as_str(), value.as_bytes());
    }
    let has_none = matches!(status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT);
    if !has_none && !headers.contains_key(header::CONTENT_LENGTH) {
        let length = response.body().size_hint().lower().to_string();
        line(&mut out, "content-length", length.as_bytes());
    }
    if close {
        line(&mut out, "connection", b"close");
    }
    DATED.with_borrow_mut(|dated| line(&mut out, "date", date(dated)));
    out.extend_from_slice(b"\r\n");
    out
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// RFC 9110, section 6.6.1; written anew once a second.
fn date((second, text): &mut (u64, [u8; DATE])) -> &[u8] {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or(Duration::ZERO).as_secs();
    if now != *second || now == 0 {
        *second = now;
        let written = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
        if let Ok(written) = written.as_bytes().try_into() {
            *text = written;
        }
    }
    text
}
