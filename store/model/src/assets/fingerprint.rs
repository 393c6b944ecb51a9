//! Whether a name carries a fingerprint of its content.
//!
//! The two mistakes are not alike. A fingerprint that is missed is silent: after the next release an old
//! page asks for a file that is gone. A word taken for a fingerprint is loud: a later publish refuses to
//! change the file's bytes and says to list it as mutable. In doubt the company decides: in a folder where
//! most names end in eight letters of base64url, an ambiguous one (`index-qwertzui.js`) does so as well.
//!
//! **This rule never changes**: the releases that carry no marks (see [`Marks`](crate::spec::Marks)) are read by it, on
//! every machine and by every later version. What is learnt of names later goes into [`recognise`](mod@super::recognise).

use std::collections::HashMap;

/// What one name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fingerprint {
    None,
    /// It has the shape, and might be a word: decided by the other names of its folder.
    Ambiguous,
    Sure,
}

/// Digits of a hash at least: 32 bits, what webpack, parcel, propshaft and Rollup write.
const MIN_HEX: usize = 8;
/// Characters of the hashes that Vite, Rollup, Rolldown and esbuild write.
const SHORT: usize = 8;

/// Words of eight letters that stand where a hash could.
const WORDS: &[&str] = &[
    "abstract",
    "activity",
    "advanced",
    "analysis",
    "animated",
    "archived",
    "articles",
    "backbone",
    "backdrop",
    "bookmark",
    "boundary",
    "branding",
    "calendar",
    "camelize",
    "carousel",
    "category",
    "checkbox",
    "checkout",
    "combobox",
    "comments",
    "commerce",
    "compiled",
    "complete",
    "compress",
    "computed",
    "constant",
    "contacts",
    "contents",
    "contract",
    "controls",
    "customer",
    "database",
    "datagrid",
    "defaults",
    "delivery",
    "designer",
    "desktops",
    "detector",
    "disabled",
    "discover",
    "document",
    "download",
    "dropdown",
    "dropzone",
    "dynamics",
    "elements",
    "enhanced",
    "espanol",
    "estimate",
    "expanded",
    "explorer",
    "extended",
    "external",
    "facebook",
    "favorite",
    "features",
    "feedback",
    "fallback",
    "filename",
    "firebase",
    "floating",
    "fontface",
    "formdata",
    "fragment",
    "frontend",
    "fullsize",
    "function",
    "gradient",
    "graphics",
    "graphite",
    "hamburger",
    "helpdesk",
    "homepage",
    "identity",
    "iframes",
    "images",
    "importer",
    "includes",
    "incoming",
    "indexing",
    "inactive",
    "internal",
    "invoices",
    "keyboard",
    "landing",
    "language",
    "launcher",
    "learning",
    "licenses",
    "lightbox",
    "linkedin",
    "listview",
    "location",
    "manifest",
    "markdown",
    "material",
    "maximize",
    "messages",
    "metadata",
    "minimize",
    "mobility",
    "moderate",
    "modified",
    "monorepo",
    "multiple",
    "negative",
    "networks",
    "notebook",
    "observer",
    "offline",
    "operator",
    "optional",
    "original",
    "outgoing",
    "outlines",
    "overlays",
    "overview",
    "packages",
    "painting",
    "parallax",
    "partners",
    "password",
    "payments",
    "personal",
    "pinterest",
    "platform",
    "playback",
    "plugins",
    "policies",
    "polyfill",
    "portrait",
    "position",
    "postback",
    "postcard",
    "powerful",
    "prebuilt",
    "precache",
    "preloads",
    "premiere",
    "presence",
    "previews",
    "previous",
    "printing",
    "priority",
    "problems",
    "products",
    "profiles",
    "programs",
    "progress",
    "projects",
    "property",
    "protocol",
    "provider",
    "purchase",
    "question",
    "reactive",
    "reactjs",
    "readonly",
    "realtime",
    "recorder",
    "redirect",
    "register",
    "relative",
    "releases",
    "renderer",
    "requests",
    "required",
    "resource",
    "response",
    "reversed",
    "rollback",
    "sanitize",
    "scanning",
    "schedule",
    "scripts",
    "scrollto",
    "security",
    "segments",
    "selected",
    "selector",
    "semantic",
    "sensible",
    "sequence",
    "services",
    "sessions",
    "settings",
    "shipping",
    "sidebars",
    "simplify",
    "sitemaps",
    "skeleton",
    "snapshot",
    "sortable",
    "specific",
    "standard",
    "statuses",
    "storages",
    "stripped",
    "strategy",
    "strength",
    "subtitle",
    "supports",
    "switcher",
    "tabulate",
    "taxonomy",
    "template",
    "terminal",
    "terminus",
    "textarea",
    "thankyou",
    "thumbnail",
    "tiktok",
    "timeline",
    "tooltips",
    "tracking",
    "training",
    "transfer",
    "treeview",
    "triangle",
    "truncate",
    "tutorial",
    "tweakers",
    "twitters",
    "uncommon",
    "unminify",
    "unpacked",
    "updating",
    "uploader",
    "username",
    "validate",
    "variable",
    "vertical",
    "viewport",
    "visitors",
    "vueapp",
    "waterfall",
    "webfonts",
    "webpages",
    "webpack",
    "whatsapp",
    "wildcard",
    "workbook",
    "workflow",
    "worklist",
    "zoomable",
];

