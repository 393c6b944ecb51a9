//! `url(…)`, `@import` and `image-set(…)`.

use super::{Found, Kind, MAX_URL, Named, find, is_space, skip};

/// What a style sheet, a `<style>` or a `style="…"` names.
pub fn in_style(css: &[u8]) -> Vec<Named> {
    let mut scanner = Scanner {
        css,
        at: 0,
        found: Found::default(),
    };
    scanner.run();
    scanner.found.0
}

struct Scanner<'t> {
    css: &'t [u8],
    at: usize,
    found: Found,
}

impl Scanner<'_> {
    fn run(&mut self) {
        // Depth of parentheses inside image-set(…), whose own texts are URLs; 0 outside.
        let mut set_depth = 0_usize;
        while let Some(byte) = self.css.get(self.at) {
            let start = self.at;
            match byte {
                b'/' if self.next_is(b"/*") => self.comment(),
                b'"' | b'\'' => {
                    let text = self.string();
                    if set_depth == 1 {
                        self.found.add(&text, Kind::Other, start);
                    }
                }
                b'\\' => self.at += 2,
                b'@' if self.next_is(b"@import") => {
                    self.at += 7;
                    self.import(start);
                }
                b'(' => {
                    set_depth += usize::from(set_depth > 0);
                    self.at += 1;
                }
                b')' => {
                    set_depth = set_depth.saturating_sub(1);
                    self.at += 1;
                }
                byte if is_name(*byte) => set_depth = self.name(start, set_depth),
                _ => self.at += 1,
            }
        }
    }

    fn next_is(&self, wanted: &[u8]) -> bool {
        let ahead = self.css.get(self.at..self.at + wanted.len());
        ahead.is_some_and(|ahead| ahead.eq_ignore_ascii_case(wanted))
    }

    fn comment(&mut self) {
        let end = find(self.css, b"*/", self.at + 2);
        self.at = end.map_or(self.css.len(), |end| end + 2);
    }

    fn space(&mut self) {
        loop {
            self.at = skip(self.css, self.at, is_space);
            if !self.next_is(b"/*") {
                return;
            }
            self.comment();
        }
    }

    /// A word, and what it opens; gives the depth inside image-set(…).
    fn name(&mut self, start: usize, set_depth: usize) -> usize {
        self.at = skip(self.css, start, is_name);
        let word = self.css.get(start..self.at).unwrap_or_default();
        if self.css.get(self.at) != Some(&b'(') {
            return set_depth;
        }
        if word.eq_ignore_ascii_case(b"url") {
            self.at += 1;
            let url = self.url();
            self.found.add(&url, Kind::Other, start);
            return set_depth;
        }
        let set = word.len() >= 9 && word[word.len() - 9..].eq_ignore_ascii_case(b"image-set");
        if set && set_depth == 0 {
            self.at += 1;
            return 1;
        }
        set_depth
    }

    fn import(&mut self, start: usize) {
        self.space();
        match self.css.get(self.at) {
            Some(b'"' | b'\'') => {
                let url = self.string();
                self.found.add(&url, Kind::Style, start);
            }
            _ if self.next_is(b"url(") => {
                self.at += 4;
                let url = self.url();
                self.found.add(&url, Kind::Style, start);
            }
            _ => {}
        }
    }

    /// What stands between the parentheses of `url(…)`; the reader is behind the first, and behind the second then.
    fn url(&mut self) -> String {
        self.at = skip(self.css, self.at, is_space);
        let url = match self.css.get(self.at) {
            Some(b'"' | b'\'') => self.string(),
            _ => self.bare_url(),
        };
        self.at = skip(self.css, self.at, is_space);
        self.at += usize::from(self.css.get(self.at) == Some(&b')'));
        url
    }

    fn bare_url(&mut self) -> String {
        let mut text = Vec::new();
        while let Some(byte) = self.css.get(self.at) {
            match byte {
                b')' => break,
                b'\\' => self.escape(&mut text),
                byte => self.letter(*byte, &mut text),
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A text in quotes; one that a line's end cuts off is empty.
    fn string(&mut self) -> String {
        let quote = self.css.get(self.at).copied();
        self.at += 1;
        let mut text = Vec::new();
        while let Some(byte) = self.css.get(self.at) {
            match byte {
                byte if Some(*byte) == quote => {
                    self.at += 1;
                    return String::from_utf8_lossy(&text).into_owned();
                }
                b'\n' | b'\r' | b'\x0c' => return String::new(),
                b'\\' => self.escape(&mut text),
                byte => self.letter(*byte, &mut text),
            }
        }
        String::new()
    }

    /// Content in `data:` may be megabytes long: enough is kept to see that it is longer than a URL.
    fn letter(&mut self, byte: u8, text: &mut Vec<u8>) {
        if text.len() <= MAX_URL {
            text.push(byte);
        }
        self.at += 1;
    }

    /// `\2f `, `\"`, a backslash before a line's end.
    fn escape(&mut self, text: &mut Vec<u8>) {
        self.at += 1;
        let digits = self.css.get(self.at..).unwrap_or_default().iter().take(6);
        let digits = digits.take_while(|b| b.is_ascii_hexdigit()).count();
        let Some(hex) = self
            .css
            .get(self.at..self.at + digits)
            .filter(|hex| !hex.is_empty())
        else {
            let escaped = self.css.get(self.at).copied();
            text.extend(escaped.filter(|b| !matches!(b, b'\n' | b'\r' | b'\x0c')));
            self.at += 1;
            return;
        };
        let code = std::str::from_utf8(hex).ok();
        let code = code.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let letter = code
            .and_then(char::from_u32)
            .unwrap_or(char::REPLACEMENT_CHARACTER);
        text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        self.at += digits;
        if self.css.get(self.at).copied().is_some_and(is_space) {
            self.at += 1;
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || !byte.is_ascii()
}
