//! nginx's upstream in a file of its own: this host's `server` line is marked `down`, and nginx is told to read it again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// An upstream file is a few KiB.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, Error)]
pub enum NginxError {
    #[error("cannot read nginx's upstream {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has no line \"server {server} …;\"", path.display())]
    Unknown { path: PathBuf, server: String },
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot write nginx's upstream {}", path.display())]
    Write {
        path: PathBuf,
        source: ship_durable::FileError,
    },
}

/// Whether the server's line says `down`.
///
/// # Errors
/// [`NginxError`].
pub fn is_down(path: &Path, server: &str) -> Result<bool, NginxError> {
    let text = read(path)?;
    let mut lines = text.lines();
    lines
        .find_map(|line| Line::of(line, server))
        .map(|line| line.down)
        .ok_or_else(|| unknown(path, server))
}

/// Marks the server's line, or takes the mark away. When this returns the file is durable; nginx has not read it yet.
///
/// # Errors
/// [`NginxError`]; the file is as it was.
pub fn mark(path: &Path, server: &str, down: bool) -> Result<(), NginxError> {
    // Agents of several hosts may write the same file, each its own line.
    let beside = path.with_added_extension("lock");
    let lock = |source| NginxError::Lock {
        path: beside.clone(),
        source,
    };
    let held = File::create(&beside).map_err(lock)?;
    held.lock().map_err(lock)?;
    let text = read(path)?;
    let marked = marked(&text, server, down).ok_or_else(|| unknown(path, server))?;
    if marked == text {
        return Ok(());
    }
    ship_durable::write_file(path, marked.as_bytes()).map_err(|source| NginxError::Write {
        path: path.to_owned(),
        source,
    })
}

fn unknown(path: &Path, server: &str) -> NginxError {
    NginxError::Unknown {
        path: path.to_owned(),
        server: server.to_owned(),
    }
}

fn read(path: &Path) -> Result<String, NginxError> {
    let failed = |source| NginxError::Read {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// `  server ADDRESS words…; rest`
struct Line<'a> {
    before: &'a str,
    words: Vec<&'a str>,
    after: &'a str,
    down: bool,
}

impl<'a> Line<'a> {
    fn of(line: &'a str, server: &str) -> Option<Self> {
        let start = line.len() - line.trim_start().len();
        let (before, rest) = line.split_at(start);
        let (statement, after) = rest.split_once(';')?;
        let mut words = statement.split_whitespace();
        if words.next() != Some("server") || words.next() != Some(server) {
            return None;
        }
        let words: Vec<&str> = words.collect();
        Some(Self {
            before,
            down: words.contains(&"down"),
            words,
            after,
        })
    }
}

fn marked(text: &str, server: &str, down: bool) -> Option<String> {
    let mut found = false;
    let mut out = String::with_capacity(text.len() + 8);
    for whole in text.split_inclusive('\n') {
        let line = whole.strip_suffix('\n').unwrap_or(whole);
        match Line::of(line, server) {
            Some(parts) => {
                found = true;
                if parts.down == down {
                    out.push_str(line);
                } else {
                    let kept = parts.words.iter().filter(|word| **word != "down");
                    let mark = down.then_some("down");
                    out.push_str(parts.before);
                    out.push_str("server ");
                    out.push_str(server);
                    for word in kept.copied().chain(mark) {
                        out.push(' ');
                        out.push_str(word);
                    }
                    out.push(';');
                    out.push_str(parts.after);
                }
            }
            None => out.push_str(line),
        }
        out.push_str(&whole[line.len()..]);
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    const UPSTREAM: &str =
        "upstream web {\n    server 10.0.0.1:80 weight=5; # first\n    server 10.0.0.11:80;\n}\n";

    #[test]
    fn only_this_hosts_line_changes_and_changes_back() {
        let out = marked(UPSTREAM, "10.0.0.1:80", true).unwrap();
        assert_eq!(
            out,
            "upstream web {\n    server 10.0.0.1:80 weight=5 down; # first\n    server 10.0.0.11:80;\n}\n"
        );
        assert_eq!(marked(&out, "10.0.0.1:80", true).unwrap(), out);
        assert_eq!(marked(&out, "10.0.0.1:80", false).unwrap(), UPSTREAM);
        assert_eq!(marked(UPSTREAM, "10.0.0.2:80", true), None);
        // In a comment it is nobody's line.
        assert_eq!(marked("# server 10.0.0.1:80;\n", "10.0.0.1:80", true), None);
    }

    #[test]
    fn a_file_is_marked_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.conf");
        assert!(matches!(mark(&path, "a:1", true), Err(NginxError::Read { .. })));
        ship_durable::write_file(&path, UPSTREAM.as_bytes()).unwrap();
        assert!(matches!(
            mark(&path, "a:1", true),
            Err(NginxError::Unknown { .. })
        ));
        mark(&path, "10.0.0.11:80", true).unwrap();
        assert!(is_down(&path, "10.0.0.11:80").unwrap());
        assert!(!is_down(&path, "10.0.0.1:80").unwrap());
    }
}