/// What `name`, a file's name without its folder, tells by itself.
pub fn fingerprint(name: &[u8]) -> Fingerprint {
    let Ok(name) = std::str::from_utf8(name) else {
        return Fingerprint::None;
    };
    let parts: Vec<&str> = name.split('.').collect();
    // The last part is the extension: a name without one is not an asset that a build names.
    let Some((_, stem)) = parts.split_last().filter(|(_, stem)| !stem.is_empty()) else {
        return Fingerprint::None;
    };
    if has_hex(stem) {
        return Fingerprint::Sure;
    }
    let each = stem
        .iter()
        .enumerate()
        .map(|(at, part)| short_hash(part, at == 0));
    each.fold(Fingerprint::None, |best, this| match (best, this) {
        (Fingerprint::Sure, _) | (_, Fingerprint::Sure) => Fingerprint::Sure,
        (Fingerprint::Ambiguous, _) | (_, Fingerprint::Ambiguous) => Fingerprint::Ambiguous,
        _ => Fingerprint::None,
    })
}

/// `main.3f9a12bc.chunk`, `app-<md5>`, `application-<sha256>`, `framework-2c79e2a64abdb08b`.
fn has_hex(stem: &[&str]) -> bool {
    stem.iter().enumerate().any(|(at, part)| {
        let mut segments = part.split(['-', '_']).enumerate();
        segments.any(|(segment, text)| is_hex(text, at == 0 && segment == 0))
    })
}

/// `first`: nothing stands before it, so that a number may well be the name itself.
fn is_hex(text: &str, first: bool) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let upper = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if text.len() < MIN_HEX || !(lower || upper) {
        return false;
    }
    let all_digits = digits == text.len();
    if first {
        return digits > 0 && !all_digits;
    }
    !(all_digits && is_date(text))
}

/// `20260131`, `20260131123456`.
pub(super) fn is_date(digits: &str) -> bool {
    let number = |range: std::ops::Range<usize>| digits.get(range).and_then(|part| part.parse::<u32>().ok());
    matches!(digits.len(), 8 | 10 | 12 | 14)
        && number(0..4).is_some_and(|year| (1970..2100).contains(&year))
        && number(4..6).is_some_and(|month| (1..=12).contains(&month))
        && number(6..8).is_some_and(|day| (1..=31).contains(&day))
}

/// `index-BxY3k_9Q`, and after a dot or alone `BxY3k_9Q`; longer ones only where they look like nothing else.
fn short_hash(part: &str, first: bool) -> Fingerprint {
    // Astro writes the hash of an image's settings behind: `photo.BxY3k_9Q_Z1x2Yq`.
    let before = part
        .rsplit_once('_')
        .filter(|(hash, _)| !first && hash.len() == SHORT);
    if before.is_some_and(|(hash, _)| judge(hash) == Fingerprint::Sure) {
        return Fingerprint::Sure;
    }
    if let Some((_, last)) = part.rsplit_once('-')
        && (SHORT + 1..=43).contains(&last.len())
        && judge(last) == Fingerprint::Sure
        && classes(last) == (true, true, true)
    {
        return Fingerprint::Sure;
    }
    let Some(start) = part.len().checked_sub(SHORT) else {
        return Fingerprint::None;
    };
    match (part.get(start..), part.get(..start)) {
        // A whole name of two words is one, whatever the company.
        (Some(hash), Some("")) if first && words(hash) => Fingerprint::None,
        (Some(hash), Some(before)) if before.is_empty() || before.ends_with('-') => judge(hash),
        _ => Fingerprint::None,
    }
}

