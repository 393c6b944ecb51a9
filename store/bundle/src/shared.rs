//! The names of a release that lead into the app's `shared/` folder on a host.
//!
//! `shared/` lies beside `releases/`, so from `releases/455-…/a/b` the name `a/b/log` is a link to
//! `../../../../shared/a/b/log`: one `..` for each folder, the release's own and `releases/` among them.

use std::collections::BTreeMap;

use ship_model::manifest::{EntryKind, Manifest};
use ship_model::path::TreePath;

/// A `[shared]` name that the release holds itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[shared] names \"{name}\", but the release has \"{path}\" itself; leave one of the two out")]
pub struct SharedClash {
    pub name: TreePath,
    pub path: TreePath,
}

/// Each shared name with the text of its link, sorted by name.
///
/// An empty folder of that name gives way to the link.
///
/// # Errors
/// [`SharedClash`] when the release has something at, below or above the name, or when one shared name lies below
/// another.
pub fn shared_links(manifest: &Manifest) -> Result<BTreeMap<TreePath, Vec<u8>>, SharedClash> {
    let shared = &manifest.spec().shared;
    let names: BTreeMap<TreePath, Vec<u8>> = shared
        .dirs
        .iter()
        .chain(&shared.files)
        .map(|name| (name.clone(), target(name)))
        .collect();
    for name in names.keys() {
        if let Some(path) = clash(manifest, name) {
            return Err(SharedClash {
                name: name.clone(),
                path,
            });
        }
        if let Some(inner) = names.keys().find(|other| other.below(name).is_some()) {
            return Err(SharedClash {
                name: inner.clone(),
                path: name.clone(),
            });
        }
    }
    Ok(names)
}

fn target(name: &TreePath) -> Vec<u8> {
    let mut target = b"../".repeat(name.components().count() + 1);
    target.extend_from_slice(b"shared/");
    target.extend_from_slice(name.as_bytes());
    target
}

fn clash(manifest: &Manifest, name: &TreePath) -> Option<TreePath> {
    if let Some(same) = manifest.get(name.as_bytes())
        && same.kind != EntryKind::EmptyFolder
    {
        return Some(same.path.to_path());
    }
    let mut above = name.as_bytes();
    while let Some(slash) = above.iter().rposition(|b| *b == b'/') {
        above = &above[..slash];
        if let Some(entry) = manifest.get(above)
            && entry.kind != EntryKind::EmptyFolder
        {
            return Some(entry.path.to_path());
        }
    }
    let mut folder = name.as_bytes().to_vec();
    folder.push(b'/');
    let from = manifest
        .entries()
        .partition_point(|path| path.as_bytes() < &folder[..]);
    let next = manifest.entries().get(from)?;
    next.path.below(name).map(|_| next.path.to_path())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use ship_model::digest::BlobDigest;
    use ship_model::manifest::Entry;
    use ship_model::spec::ReleaseSpec;

    fn links(tree: &[&str], dirs: &[&str]) -> Result<BTreeMap<TreePath, Vec<u8>>, SharedClash> {
        let path = |text: &str| TreePath::new(text.as_bytes()).unwrap();
        let mut spec = ReleaseSpec::static_files("web".parse().unwrap());
        spec.shared.dirs = dirs.iter().map(|dir| path(dir)).collect();
        let entries = tree.iter().map(|name| Entry {
            path: path(name.trim_end_matches('/')),
            kind: if name.ends_with('/') {
                EntryKind::EmptyFolder
            } else {
                EntryKind::File {
                    executable: false,
                    size: 0,
                    digest: BlobDigest::of(b""),
                }
            },
        });
        shared_links(&Manifest::new(spec, entries.collect()).unwrap())
    }

    #[test]
    fn a_link_climbs_as_deep_as_it_lies() {
        let made = links(&["f", "log/", "a/f"], &["log", "a/b/tmp"]).unwrap();
        let texts: Vec<_> = made.values().map(|t| std::str::from_utf8(t).unwrap()).collect();
        assert_eq!(texts, ["../../../../shared/a/b/tmp", "../../shared/log"]);
    }

    #[test]
    fn the_tree_and_shared_names_exclude_each_other() {
        for (tree, dirs) in [
            (&["log"][..], &["log"][..]),
            (&["log/.keep"], &["log"]),
            (&["log-x", "log/a/b", "log0"], &["log"]),
            (&["a"], &["a/log"]),
        ] {
            assert!(links(tree, dirs).is_err(), "{tree:?} with {dirs:?}");
        }
        assert!(links(&["log-x", "logs/a", "f"], &["log"]).is_ok());
    }
}
