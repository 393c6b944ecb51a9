//! At publish: which files of a release carry a fingerprint, from everything that can be known of them.
//!
//! In this order, the first that knows decides:
//!
//! 1. what a tool's manifest says of the file ([`Built`]);
//! 2. that it lies in the folder of a Next.js build (`_next/static/<build id>/_buildManifest.js`): the folder's name is
//!    the fingerprint of all that is in it; or beside it, with the thirteen characters of base 38 that Turbopack writes;
//! 3. names that bundlers write and [`fingerprint`] leaves open: esbuild's and Angular's eight letters of base32 have
//!    no digit in one of five names, Dioxus writes `-dxh` before its digits;
//! 4. Sprockets' own manifest has random digits in its name, and they stay;
//! 5. the rule of names, with a folder's company.
//!
//! A manifest that calls a name plain makes it mutable only where the name does not tell surely: Django lists the chunks
//! that Vite has fingerprinted before it as originals, and the pages of old releases ask for them.

use std::collections::HashSet;

use super::built::{Built, Said, is_sprockets};
use super::fingerprint::{Fingerprint, fingerprint, judge};
use super::{files_below, neighbours};
use crate::manifest::Manifest;
use crate::path::PathRef;
use crate::spec::{AssetRoot, Marks, ReleaseSpec};

/// Length of the ids that Next.js gives its builds.
const NEXT_ID: usize = 21;
/// Characters that 64 bits take in Turbopack's base 38.
const NEXT_HASH: usize = 13;

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
    let next = Next::builds(manifest, root);
    let mut differs = false;
    let files = files_below(manifest, root).map(|(path, ..)| {
        let by_name = names.is_fingerprinted(path.as_bytes());
        let found = decide(path, by_name, &next, built);
        differs |= found != by_name;
        found
    });
    let marks = Marks::new(files);
    differs.then_some(marks)
}

fn decide(path: PathRef<'_>, by_name: bool, next: &Next<'_>, built: &Built) -> bool {
    let name = fingerprint(path.file_name());
    match built.said(path.as_bytes()) {
        Some(Said::Fingerprinted) => true,
        Some(Said::Listed) if name != Fingerprint::None => true,
        Some(Said::Plain) => name == Fingerprint::Sure,
        _ if std::str::from_utf8(path.file_name()).is_ok_and(is_sprockets) => false,
        _ => by_name || next.names(path) || late_name(path.file_name()),
    }
}

/// The folders of Next.js builds.
#[derive(Debug, Default)]
struct Next<'m> {
    /// Named after a build.
    builds: HashSet<&'m [u8]>,
    /// That hold those, `_next/static`.
    bases: HashSet<&'m [u8]>,
}

impl<'m> Next<'m> {
    fn builds(manifest: &'m Manifest, root: &'m AssetRoot) -> Self {
        let mut next = Self::default();
        for (path, ..) in files_below(manifest, root) {
            let marks_build = matches!(path.file_name(), b"_buildManifest.js" | b"_ssgManifest.js");
            let Some(folder) = path.parent().filter(|_| marks_build) else {
                continue;
            };
            let (base, id) = match folder.iter().rposition(|b| *b == b'/') {
                Some(slash) => (&folder[..slash], &folder[slash + 1..]),
                None => (&folder[..0], folder),
            };
            next.bases.insert(base);
            if is_build_id(id) {
                next.builds.insert(folder);
            }
        }
        next
    }

    /// Whether the file belongs to a build, and its name or its folder's tells of which.
    fn names(&self, path: PathRef<'_>) -> bool {
        if self.bases.is_empty() {
            return false;
        }
        let mut folder = path.parent();
        let mut below_base = self.bases.contains(&b""[..]);
        while let Some(at) = folder {
            if self.builds.contains(at) {
                return true;
            }
            below_base |= self.bases.contains(at);
            folder = at
                .iter()
                .rposition(|b| *b == b'/')
                .and_then(|slash| at.get(..slash));
        }
        below_base && has_next_hash(path.file_name())
    }
}

/// `0cz1d0mv5g_q7.js`, `turbopack-0zq_vp9s-5ndp.js`, `logo.1-aeeazy_b-s3.png`
fn has_next_hash(name: &[u8]) -> bool {
    let mut parts = name.split(|b| *b == b'.').rev();
    // The extension.
    parts.next();
    parts.any(|part| {
        let Some((before, hash)) = part.split_at_checked(part.len().wrapping_sub(NEXT_HASH)) else {
            return false;
        };
        let begins = matches!(before, [] | [.., b'-']) && matches!(hash, [b'0'..=b'3', ..]);
        let letter = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'-' | b'_' | b'~');
        begins && hash.iter().all(letter)
    })
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
