//! `[[assets]]`.

use crate::path::TreePath;
use crate::spec::fields::{Fields, Found, Keys};
use crate::spec::pattern::MAX_PATTERNS;
use crate::spec::{AssetRoot, Pattern};

const KEYS: Keys = Keys::only(&["root", "url", "mutable", "private"]);

/// Most asset roots of one release: each is compared with every other.
pub(super) const MAX_ROOTS: usize = 64;

/// Reads every root; one that lies in another, or answers at another's URL, is a mistake.
pub(super) fn read(fields: &Fields<'_>, is_static: bool) -> Vec<AssetRoot> {
    let mut roots: Vec<AssetRoot> = Vec::new();
    for table in fields.tables("assets", KEYS) {
        if roots.len() == MAX_ROOTS {
            fields
                .key("assets")
                .bad(format!("has more than {MAX_ROOTS} roots"));
            break;
        }
        let root = required(&table, "root", "root = \"public\"");
        let url = required(&table, "url", "url = \"/static\"");
        let root = root.and_then(|text| folder(&text).map(|root| (root, text)));
        let url = url.and_then(|text| text.parse(|text| asset_url(text)).map(|url| (url, text)));
        let mutable = table.texts("mutable");
        let mutable: Vec<_> = mutable.iter().filter_map(tree_path).collect();
        let private = patterns(&table);
        let (Some((root, root_at)), Some((url, url_at))) = (root, url) else {
            continue;
        };
        if let Some(other) = roots.iter().find(|other| other.overlaps(&root)) {
            root_at.bad(format!("overlaps with root \"{}\"", other.folder()));
        }
        if root.is_none() && !is_static {
            root_at.bad("would hand out the program to everybody: name the folder that browsers fetch");
        }
        if roots.iter().any(|other| other.url == url) {
            url_at.bad("is the URL of another root");
        }
        roots.push(AssetRoot {
            root,
            url,
            mutable,
            private,
            marks: None,
        });
    }
    roots
}

fn patterns(table: &Fields<'_>) -> Vec<Pattern> {
    let texts = table.texts("private");
    if let Some(more) = texts.get(MAX_PATTERNS) {
        more.bad(format!("is one too many: {MAX_PATTERNS} are allowed"));
    }
    let read = |text: &Found<'_, &str>| text.parse(|text| Pattern::new(text));
    texts.iter().take(MAX_PATTERNS).filter_map(read).collect()
}

fn required<'t>(table: &Fields<'t>, key: &str, hint: &str) -> Option<Found<'t, &'t str>> {
    if table.get(key).is_none() {
        table.missing(key, hint);
    }
    table.text(key)
}

/// A folder of the release; `.` is all of it.
fn folder(text: &Found<'_, &str>) -> Option<Option<TreePath>> {
    match text.value {
        "." | "./" => Some(None),
        _ => tree_path(text).map(Some),
    }
}

/// A path of the release; a trailing slash is how people write folders.
pub(super) fn tree_path(text: &Found<'_, &str>) -> Option<TreePath> {
    text.parse(|text| TreePath::new(text.strip_suffix('/').unwrap_or(text).as_bytes()))
}

pub(super) fn overlap(a: &TreePath, b: &TreePath) -> bool {
    a == b || a.below(b).is_some() || b.below(a).is_some()
}

/// `/`, `/static`, `/a/b`: what follows the host's name, without a trailing slash.
pub(super) fn asset_url(text: &str) -> Result<String, String> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err(format!("{text:?} must begin with '/'"));
    };
    let unreserved =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'@' | b'+');
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(unreserved);
    if !rest.is_empty() && !rest.split('/').all(part) {
        return Err(format!(
            "{text:?} is not a plain URL path: use '/', letters, digits and -._~@+"
        ));
    }
    Ok(format!("/{rest}"))
}
