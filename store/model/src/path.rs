//! Paths inside a release: relative, bytes, and unable to leave the tree.

mod twins;

use std::fmt;

pub use twins::twins;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest path in bytes (Linux `PATH_MAX` less room for the folder a release lies in).
pub const MAX_PATH: usize = 3072;
/// Longest component in bytes (Linux `NAME_MAX`).
pub const MAX_COMPONENT: usize = 255;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 256;

/// Why bytes are not a path of a tree. `path` is escaped for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path \"{path}\" cannot be part of a release: {reason}")]
pub struct PathError {
    pub path: String,
    pub reason: &'static str,
}

/// A relative path of non-empty components, none of them `.` or `..`, without NUL.
///
/// Any other byte is kept as it is: Linux file names are bytes, not text. Ordered by bytes, which is the
/// order of a manifest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Box<[u8]>);

impl TreePath {
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        PathRef::new(bytes).map(PathRef::to_path)
    }

    /// The same path, borrowed: what a manifest gives out.
    pub fn by_ref(&self) -> PathRef<'_> {
        PathRef(&self.0)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.by_ref().components()
    }

    /// The path as text, where it is text.
    pub fn to_str(&self) -> Option<&str> {
        self.by_ref().to_str()
    }

    /// The last component.
    pub fn file_name(&self) -> &[u8] {
        self.by_ref().file_name()
    }

    /// The folder this lies in; none for a path of one component.
    pub fn parent(&self) -> Option<&[u8]> {
        self.by_ref().parent()
    }

    /// What follows `root/`, when this lies below `root`.
    pub fn below(&self, root: &TreePath) -> Option<&[u8]> {
        self.by_ref().below(root)
    }

    pub fn as_path(&self) -> &std::path::Path {
        self.by_ref().as_path()
    }
}

/// A [`TreePath`] that lies in somebody else's bytes: a manifest of hundreds of thousands of names keeps them in one piece.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathRef<'a>(&'a [u8]);

impl<'a> PathRef<'a> {
    /// Of bytes that are known to be a path.
    pub(crate) const fn known(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// As [`TreePath::new`], without a copy.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, PathError> {
        match defect(bytes) {
            None => Ok(Self(bytes)),
            Some(reason) => Err(PathError {
                path: escape(&bytes[..bytes.len().min(200)]),
                reason,
            }),
        }
    }

    /// A path of its own.
    pub fn to_path(self) -> TreePath {
        TreePath(self.0.into())
    }

    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    pub fn components(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// The path as text, where it is text.
    pub fn to_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }

    /// The last component.
    pub fn file_name(self) -> &'a [u8] {
        self.components().last().unwrap_or_default()
    }

    /// The folder this lies in; none for a path of one component.
    pub fn parent(self) -> Option<&'a [u8]> {
        self.0.iter().rposition(|b| *b == b'/').map(|at| &self.0[..at])
    }

    /// What follows `root/`, when this lies below `root`.
    pub fn below(self, root: &TreePath) -> Option<&'a [u8]> {
        self.0.strip_prefix(root.as_bytes())?.strip_prefix(b"/")
    }

    pub fn as_path(self) -> &'a std::path::Path {
        use std::os::unix::ffi::OsStrExt;
        std::path::Path::new(std::ffi::OsStr::from_bytes(self.0))
    }
}

impl PartialEq<TreePath> for PathRef<'_> {
    fn eq(&self, other: &TreePath) -> bool {
        *self.0 == *other.0
    }
}

impl fmt::Display for PathRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escape(self.0))
    }
}

impl fmt::Debug for PathRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", escape(self.0))
    }
}

fn defect(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("it is empty");
    }
    if bytes.len() > MAX_PATH {
        return Some("it is longer than 3072 bytes");
    }
    if bytes[0] == b'/' {
        return Some("it is absolute");
    }
    let mut depth = 0;
    for part in bytes.split(|b| *b == b'/') {
        depth += 1;
        match part {
            b"" => return Some("it has an empty component"),
            b"." | b".." => return Some("it has a '.' or '..' component"),
            _ if part.len() > MAX_COMPONENT => return Some("a component is longer than 255 bytes"),
            _ if part.contains(&0) => return Some("it has a NUL byte"),
            _ => {}
        }
    }
    (depth > MAX_DEPTH).then_some("it is nested more than 256 deep")
}

/// Bytes as printable text: control characters and bytes that are not UTF-8 are escaped, so that a name
/// can neither move a terminal's cursor nor break a log line.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.by_ref().fmt(f)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.by_ref(), f)
    }
}

impl Serialize for TreePath {
    /// Text only: what a `ship.toml` names is text. A manifest has its own encoding for the rest.
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self.to_str() {
            Some(text) => out.serialize_str(text),
            None => Err(serde::ser::Error::custom(format_args!(
                "path {self} is not UTF-8"
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(input)?.as_bytes()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    #[test]
    fn a_path_cannot_leave_its_tree() {
        for good in [&b"a"[..], b"a/b", b"...", b"a b/\xff", b"-x", b"a\nb"] {
            assert!(TreePath::new(good).is_ok(), "{} was refused", escape(good));
        }
        let long = [b'a'; 256];
        let deep = b"a/".repeat(257);
        for bad in [
            &b""[..],
            b"/",
            b"/a",
            b".",
            b"..",
            b"../a",
            b"a/../b",
            b"a/./b",
            b"a//b",
            b"a/",
            b"a\0b",
        ]
        .into_iter()
        .chain([&long[..], &deep[..deep.len() - 1]])
        {
            assert!(TreePath::new(bad).is_err(), "{} was accepted", escape(bad));
        }
    }

    #[test]
    fn names_cannot_speak_to_a_terminal() {
        assert_eq!(
            escape(b"a\x1b[31m\n\xff\xe2\x80\xaeb"),
            "a\\u{1b}[31m\\n\\xff\\u{202e}b"
        );
    }

    #[test]
    fn below_needs_a_whole_component() {
        let path = |bytes| TreePath::new(bytes).unwrap();
        assert_eq!(path(b"a/b/c").below(&path(b"a")), Some(&b"b/c"[..]));
        assert_eq!(path(b"ab/c").below(&path(b"a")), None);
        assert_eq!(path(b"a").below(&path(b"a")), None);
    }
}
