//! What a page, a style sheet or a script makes a browser fetch. A scanner, no full parser: it finds what bundlers write.

/// The file extensions of what pages are made of.
const EXTENSIONS: [&str; 20] = [
    "js", "mjs", "css", "svg", "png", "jpg", "jpeg", "gif", "webp", "avif", "ico", "woff", "woff2", "ttf",
    "otf", "wasm", "json", "map", "mp4", "webm",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Page,
    Style,
    Script,
    /// Names nothing further.
    Leaf,
}

impl Kind {
    pub fn of(content_type: &str) -> Self {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "text/html" => Self::Page,
            "text/css" => Self::Style,
            "text/javascript" | "application/javascript" => Self::Script,
            _ => Self::Leaf,
        }
    }
}

/// The references in `text`, as written, in order, without repetitions.
pub fn references(kind: Kind, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    match kind {
        Kind::Page => page(text, &mut found),
        Kind::Style => style(text, &mut found),
        Kind::Script => script(text, &mut found),
        Kind::Leaf => {}
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|reference| seen.insert(reference.clone()));
    found
}

fn page(text: &str, found: &mut Vec<String>) {
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            continue;
        }
        let end = tag_end(rest);
        let (tag, after) = rest.split_at(end);
        let name = tag
            .split(|letter: char| !letter.is_ascii_alphanumeric())
            .next()
            .unwrap_or_default();
        let name = name.to_ascii_lowercase();
        tag_references(&name, tag, found);
        rest = after;
        if name == "style" || name == "script" {
            let length = after.find("</").unwrap_or(after.len());
            let inner = after[..length].trim_start_matches('>');
            if name == "style" {
                style(inner, found)
            } else {
                script(inner, found)
            }
            rest = &after[length..];
        }
    }
}

/// The length of a tag, not fooled by `>` inside quotes.
fn tag_end(text: &str) -> usize {
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (None, '>') => return at,
            (None, '"' | '\'') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            _ => {}
        }
    }
    text.len()
}

fn tag_references(name: &str, tag: &str, found: &mut Vec<String>) {
    let wanted = match name {
        "link" if fetches(&attribute(tag, "rel").unwrap_or_default()) => "href",
        "script" | "img" | "source" | "video" | "audio" | "track" | "embed" => "src",
        "image" | "use" => "href",
        _ => return,
    };
    found.extend(attribute(tag, wanted).filter(|value| !value.is_empty()));
    let candidates = attribute(tag, "srcset").unwrap_or_default();
    let urls = candidates
        .split(',')
        .filter_map(|candidate| candidate.split_whitespace().next());
    found.extend(urls.map(str::to_owned));
}

/// Whether a `<link>` of these relations is fetched by a browser that shows the page.
fn fetches(relations: &str) -> bool {
    relations.split_whitespace().any(|relation| {
        let relation = relation.to_ascii_lowercase();
        relation.contains("icon")
            || matches!(
                relation.as_str(),
                "stylesheet" | "modulepreload" | "preload" | "prefetch" | "manifest"
            )
    })
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let lower = tag.to_ascii_lowercase();
    let mut from = 0;
    while let Some(at) = lower[from..].find(name).map(|at| from + at) {
        from = at + name.len();
        let begins =
            lower[..at].ends_with(|letter: char| letter.is_ascii_whitespace() || "\"'/".contains(letter));
        let value = tag[from..].trim_start().strip_prefix('=').map(str::trim_start);
        if let (true, Some(value)) = (begins, value) {
            return Some(unquote(value).replace("&amp;", "&"));
        }
    }
    None
}

fn unquote(value: &str) -> &str {
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or_default(),
        _ => value
            .split(|letter: char| letter.is_ascii_whitespace() || letter == '>')
            .next()
            .unwrap_or_default(),
    }
}

fn style(text: &str, found: &mut Vec<String>) {
    for piece in text.split("url(").skip(1) {
        let piece = piece.trim_start();
        let url = match piece.chars().next() {
            Some('"' | '\'') => unquote(piece),
            _ => piece.split(')').next().unwrap_or_default().trim(),
        };
        found.push(url.to_owned());
    }
    for piece in text.split("@import").skip(1) {
        let piece = piece.trim_start();
        if piece.starts_with(['"', '\'']) {
            found.push(unquote(piece).to_owned());
        }
    }
}

/// Import specifiers that are paths, and every quoted path to a fingerprinted file: that is how bundlers name chunks.
fn script(text: &str, found: &mut Vec<String>) {
    for quote in ['"', '\'', '`'] {
        let mut pieces = text.split(quote);
        let mut before = pieces.next().unwrap_or_default();
        for piece in pieces {
            if is_path(piece) && (imports(before) || fingerprint(piece).is_some()) {
                found.push(piece.to_owned());
            }
            before = piece;
        }
    }
}

fn is_path(text: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "/._-@~%+".contains(letter);
    let name = text.rsplit('/').next().unwrap_or_default();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    text.len() <= 512 && text.contains('/') && text.chars().all(allowed) && EXTENSIONS.contains(&extension)
}

