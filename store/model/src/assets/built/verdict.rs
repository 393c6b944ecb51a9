//! Whether an emitted name is a name of the sources with a fingerprint added.

use crate::assets::fingerprint::{Fingerprint, is_date, judge};

/// Fewest digits of a hash that a tool's manifest vouches for; alone, such a short one tells nothing.
const SHORTEST: usize = 6;
/// A SHA-512 in hexadecimal digits.
const LONGEST: usize = 128;

/// What was added to `from` to make `to`, both names without a folder: `3f9a12bc` of `main.ts` and
/// `main.3f9a12bc.chunk.js`; empty of `main` and `main.js`. None if the one is not made of the other.
pub(super) fn inserted<'t>(from: &str, to: &'t str) -> Option<&'t str> {
    let stem = from.rsplit_once('.').map(|(stem, _)| stem);
    let stems = [Some(from), stem.filter(|stem| !stem.is_empty())];
    let rest = stems.into_iter().flatten().find_map(|stem| {
        let rest = to.strip_prefix(stem)?;
        rest.strip_prefix(['-', '.', '_', '~'])
    })?;
    let added = rest.split('.').next().unwrap_or_default();
    // Without an extension behind it, it is the extension itself.
    Some(if rest.len() > added.len() { added } else { "" })
}

/// Length of the hashes that Vite, Rollup and esbuild write in letters.
const LETTERS: usize = 8;

/// Whether what was added can be a hash: hexadecimal digits, or letters as [`judge`] knows them.
pub(super) fn fits(added: &str) -> bool {
    if !(SHORTEST..=LONGEST).contains(&added.len()) {
        return false;
    }
    let hex = added.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = added.bytes().filter(u8::is_ascii_digit).count();
    if hex && digits > 0 {
        return digits < added.len() || (added.len() >= 8 && !is_date(added));
    }
    match judge(added) {
        Fingerprint::Sure => added.len() >= LETTERS,
        Fingerprint::Ambiguous => added.len() == LETTERS,
        Fingerprint::None => false,
    }
}

/// Whether it may be a word as well: added to more than one name it is one.
pub(super) fn is_weak(added: &str) -> bool {
    let hex = added.bytes().all(|b| b.is_ascii_hexdigit());
    !hex && judge(added) != Fingerprint::Sure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found() {
        for (from, to, added) in [
            ("main.ts", "main-BxY3k_9Q.js", Some("BxY3k_9Q")),
            ("main", "main.3f9a12bc.chunk.js", Some("3f9a12bc")),
            (
                "jquery.min.js",
                "jquery.min.5af66c1b1797.js",
                Some("5af66c1b1797"),
            ),
            ("vue.runtime", "vue.runtime-4fa8e1c2.js", Some("4fa8e1c2")),
            ("index", "index-legacy-BxY3k_9Q.js", Some("legacy-BxY3k_9Q")),
            ("main.ts", "main.js", Some("")),
            ("main", "main.js", Some("")),
            ("main.js", "other-3f9a12bc.js", None),
            ("main.js", "mainframe.js", None),
        ] {
            assert_eq!(inserted(from, to), added, "{from} {to}");
        }
    }

    #[test]
    fn hashes_are_told_from_words() {
        for hash in [
            "3f9a12",
            "5af66c1b1797",
            "BxY3k_9Q",
            "qwertzui",
            "ABCDEFGH",
            "12345678",
            "deadbeef",
            "legacy-BxY3k_9Q",
        ] {
            assert!(fits(hash), "{hash}");
        }
        for word in [
            "legacy",
            "module",
            "frontpage",
            "my-module-name",
            "123456",
            "20260131",
            "checkout",
            "1024x768",
            "min",
            "a.b",
            "",
        ] {
            assert!(!fits(word), "{word}");
        }
    }
}
