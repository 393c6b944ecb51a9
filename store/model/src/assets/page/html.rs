//! The elements of a page that make a browser fetch.

use super::{Found, Kind, MAX_URL, Named, find, in_script, in_style, is_space, skip};

/// Most attributes of one element that are looked at.
const MAX_ATTRIBUTES: usize = 64;
/// Largest import map that is read, in bytes.
const MAX_MAP: usize = 1 << 20;

/// What a page names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InPage {
    /// What `<base href>` says that relative names are relative to.
    pub base: Option<String>,
    pub named: Vec<Named>,
}

/// Every name that a browser fetches to show the page, in the order of the page. Links to other pages are none.
pub fn in_page(html: &[u8]) -> InPage {
    let mut found = Found::default();
    let mut base = None;
    let mut at = 0;
    while let Some(start) = position(html, b'<', at) {
        at = start + 1;
        let rest = html.get(at..).unwrap_or_default();
        if rest.starts_with(b"!--") {
            at = find(html, b"-->", at + 3).map_or(html.len(), |end| end + 3);
        } else if rest.first().is_some_and(u8::is_ascii_alphabetic) {
            let element = Element::read(html, at);
            at = element.end;
            element.names(start, &mut found, &mut base);
            if let Some(inner) = element.raw_text(html) {
                let (from, to) = inner;
                let text = html.get(from..to).unwrap_or_default();
                element.names_inside(text, from, &mut found);
                at = to;
            }
        } else if rest.first().is_some_and(|b| matches!(b, b'!' | b'?' | b'/')) {
            at = position(html, b'>', at).map_or(html.len(), |end| end + 1);
        }
    }
    InPage { base, named: found.0 }
}

fn position(html: &[u8], byte: u8, from: usize) -> Option<usize> {
    let at = html.get(from..)?.iter().position(|b| *b == byte)?;
    Some(from + at)
}

/// A start tag.
struct Element<'t> {
    /// In lower case.
    name: String,
    /// Names in lower case, and values as written.
    attributes: Vec<(String, &'t [u8])>,
    /// The byte behind its `>`.
    end: usize,
}

impl<'t> Element<'t> {
    /// Reads the tag whose name begins at `at`.
    fn read(html: &'t [u8], at: usize) -> Self {
        let name_end = skip(html, at, |b| !is_space(b) && !matches!(b, b'/' | b'>'));
        let mut element = Self {
            name: lower(html.get(at..name_end)),
            attributes: Vec::new(),
            end: name_end,
        };
        loop {
            let at = skip(html, element.end, |b| is_space(b) || b == b'/');
            match html.get(at) {
                None => {
                    element.end = html.len();
                    return element;
                }
                Some(b'>') => {
                    element.end = at + 1;
                    return element;
                }
                Some(_) => element.attribute(html, at),
            }
        }
    }

    /// Reads one attribute; `end` is behind it then.
    fn attribute(&mut self, html: &'t [u8], at: usize) {
        // A name may begin with "=", which is a mistake and ends nothing.
        let name_end = skip(html, at + 1, |b| !is_space(b) && !matches!(b, b'/' | b'>' | b'='));
        let equals = skip(html, name_end, is_space);
        if html.get(equals) != Some(&b'=') {
            self.end = name_end;
            return self.keep(html.get(at..name_end), b"");
        }
        let start = skip(html, equals + 1, is_space);
        let (start, end, after) = match html.get(start) {
            Some(quote @ (b'"' | b'\'')) => {
                let end = skip(html, start + 1, |b| b != *quote);
                (start + 1, end, end + 1)
            }
            _ => {
                let end = skip(html, start, |b| !is_space(b) && b != b'>');
                (start, end, end)
            }
        };
        self.end = after.min(html.len());
        self.keep(html.get(at..name_end), html.get(start..end).unwrap_or_default());
    }

    fn keep(&mut self, name: Option<&[u8]>, value: &'t [u8]) {
        if self.attributes.len() < MAX_ATTRIBUTES {
            self.attributes.push((lower(name), value));
        }
    }

    /// The value of the first attribute of that name, with its character references replaced.
    fn get(&self, name: &str) -> Option<String> {
        let (_, value) = self.attributes.iter().find(|(known, _)| known == name)?;
        // Lists of pictures are longer than any URL, content in `data:` is longer still.
        (value.len() <= 16 * MAX_URL).then(|| unescape(&String::from_utf8_lossy(value)))
    }

