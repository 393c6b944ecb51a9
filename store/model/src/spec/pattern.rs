//! Names of files by pattern: `*.map`, `js/*.map`, `**/internal/**`.

use serde::{Deserialize, Serialize};

/// Longest pattern, in bytes.
const MAX_LEN: usize = 255;
/// Most patterns of one root: each is compared with every name.
pub const MAX_PATTERNS: usize = 32;

/// A checked pattern for paths below a folder. `*` stands for any bytes within one name, `?` for one, `**` alone for any
/// number of folders. Without a slash it is compared with the file's name, in whichever folder it lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("is empty, or longer than {MAX_LEN} bytes")]
    Length,
    #[error("{text:?} must be relative to the root, without an empty, \".\" or \"..\" part")]
    Part { text: String },
    #[error("{text:?} has a control character")]
    Control { text: String },
    #[error("{text:?} has \"**\" beside other characters: it stands for whole folders, as in \"**/*.map\"")]
    Stars { text: String },
}

impl Pattern {
    /// # Errors
    /// [`PatternError`].
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(PatternError::Length);
        }
        let owned = || text.to_owned();
        if text.chars().any(char::is_control) {
            return Err(PatternError::Control { text: owned() });
        }
        for part in text.split('/') {
            if matches!(part, "" | "." | "..") {
                return Err(PatternError::Part { text: owned() });
            }
            if part != "**" && part.contains("**") {
                return Err(PatternError::Stars { text: owned() });
            }
        }
        Ok(Self(owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it means `path`, which is relative to the folder that the pattern is for.
    pub fn matches(&self, path: &[u8]) -> bool {
        let pattern = self.0.as_bytes();
        if !pattern.contains(&b'/') {
            let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            return pattern == b"**" || name_matches(pattern, name);
        }
        let parts: Vec<&[u8]> = pattern.split(|b| *b == b'/').collect();
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        star_match(
            &parts,
            &names,
            |part| *part == b"**",
            |part, name| name_matches(part, name),
        )
    }
}

fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    star_match(pattern, name, |b| *b == b'*', |p, b| *p == b'?' || p == b)
}

/// Whether `pattern`, in which some items stand for any number of others, covers `items`. Only the last such item ever
/// needs to take more, so that it costs at most one length times the other.
fn star_match<P, T>(
    pattern: &[P],
    items: &[T],
    is_star: impl Fn(&P) -> bool,
    is_same: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut item) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while let Some(here) = items.get(item) {
        match pattern.get(at) {
            Some(part) if is_star(part) => {
                again = Some((at + 1, item));
                at += 1;
                continue;
            }
            Some(part) if is_same(part, here) => {
                at += 1;
                item += 1;
                continue;
            }
            _ => {}
        }
        let Some((after, taken)) = again else {
            return false;
        };
        again = Some((after, taken + 1));
        (at, item) = (after, taken + 1);
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(is_star))
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::new(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    #[test]
    fn patterns_mean_what_people_expect() {
        for (pattern, path, meant) in [
            ("*.map", "a.js.map", true),
            ("*.map", "js/deep/a.js.map", true),
            ("*.map", "a.map.js", false),
            ("**/*.map", "a.js.map", true),
            ("**/*.map", "js/deep/a.js.map", true),
            ("js/*.map", "js/a.map", true),
            ("js/*.map", "js/deep/a.map", false),
            ("js/**", "js/deep/a.map", true),
            ("js/**", "jsx/a.map", false),
            ("**/secret/**", "a/b/secret/c/d", true),
            ("**/secret/**", "a/b/secrets/c/d", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("**", "anything/at/all", true),
            ("a", "a", true),
            ("a", "b/a", true),
            ("a/b", "a", false),
        ] {
            let read = Pattern::new(pattern).unwrap();
            assert_eq!(read.matches(path.as_bytes()), meant, "{pattern} {path}");
        }
        assert!(Pattern::new("*.map").unwrap().matches(b"\xff.map"));
    }

    #[test]
    fn no_pattern_takes_long() {
        let hostile = Pattern::new(&"*a".repeat(120)).unwrap();
        assert!(!hostile.matches(format!("{}b", "a".repeat(3000)).as_bytes()));
        let folders = Pattern::new(&format!("{}x", "**/a/".repeat(40))).unwrap();
        assert!(!folders.matches("a/".repeat(120).trim_end_matches('/').as_bytes()));
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for (bad, said) in [
            ("", "is empty"),
            ("/a", "must be relative"),
            ("a//b", "must be relative"),
            ("../a", "must be relative"),
            ("a\nb", "control"),
            ("a**", "stands for whole folders"),
            ("x".repeat(256).as_str(), "longer than 255"),
        ] {
            let told = Pattern::new(bad).unwrap_err().to_string();
            assert!(told.contains(said), "{bad:.10}: {told}");
        }
    }
}
