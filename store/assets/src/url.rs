//! URL paths as they are asked for and as they lie in a folder.

use ship_model::path::TreePath;

/// Longest request path taken, in bytes as sent.
pub(crate) const MAX_REQUEST_PATH: usize = 8192;

/// The name below the union's folder for a URL path: percent signs decoded once, no leading slash.
///
/// None for what no asset can be called: `..`, empty components, NUL, over-long.
pub(crate) fn folder_name(url_path: &str) -> Option<TreePath> {
    let rest = url_path.strip_prefix('/')?;
    if rest.len() > MAX_REQUEST_PATH {
        return None;
    }
    TreePath::new(&decode(rest.as_bytes())?).ok()
}

fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if *byte == b'%' {
            out.push((digit(text.get(at + 1))? * 16 + digit(text.get(at + 2))?) as u8);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

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