    fn names(&self, at: usize, found: &mut Found, base: &mut Option<String>) {
        let mut one = |name: &str, kind| {
            if let Some(url) = self.get(name) {
                found.add(&url, kind, at);
            }
        };
        match self.name.as_str() {
            "base" if base.is_none() => *base = self.get("href"),
            "link" => {
                if let Some(kind) = self.link_kind() {
                    one("href", kind);
                }
            }
            "script" => one("src", Kind::Script),
            "img" | "source" | "audio" | "track" | "embed" | "input" => one("src", Kind::Other),
            "video" => {
                one("src", Kind::Other);
                one("poster", Kind::Other);
            }
            "object" => one("data", Kind::Other),
            "image" | "use" | "feimage" => {
                one("href", Kind::Other);
                one("xlink:href", Kind::Other);
            }
            _ => {}
        }
        let sets = match self.name.as_str() {
            "img" | "source" => self.get("srcset"),
            "link" if self.link_kind().is_some() => self.get("imagesrcset"),
            _ => None,
        };
        if let Some(set) = sets {
            candidates(&set).for_each(|url| found.add(url, Kind::Other, at));
        }
        if let Some(style) = self.get("style") {
            let mut inline = in_style(style.as_bytes());
            inline.iter_mut().for_each(|named| named.at = 0);
            found.take_in(inline, at);
        }
    }

    /// What a `<link>` is fetched as; none if showing the page does not fetch it.
    fn link_kind(&self) -> Option<Kind> {
        let relations = self.get("rel")?.to_ascii_lowercase();
        let relations: Vec<&str> = relations.split_ascii_whitespace().collect();
        let has = |name: &str| relations.contains(&name);
        let loads = self.get("as").unwrap_or_default().to_ascii_lowercase();
        if has("stylesheet") {
            return Some(Kind::Style);
        }
        if has("modulepreload") {
            return Some(Kind::Script);
        }
        if has("preload") || has("prefetch") {
            return Some(match loads.as_str() {
                "style" => Kind::Style,
                "script" | "worker" => Kind::Script,
                _ => Kind::Other,
            });
        }
        let icon = relations.iter().any(|name| {
            name.ends_with("icon") || name.starts_with("apple-touch-icon") || *name == "manifest"
        });
        icon.then_some(Kind::Other)
    }

    /// From where to where the text of an element goes in which `<` begins no tag.
    fn raw_text(&self, html: &[u8]) -> Option<(usize, usize)> {
        let close: &[u8] = match self.name.as_str() {
            "script" => b"</script",
            "style" => b"</style",
            "textarea" => b"</textarea",
            "title" => b"</title",
            _ => return None,
        };
        let end = find(html, close, self.end).unwrap_or(html.len());
        Some((self.end, end))
    }

    fn names_inside(&self, text: &[u8], at: usize, found: &mut Found) {
        let kind = self.get("type").unwrap_or_default().to_ascii_lowercase();
        match (self.name.as_str(), kind.trim_ascii()) {
            ("style", _) => found.take_in(in_style(text), at),
            ("script", "importmap") => import_map(text, at, found),
            ("script", "" | "module" | "text/javascript" | "application/javascript") => {
                found.take_in(in_script(text), at);
            }
            _ => {}
        }
    }
}

fn lower(text: Option<&[u8]>) -> String {
    // Nothing that is looked for has a longer name.
    let text = text.unwrap_or_default();
    let text = text.get(..text.len().min(64)).unwrap_or_default();
    String::from_utf8_lossy(text).to_ascii_lowercase()
}

/// The modules of an import map; prefixes name no file.
fn import_map(text: &[u8], at: usize, found: &mut Found) {
    if text.len() > MAX_MAP {
        return;
    }
    let Ok(map) = serde_json::from_slice::<serde_json::Value>(text) else {
        return;
    };
    let scopes = map.get("scopes").and_then(|scopes| scopes.as_object());
    let scopes = scopes.into_iter().flat_map(|scopes| scopes.values());
    for imports in map.get("imports").into_iter().chain(scopes) {
        let urls = imports
            .as_object()
            .into_iter()
            .flat_map(|imports| imports.values());
        for url in urls
            .filter_map(|url| url.as_str())
            .filter(|url| !url.ends_with('/'))
        {
            found.add(url, Kind::Script, at);
        }
    }
}

/// The URLs of a `srcset`: a URL may hold commas, and one at its end belongs to the list.
fn candidates(set: &str) -> impl Iterator<Item = &str> {
    let mut rest = set;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
        let end = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (url, after) = rest.split_at_checked(end).filter(|(url, _)| !url.is_empty())?;
        rest = match url.strip_suffix(',') {
            Some(_) => after,
            None => after.split_once(',').map_or("", |(_, next)| next),
        };
        Some(url.trim_end_matches(','))
    })
}

/// Replaces the character references that stand in URLs.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        match reference(after) {
            Some((letter, behind)) => {
                out.push(letter);
                rest = behind;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn reference(after: &str) -> Option<(char, &str)> {
    let end = after.bytes().take(10).position(|b| b == b';')?;
    let (name, behind) = (after.get(..end)?, after.get(end + 1..)?);
    let letter = match name {
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        "lt" => '<',
        "gt" => '>',
        "sol" => '/',
        "colon" => ':',
        "nbsp" => ' ',
        _ => {
            let code = name.strip_prefix('#')?;
            let code = match code.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => code.parse().ok()?,
            };
            char::from_u32(code)?
        }
    };
    Some((letter, behind))
}
