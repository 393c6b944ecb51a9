//! A child's log file, bounded: when it is full it becomes the old one, and a new one begins.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// A full file.
const MAX_BYTES: u64 = 8 << 20;
/// Lines kept in memory, to be told when the child ends.
const LAST: usize = 12;

#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    last: LastLines,
}

/// What a child said last.
#[derive(Debug, Clone, Default)]
pub struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    pub fn get(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    fn add(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if lines.len() == LAST {
            lines.pop_front();
        }
        lines.push_back(line.chars().take(1000).collect());
    }
}

impl Log {
    pub fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self {
            written: file.metadata()?.len(),
            file: Some(file),
            path,
            last: LastLines::default(),
        })
    }

    pub fn last_lines(&self) -> LastLines {
        self.last.clone()
    }

    /// Never fails: a full disk must not stop the child, so what cannot be written is lost.
    pub fn line(&mut self, line: &[u8]) {
        self.last.add(&String::from_utf8_lossy(line));
        if self.written >= MAX_BYTES {
            self.turn();
        }
        let mut whole = line.to_vec();
        whole.push(b'\n');
        if let Some(file) = &mut self.file
            && file.write_all(&whole).is_ok()
        {
            self.written += whole.len() as u64;
        }
    }

    fn turn(&mut self) {
        self.file = None;
        // Were it to fail, the next open appends, and the next line tries again.
        let _ = rustix::fs::rename(&self.path, self.path.with_extension("log.old"));
        let opened = OpenOptions::new().create(true).append(true).open(&self.path);
        self.written = 0;
        self.file = opened.ok();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn two_files_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path().join("a/h1.log")).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            log.line(&line);
        }
        let sizes: Vec<u64> = std::fs::read_dir(folder.path().join("a"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size <= MAX_BYTES + (1 << 20) + 1));
        assert_eq!(log.last_lines().get().len(), LAST);
    }
}
