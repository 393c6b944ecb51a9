//! What a page, a style sheet or a script makes a browser fetch.
//!
//! Tolerant scanners, no parsers: whatever the bytes are, each is looked at a bounded number of times, what is cut off or
//! wrong ends what it stands in, and nothing is ever refused. They follow the tokenization of HTML (WHATWG, 13.2.5) and
//! of CSS (Syntax Level 3) as far as it decides where a name begins and ends. Of scripts only imports are found, and URLs
//! made with `import.meta.url`: what a script composes, nobody knows without running it.

mod css;
mod html;
mod place;
mod script;

pub use css::in_style;
pub use html::{InPage, in_page};
pub use place::{Base, Place, is_template};
pub use script::in_script;

/// Most names that are taken from one text.
pub const MAX_NAMED: usize = 10_000;
/// Longest name; longer ones are content (`data:`), or no URL.
const MAX_URL: usize = 4096;

/// A name that a browser fetches, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub url: String,
    pub kind: Kind,
    /// The byte at which the element, rule or string begins that has it.
    pub at: usize,
}

/// What a name is fetched as: whether there is more to follow in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Style,
    Script,
    Other,
}

/// Names as they are found.
#[derive(Debug, Default)]
struct Found(Vec<Named>);

impl Found {
    fn add(&mut self, url: &str, kind: Kind, at: usize) {
        let url = url.trim_ascii();
        let inline = url
            .get(..5)
            .is_some_and(|start| start.eq_ignore_ascii_case("data:"));
        if url.is_empty() || inline || url.len() > MAX_URL || self.0.len() >= MAX_NAMED {
            return;
        }
        self.0.push(Named {
            url: url.to_owned(),
            kind,
            at,
        });
    }

    /// Those of a text that lies at `at` in another one.
    fn take_in(&mut self, named: Vec<Named>, at: usize) {
        let room = MAX_NAMED.saturating_sub(self.0.len());
        let moved = named.into_iter().take(room).map(|named| Named {
            at: named.at + at,
            ..named
        });
        self.0.extend(moved);
    }
}

/// Where `wanted`, in lower case, begins in `text` at or after `from`, whatever the case of its letters.
fn find(text: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    let rest = text.get(from..)?;
    let at = rest
        .windows(wanted.len())
        .position(|window| window.eq_ignore_ascii_case(wanted))?;
    Some(from + at)
}

/// The first byte at or after `from` that `is` does not hold for, or the end.
fn skip(text: &[u8], from: usize, is: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    let length = rest.iter().position(|b| !is(*b)).unwrap_or(rest.len());
    from.saturating_add(length).min(text.len())
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c')
}

/// The number of the line, from 1, in which a byte lies.
pub fn line_of(text: &[u8], at: usize) -> usize {
    let before = text.get(..at).unwrap_or(text);
    1 + before.iter().filter(|b| **b == b'\n').count()
}

#[cfg(test)]
mod tests;
