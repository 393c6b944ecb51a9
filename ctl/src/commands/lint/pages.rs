//! What pages, style sheets and modules name, and whether the release has it.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::Path;

use ship_model::assets::page::{Base, Named, Place, in_page, in_script, in_style, is_template, line_of};
use ship_model::assets::{Asset, canonical_url, encode_path};
use ship_model::manifest::Manifest;
use ship_model::path::PathRef;
use ship_model::spec::AssetRoot;

use super::assets::root_of;
use super::finding::{Finding, Findings, Kind};

/// Largest text that is looked into, in bytes; one is in memory at a time.
const MAX_TEXT: u64 = 16 << 20;
/// Folders of other people's work, whose pages are no pages of this app.
const FOREIGN: &[&[u8]] = &[
    b"node_modules",
    b".venv",
    b"venv",
    b"site-packages",
    b"vendor",
    b".git",
];

/// A kind of text that names others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Page,
    Style,
    Script,
}

pub fn look(dir: &Path, manifest: &Manifest, assets: &[Asset], findings: &mut Findings) {
    let roots = &manifest.spec().assets;
    if roots.is_empty() {
        return;
    }
    let known = Known {
        roots,
        public: assets.iter().map(|asset| asset.url_path.as_str()).collect(),
        private: private_urls(manifest),
    };
    for (path, _, size, _) in manifest.files() {
        let Some(kind) = kind_of(path) else { continue };
        let inside = root_of(manifest, path).filter(|(root, below)| !root.is_private(below));
        // A server's templates name assets as well; by relative names nobody knows which.
        if inside.is_none() && (kind != Text::Page || is_foreign(path)) {
            continue;
        }
        let unread = |text: &str| Finding {
            kind: Kind::Unread,
            path: path.to_string(),
            line: None,
            url: None,
            text: text.to_owned(),
        };
        if size > MAX_TEXT {
            findings.add(unread("too large to be looked into"));
            continue;
        }
        let mut text = Vec::new();
        let opened = std::fs::File::open(dir.join(path.as_path()));
        if let Err(error) = opened.and_then(|file| file.take(MAX_TEXT).read_to_end(&mut text)) {
            findings.add(unread(&format!("cannot be read any more: {error}")));
            continue;
        }
        let at = inside.map(|(root, below)| address(root, below));
        known.missing(path, kind, at, &text, findings);
    }
}

fn kind_of(path: PathRef<'_>) -> Option<Text> {
    let name = path.file_name();
    let extension = name.rsplit(|b| *b == b'.').next().unwrap_or_default();
    match extension.to_ascii_lowercase().as_slice() {
        b"html" | b"htm" | b"xhtml" => Some(Text::Page),
        b"css" => Some(Text::Style),
        b"js" | b"mjs" => Some(Text::Script),
        _ => None,
    }
}

fn is_foreign(path: PathRef<'_>) -> bool {
    path.components().any(|part| FOREIGN.contains(&part))
}

fn address(root: &AssetRoot, below: &[u8]) -> String {
    format!("{}/{}", root.url.trim_end_matches('/'), encode_path(below))
}

fn private_urls(manifest: &Manifest) -> HashSet<String> {
    let inside = manifest.files().filter_map(|(path, ..)| root_of(manifest, path));
    let private = inside.filter(|(root, below)| root.is_private(below));
    private.map(|(root, below)| address(root, below)).collect()
}

/// What stands where.
struct Known<'a> {
    roots: &'a [AssetRoot],
    public: HashSet<&'a str>,
    private: HashSet<String>,
}

impl Known<'_> {
    /// `at`: the address of the text; none if it is a template of a server.
    fn missing(
        &self,
        path: PathRef<'_>,
        kind: Text,
        at: Option<String>,
        text: &[u8],
        findings: &mut Findings,
    ) {
        let mut base = Base {
            origin: None,
            path: at.clone().unwrap_or_default(),
        };
        let named = match kind {
            Text::Style => in_style(text),
            Text::Script => in_script(text),
            Text::Page => {
                let page = in_page(text);
                if let Some(Place::Here { path, .. }) = page.base.map(|href| base.resolve(&href)) {
                    base.path = path;
                }
                page.named
            }
        };
        let mut told = HashSet::new();
        for named in named {
            let relative = !named.url.trim_start().starts_with('/');
            if is_template(&named.url) || (at.is_none() && relative) {
                continue;
            }
            let Some(why) = self.why_missing(&named, &base) else {
                continue;
            };
            if !told.insert(named.url.clone()) {
                continue;
            }
            findings.add(Finding {
                kind: Kind::Missing,
                path: path.to_string(),
                line: Some(line_of(text, named.at)),
                text: format!("names {}, which {}", named.url, why.1),
                url: Some(why.0),
            });
        }
    }

    /// The address that is meant and what is wrong with it; none where nothing is, or nobody knows.
    fn why_missing(&self, named: &Named, base: &Base) -> Option<(String, &'static str)> {
        let Place::Here { path, .. } = base.resolve(&named.url) else {
            return None;
        };
        let below = |root: &AssetRoot| {
            let rest = path.strip_prefix(root.url.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        if !self.roots.iter().any(below) {
            return None;
        }
        let folder = path.ends_with('/');
        let whole = if folder { format!("{path}index.html") } else { path };
        let Some(url) = canonical_url(&whole) else {
            return Some((whole, "is no address of a file"));
        };
        if self.public.contains(url.as_str()) {
            return None;
        }
        let private = self.private.contains(&url);
        let why = if private {
            "is private"
        } else {
            "the release does not have"
        };
        Some((url, why))
    }
}