fn imports(before: &str) -> bool {
    let before = before.trim_end();
    before.ends_with("import") || before.ends_with("import(") || before.ends_with("from")
}

/// The part of a file name that looks like a fingerprint of its content: after a `-`, `.` or `_`, at least eight letters
/// and digits, with both a letter and a digit or all hex.
pub fn fingerprint(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let (stem, _) = name.rsplit_once('.')?;
    let at = stem.rfind(['-', '.', '_'])?;
    let mark = &stem[at + 1..];
    let digit = mark.bytes().any(|byte| byte.is_ascii_digit());
    let mixed_case = mark.bytes().skip(1).any(|byte| byte.is_ascii_uppercase());
    let fits = mark.len() >= 8 && mark.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (fits && (digit || mixed_case)).then_some(mark)
}

/// The path that `reference` means when it stands in `base` (a path) on `authority`; `None` when it leads elsewhere.
pub fn resolve(authority: &str, base: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default().trim();
    let own = format!("//{authority}/");
    let reference = reference
        .strip_prefix("http:")
        .filter(|rest| rest.starts_with(&own))
        .unwrap_or(reference);
    let reference = match reference.strip_prefix(&own) {
        Some(rest) => &format!("/{rest}"),
        None => reference,
    };
    let scheme = reference
        .split(['/', '?'])
        .next()
        .unwrap_or_default()
        .contains(':');
    if reference.is_empty() || reference.starts_with("//") || scheme {
        return None;
    }
    let (path, query) = reference
        .split_once('?')
        .map_or((reference, ""), |(path, query)| (path, query));
    let base = base.split('?').next().unwrap_or_default();
    let folder = base.rfind('/').map_or("", |at| &base[..at]);
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{folder}/{path}")
    };
    let question = if query.is_empty() { "" } else { "?" };
    Some(format!("{}{question}{query}", without_dots(&joined)))
}

fn without_dots(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_what_a_browser_fetches() {
        let html = r#"<!doctype html><!-- <img src="/no.png"> --><LINK rel="stylesheet" href="/a.css?x=1&amp;y=2">
            <link rel=canonical href="/page"><link href='./b.css' rel=modulepreload><script src=c.js defer></script>
            <img data-src="/no.png" src="/d.svg" srcset="/e.png 1x, /f.png 2x" alt="a > b"><a href="/about">x</a>
            <style>p { background: url(/g.png) }</style><script>import("/h.js"); "/i.js"</script>"#;
        let wanted = [
            "/a.css?x=1&y=2",
            "./b.css",
            "c.js",
            "/d.svg",
            "/e.png",
            "/f.png",
            "/g.png",
            "/h.js",
        ];
        assert_eq!(references(Kind::Page, html), wanted);
    }

    #[test]
    fn styles_and_scripts_name_more() {
        let css = r#"@import "x.css"; @import url('y.css'); a { b: url( "z.svg" ) } c { d: url(data:image/png;base64,AA) }"#;
        assert_eq!(
            references(Kind::Style, css),
            ["y.css", "z.svg", "data:image/png;base64,AA", "x.css"]
        );
        let js = r#"import{a as b}from"./v.js";import './w.css';import("/x.js");let m=["static/js/y.Ab3dE6gH.js","/plain.js"];
            const n = '/assets/z-0123456789abcdef.png', o = "text/javascript";"#;
        assert_eq!(
            references(Kind::Script, js),
            [
                "./v.js",
                "/x.js",
                "static/js/y.Ab3dE6gH.js",
                "./w.css",
                "/assets/z-0123456789abcdef.png"
            ]
        );
    }

    #[test]
    fn fingerprints_are_told_from_words() {
        assert_eq!(
            fingerprint("/a/app-0123456789abcdef.css"),
            Some("0123456789abcdef")
        );
        assert_eq!(fingerprint("main.3f9a77c1.js"), Some("3f9a77c1"));
        assert_eq!(fingerprint("index.DqJJ5lzA.js"), Some("DqJJ5lzA"));
        for plain in [
            "app.css",
            "jquery.validate.js",
            "some-component.js",
            "a/b.min.js",
            "none",
        ] {
            assert_eq!(fingerprint(plain), None, "{plain}");
        }
    }

    #[test]
    fn references_resolve_within_their_origin() {
        let at = |base, reference| resolve("h:1", base, reference);
        assert_eq!(at("/", "a.css").as_deref(), Some("/a.css"));
        assert_eq!(at("/x/y.css?v", "../z/./w.svg#i").as_deref(), Some("/z/w.svg"));
        assert_eq!(at("/x/", "/a?b=c").as_deref(), Some("/a?b=c"));
        assert_eq!(at("/", "../../a").as_deref(), Some("/a"));
        assert_eq!(at("/x", "http://h:1/a.js").as_deref(), Some("/a.js"));
        assert_eq!(at("/x", "//h:1/a.js").as_deref(), Some("/a.js"));
        for elsewhere in [
            "http://other/a.js",
            "//other/a.js",
            "data:image/png;base64,AA",
            "#x",
            "",
            "https://h:1/a",
        ] {
            assert_eq!(at("/", elsewhere), None, "{elsewhere}");
        }
    }
}
