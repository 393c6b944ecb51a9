//! The rules of a tree as a whole: sizes, order, folders, and where links lead.

use std::collections::HashMap;

use super::{Entries, Entry, EntryKind, MAX_BYTES, MAX_TARGET, ManifestError};
use crate::path::{MAX_PATH, TreePath, escape};
use crate::spec::ReleaseSpec;

/// Links followed while one name is resolved, as in Linux.
const MAX_HOPS: u32 = 40;
/// Components walked while all links of a manifest are resolved; real trees take a few for each link.
const MAX_STEPS: u64 = 5_000_000;

/// The rules of a tree as a whole; `entries` must be sorted.
pub(super) fn check(spec: &ReleaseSpec, entries: Entries<'_>) -> Result<(), ManifestError> {
    let mut bytes = Some(0_u64);
    for entry in entries.iter() {
        if let EntryKind::File { size, .. } = entry.kind {
            bytes = bytes.and_then(|sum| sum.checked_add(size));
        }
    }
    if bytes.is_none_or(|sum| sum > MAX_BYTES) {
        return Err(ManifestError::TooLarge);
    }
    if !entries.iter().any(|entry| entry.is_file()) {
        return Err(ManifestError::Empty);
    }
    let mut pairs = entries.iter().zip(entries.iter().skip(1));
    if let Some((_, second)) = pairs.find(|(first, second)| first.path >= second.path) {
        return Err(ManifestError::Order {
            path: second.path.to_path(),
        });
    }
    check_parents(entries)?;
    spec.check()?;
    check_links(spec, entries)
}

/// Entries of one folder mostly follow each other: a folder that is the same as that of the entry before was looked at.
fn check_parents(entries: Entries<'_>) -> Result<(), ManifestError> {
    let mut before: &[u8] = b"";
    for entry in entries.iter() {
        let mut parent = entry.path.parent();
        while let Some(path) = parent {
            if before
                .strip_prefix(path)
                .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
            {
                break;
            }
            match entries.find(path).map(|(_, found)| found.kind) {
                None => {}
                Some(EntryKind::EmptyFolder) => {
                    let path = TreePath::new(path).unwrap_or_else(|_| entry.path.to_path());
                    return Err(ManifestError::NotEmpty { path });
                }
                Some(_) => {
                    return Err(ManifestError::BelowFile {
                        path: entry.path.to_path(),
                        parent: escape(path),
                    });
                }
            }
            parent = path.iter().rposition(|b| *b == b'/').map(|at| &path[..at]);
        }
        before = entry.path.parent().unwrap_or_default();
    }
    Ok(())
}

/// What a link's target must be by itself.
pub(super) fn target(entry: &Entry) -> Result<(), ManifestError> {
    match &entry.kind {
        EntryKind::Link { target } if is_target(target) => Ok(()),
        EntryKind::Link { .. } => Err(ManifestError::Target {
            path: entry.path.clone(),
        }),
        EntryKind::File { .. } | EntryKind::EmptyFolder => Ok(()),
    }
}

fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target.len() <= MAX_TARGET && !target.contains(&0)
}

fn check_links(spec: &ReleaseSpec, entries: Entries<'_>) -> Result<(), ManifestError> {
    let links: HashMap<&[u8], &[u8]> = entries
        .iter()
        .filter_map(|e| match e.kind {
            EntryKind::Link { target } => Some((e.path.as_bytes(), target)),
            EntryKind::File { .. } | EntryKind::EmptyFolder => None,
        })
        .collect();
    let mut resolution = Resolution {
        spec,
        links: &links,
        steps: MAX_STEPS,
        beyond: None,
    };
    for entry in entries.iter() {
        let EntryKind::Link { target } = entry.kind else {
            continue;
        };
        if !is_target(target) {
            return Err(ManifestError::Target {
                path: entry.path.to_path(),
            });
        }
        match resolution.stays(entry.path.as_bytes()) {
            Some(true) => {}
            None => return Err(ManifestError::Tangled),
            Some(false) => {
                return Err(ManifestError::Leaves {
                    path: entry.path.to_path(),
                    target: escape(target),
                    beyond: resolution.beyond.take(),
                });
            }
        }
    }
    Ok(())
}

/// Follows names as the kernel would. Comparing texts is not enough: `a/b/up -> ../..` and
/// `x -> a/b/up/../y` both look tame, and `x` lies outside.
struct Resolution<'a> {
    spec: &'a ReleaseSpec,
    links: &'a HashMap<&'a [u8], &'a [u8]>,
    /// Steps that may still be taken for the whole manifest: links that lead through links through links would else
    /// keep the reader of a small manifest busy for hours.
    steps: u64,
    /// The absolute path to which the last link that left led.
    beyond: Option<String>,
}

impl Resolution<'_> {
    fn stays(&mut self, path: &[u8]) -> Option<bool> {
        // Components still to walk, last first.
        let links = self.links;
        let mut ahead: Vec<&[u8]> = path.split(|b| *b == b'/').rev().collect();
        let mut at: Vec<u8> = Vec::new();
        let mut hops = 0;
        while let Some(part) = ahead.pop() {
            self.steps = self.steps.checked_sub(1)?;
            match part {
                b"" | b"." => continue,
                b".." if at.is_empty() => return Some(false),
                b".." => {
                    ascend(&mut at);
                    continue;
                }
                _ if at.is_empty() => at.extend_from_slice(part),
                _ => {
                    at.push(b'/');
                    at.extend_from_slice(part);
                }
            }
            if at.len() > MAX_PATH {
                // No name of a tree is as long: it leads nowhere, and so not out.
                return Some(true);
            }
            let Some(target) = links.get(&at[..]) else {
                continue;
            };
            hops += 1;
            if hops > MAX_HOPS || target.len() > MAX_TARGET {
                // A loop leads nowhere, either.
                return Some(true);
            }
            if target.first() == Some(&b'/') {
                let stays = ahead.is_empty() && self.external(target);
                if !stays && ahead.is_empty() {
                    self.beyond = Some(escape(target));
                }
                return Some(stays);
            }
            ascend(&mut at);
            ahead.extend(target.split(|b| *b == b'/').rev());
        }
        Some(true)
    }

    fn external(&self, target: &[u8]) -> bool {
        self.spec
            .external_links
            .iter()
            .any(|allowed| allowed.as_bytes() == target)
    }
}

/// Takes the last component away.
fn ascend(path: &mut Vec<u8>) {
    path.truncate(path.iter().rposition(|b| *b == b'/').unwrap_or(0));
}
