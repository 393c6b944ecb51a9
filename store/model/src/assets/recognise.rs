//! At publish: which files of a release carry a fingerprint, from everything that can be known of them.
//!
//! In this order, the first that knows decides:
//!
//! 1. what a tool's manifest says of the file ([`Built`]);
//! 2. that it lies in the folder of a Next.js build (`_next/static/<build id>/_buildManifest.js`): the folder's name is
//!    the fingerprint of all that is in it;
//! 3. names that bundlers write and [`fingerprint`] leaves open: esbuild's and Angular's eight letters of base32 have
//!    no digit in one of five names, Dioxus writes `-dxh` before its digits;
//! 4. the rule of names, with a folder's company.
//!
//! A manifest that calls a name plain makes it mutable only where the name does not tell surely: Django lists the chunks
//! that Vite has fingerprinted before it as originals, and the pages of old releases ask for them.

use std::collections::HashSet;

use super::built::{Built, Said};
use super::fingerprint::{Fingerprint, fingerprint, judge};
use super::{files_below, neighbours};
use crate::manifest::Manifest;
use crate::path::PathRef;
use crate::spec::{AssetRoot, Marks, ReleaseSpec};

/// Length of the ids that Next.js gives its builds.
const NEXT_ID: usize = 21;

/// The release's spec with the marks of every root whose files' names alone would tell otherwise; none where names tell
/// of all files, which is the most frequent case and keeps a release's id free of what this version knows.
pub fn recognise(manifest: &Manifest, built: &Built) -> Option<ReleaseSpec> {
    let mut spec = manifest.spec().clone();
    let mut any = false;
    for root in &mut spec.assets {
        root.marks = marks(manifest, root, built);
        any |= root.marks.is_some();
    }
    any.then_some(spec)
}

fn marks(manifest: &Manifest, root: &AssetRoot, built: &Built) -> Option<Marks> {
    let names = neighbours(manifest, root);
    let builds = next_builds(manifest, root);
    let mut differs = false;
    let files = files_below(manifest, root).map(|(path, ..)| {
        let by_name = names.is_fingerprinted(path.as_bytes());
        let found = decide(path, by_name, &builds, built);
        differs |= found != by_name;
        found
    });
    let marks = Marks::new(files);
    differs.then_some(marks)
}

fn decide(path: PathRef<'_>, by_name: bool, builds: &HashSet<&[u8]>, built: &Built) -> bool {
    let name = fingerprint(path.file_name());
    match built.said(path.as_bytes()) {
        Some(Said::Fingerprinted) => true,
        Some(Said::Listed) if name != Fingerprint::None => true,
        Some(Said::Plain) => name == Fingerprint::Sure,
        _ => by_name || in_build(path, builds) || late_name(path.file_name()),
    }
}

/// The folders below `root` that Next.js named after a build.
fn next_builds<'m>(manifest: &'m Manifest, root: &'m AssetRoot) -> HashSet<&'m [u8]> {
    let paths = files_below(manifest, root).map(|(path, ..)| path);
    let marks_build = |path: &PathRef<'_>| {
        matches!(path.file_name(), b"_buildManifest.js" | b"_ssgManifest.js")
    };
    let folders = paths.filter(marks_build).filter_map(PathRef::parent);
    folders
        .filter(|folder| is_build_id(folder.rsplit(|b| *b == b'/').next().unwrap_or_default()))
        .collect()
}

fn in_build(path: PathRef<'_>, builds: &HashSet<&[u8]>) -> bool {
    if builds.is_empty() {
        return false;
    }
    let mut folder = path.parent();
    while let Some(at) = folder {
        if builds.contains(at) {
            return true;
        }
        folder = at.iter().rposition(|b| *b == b'/').and_then(|slash| at.get(..slash));
    }
    false
}

/// A random id, or a commit: an application that calls every build `production` names no build.
fn is_build_id(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else {
        return false;
    };
    let any = |is: fn(&u8) -> bool| name.bytes().any(|b| is(&b));
    let lower_hex = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if lower_hex && name.len() >= 7 {
        return any(u8::is_ascii_digit) && any(u8::is_ascii_alphabetic);
    }
    let letters = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let mixed = any(u8::is_ascii_lowercase) && any(u8::is_ascii_uppercase);
    letters && mixed && (name.len() == NEXT_ID || (name.len() > 15 && any(u8::is_ascii_digit)))
}

/// Names that came to be known after the frozen rule.
fn late_name(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else {
        return false;
    };
    let Some((stem, endings)) = name.split_once('.') else {
        return false;
    };
    let code = matches!(endings.split('.').next(), Some("js" | "mjs" | "css"));
    let Some((before, last)) = stem.rsplit_once('-') else {
        return false;
    };
    let base32 = last.len() == 8 && last.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'));
    let spoken = before.bytes().any(|b| b.is_ascii_lowercase());
    if code && base32 && spoken && judge(last) != Fingerprint::None {
        return true;
    }
    let dioxus = last.strip_prefix("dxh");
    dioxus.is_some_and(|digits| {
        digits.len() >= 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