/// Whether it has lower-case letters, upper-case letters, digits.
fn classes(text: &str) -> (bool, bool, bool) {
    let any = |is: fn(&u8) -> bool| text.bytes().any(|b| is(&b));
    (
        any(u8::is_ascii_lowercase),
        any(u8::is_ascii_uppercase),
        any(u8::is_ascii_digit),
    )
}

/// A text of base64url's letters: a hash, a word, or either.
pub(super) fn judge(text: &str) -> Fingerprint {
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    {
        return Fingerprint::None;
    }
    if WORDS.contains(&text.to_ascii_lowercase().as_str()) || is_size(text) {
        return Fingerprint::None;
    }
    let separated = text.contains(['-', '_']);
    match classes(text) {
        (false, false, _) => Fingerprint::None,
        _ if words(text) => Fingerprint::Ambiguous,
        (true, true, true) => Fingerprint::Sure,
        // esbuild's base32, `chunk-2XJQ7ZKF.js`.
        (false, true, true) if !separated => Fingerprint::Sure,
        (true, true, false) if !title_case(text) => Fingerprint::Sure,
        (true, false, true) if !separated && !word_and_number(text) => Fingerprint::Sure,
        _ => Fingerprint::Ambiguous,
    }
}

/// `my-image`, `My_Image`, `jquery-3`: words and numbers with separators, as people write them.
fn words(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let word =
        |part: &str| part.len() > 1 && part.bytes().all(|b| b.is_ascii_alphabetic()) && title_case(part);
    text.contains(['-', '_']) && text.split(['-', '_']).all(|part| number(part) || word(part))
}

/// `Checkout`: only the first letter is large.
fn title_case(text: &str) -> bool {
    !text.bytes().skip(1).any(|b| b.is_ascii_uppercase())
}

/// `1024x768`.
fn is_size(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.split_once('x')
        .is_some_and(|(width, height)| number(width) && number(height))
}

/// `windows7`, `2columns`: letters on one side, digits on the other.
fn word_and_number(text: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit();
    let changes = text
        .as_bytes()
        .array_windows()
        .filter(|[a, b]| digit(*a) != digit(*b));
    changes.count() < 2
}

/// The names of a root, to decide the ambiguous ones by their company.
#[derive(Debug)]
pub struct Neighbours {
    /// Folder → files whose name is surely a fingerprint, and all others that are not ambiguous.
    folders: HashMap<Vec<u8>, (usize, usize)>,
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

impl Neighbours {
    /// Counts the names of `paths` by folder.
    pub fn new<'a>(paths: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut folders: HashMap<Vec<u8>, (usize, usize)> = HashMap::new();
        for path in paths {
            let (folder, name) = split(path);
            let (sure, other) = folders.entry(folder.to_vec()).or_default();
            match fingerprint(name) {
                Fingerprint::Sure => *sure += 1,
                Fingerprint::None => *other += 1,
                Fingerprint::Ambiguous => {}
            }
        }
        Self { folders }
    }

    /// What a path's name tells, decided. A folder named `immutable` (SvelteKit) vouches for its names.
    pub fn is_fingerprinted(&self, path: &[u8]) -> bool {
        let (folder, name) = split(path);
        match fingerprint(name) {
            Fingerprint::Sure => true,
            Fingerprint::None => false,
            Fingerprint::Ambiguous => {
                let vouched = folder.split(|b| *b == b'/').any(|part| part == b"immutable");
                let (sure, other) = self.folders.get(folder).copied().unwrap_or_default();
                vouched || sure > other
            }
        }
    }
}
