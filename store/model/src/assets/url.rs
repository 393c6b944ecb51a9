//! One spelling for every URL, and the name that it has in a folder.

use crate::path::TreePath;

/// Longest request path taken, in bytes as sent.
const MAX_REQUEST_PATH: usize = 8192;

/// Bytes that stand for themselves in a URL path: RFC 3986's `pchar` without `%`.
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

/// A relative path as it stands in a URL: slashes stay, other bytes are plain or `%XX`.
pub fn encode_path(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path {
        if *byte == b'/' || plain(*byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The canonical spelling of a request's path, without its query. None for what can be no asset: not
/// absolute, a broken `%`, an encoded slash or NUL, an empty, `.` or `..` component.
pub fn canonical_url(request: &str) -> Option<String> {
    let rest = request.strip_prefix('/')?;
    let mut decoded = Vec::with_capacity(rest.len());
    let mut bytes = rest.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => match escaped(bytes.next()?, bytes.next()?)? {
                b'/' => return None,
                byte => byte,
            },
            byte => byte,
        });
    }
    let tame = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    let all_tame = decoded.split(|b| *b == b'/').all(tame);
    all_tame.then(|| format!("/{}", encode_path(&decoded)))
}

/// The name below a folder of assets for a URL path: percent signs decoded once, no leading slash.
///
/// None for what no asset can be called: `..`, empty components, NUL, over-long.
pub fn folder_name(url_path: &str) -> Option<TreePath> {
    let rest = url_path.strip_prefix('/')?;
    if rest.len() > MAX_REQUEST_PATH {
        return None;
    }
    let mut decoded = Vec::with_capacity(rest.len());
    let mut bytes = rest.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => escaped(bytes.next()?, bytes.next()?)?,
            byte => byte,
        });
    }
    TreePath::new(&decoded).ok()
}

fn escaped(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(high)? * 16 + digit(low)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_one_spelling() {
        assert_eq!(encode_path(b"a b/\xff%?#.js"), "a%20b/%FF%25%3F%23.js");
        for (asked, canonical) in [
            ("/a%20b/%ff%25%3F%23.js", Some("/a%20b/%FF%25%3F%23.js")),
            ("/%6dain.js", Some("/main.js")),
            ("/a+b@2x.png", Some("/a+b@2x.png")),
            ("/é", Some("/%C3%A9")),
            ("/", None),
            ("", None),
            ("a", None),
            ("//a", None),
            ("/a/", None),
            ("/a/../b", None),
            ("/a/%2e%2e/b", None),
            ("/a%2fb", None),
            ("/a%00", None),
            ("/a%", None),
            ("/a%2", None),
            ("/a%zz", None),
            ("/a%+1", None),
        ] {
            assert_eq!(canonical_url(asked).as_deref(), canonical, "{asked}");
        }
    }

    #[test]
    fn a_request_names_one_file_or_none() {
        let name = |url: &str| folder_name(url).map(|path| path.as_bytes().to_vec());
        assert_eq!(name("/static/a%20b.js"), Some(b"static/a b.js".to_vec()));
        assert_eq!(name("/%ff"), Some(vec![0xff]));
        assert_eq!(name("/a%252e"), Some(b"a%2e".to_vec()), "decoded once, not twice");
        for bad in [
            "",
            "a",
            "/",
            "//a",
            "/a/../b",
            "/a/%2e%2e/b",
            "/%2e%2e%2fetc",
            "/a%00",
            "/a%2",
            "/a%zz",
            "/a//b",
        ] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
        assert_eq!(name(&format!("/{}", "a".repeat(9000))), None);
    }
}
