//! Every immutable asset ever seen, with its digest: JSON lines, only ever appended to.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    path: String,
    digest: String,
}

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("read the history {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("understand line {line} of the history {path}")]
    Line {
        path: PathBuf,
        line: usize,
        source: serde_json::Error,
    },
    #[error("append to the history {path}")]
    Append { path: PathBuf, source: io::Error },
}

/// Asset paths and the digest of their bytes.
#[derive(Debug, Default)]
pub struct History {
    file: Option<PathBuf>,
    known: BTreeMap<String, String>,
    /// Where the last complete line ends; what follows is of a writer that was killed.
    end: u64,
}

impl History {
    /// Reads what earlier runs saw; a missing file is an empty history, and `None` one that is not kept.
    ///
    /// # Errors
    /// When the file cannot be read, or a complete line of it is not understood.
    pub fn open(file: Option<&Path>) -> Result<Self, HistoryError> {
        let mut history = Self {
            file: file.map(Path::to_owned),
            ..Self::default()
        };
        let Some(path) = file else { return Ok(history) };
        let read = |source| HistoryError::Read {
            path: path.to_owned(),
            source,
        };
        let mut reader = match File::open(path) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(history),
            Err(source) => return Err(read(source)),
        };
        let mut text = String::new();
        for line in 1.. {
            text.clear();
            let length = reader.read_line(&mut text).map_err(read)?;
            if !text.ends_with('\n') {
                break;
            }
            history.end += length as u64;
            match serde_json::from_str::<Line>(&text) {
                Ok(seen) => drop(history.known.entry(seen.path).or_insert(seen.digest)),
                Err(source) => {
                    return Err(HistoryError::Line {
                        path: path.to_owned(),
                        line,
                        source,
                    });
                }
            }
        }
        Ok(history)
    }

    pub fn known(&self) -> &BTreeMap<String, String> {
        &self.known
    }

    /// Remembers a path; the first digest stays.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember(&mut self, path: &str, digest: &str) -> Result<(), HistoryError> {
        if self.known.contains_key(path) {
            return Ok(());
        }
        self.known.insert(path.to_owned(), digest.to_owned());
        let Some(file) = &self.file else { return Ok(()) };
        let line = Line {
            path: path.to_owned(),
            digest: digest.to_owned(),
        };
        self.end = append(file, self.end, &line).map_err(|source| HistoryError::Append {
            path: file.clone(),
            source,
        })?;
        Ok(())
    }
}

/// Writes a line at `end`, over whatever incomplete line lies there, and returns the new end.
fn append(path: &Path, end: u64, line: &Line) -> io::Result<u64> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    file.write_all(&text)?;
    Ok(end + text.len() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn what_was_seen_is_known_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("history");
        let mut history = History::open(Some(&file)).unwrap();
        history.remember("/a", "1").unwrap();
        history.remember("/b", "2").unwrap();
        history.remember("/a", "3").unwrap();
        OpenOptions::new()
            .append(true)
            .open(&file)
            .unwrap()
            .write_all(b"{\"path\":\"/c")
            .unwrap();
        let mut torn = History::open(Some(&file)).unwrap();
        assert_eq!(torn.known().len(), 2);
        torn.remember("/d", "4").unwrap();
        let again = History::open(Some(&file)).unwrap();
        assert_eq!(again.known().get("/a").map(String::as_str), Some("1"));
        assert_eq!(again.known().len(), 3);
    }

    #[test]
    fn a_complete_line_of_nonsense_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("history");
        File::create(&file)
            .unwrap()
            .write_all(b"{\"path\":\"/a\",\"digest\":\"1\"}\nnonsense\n")
            .unwrap();
        assert!(matches!(
            History::open(Some(&file)),
            Err(HistoryError::Line { line: 2, .. })
        ));
    }
}
