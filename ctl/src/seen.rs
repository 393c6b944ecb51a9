//! What publishing remembers of a folder, so that files that still look as they did need not be read again.
//!
//! One file for each folder, in `$XDG_CACHE_HOME/ship/seen` or `~/.cache/ship/seen`, named by the digest of the folder's path. It is
//! replaced whole, so of two publishes at once the later one's stands; whatever cannot be read, or is damaged, costs reading the
//! folder, and is written anew. Not much of it is kept: the newest [`MOST_FOLDERS`] and [`MOST_BYTES`].

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ship_bundle::walk::{MAX_SEEN, Seen};

/// Folders that are remembered.
const MOST_FOLDERS: usize = 64;
/// Bytes of all that is remembered.
const MOST_BYTES: u64 = 256 << 20;
/// Fewer files, of fewer bytes than [`FEW_BYTES`], are read as fast as they are remembered.
const FEW_FILES: usize = 256;
const FEW_BYTES: u64 = 8 << 20;

/// `$XDG_CACHE_HOME/ship` or `~/.cache/ship`: whatever lies there may go at any time.
pub fn cache() -> Option<PathBuf> {
    let folder = |name: &str| {
        let value = PathBuf::from(std::env::var_os(name)?);
        value.is_absolute().then_some(value)
    };
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("ship"))
}

/// Where it is kept what a folder looked like.
#[derive(Debug, Clone)]
pub struct Memory {
    path: PathBuf,
}

impl Memory {
    /// None where there is no folder for caches, or no such folder to publish.
    pub fn of(dir: &Path) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        let name = blake3::hash(dir.as_os_str().as_bytes()).to_hex();
        let path = cache()?.join("seen").join(&name[..32]);
        Some(Self { path })
    }

    /// None when there is nothing, or nothing that can be used.
    pub fn recall(&self) -> Option<Seen> {
        let mut bytes = Vec::new();
        let file = File::open(&self.path).ok()?;
        file.take(MAX_SEEN + 1).read_to_end(&mut bytes).ok()?;
        Seen::decode(&bytes).ok()
    }

    /// Everything here is a saving, never a need: what cannot be kept is not told.
    pub fn keep(&self, seen: &Seen) {
        if seen.len() < FEW_FILES && seen.bytes() < FEW_BYTES {
            self.forget();
            return;
        }
        let Some(folder) = self.path.parent() else { return };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        if made.is_ok() && ship_durable::write_private_file(&self.path, &seen.encode()).is_ok() {
            sweep(folder);
        }
    }

    /// The next publish reads every file.
    pub fn forget(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the oldest of what is too much; what a killed process left there as well.
fn sweep(folder: &Path) {
    let Ok(names) = fs::read_dir(folder) else { return };
    let mut found: Vec<(SystemTime, u64, PathBuf)> = names
        .flatten()
        .filter_map(|entry| {
            let about = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((about.modified().ok()?, about.len(), entry.path()))
        })
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    let mut room = MOST_BYTES;
    for (number, (_, bytes, path)) in found.into_iter().enumerate() {
        let fits = room.checked_sub(bytes).filter(|_| number < MOST_FOLDERS);
        match fits {
            Some(left) => room = left,
            None => drop(fs::remove_file(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_too_many_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MOST_FOLDERS as u64 + 6 {
            let file = File::create(dir.path().join(number.to_string())).unwrap();
            // Two of the newer ones are too large for all to have room.
            file.set_len(if number >= 68 { MOST_BYTES / 2 } else { 10 })
                .unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number))
                .unwrap();
        }
        sweep(dir.path());
        let left = || {
            fs::read_dir(dir.path())
                .unwrap()
                .flatten()
                .map(|entry| entry.file_name())
        };
        let mut left: Vec<_> = left().collect();
        left.sort();
        assert_eq!(left, ["68", "69"]);
    }

    #[test]
    fn what_cannot_be_used_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory {
            path: dir.path().join("a"),
        };
        assert!(memory.recall().is_none());
        std::io::Write::write_all(&mut File::create(&memory.path).unwrap(), b"SHIPSEEN\x09").unwrap();
        assert!(memory.recall().is_none());
        memory.keep(&Seen::default());
        assert!(!memory.path.exists(), "too little to be remembered");
    }
}
