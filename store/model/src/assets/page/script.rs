//! `import "…"`, `import … from "…"`, `import("…")`, `new URL("…", import.meta.url)`.

use super::{Found, Kind, MAX_URL, Named, find, is_space, skip};

/// Longest comment between `import` and its name.
const MAX_COMMENT: usize = 256;

/// What the modules of a script name by path; bare names (`import "react"`) are no URLs.
pub fn in_script(js: &[u8]) -> Vec<Named> {
    let mut found = Found::default();
    let mut at = 0;
    while let Some(byte) = js.get(at) {
        if !is_word(*byte) {
            at = match byte {
                b'\n' => line(js, at + 1),
                _ => at + 1,
            };
            continue;
        }
        let start = at;
        at = skip(js, at, is_word);
        let after_dot = start.checked_sub(1).and_then(|before| js.get(before)) == Some(&b'.');
        let named = match js.get(start..at) {
            Some(b"import") if !after_dot => imported(js, at),
            Some(b"from") if !after_dot => string(js, space(js, at)),
            Some(b"URL") => made_url(js, at).map(|(url, end)| (url, Kind::Other, end)),
            _ => None,
        };
        if let Some((url, kind, end)) = named {
            if is_path(&url) {
                found.add(&url, kind, start);
            }
            at = end;
        }
    }
    found.0
}

/// Where to read on in a new line: one that is all comment is passed over.
fn line(js: &[u8], start: usize) -> usize {
    let at = skip(js, start, |b| matches!(b, b' ' | b'\t'));
    let rest = js.get(at..).unwrap_or_default();
    if rest.starts_with(b"//") || rest.starts_with(b"*") {
        return skip(js, at, |b| b != b'\n');
    }
    at
}

fn imported(js: &[u8], after: usize) -> Option<(String, Kind, usize)> {
    let at = space(js, after);
    if *js.get(at)? != b'(' {
        return string(js, at);
    }
    let named = string(js, space(js, at + 1))?;
    // What is put together is no name yet.
    let whole = matches!(js.get(space(js, named.2))?, b')' | b',');
    whole.then_some(named)
}

/// `("./logo.png", import.meta.url)`
fn made_url(js: &[u8], after: usize) -> Option<(String, usize)> {
    let at = space(js, after);
    let at = (js.get(at) == Some(&b'(')).then_some(at + 1)?;
    let (url, _, end) = string(js, space(js, at))?;
    let comma = space(js, end);
    let at = (js.get(comma) == Some(&b',')).then(|| space(js, comma + 1))?;
    let meta = js.get(at..)?.starts_with(b"import.meta.url");
    meta.then_some((url, end))
}

/// A text in quotes at `at`, and where it ends; one with an escape or a line's end in it is no plain path.
fn string(js: &[u8], at: usize) -> Option<(String, Kind, usize)> {
    let quote = *js.get(at)?;
    if !matches!(quote, b'"' | b'\'' | b'`') {
        return None;
    }
    let start = at + 1;
    let js = js.get(..start.saturating_add(MAX_URL).min(js.len()))?;
    let end = skip(js, start, |b| {
        !matches!(b, b'\\' | b'\n' | b'\r' | b'$') && b != quote
    });
    let text = std::str::from_utf8(js.get(start..end)?).ok()?;
    (js.get(end) == Some(&quote)).then(|| (text.to_owned(), Kind::Script, end + 1))
}

fn space(js: &[u8], from: usize) -> usize {
    let mut at = skip(js, from, is_space);
    while js.get(at..).is_some_and(|rest| rest.starts_with(b"/*")) {
        // A comment before a name is short: one that is not is looked at once, and not once for each import.
        let near = js
            .get(..at.saturating_add(MAX_COMMENT).min(js.len()))
            .unwrap_or_default();
        let Some(end) = find(near, b"*/", at + 2) else {
            return js.len();
        };
        at = skip(js, end + 2, is_space);
    }
    at
}

fn is_path(url: &str) -> bool {
    ["./", "../", "/", "http://", "https://"]
        .iter()
        .any(|start| url.starts_with(start))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}
